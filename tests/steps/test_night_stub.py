"""The canned pixels of the simulated night still fit the steps they stand in for."""

from __future__ import annotations

import subprocess
import sys

from starloom.dispatch.services import checkout


def test_canned_frames_go_through_all_steps() -> None:
    command = [sys.executable, "-m", "benchmarks.frame_cost", "--frames", "2"]
    done = subprocess.run(command, cwd=checkout(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[2:]] == [
        "register", "ingest", "calibrate", "solve", "measure",
    ]  # fmt: skip
