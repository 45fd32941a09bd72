"""Process-frames and stack-mission killed at every point at which they commit: the next run makes it good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from starloom.dispatch.services import checkout

pytestmark = pytest.mark.slow

#: Some of the points, by what they begin with; the module finds them all.
AMONG_THEM = {
    "frames": {"put raw", "delete inbox", "put solved", "put sources", "put receipts", "commit photometry"},
    "stack": {"commit archive.claims.claim", "commit archive.claims.bind", "put stacks"},
}


def killed_everywhere(base: Path, flow: str, network: dict[str, str] | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.chaos.points", str(base), flow]
    done = subprocess.run(
        command + ([json.dumps(network)] if network else []),
        cwd=checkout(),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout())},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(found: dict[str, Any], flow: str) -> None:
    whole, points = found["whole"], found["points"]
    assert (whole["ended"], whole["resumed"], whole["removed"]) == (0, 0, 0)
    for expected in AMONG_THEM[flow]:
        assert any(name.startswith(expected) for name in points), expected
    assert {name: tried["ended"] for name, tried in points.items()} == dict.fromkeys(points, -9)
    assert {name: tried["resumed"] for name, tried in points.items()} == dict.fromkeys(points, 0)
    for name, tried in points.items():
        # Products, solved copies and source lists by their sums; and in the lake what is referenced, no more.
        assert tried["outcome"] == whole["outcome"], f"killed before: {name}"


@pytest.mark.parametrize("flow", ["frames", "stack"])
def test_a_run_killed_at_any_point_is_made_good(flow: str, tmp_path: Path) -> None:
    check(killed_everywhere(tmp_path, flow), flow)


@pytest.mark.postgres
def test_so_it_is_on_postgresql_and_s3(tmp_path: Path, postgres_url: str, s3_server: dict[str, str]) -> None:
    server = postgres_url.removesuffix("/postgres")
    found = killed_everywhere(tmp_path, "stack", {"server": server, **s3_server})
    check(found, "stack")
    # Uploaded under the epoch of a dead holder: gone after one sweep past the grace.
    assert found["points"]["commit archive.claims.publish"]["removed"] == 2
