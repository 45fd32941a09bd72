"""The story of the demo: services up, frames in, status changed, stacks out, a late frame, a report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starloom.archive import missions
from starloom.demo import watching
from starloom.dispatch.embedded import Embedded
from starloom.dispatch.relay import DEPLOYMENT
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.runs import LIVING
from starloom.frames import FrameName, describe_file, format_name
from starloom.hub import Hub
from starloom.lake import keys
from starloom.node.submit import submit
from starloom.settings import load_settings
from starloom.sky import make_network
from starloom.sky.network import NetworkTruth
from starloom.sky.samples import tres1_darks, tres1_frames

TRES1 = "TrES-1"
TRES1_TARGET = (286.0408, 36.6326)
NETWORK = "550"
#: A demo should not make people wait as an observatory may.
PACE = {
    "STARLOOM_INGEST_INTERVAL_S": "15",
    "STARLOOM_SWEEP_INTERVAL_S": "20",
    "STARLOOM_LATE_QUIET_S": "5",
    "STARLOOM_SETTLE_MAX_S": "120",
    "STARLOOM_MASTERS_QUIET_S": "0",
}
PROCESS_TIMEOUT_S = 420.0
STACK_TIMEOUT_S = 240.0

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What the demo did, for the table, the JSON document and the report."""

    home: Path
    ui: str
    started: datetime
    missions: list[dict[str, Any]] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, dict[str, int]] = field(default_factory=dict)
    stacks: dict[str, list[str]] = field(default_factory=dict)
    sql: str = ""
    elapsed_s: float = 0.0
    report: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return missions, addresses, and what was counted in Prefect (runs) and in the lake (stacks)."""
        return {
            "missions": self.missions,
            "ui": self.ui,
            "report": str(self.report),
            "runs": self.runs,
            "stacks": self.stacks,
            "frames": self.frames,
            "elapsed_s": self.elapsed_s,
        }


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, which the services inherit, and put the old ones back."""
    old = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in old.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def fresh_home(home: Path) -> Embedded:
    """Stop what an earlier demo left running in the folder and empty it; nothing else is ever touched.

    A folder counts as an earlier demo's only with the mark this function leaves there.
    """
    mark = home / ".starloom-demo"
    services = Embedded(home)
    if home.exists():
        from starloom.errors import BadInput

        if any(home.iterdir()) and not mark.exists():
            raise BadInput(
                f"{home} is not empty and not an earlier demo's",
                code="not-a-demo-home",
                hint="Give another folder with --home.",
            )
        services.down()
        shutil.rmtree(home)
    home.mkdir(parents=True)
    mark.touch()
    return services


def play(home: Path, say: Say, *, keep: bool = False) -> Outcome:
    """Run the whole demo in ``home``; services are stopped at the end, or at an interruption, unless kept."""
    from starloom.demo.report import write_report

    began = time.monotonic()
    services = fresh_home(home)
    with environment({**PACE, "STARLOOM_HOME": str(home)}), ThreadPoolExecutor(1) as pool:
        try:
            rendering = pool.submit(make_network, home / "network", mission=NETWORK)
            settings = services.up(say)
            hub = Hub.open(load_settings(home))
            prefect = PrefectApi.from_settings(settings)
            outcome = Outcome(home, prefect.ui_url, datetime.now(UTC))
            try:
                _observe(hub, rendering, outcome, say)
                _count_runs(prefect, outcome)
                _count_stacks(hub, outcome)
                outcome.elapsed_s = round(time.monotonic() - began, 1)
                outcome.report = write_report(hub, outcome)
            finally:
                prefect.close()
                hub.archive.dispose()
        finally:
            if not keep:
                services.down(say)
    return outcome


