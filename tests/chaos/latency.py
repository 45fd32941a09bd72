"""How long it takes from a status to a run and to a claim on an idle hub, and a run that was not needed to end.

``python -m tests.chaos.latency --missions 12``: missions become COMPLETE one at a time, by plain SQL; every time
is read afterwards from the archive and from Prefect. A second run is asked for by hand for every event.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from starloom.dispatch.relay import DEPLOYMENT
from starloom.dispatch.rest import PrefectApi
from tests.chaos.audit import quantiles
from tests.chaos.servers import Site
from tests.chaos.sky import add_mission

#: No other run starts meanwhile.
QUIET = {"STARLOOM_INGEST_INTERVAL_S": "3600", "STARLOOM_SWEEP_INTERVAL_S": "3600"}


def seconds(later: str, earlier: str | datetime) -> float:
    began = earlier if isinstance(earlier, datetime) else datetime.fromisoformat(earlier)
    return (datetime.fromisoformat(later) - began).total_seconds()


def measure(site: Site, missions: int) -> dict[str, Any]:
    hub = site.hub()
    rows: list[dict[str, float]] = []
    with PrefectApi.from_settings(site.settings) as api:
        for n in range(missions):
            name = f"idle-{n}"
            add_mission(hub, name, n)
            time.sleep(3.0)  # idle again
            site.sql("UPDATE mission SET status = 'COMPLETE' WHERE id = %s", name)

            def published(mission: str = name) -> Any:
                return site.sql(
                    "SELECT event_id, claimed_at, published_at FROM revision"
                    " WHERE mission_id = %s AND status = 'published'",
                    mission,
                )

            event_id, claimed_at, published_at = site.wait_until(published, 300)[0]
            created_at, told_at = site.sql(
                "SELECT created_at, published_at FROM status_event WHERE id = %s", event_id
            )[0]
            wanted = {"mission_id": name, "event_id": event_id}
            run = next(run for run in api.runs(DEPLOYMENT) if run["parameters"] == wanted)
            second = api.create_run(DEPLOYMENT, wanted, idempotency_key=f"by hand {event_id}")

            def ended(wanted_id: str = second["id"]) -> Any:
                return next(
                    (r for r in api.runs(DEPLOYMENT, states=("COMPLETED", "FAILED")) if r["id"] == wanted_id), None
                )

            needless = site.wait_until(ended, 120)
            if needless["state_name"] != "AlreadyClaimed":
                raise AssertionError(needless["state_name"])
            rows.append(
                {
                    "event_to_relay": (told_at - created_at).total_seconds(),
                    "event_to_run": seconds(run["created"], created_at),
                    "run_to_running": seconds(run["start_time"], run["created"]),
                    "running_to_claimed": (claimed_at - datetime.fromisoformat(run["start_time"])).total_seconds(),
                    "event_to_claimed": (claimed_at - created_at).total_seconds(),
                    "claimed_to_published": (published_at - claimed_at).total_seconds(),
                    "already_claimed": seconds(needless["end_time"], needless["start_time"]),
                }
            )
    hub.archive.dispose()
    return {name: quantiles([row[name] for row in rows]) for name in rows[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--missions", type=int, default=12)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the servers end with us
    home = Path(tempfile.mkdtemp(prefix="starloom-latency-"))
    site = Site(home, QUIET)
    try:
        site.start()
        time.sleep(20.0)  # the first runs of the schedules
        print(json.dumps(measure(site, chosen.missions), indent=1))  # noqa: T201
    finally:
        site.stop()
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
