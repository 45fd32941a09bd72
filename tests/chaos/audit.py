"""Count what a site has done: a script that looks only at S3, the archive and Prefect's API.

``python -m tests.chaos.audit HOME`` prints a JSON document and ends with 1 unless every goal is met. It asks with
plain SQL, an S3 client and HTTP; of starloom it uses the settings, which say where those are.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
from minio import Minio

from starloom.settings import Settings, load_settings
from tests.chaos.servers import without_settings
from tests.chaos.sky import FIELDS, data_sums

#: Missions of the storm, and those that were stacked before it, undisturbed, for comparison.
STORM, CALM = "chaos-", "calm-"
LIVING = ("PENDING", "RUNNING", "CANCELLING")
#: A moment without a run comes between two sweeps.
QUIET_WITHIN_S = 120.0


class Counts:
    """The three witnesses of one site, and what each says.

    Parameters
    ----------
    settings
        Where they are.
    """

    def __init__(self, settings: Settings) -> None:
        url = settings.archive_url.get_secret_value()
        self._archive = psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True)
        self._s3 = Minio(
            urlsplit(settings.lake_endpoint).netloc,
            settings.lake_access_key,
            settings.lake_secret_key.get_secret_value(),
            secure=False,
            region=settings.lake_region,
        )
        self._bucket = settings.lake_url.removeprefix("s3://") + "-products"
        self._prefect = httpx.Client(base_url=settings.prefect_api_url, timeout=60, trust_env=False)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._archive.execute(statement, values).fetchall()  # type: ignore[arg-type]

    def ask(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Return all pages of a filter."""
        found: list[dict[str, Any]] = []
        while True:
            answer = self._prefect.post(path, json={**body, "limit": 200, "offset": len(found)})
            answer.raise_for_status()
            found += answer.json()
            if len(answer.json()) < 200:
                return found

    def archive(self) -> dict[str, Any]:
        """Return what became of the missions, by the archive."""
        of_storm = f"{STORM}%"
        statuses = dict(self.rows("SELECT id, status FROM mission WHERE id LIKE %s", of_storm))
        published = Counter(
            row[0]
            for row in self.rows(
                "SELECT mission_id FROM revision WHERE status = 'published' AND mission_id LIKE %s", of_storm
            )
        )
        attempts = self.rows(
            "SELECT status, bound_at IS NOT NULL, coalesce(error->>'code', '') FROM revision"
            " WHERE mission_id LIKE %s AND status <> 'published'",
            of_storm,
        )
        per_event = self.rows(
            "SELECT event_id FROM revision WHERE status = 'published' GROUP BY event_id HAVING count(*) > 1"
        )
        asked = {
            row[0]: row[1]
            for row in self.rows(
                "SELECT mission_id, count(*) FROM status_event WHERE mission_id LIKE %s"
                " AND new_status = 'COMPLETE' GROUP BY 1",
                of_storm,
            )
        }
        times = self.rows(
            "SELECT extract(epoch FROM r.published_at - e.at) FROM revision r JOIN (SELECT mission_id,"
            " min(created_at) AS at FROM status_event WHERE new_status = 'COMPLETE' GROUP BY 1) e"
            " USING (mission_id) WHERE r.status = 'published' AND r.mission_id LIKE %s",
            of_storm,
        )
        return {
            "missions": len(statuses),
            "by_status": dict(Counter(statuses.values())),
            "published_revisions": sum(published.values()),
            "lost": sorted(m for m, status in statuses.items() if status != "STACKED" or not published[m]),
            "twice": sorted(m for m, n in published.items() if n > 1) + [f"event {row[0]}" for row in per_event],
            "recomputed": sum(bound for _, bound, _ in attempts),
            "attempts_without_product": dict(Counter(f"{s} {code}".strip() for s, _, code in attempts)),
            "complete_events": sum(asked.values()),
            "open_events": self.rows("SELECT count(*) FROM status_event WHERE state = 'open'")[0][0],
            "complete_to_stacked_s": quantiles([float(row[0]) for row in times]),
        }

    def lake(self) -> dict[str, Any]:
        """Return whether every product lies in the lake as the archive says, and what else lies there."""
        products = self.rows(
            "SELECT r.mission_id, p.sci_key, p.sci_version, p.preview_key, p.sha256 FROM product p"
            " JOIN revision r ON r.id = p.revision_id WHERE r.status = 'published'"
        )
        wanted = {key for _, sci, _, preview, _ in products for key in (sci, preview) if key}
        there = {o.object_name for o in self._s3.list_objects(self._bucket, prefix="stacks/", recursive=True)}
        damaged, sums = [], {}
        with tempfile.TemporaryDirectory(prefix="starloom-audit-") as folder:
            path = Path(folder) / "product.fits"
            for mission, key, version, _, sha256 in products:
                if key not in there:
                    damaged.append(key)
                    continue
                self._s3.fget_object(self._bucket, key, str(path), version_id=version)
                if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                    damaged.append(key)
                sums.setdefault(mission, []).append(data_sums(path))
        unlike = [
            mission
            for mission, found in sums.items()
            if mission.startswith(STORM)
            and found != sums.get(f"{CALM}{int(mission.removeprefix(STORM)) % FIELDS}")
        ]
        return {
            "products": len(products),
            "missing_or_damaged": damaged,
            "unlike_the_undisturbed": sorted(unlike),
            "orphans": sorted(there - wanted),
        }

    def prefect(self) -> dict[str, Any]:
        """Return how the runs ended, how long those took that were not needed, and which slots are held."""
        flows = {flow["id"]: flow["name"] for flow in self.ask("/flows/filter")}
        runs = [run for run in self.ask("/flow_runs/filter", sort="ID_DESC") if run["state_name"] != "Scheduled"]
        endings: dict[str, Counter[str]] = {}
        for run in runs:
            endings.setdefault(flows[run["flow_id"]], Counter())[run["state_name"]] += 1
        idle = [
            (datetime.fromisoformat(run["end_time"]) - datetime.fromisoformat(run["start_time"])).total_seconds()
            for run in runs
            if run["state_name"] == "AlreadyClaimed"
        ]
        return {
            "runs": {name: dict(count) for name, count in endings.items()},
            "already_claimed_s": quantiles(idle),
            **self._when_quiet(),
        }

    def _when_quiet(self) -> dict[str, Any]:
        """Return runs and slots at a moment when none is held: a schedule may have begun a run just now.

        A run that nobody works on calls itself running for ever, and a slot left held stays held.
        """
        deadline = time.monotonic() + QUIET_WITHIN_S
        while True:
            living = self.ask("/flow_runs/filter", flow_runs={"state": {"type": {"any_": LIVING}}})
            held = [limit for limit in self.ask("/v2/concurrency_limits/filter") if limit["active_slots"]]
            if time.monotonic() > deadline or not (living or held):
                return {
                    "still_running": [f"{run['name']} since {run['start_time']}" for run in living],
                    "slots_held": {limit["name"]: limit["active_slots"] for limit in held},
                }
            time.sleep(0.5)