def _observe(hub: Hub, rendering: Future[NetworkTruth], outcome: Outcome, say: Say) -> None:
    clock = {TRES1: time.monotonic()}
    with hub.archive.transaction() as session:
        ra, dec = TRES1_TARGET
        missions.create_mission(
            session, TRES1, title="TrES-1, 14 real frames", ra_deg=ra, dec_deg=dec,
            licence="MIT", credit="University of Maryland Observatory",
        )  # fmt: skip
        missions.register_node(session, "UMO", name="Univ. of Maryland Observatory", filters={"Filter 2": "R"})
    darks = _send_darks(hub, outcome.home / "darks", say)
    say("render the network's night")
    night = rendering.result()
    clock[NETWORK] = time.monotonic()
    with hub.archive.transaction() as session:
        ra, dec = night.target_deg
        missions.create_mission(
            session, NETWORK, title="One field, three unlike telescopes", ra_deg=ra, dec_deg=dec
        )
        for node in night.nodes:
            missions.register_node(session, node, filters={night.filter_names[node]: night.band})
    names = _send(hub, night, say)
    _settle(hub, [*names, *_send_tres1(hub, darks, say)], say)
    for mission in (TRES1, NETWORK):
        say(f"plain SQL: {mission} is COMPLETE")
        outcome.sql = watching.complete_by_plain_sql(hub.archive, mission)
    for mission in (TRES1, NETWORK):
        _await_revision(hub, mission, 1, say)
        clock[mission] = time.monotonic() - clock[mission]
    say("send the late frame")
    late = [_put(hub, path, path.name) for path in night.late]
    _settle(hub, [*names, *late], say)
    _await_revision(hub, NETWORK, 2, say)
    for mission in (TRES1, NETWORK):
        outcome.missions.append(_mission_row(hub, mission, clock[mission], outcome.home))
    refused = watching.frames_named(hub.archive, [path.name for path in night.misnamed])
    for frame in [*watching.frames_of(hub.archive, TRES1), *watching.frames_of(hub.archive, NETWORK), *refused]:
        outcome.frames.append(_frame_row(hub, frame))


def _send_darks(hub: Hub, folder: Path, say: Say) -> int:
    """Send the darks of the TrES-1 night under the names that calibration frames have; return how many."""
    folder.mkdir()
    darks = tres1_darks()
    for path in darks:
        start = describe_file(path).value("start_utc")
        name = format_name(FrameName(kind="dark", mission=None, node="UMO", start_utc=start, compressed=True))
        say(f"submit {name}")
        submit(hub.lake, Path(shutil.copyfile(path, folder / name)))
    return len(darks)


def _send_tres1(hub: Hub, darks: int, say: Say) -> list[str]:
    """Send the real frames once the master of their darks is there, as it would be in a second night."""

    def built() -> bool:
        found = watching.master_frames(hub.archive)
        say(f"master darks of {found or 'no'} frames")
        return darks in found

    watching.wait_until(
        "the master dark", built, PROCESS_TIMEOUT_S, lambda: str(watching.master_frames(hub.archive))
    )
    names = []
    for path in tres1_frames():
        say(f"submit {path.name}")
        names.append(submit(hub.lake, path, mission=TRES1, node="UMO").name)
    return names


def _send(hub: Hub, night: NetworkTruth, say: Say) -> list[str]:
    """Send the night out of order; what a well-behaved node would refuse to send goes straight to the inbox."""
    names = []
    unchecked = {*night.corrupt, *night.misnamed}
    for path in night.arrival:
        say(f"submit {path.name}")
        if path in night.duplicate:
            # Sent again the next day: under today's key it would only overwrite its first copy in the inbox.
            names.append(_put(hub, path, path.name, days_later=1))
        elif path in unchecked:
            names.append(_put(hub, path, path.name))
        else:
            names.append(submit(hub.lake, path).name)
    return names


def _put(hub: Hub, path: Path, name: str, days_later: int = 0) -> str:
    node = next((part.removeprefix("TelID-") for part in name.split("_") if part.startswith("TelID-")), "T68")
    day = datetime.now(UTC) + timedelta(days=days_later)
    hub.lake.put_file(path, keys.inbox(node, day.strftime("%Y%m%d"), name))
    return name


