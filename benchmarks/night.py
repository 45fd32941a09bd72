"""A night of 500 nodes through the whole hub, pixels canned: what a frame costs apart from its pixels.

From the repository's root: ``python -m benchmarks.night --frames 100000``. PostgreSQL, SeaweedFS, Prefect's
server, a worker and the relay run as `starloom up` runs them. Nodes put objects of a few bytes into the inbox at
``--rate``; `ingest`, `process-frames`, `sweep`, `tidy`, `stack-mission` and the relay do the rest. What is canned:
`benchmarks/night_stub.py`.

A mission (``--per-mission`` frames) is made COMPLETE by plain SQL when its last frame was sent, by twenties. The
night is over when every frame is settled and every mission stacked. ``HOME/night.json`` keeps what was seen: an
interrupted night goes on where it was. Printed: rates, backlog, and from the first frame on CPU ms a frame by
program. It fails where a frame is not READY. ``--plot FILE.svg`` draws the backlog.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks.night_plot import draw
from starloom.archive import missions
from starloom.dispatch.services import checkout
from starloom.hub import Hub
from starloom.lake import keys
from starloom.sky.night import frame_name
from tests.chaos.servers import NAMES, Site

#: Missions that are observed side by side.
AT_ONCE = 20
LOOK_EVERY_S = 5.0
START = datetime(2026, 12, 1, 18, 0, tzinfo=UTC)
#: Frames are small and many: more of them in a run and in a task.
PACE = {
    "STARLOOM_QUICKLOOK": "none", "STARLOOM_BATCH_SIZE": "512", "STARLOOM_CHUNK_SIZE": "64",
    "STARLOOM_INGEST_INTERVAL_S": "30",
}  # fmt: skip


@dataclass
class Diary:
    """What was seen of a night; all that an interrupted one needs to go on.

    ``seen`` holds rows ``[seconds, sent, settled, stacked missions]``; ``cpu`` CPU seconds by program.
    """

    frames: int
    nodes: int
    per_mission: int
    sent: int = 0
    elapsed_s: float = 0.0
    seen: list[list[float]] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)


class Night:
    """The nodes, and somebody who watches the hub.

    Parameters
    ----------
    rate
        Frames a second that all nodes send together.
    """

    def __init__(self, site: Site, diary: Diary, rate: float) -> None:
        self.site, self.diary, self.rate = site, diary, rate
        self.hub: Hub = site.hub()
        self._over = threading.Event()
        self._spent: dict[str, float] = {}
        path = f"{checkout() / 'benchmarks' / 'night_site'}{os.pathsep}{site.env['PYTHONPATH']}"
        site.programs["worker"].env = {**site.env, "PYTHONPATH": path}

    def prepare(self) -> None:
        """Register nodes and missions, once."""
        if self.site.sql("SELECT 1 FROM node LIMIT 1"):
            return
        with self.hub.archive.transaction() as session:
            for n in range(self.diary.nodes):
                missions.register_node(session, node_id(n))
        count = -(-self.diary.frames // self.diary.per_mission)
        self.site.sql(
            "INSERT INTO mission (id, title, status, ra_deg, dec_deg, parameters, status_changed_at, created_at) "
            "SELECT 'N' || m, '', 'OPEN', 10, 20, '{}', now(), now() FROM generate_series(0, %s) m",
            count + AT_ONCE,
        )

    def send(self) -> None:
        """Put frames into the inbox at the night's rate; complete a mission when its last one is there."""
        began, first = time.monotonic(), self.diary.sent
        with ThreadPoolExecutor(4) as pool:
            while self.diary.sent < self.diary.frames and not self._over.is_set():
                due = min(first + int((time.monotonic() - began) * self.rate), self.diary.frames)
                for _ in pool.map(self._put, range(self.diary.sent, due)):
                    pass
                self._complete(self.diary.sent, due)
                self.diary.sent = due
                self._over.wait(0.25)

    def _put(self, i: int) -> None:
        start = START + timedelta(seconds=i // self.diary.nodes * 10 + i % 7)
        node = node_id(i % self.diary.nodes)
        name = frame_name(self._mission(i), node, start)
        self.hub.lake.put_bytes(f"frame {i}".encode(), keys.inbox(node, f"{start:%Y%m%d}", name))

    def _mission(self, i: int) -> str:
        """Return the mission of a frame."""
        return f"N{i // (AT_ONCE * self.diary.per_mission) * AT_ONCE + i % AT_ONCE}"

    def _complete(self, first: int, until: int) -> None:
        block = AT_ONCE * self.diary.per_mission
        last = until if until == self.diary.frames else until // block * block
        for begin in range(first // block * block, last, block):
            ids = sorted({self._mission(i) for i in range(begin, min(begin + block, last))})
            self.site.sql("UPDATE mission SET status = 'COMPLETE' WHERE id = ANY(%s) AND status = 'OPEN'", ids)

    def watch(self, timeout_s: float) -> bool:
        """Look on until all is done; False: it was not in time."""
        began, before = time.monotonic(), self.diary.elapsed_s
        self._spent = self._cpu()
        sender = threading.Thread(target=self.send, daemon=True)
        sender.start()
        while time.monotonic() - began < timeout_s:
            time.sleep(LOOK_EVERY_S)
            self.site.look_after()
            self.diary.elapsed_s = before + time.monotonic() - began
            settled, stacked, open_ = self._counts()
            self.diary.seen.append([round(self.diary.elapsed_s, 1), self.diary.sent, settled, stacked])
            self._account()
            self.save()
            if self.diary.sent >= self.diary.frames and settled >= self.diary.frames and not open_:
                self._over.set()
                return True
        self._over.set()
        return False

    def _counts(self) -> tuple[int, int, int]:
        """Return settled frames, stacked missions, and missions that wait for their stack."""
        ((settled, stacked, open_),) = self.site.sql(
            "SELECT (SELECT count(*) FROM frame WHERE next_attempt_at IS NULL), "
            "(SELECT count(*) FROM mission WHERE status = 'STACKED'), "
            "(SELECT count(*) FROM mission WHERE status IN ('COMPLETE', 'STACKING'))"
        )
        return settled, stacked, open_

    def _account(self) -> None:
        """Add what each program has spent since the last look; a restarted one counts from zero again."""
        for name, spent in self._cpu().items():
            # Of a tree, a child that ends between two looks is for a moment in neither sum.
            self.diary.cpu[name] = self.diary.cpu.get(name, 0.0) + max(0.0, spent - self._spent.get(name, 0.0))
            self._spent[name] = max(spent, self._spent.get(name, 0.0))

    def _cpu(self) -> dict[str, float]:
        """Return the CPU seconds of each program so far; what the worker starts is told apart from it."""
        spent = {name: cpu_s(program.tree()) for name, program in self.site.programs.items()}
        worker = cpu_s(self.site.programs["worker"].tree()[:1], own=True)
        return spent | {
            "worker": worker, "runs": spent["worker"] - worker, "nodes and this watch": sum(os.times()[:2])
        }  # fmt: skip

    def refused(self) -> list[tuple[str, int]]:
        """Return why settled frames are not READY, and how many: with canned pixels all should be."""
        return self.site.sql(
            "SELECT coalesce(disposition_code, 'a step failed'), count(*) FROM frame "
            "WHERE ready_at IS NULL AND next_attempt_at IS NULL GROUP BY 1"
        )

    def save(self) -> None:
        path = self.site.home / "night.json"
        path.with_suffix(".new").write_text(json.dumps(asdict(self.diary)))
        path.with_suffix(".new").replace(path)


def cpu_s(processes: list[psutil.Process], *, own: bool = False) -> float:
    """Return the CPU seconds of processes and, unless only their own are asked for, of their ended children."""
    spent = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[: 2 if own else 4])
    return spent


def node_id(n: int) -> str:
    return f"T{n:03d}"


def report(diary: Diary) -> list[str]:
    """Return the night's figures as lines."""
    end, _, settled, stacked = diary.seen[-1]
    sending = next((row[0] for row in diary.seen if row[1] >= diary.frames), end)
    backlog = [row[1] - row[2] for row in diary.seen]
    cpu = {name: 1e3 * spent / max(settled, 1) for name, spent in sorted(diary.cpu.items())}
    return [
        f"{settled:.0f} of {diary.frames} frames settled in {end:.0f} s: {settled / end:.1f} a second; "
        f"sent within {sending:.0f} s; {stacked:.0f} missions stacked",
        f"backlog: most {max(backlog):.0f}, at the end of the sending "
        f"{next((b for b, row in zip(backlog, diary.seen, strict=True) if row[0] >= sending), 0):.0f}, "
        f"at the end {backlog[-1]:.0f}",
        "CPU ms a frame: " + ", ".join(f"{name} {spent:.1f}" for name, spent in cpu.items()),
        f"the hub's together {sum(cpu[name] for name in (*NAMES, 'runs')):.1f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--per-mission", type=int, default=100, help="frames of a mission")
    parser.add_argument("--rate", type=float, default=20.0, help="frames a second, all nodes together")
    parser.add_argument("--home", type=Path, default=Path("/tmp/starloom-night"))
    parser.add_argument("--timeout", type=float, default=4 * 3600.0, help="seconds")
    parser.add_argument("--set", action="append", default=[], metavar="STARLOOM_…=…", help="a setting of the hub")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier night of the same home")
    parser.add_argument("--plot", type=Path, help="an SVG of the backlog")
    said = parser.parse_args()
    if said.fresh and said.home.exists():
        shutil.rmtree(said.home)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    site = Site(said.home, PACE | dict(one.split("=", 1) for one in said.set))
    kept = said.home / "night.json"
    new = Diary(said.frames, said.nodes, said.per_mission)
    diary = Diary(**json.loads(kept.read_text())) if kept.exists() else new
    try:
        night = Night(site, diary, said.rate)  # before the worker starts, for its path
        site.start()
        night.prepare()
        through = night.watch(said.timeout)
        refused = night.refused()
        night.hub.archive.dispose()
    finally:
        site.stop()
    print("\n".join(report(diary)))
    for code, count in refused:
        print(f"not READY: {count} frames, {code}")
    if said.plot:
        said.plot.write_text(draw(diary.seen))
    return 0 if through and not refused else 1


if __name__ == "__main__":
    sys.exit(main())
