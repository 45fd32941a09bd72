"""A program on a leash: whatever it does, we get our answer in time and nothing of it stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

from starloom.astrometry.child import OUTPUT_BYTES, run_limited


def script(folder: Path, body: str) -> Path:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o700)
    return path


def gone(pid: int) -> bool:
    """Whether a process is no more; one that was killed may still stand in the table, waiting for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_good_program_is_left_in_peace(tmp_path: Path) -> None:
    ended = run_limited([script(tmp_path, 'echo "$1"; pwd'), "a b;c"], folder=tmp_path, cpu_s=5, wall_s=60)
    assert (ended.code, ended.fault) == (0, "")
    assert ended.tail.splitlines() == ["a b;c", str(tmp_path)]


def test_a_hung_program_is_killed_with_its_children(tmp_path: Path) -> None:
    body = f"sleep 600 & echo $! > {tmp_path}/pid; wait"
    ended = run_limited([script(tmp_path, body)], folder=tmp_path, cpu_s=5, wall_s=1.0)
    assert (ended.code, ended.fault) == (None, "hung and was killed")
    child = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if gone(child):
            break
        time.sleep(0.05)
    assert gone(child)


def test_what_a_program_leaves_running_is_killed(tmp_path: Path) -> None:
    body = f"sleep 600 > /dev/null 2>&1 & echo $! > {tmp_path}/pid"
    assert run_limited([script(tmp_path, body)], folder=tmp_path, cpu_s=5, wall_s=60).code == 0
    child = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if gone(child):
            break
        time.sleep(0.05)
    assert gone(child)


def test_a_busy_program_ends_at_its_cpu_limit(tmp_path: Path) -> None:
    ended = run_limited([script(tmp_path, "while :; do :; done")], folder=tmp_path, cpu_s=1, wall_s=120)
    assert ended.fault == "was killed at its CPU limit"
    # The shell may catch the first signal, not the second.
    assert ended.code is not None
    assert ended.code < 0


def test_a_talkative_program_cannot_fill_the_disk(tmp_path: Path) -> None:
    ended = run_limited([script(tmp_path, "exec yes rubbish")], folder=tmp_path, cpu_s=20, wall_s=120)
    assert ended.code not in (0, None)
    assert (tmp_path / "output.txt").stat().st_size <= OUTPUT_BYTES
    assert "rubbish" in ended.tail
    assert len(ended.tail) <= 4000


def test_a_greedy_program_gets_no_memory(tmp_path: Path) -> None:
    body = "exec python3 -c 'bytearray(2 << 30)'"
    ended = run_limited([script(tmp_path, body)], folder=tmp_path, cpu_s=20, wall_s=120, memory_bytes=1 << 30)
    assert ended.fault.startswith("ended with code 1")
    assert "MemoryError" in ended.tail


def test_a_crash_and_an_absent_program_are_told_apart(tmp_path: Path) -> None:
    crashed = run_limited([script(tmp_path, "kill -SEGV $$")], folder=tmp_path, cpu_s=5, wall_s=60)
    assert crashed.fault == "was killed by SIGSEGV"
    failed = run_limited([script(tmp_path, "echo no index >&2; exit 3")], folder=tmp_path, cpu_s=5, wall_s=60)
    assert failed.fault == "ended with code 3: no index"
    absent = run_limited([tmp_path / "nothing"], folder=tmp_path, cpu_s=5, wall_s=60)
    assert absent.code == 127
    assert "No such file" in absent.fault


def test_it_runs_in_a_session_of_its_own(tmp_path: Path) -> None:
    ended = run_limited([script(tmp_path, "ps -o sid= -p $$")], folder=tmp_path, cpu_s=5, wall_s=60)
    assert int(ended.tail) != os.getsid(0)