def _settle(hub: Hub, names: list[str], say: Say) -> None:
    """Wait until every frame that was sent has been registered and settled."""
    from starloom.archive.frames import is_settled

    def done() -> bool:
        found = watching.frames_named(hub.archive, names)
        say(f"frames: {watching.counts(found)} of {len(names)} sent")
        return (
            len(found) >= len(names)
            and all(is_settled(frame) for frame in found)
            and not any(True for _ in hub.lake.list("inbox/"))
        )

    state = lambda: str(watching.counts(watching.frames_named(hub.archive, names)))  # noqa: E731
    watching.wait_until("processing the frames", done, PROCESS_TIMEOUT_S, state)


def _await_revision(hub: Hub, mission: str, n: int, say: Say) -> None:
    def done() -> bool:
        status = watching.status_of(hub.archive, mission)
        say(f"mission {mission}: {status}, waiting for revision {n}")
        return watching.newest_revision(hub.archive, mission) >= n and status == "STACKED"

    watching.wait_until(
        f"revision {n} of {mission}",
        done,
        STACK_TIMEOUT_S,
        lambda: f"the mission is {watching.status_of(hub.archive, mission)}",
    )


def _mission_row(hub: Hub, mission: str, elapsed_s: float, home: Path) -> dict[str, Any]:
    """Describe a mission and bring its products to files beside the report: they outlive the services."""
    tally = watching.counts(watching.frames_of(hub.archive, mission))
    folder = home / "products"
    products = []
    newest = watching.newest_revision(hub.archive, mission)
    for n, product in watching.products_of(hub.archive, mission):
        stem = folder / f"{mission}_r{n}_{keys.slug(product.band)}_p{product.pointing}"
        stem.parent.mkdir(exist_ok=True)
        sci, preview = stem.with_suffix(".fits"), stem.with_suffix(".png")
        hub.lake.download(product.sci_key, sci, version=product.sci_version)
        if product.preview_key is not None:
            hub.lake.download(product.preview_key, preview)
        products.append(
            {
                "revision": n,
                "band": product.band,
                "pointing": product.pointing,
                "sci": str(sci),
                "preview": str(preview),
                "key": product.sci_key,
                "summary": product.summary,
            }
        )
    return {
        "id": mission,
        "status": watching.status_of(hub.archive, mission),
        "revision": newest,
        "frames": {"ready": 0, "quarantined": 0, "duplicate": 0} | tally,
        "products": [product for product in products if product["revision"] == newest],
        "earlier": [product for product in products if product["revision"] != newest],
        "elapsed_s": round(elapsed_s, 1),
    }


def _frame_row(hub: Hub, frame: Any) -> dict[str, Any]:
    from starloom.archive.frames import state_of

    return {
        "mission": frame.obs_req,
        "node": frame.node_id,
        "name": frame.name,
        "state": state_of(frame),
        "code": frame.disposition_code or frame.solve_code or frame.measure_code or "",
        "hint": frame.disposition_hint or "",
        "band": frame.band,
        "flags": frame.flags,
        "solved_key": frame.solved_key,
    }


def _count_runs(prefect: PrefectApi, outcome: Outcome) -> None:
    """Count the runs of stack-mission by mission and by the name of their final state.

    A mission is STACKED as soon as its revision is published; its run still writes receipts and artifacts then.
    """

    def going() -> list[dict[str, Any]]:
        return prefect.runs(DEPLOYMENT, states=LIVING)

    watching.wait_until(
        "the last runs of stack-mission",
        lambda: not going(),
        STACK_TIMEOUT_S,
        lambda: str([run.get("state_name") for run in going()]),
    )
    for run in prefect.runs(DEPLOYMENT):
        mission = str(run.get("parameters", {}).get("mission_id"))
        tally = outcome.runs.setdefault(mission, {})
        name = str(run.get("state_name"))
        tally[name] = tally.get(name, 0) + 1


def _count_stacks(hub: Hub, outcome: Outcome) -> None:
    """List the FITS files that lie under each mission's stacks, published or not."""
    for mission in (TRES1, NETWORK):
        listed = [item.key for item in hub.lake.list(f"stacks/{mission}/")]
        outcome.stacks[mission] = sorted(key for key in listed if key.endswith(".fits"))
