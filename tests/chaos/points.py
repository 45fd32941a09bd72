"""Kill -9 at each point at which process-frames and stack-mission commit, and see that the next run makes it good.

The points are counted, not listed by hand: every transaction of the archive and every write of the lake, in the
order in which they happen. A kill just before the n-th leaves what a kill just after the one before it leaves, so
these and one after the last are all states that a dead run can leave behind. There is no hook in the library: this
module wraps the lake's writes and listens to the archive's commits, in processes that it forks.

``python -m tests.chaos.points HOME FLOW`` prints one JSON document; the flow is ``frames`` or ``stack``.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import SecretStr
from sqlalchemy import event, text
from sqlmodel import Session, select

import starloom.astrometry.step
import starloom.calibration.step
import starloom.frames.step
import starloom.photometry.step
import starloom.quicklook.step
from starloom import sweeping
from starloom.archive import claims
from starloom.archive import frames as rows
from starloom.archive.models import Frame, Photometry, Product, Revision, Solution
from starloom.batches import FrameChunk, advance
from starloom.frames import sha256_of
from starloom.frames.pixels import pixel_digest, read_frame
from starloom.hub import Hub
from starloom.lake import keys
from starloom.settings import Settings
from starloom.sky import field_sky
from starloom.sky.night import frame_name, write_compressed
from starloom.sky.render import render
from starloom.sky.telescope import Telescope
from tests.chaos.sky import START, TARGET, add_mission, data_sums, stack_here

#: What changes the lake; the outermost call counts.
WRITES = ("put_bytes", "put_file", "copy", "delete")
MISSION = "550"
TELESCOPE = Telescope(
    node="T42", scale_arcsec=8.0, width=400, height=300, zero_point_mag=21.0, sky_adu=300.0, cosmic_rays=0.0
)


@dataclass
class Points:
    """Count what is committed, and die before the n-th.

    Parameters
    ----------
    die_at
        From 0; None: nobody dies.
    """

    die_at: int | None = None
    names: list[str] = field(default_factory=list)
    _inside: int = 0

    def reached(self, name: str) -> None:
        if self.die_at == len(self.names):
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def install(self, hub: Hub) -> None:
        """Put the counters into this process, for good: it is a child that ends soon."""
        event.listen(Session, "before_commit", self._committing)
        kind = type(hub.lake)
        for name in WRITES:
            setattr(kind, name, self._counted(getattr(kind, name)))

    def _committing(self, session: Session) -> None:
        if not session.in_nested_transaction():  # a savepoint: nothing lasts yet
            self.reached(f"commit {_caller()}")

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if not self._inside:
                key = next(str(a) for a in args[1:] if isinstance(a, str))
                self.reached(f"{write.__name__.partition('_')[0]} {key.partition('/')[0]} {_caller()}")
            self._inside += 1
            try:
                return write(*args, **options)
            finally:
                self._inside -= 1

        return counted

    def numbered(self) -> list[str]:
        """Return the points' names, the second of a name with its number."""
        seen: Counter[str] = Counter()
        told = []
        for name in self.names:
            seen[name] += 1
            told.append(name if seen[name] == 1 else f"{name} {seen[name]}")
        return told


