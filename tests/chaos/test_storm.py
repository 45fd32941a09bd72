"""A short storm: every program of the hub killed once while missions are being stacked; `make chaos` is longer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from starloom.dispatch.services import checkout

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_is_done_twice() -> None:
    # Not below pytest's own folder, which the database's user may not enter.
    home = Path(tempfile.mkdtemp(prefix="starloom-storm-"))
    command = [sys.executable, "-m", "tests.chaos.storm", "--missions", "8", "--kills", "5", "--haste"]
    try:
        done = subprocess.run(
            [*command, "--home", str(home)], cwd=checkout(), capture_output=True, text=True, timeout=850
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        found = json.loads((home / "audit.json").read_text())
        diary = json.loads((home / "storm.json").read_text())
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert found["unmet"] == []
    assert found["archive"]["published_revisions"] == 8
    assert sorted(kill["victim"] for kill in diary["kills"]) == ["lake", "postgres", "prefect", "relay", "worker"]
    assert all(kill["in_flight"] for kill in diary["kills"])
