"""One stack for all tests of this folder, and one mission that it has taken from `submit` to its product."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from starloom.dispatch.services import checkout
from starloom.sky.samples import tres1_frames
from tests.docker.compose.stack import NAME, Stack, build_stand_ins, started_stack
from tests.docker.conftest import Clock
from tests.docker.engine import Engine
from tests.docker.hub import wait_for

MISSION, NODE, N_FRAMES = "TrES-1", "UMO", 3


@pytest.fixture(scope="module")
def stack(engine: Engine, image: str, clock: Clock) -> Iterator[Stack]:
    build_stand_ins(engine)
    clock.done("stand-ins")
    with started_stack(engine) as stack:
        clock.done("stack up")
        yield stack
    clock.done("stack down")


@dataclass
class Stacked:
    """What a node was given and what became of its frames."""

    stack: Stack
    #: What ``infra/node-key`` printed.
    key: dict[str, str]
    #: The rows of ``starloom submit --json``.
    submitted: list[dict[str, Any]]

    def show(self) -> dict[str, Any]:
        found: dict[str, Any] = self.stack.starloom("mission", "show", MISSION)
        return found

    def kept(self) -> dict[str, Any]:
        """Return what must outlive every upgrade."""
        shown = self.show()
        return {name: shown[name] for name in ("frames", "revisions", "products")}

    def wait_until_stacked(self, revision: int) -> None:
        ask = "SELECT status, failure_code, (SELECT max(n) FROM revision WHERE status = 'published') FROM mission"

        def stacked() -> bool:
            status, failure, newest = self.stack.sql("archive", ask).split("|")
            assert status != "FAILED", failure
            return (status, newest) == ("STACKED", str(revision))

        wait_for(f"revision {revision}", stacked, 900)

    def submit(self, first: int, last: int) -> list[dict[str, Any]]:
        frames = [f"/frames/{path.name}" for path in tres1_frames()[first:last]]
        words = ("submit", *frames, "--mission", MISSION, "--node", NODE, "--wait", "--timeout", "900", "--json")
        told = self.stack.outside("starloom", *words, env=self.key, frames=tres1_frames()[0].parent)
        rows: list[dict[str, Any]] = json.loads(told)
        return rows


def node_key(stack: Stack, *words: str) -> dict[str, str]:
    """Call infra/node-key as an operator does."""
    infra = checkout() / "infra"
    compose = f"docker-compose -p {NAME} --project-directory {infra} -f {infra}/compose.yaml"
    done = subprocess.run(
        [str(infra / "node-key"), *words],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DOCKER_HOST": stack.engine.host,
            "COMPOSE": f"{compose} --env-file {stack.folder}/.env",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def stacked(stack: Stack, clock: Clock) -> Stacked:
    """Register a mission and a node, send three frames through the proxy, and wait for the product."""
    stack.starloom("mission", "create", MISSION, "--ra", "286.0408", "--dec", "36.6326")
    stack.starloom("node", "register", NODE, "--filter", "Filter 2=R")
    made = Stacked(stack, node_key(stack, NODE), [])
    made.submitted = made.submit(0, N_FRAMES)
    clock.done("frames processed")
    stack.starloom("mission", "complete", MISSION)
    made.wait_until_stacked(1)
    clock.done("mission stacked")
    return made