def _caller() -> str:
    """Return the innermost function of the library, but for the archive's door and the lake."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("starloom.") and not module.startswith(("starloom.archive.engine", "starloom.lake")):
            return f"{module.removeprefix('starloom.')}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


# -- the two flows, by the library calls that their tasks make


def process_frames(hub: Hub) -> None:
    """Look into the inbox, as ``ingest`` does, and take up what is due, as ``sweep`` does; then the four steps."""
    found = [i for batch in starloom.frames.step.discover(hub) for i in batch.frame_ids]
    found += [i for batch in sweeping.due_batches(hub) for i in batch.frame_ids if i not in found]
    if not found:
        return
    chunk = FrameChunk(name="1/1", frame_ids=found)
    advance(hub, chunk, starloom.frames.step.run)
    advance(hub, chunk, starloom.calibration.step.run)
    chunk = starloom.calibration.step.with_planes(hub, chunk)
    advance(hub, chunk, starloom.astrometry.step.run)
    advance(hub, chunk, starloom.photometry.step.run)
    starloom.quicklook.step.of_batch(hub, chunk.frame_ids)


def stack_mission(hub: Hub) -> None:
    """Do what the newest event of a COMPLETE mission asks for; whoever comes late finds it claimed."""
    with hub.archive.session() as session:
        found = session.connection().execute(
            text("SELECT max(id) FROM status_event WHERE mission_id = :m AND new_status = 'COMPLETE'"),
            {"m": MISSION},
        )
        newest = found.scalar_one()
    try:
        stack_here(hub, MISSION, newest, holder=f"process {os.getpid()}")
    except claims.AlreadyClaimed:
        return


def seed_frames(hub: Hub) -> None:
    """Put one frame that solves into the inbox; to all hubs of this run the same bytes."""
    add_mission(hub, MISSION, 1)
    start = START + timedelta(hours=1)
    path = hub.settings.home.parent / frame_name(MISSION, "T42", start)
    if not path.exists():
        frame = render(TELESCOPE, field_sky(*TARGET, 1.0, seed=3), TARGET, seed=7, start=start)
        write_compressed(path, frame.image, frame.header)
    hub.lake.put_file(path, keys.inbox("T42", "20261009", path.name))


def seed_stack(hub: Hub) -> None:
    """File a mission with READY frames and say that it is COMPLETE."""
    add_mission(hub, MISSION, 1)
    with hub.archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET status = 'COMPLETE'"))


FLOWS: dict[str, tuple[Callable[[Hub], None], Callable[[Hub], None]]] = {
    "frames": (seed_frames, process_frames),
    "stack": (seed_stack, stack_mission),
}


# -- what is left in the end


def let_time_pass(hub: Hub) -> None:
    """Let leases run out and the time of every frame's next attempt come."""
    with hub.archive.transaction() as session:
        connection = session.connection()
        past = {"past": rows.database_now(session) - timedelta(hours=1)}
        connection.execute(
            text("UPDATE revision SET lease_until = :past WHERE status IN ('claimed', 'bound')"), past
        )
        connection.execute(
            text("UPDATE frame SET next_attempt_at = :past WHERE next_attempt_at IS NOT NULL"), past
        )


def outcome(hub: Hub, scratch: Path) -> dict[str, Any]:
    """Return all that the flow is for, less times, tokens and numbers of attempts.

    The quicklook is not among it: a page is decoration, and a run that died before it drew one is not made up for.
    """
    with hub.archive.session() as session:
        frames = session.exec(select(Frame)).all()
        solutions = session.exec(select(Solution)).all()
        photometry = session.exec(select(Photometry)).all()
        published = session.exec(select(Revision).where(Revision.status == "published")).all()
        products = session.exec(select(Product)).all()
        missions = session.connection().execute(text("SELECT id, status, failure_code FROM mission")).fetchall()
        open_events = session.connection().execute(
            text("SELECT count(*) FROM status_event WHERE state = 'open' AND new_status = 'COMPLETE'")
        )
        told: dict[str, Any] = {"missions": [list(row) for row in missions], "events": open_events.scalar_one()}
    names = {frame.id: frame.name for frame in frames}
    told["frames"] = sorted(
        [f.name, rows.state_of(f), f.ingest, f.calibrate, f.solve, f.measure, f.flags, f.pixel_digest]
        for f in frames
    )
    told["solutions"] = sorted(
        [names[s.frame_id], s.current, json.dumps(s.wcs, sort_keys=True), s.matches, s.rms_px] for s in solutions
    )
    told["photometry"] = sorted(
        [names[p.frame_id], p.current, p.zero_point_mag, p.fwhm_px, p.sky_adu, p.n_sources] for p in photometry
    )
    told["published"] = [[r.mission_id, r.n, r.input_hash] for r in published]
    told["products"] = []
    for product in products:
        hub.lake.download(product.sci_key, scratch, version=product.sci_version)
        told["products"].append([product.band, product.pointing, data_sums(scratch)])
    told["lake"], told["pixels"] = [], []
    for item in hub.lake.list(""):
        if item.key.startswith("quicklook/"):
            continue
        told["lake"].append(_without_ids(item.key, names))
        if item.key.startswith(("solved/", "raw/")):
            hub.lake.download(item.key, scratch)
            digest = sha256_of(scratch) if item.key.startswith("raw/") else pixel_digest(read_frame(scratch)[0])
            told["pixels"].append([_without_ids(item.key, names), digest])
        if item.key.startswith("sources/"):
            table = pq.read_table(io.BytesIO(hub.lake.get_bytes(item.key, max_bytes=1 << 24)))
            told["pixels"].append([_without_ids(item.key, names), repr(table.to_pydict())])
        if item.key.startswith("receipts/"):
            said = json.loads(hub.lake.get_bytes(item.key, max_bytes=1 << 20))
            # The word on a stack is made good (`tell_nodes`). That on a frame follows the commit of its last step:
            # of a run killed between the two the older one stays (docs/reliability.md, known limits).
            told["pixels"].append([item.key, (said.get("stack") or {}).get("revision")])
    told["lake"].sort()
    told["pixels"].sort(key=str)
    return told


