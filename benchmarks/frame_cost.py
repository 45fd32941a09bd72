"""What the hub asks of lake and archive for one frame, counted, and its own CPU time, pixels canned.

From the repository's root: ``python -m benchmarks.frame_cost``. A folder, SQLite and no Prefect: only the counts
are those of a large hub. Fails where a frame did not become READY: `benchmarks/night_stub.py` is behind the code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlmodel import col, func, select

import starloom.astrometry.step
import starloom.calibration.step
import starloom.frames.step
import starloom.photometry.step
from benchmarks import night_stub
from benchmarks.night import START
from starloom.archive import missions
from starloom.archive.models import Frame
from starloom.batches import advance
from starloom.hub import Hub
from starloom.lake import keys
from starloom.settings import Settings
from starloom.sky.night import frame_name

STEPS = {
    "ingest": starloom.frames.step.run,
    "calibrate": starloom.calibration.step.run,
    "solve": starloom.astrometry.step.run,
    "measure": starloom.photometry.step.run,
}
LAKE = ("stat", "put_bytes", "put_file", "get_bytes", "download", "delete", "copy")
WARM = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=64)
    frames = parser.parse_args().frames
    with tempfile.TemporaryDirectory(prefix="starloom-cost-") as folder:
        hub = Hub.open(Settings(home=Path(folder)))
        hub.archive.migrate()
        hub.lake.prepare()
        night_stub.install("tasks.frames")
        with hub.archive.transaction() as session:
            missions.register_node(session, "T001")
            missions.create_mission(session, "N0", ra_deg=10.0, dec_deg=20.0)
        counts = count(hub)
        print("| step | CPU ms | transactions | statements | requests to the lake |\n|---|---|---|---|---|")
        through(hub, 0, WARM, Counter())
        through(hub, WARM, frames, counts, tell=True)
        with hub.archive.session() as session:
            ready = session.exec(select(func.count()).where(col(Frame.ready_at).is_not(None))).one()
        hub.archive.dispose()
    if ready != WARM + frames:
        print(f"{ready} of {WARM + frames} frames became READY", file=sys.stderr)
        return 1
    return 0


def count(hub: Hub) -> Counter[str]:
    """Count what goes to the lake and to the archive from now on."""
    counts: Counter[str] = Counter()
    inside = [False]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            outermost, inside[0] = not inside[0], True
            counts["lake"] += outermost
            try:
                return call(*args, **options)
            finally:
                inside[0] = not outermost

        return counting

    for name in LAKE:
        setattr(hub.lake, name, counted(getattr(hub.lake, name)))
    event.listen(hub.archive.engine, "before_cursor_execute", lambda *_: counts.update(["statements"]))
    event.listen(hub.archive.engine, "commit", lambda *_: counts.update(["transactions"]))
    return counts


def through(hub: Hub, first: int, frames: int, counts: Counter[str], *, tell: bool = False) -> None:
    for i in range(first, first + frames):
        start = START + timedelta(seconds=10 * i)
        name = frame_name("N0", "T001", start)
        hub.lake.put_bytes(f"frame {i}".encode(), keys.inbox("T001", f"{start:%Y%m%d}", name))
    counts.clear()
    began = time.process_time()
    found = starloom.frames.step.discover(hub)
    rows = [("register", time.process_time() - began, dict(counts))]
    for step, run in STEPS.items():
        counts.clear()
        began = time.process_time()
        for batch in found:
            for chunk in batch.chunks():
                advance(hub, chunk, run)
        rows.append((step, time.process_time() - began, dict(counts)))
    if tell:
        for step, cpu_s, said in rows:
            numbers = (said.get(what, 0) / frames for what in ("transactions", "statements", "lake"))
            print(f"| {step} | {1e3 * cpu_s / frames:.1f} | " + " | ".join(f"{n:.1f}" for n in numbers) + " |")


if __name__ == "__main__":
    sys.exit(main())
