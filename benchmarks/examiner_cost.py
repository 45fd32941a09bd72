"""CPU time of examining a frame in this process and in a child, and of the child's start."""

from __future__ import annotations

import os
import time
from pathlib import Path

from starloom.frames import Examiner, examine
from starloom.sky.samples import tres1_frames

ROUNDS = 20


def child_cpu_s(examiner: Examiner) -> float:
    assert examiner._child is not None
    fields = Path(f"/proc/{examiner._child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    path = tres1_frames()[0]
    examine(path)  # what is loaded once
    begun = time.process_time()
    for _ in range(ROUNDS):
        examine(path)
    here_ms = 1000 * (time.process_time() - begun) / ROUNDS
    examiner = Examiner()
    examiner.examine(path)
    started, begun = child_cpu_s(examiner), time.process_time()
    for _ in range(ROUNDS):
        examiner.examine(path)
    theirs = 1000 * (child_cpu_s(examiner) - started) / ROUNDS
    ours = 1000 * (time.process_time() - begun) / ROUNDS
    print(f"{path.name}, {path.stat().st_size / 1e6:.2f} MB, {ROUNDS} rounds, CPU ms a frame:")
    print(f"here {here_ms:.1f}; in a child {theirs:.1f}, and {ours:.1f} here to ask it")
    print(f"start of the child, with its first frame: {1000 * started:.0f} CPU ms")
    examiner.close()


if __name__ == "__main__":
    main()