def _without_ids(key: str, names: dict[str, str]) -> str:
    """Return a key with a frame's name for its id, which is new in every run, and no number of the attempt."""
    for ident, name in names.items():
        key = key.replace(ident, name)
    key = re.sub(r"/e\d+/", "/e*/", key)
    return re.sub(r"/\d+(\.fits\.fz|\.parquet|\.png)$", r"/*\1", key)


# -- processes


def in_a_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Do something in a fork of this process; return how it ended (negative: by which signal) and what it said."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        code = 0
        try:
            with os.fdopen(sending, "w") as said:
                json.dump(work(), said)
        except BaseException:  # noqa: BLE001 - told by the exit status
            traceback.print_exc()
            code = 1
        os._exit(code)
    os.close(sending)
    with os.fdopen(receiving) as heard:
        said = heard.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ended, json.loads(said) if ended == 0 else None


@dataclass(frozen=True)
class Places:
    """Where the hubs of the points lie: each point has a fresh one, as the seed left it.

    Parameters
    ----------
    base
        Folder of this run.
    archive_url, lake
        ``STARLOOM_…`` settings of a PostgreSQL server and an S3 store; None: SQLite and a folder.
    """

    base: Path
    network: dict[str, str] | None = None

    def settings(self, name: str) -> Settings:
        options: dict[str, Any] = {"home": self.base / name, "lease_renew_s": 3600.0, "quicklook": "all"}
        # Time does not pass between a kill and the sweep: what is past the grace is what was there before it.
        options["orphan_grace_s"] = -5.0
        if self.network is not None:
            options |= {key: value for key, value in self.network.items() if key.startswith("lake_")}
            options["lake_url"] = f"s3://{name}"
            options["archive_url"] = SecretStr(f"{self.network['server']}/{name.replace('-', '_')}")
        return Settings(**options)

    def fresh(self, name: str, seed: Callable[[Hub], None]) -> Settings:
        """Make a hub as the seed leaves it."""
        settings = self.settings(name)
        settings.home.mkdir(parents=True)
        if self.network is not None:
            _create_database(self.network["server"], name.replace("-", "_"))
        hub = Hub.open(settings)
        hub.archive.migrate()
        hub.lake.prepare()
        seed(hub)
        hub.archive.dispose()
        return settings


def _create_database(server: str, name: str) -> None:
    from sqlalchemy import create_engine

    admin = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()


def try_point(places: Places, flow: str, die_at: int | None) -> dict[str, Any]:
    """Run a flow in a process that dies at a point, go on in another as the hub does, and tell what came out."""
    seed, run = FLOWS[flow]
    name = f"{flow}-{'whole' if die_at is None else die_at}"
    ended, _ = in_a_child(lambda: places.fresh(name, seed) and None)
    assert ended == 0
    settings = places.settings(name)
    points = Points(die_at)

    def disturbed() -> list[str]:
        hub = Hub.open(settings)
        points.install(hub)
        run(hub)
        points.reached("the end")
        return points.numbered()

    def again() -> dict[str, Any]:
        hub = Hub.open(settings)
        let_time_pass(hub)
        sweeping.reconcile_missions(hub)
        run(hub)
        sweeping.tell_nodes(hub, after_s=-5.0)
        removed = sweeping.tidy_lake(hub)
        return {"outcome": outcome(hub, settings.home / "scratch"), "removed": removed}

    ended, names = in_a_child(disturbed)
    resumed, said = in_a_child(again)
    shutil.rmtree(settings.home, ignore_errors=True)
    return {"ended": ended, "names": names, "resumed": resumed, **(said or {})}


def main() -> None:
    base, flow = Path(sys.argv[1]), sys.argv[2]
    places = Places(base, json.loads(sys.argv[3]) if len(sys.argv) > 3 else None)
    whole = try_point(places, flow, None)
    tried = {name: try_point(places, flow, n) for n, name in enumerate(whole["names"])}
    print(json.dumps({"whole": whole, "points": tried}))  # noqa: T201


if __name__ == "__main__":
    main()
