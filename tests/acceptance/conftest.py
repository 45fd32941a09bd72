"""The whole chain of steps on real and on simulated frames, run once, without Prefect and without a server."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlmodel import col, select

import starloom.astrometry.step as astrometry_step
import starloom.calibration.step as calibration_step
import starloom.coadd.step as coadd_step
import starloom.frames.step as frames_step
import starloom.photometry.step as photometry_step
from starloom import holding
from starloom.archive import events, missions
from starloom.archive.models import Frame, Photometry, RevisionInput, Solution
from starloom.batches import advance
from starloom.coadd.plan import StackPlan
from starloom.coadd.units import PLAN_NAME, read_plan
from starloom.demo.watching import complete_by_plain_sql
from starloom.hub import Hub
from starloom.lake import keys
from starloom.node.submit import submit
from starloom.settings import load_settings
from starloom.sky import NetworkTruth, make_network, tres1_frames

STEPS = (frames_step.run, calibration_step.run, astrometry_step.run, photometry_step.run)


@dataclass
class Revision:
    """One published revision: plans, products as files, and what it cost."""

    plans: list[StackPlan]
    published: holding.StackRef
    files: list[Path]
    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass
class Night:
    """One mission through the chain."""

    hub: Hub
    revisions: list[Revision] = field(default_factory=list)
    truth: NetworkTruth | None = None

    def frames(self) -> dict[str, Frame]:
        """Every frame of the hub by id."""
        with self.hub.archive.session() as session:
            return {frame.id: frame for frame in session.exec(select(Frame)).all()}

    def named(self, path: Path) -> list[Frame]:
        """The frames of a file name, in order of arrival."""
        return sorted((f for f in self.frames().values() if f.name == path.name), key=lambda f: f.received_at)

    def solutions(self) -> dict[str, Solution]:
        """Current solutions by frame id."""
        with self.hub.archive.session() as session:
            found = session.exec(select(Solution).where(col(Solution.current).is_(True))).all()
            return {solution.frame_id: solution for solution in found}

    def photometry(self) -> dict[str, Photometry]:
        """Current photometry by frame id."""
        with self.hub.archive.session() as session:
            found = session.exec(select(Photometry).where(col(Photometry.current).is_(True))).all()
            return {measured.frame_id: measured for measured in found}

    def inputs(self) -> list[RevisionInput]:
        """All inputs of all revisions."""
        with self.hub.archive.session() as session:
            return list(session.exec(select(RevisionInput)).all())

    def local(self, key: str) -> Path:
        """The file behind a key of the folder lake."""
        return self.hub.settings.home / "lake" / key

    def process(self) -> None:
        """Take everything in the inbox through the four steps."""
        for batch in frames_step.discover(self.hub):
            for chunk in batch.chunks():
                for step in STEPS:
                    advance(self.hub, chunk, step)

    def stack(self, mission: str) -> None:
        """Set a mission COMPLETE by plain SQL and stack it, as the flow does."""
        complete_by_plain_sql(self.hub.archive, mission)
        with self.hub.archive.transaction() as session:
            events.supersede_spent(session)
        with self.hub.archive.session() as session:
            event = [event for event, _ in events.open_events(session) if event.mission_id == mission][-1]
        assert event.id is not None
        wall, cpu = time.monotonic(), time.process_time()
        with holding.claimed(self.hub, mission, event.id, holder="acceptance") as claim:
            references = coadd_step.bind_and_plan(self.hub, claim)
            plans = [read_plan(r.folder / PLAN_NAME) for r in references]
            for reference in references:
                for batch in reference.batches():
                    coadd_step.stack_tiles(batch)
            published = coadd_step.publish(self.hub, claim, references)
        self.revisions.append(
            Revision(
                plans=plans,
                published=published,
                files=[self.local(product["sci"]) for product in published.products],
                wall_s=time.monotonic() - wall,
                cpu_s=time.process_time() - cpu,
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
        )


def _fresh_hub(home: Path) -> Hub:
    home.mkdir(parents=True, exist_ok=True)
    hub = Hub.open(load_settings(home))
    hub.archive.migrate()
    hub.lake.prepare()
    return hub


def run_tres1(home: Path) -> Night:
    """The 14 real frames of the TrES-1 night."""
    hub = _fresh_hub(home)
    with hub.archive.transaction() as session:
        missions.create_mission(session, "TrES-1", ra_deg=286.0408, dec_deg=36.6326)
        missions.register_node(session, "UMO", filters={"Filter 2": "R"})
    for path in tres1_frames():
        submit(hub.lake, path, mission="TrES-1", node="UMO")
    night = Night(hub)
    night.process()
    night.stack("TrES-1")
    return night


def _deliver(hub: Hub, truth: NetworkTruth, paths: Sequence[Path]) -> None:
    for path in paths:
        tagged = (part.removeprefix("TelID-") for part in path.name.split("_") if part.startswith("TelID-"))
        day = "20261009" if path in truth.duplicate else "20261008"
        hub.lake.put_file(path, keys.inbox(next(tagged, truth.nodes[-1]), day, path.name))


def run_network(home: Path) -> Night:
    """A simulated night of three telescopes with all that goes wrong, and a frame that comes after revision 1."""
    truth = make_network(home / "sky")
    hub = _fresh_hub(home)
    with hub.archive.transaction() as session:
        ra_deg, dec_deg = truth.target_deg
        missions.create_mission(session, truth.mission, ra_deg=ra_deg, dec_deg=dec_deg)
        for node in truth.nodes:
            missions.register_node(session, node, filters={truth.filter_names[node]: truth.band})
    night = Night(hub, truth=truth)
    _deliver(hub, truth, truth.arrival)
    night.process()
    night.stack(truth.mission)
    _deliver(hub, truth, truth.late)
    night.process()
    night.stack(truth.mission)
    return night


@contextmanager
def _home(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARLOOM_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tres1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """`run_tres1`, once."""
    with _home(tmp_path_factory.mktemp("tres1")) as home:
        night = run_tres1(home)
        yield night
        night.hub.archive.dispose()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """`run_network`, once."""
    with _home(tmp_path_factory.mktemp("network")) as home:
        night = run_network(home)
        yield night
        night.hub.archive.dispose()