def quantiles(values: list[float]) -> dict[str, float]:
    """Return count, median, 90th percentile and maximum, seconds."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": round(ordered[len(ordered) // 2], 2),
        "p90": round(ordered[int(0.9 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
    }


def audit(home: Path) -> dict[str, Any]:
    """Ask all three, and say which goals are not met."""
    with without_settings():
        counts = Counts(load_settings(home))
    said = {"archive": counts.archive(), "lake": counts.lake(), "prefect": counts.prefect()}
    archive, lake, prefect = said["archive"], said["lake"], said["prefect"]
    said["unmet"] = [
        *(f"lost: {m}" for m in archive["lost"]),
        *(f"twice: {m}" for m in archive["twice"]),
        *(f"missing or damaged: {key}" for key in lake["missing_or_damaged"]),
        *(f"another product: {m}" for m in lake["unlike_the_undisturbed"]),
        *(f"orphan: {key}" for key in lake["orphans"]),
        *(f"slot held: {name}" for name in prefect["slots_held"]),
        *(f"still running: {name}" for name in prefect["still_running"]),
    ]
    if archive["published_revisions"] != archive["missions"]:
        said["unmet"].append(f"{archive['published_revisions']} revisions of {archive['missions']} missions")
    if archive["open_events"]:
        said["unmet"].append(f"{archive['open_events']} events open")
    return said


if __name__ == "__main__":
    found = audit(Path(sys.argv[1]))
    print(json.dumps(found, indent=1))  # noqa: T201
    sys.exit(1 if found["unmet"] else 0)
