"""The engine, the image built from the project's Dockerfile, and one night that both pools have processed."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from starloom.dispatch.embedded import Embedded
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.hub import Hub
from starloom.sky import make_network
from tests.docker.engine import GATEWAY, Engine, import_base, started_engine
from tests.docker.hub import Outcome, Played, started_postgres, wait_for

log = logging.getLogger("docker test")

IMAGE, COMMIT = "starloom:test", "0123456789abcdef0123456789abcdef01234567"
LIMITS = {"process-frames": {"memory": "3g", "cpus": 1.5}, "sweep": {"memory": "512m"}}


@dataclass
class Clock:
    """How long each step takes; ``-o log_cli=true --log-cli-level=INFO`` shows it."""

    began: float = field(default_factory=time.monotonic)

    def done(self, what: str) -> None:
        log.info("%s: done after %.0f s", what, time.monotonic() - self.began)


@pytest.fixture(scope="session")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def engine(clock: Clock) -> Iterator[Engine]:
    with started_engine() as engine:
        clock.done("engine")
        yield engine


def build(engine: Engine, target: str, tag: str, **more: str) -> str:
    """Build an image as docs/docker.md says, but from the local base."""
    root = checkout()
    arguments = {"BASE_IMAGE": "local/python:slim", "COMMIT": COMMIT} | more
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    engine.run("build", "--quiet", "-f", root / "docker/Dockerfile", "--target", target, "-t", tag, *words, root)
    return tag


@pytest.fixture(scope="session")
def building(engine: Engine, clock: Clock) -> Iterator[Future[str]]:
    """Start to make base and image beside the rest: most of it is waiting for downloads."""

    def make() -> str:
        import_base(engine)
        clock.done("local base")
        build(engine, "cpu", IMAGE)
        clock.done("image")
        return IMAGE

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(make)


@pytest.fixture(scope="session")
def image(building: Future[str]) -> str:
    return building.result()


@dataclass
class Docked:
    """The hub in its second life, with a Docker pool."""

    engine: Engine
    services: Embedded
    hub: Hub
    api: PrefectApi
    reference: Outcome
    outcome: Outcome
    #: What every container of the two flows was, by run id.
    containers: dict[str, dict[str, Any]]
    secrets: dict[str, str]


@pytest.fixture(scope="session")
def docked(engine: Engine, building: Future[str], clock: Clock, tmp_path_factory: Any) -> Iterator[Docked]:
    """Process and stack one night with a process pool, then the same night with a Docker pool."""
    night = make_network(tmp_path_factory.mktemp("network"), frames_per_node=(2, 1, 1))
    clock.done("rendering")
    home = Path(tempfile.mkdtemp(prefix="starloom-hub-"))
    with started_postgres(GATEWAY) as postgres:
        played = Played(home, GATEWAY, postgres, night)
        postgres.run("createdb", "reference")
        try:
            with played.up("reference", {}) as (hub, api):
                clock.done("hub with a process pool")
                played.register(hub)
                played.fork("docked")
                reference = played.process_and_stack(hub, api)
                clock.done("process pool")
            building.result()
            docker = {
                "DOCKER_HOST": engine.host,
                "STARLOOM_WORK_POOL_TYPE": "docker",
                "STARLOOM_IMAGE": IMAGE,
                "STARLOOM_IMAGE_PULL_POLICY": "Never",
                "STARLOOM_JOB_LIMITS": json.dumps(LIMITS),
                "STARLOOM_LEASE_S": os.environ.get("STARLOOM_TEST_LEASE_S", "20"),
                "STARLOOM_LEASE_RENEW_S": "5",
            }
            with played.up("docked", docker) as (hub, api):
                clock.done("hub with a Docker pool")
                played.send(hub)
                outcome = played.process_and_stack(hub, api)
                clock.done("Docker pool")
                # A run is over a little before its process is.
                wait_for("the containers' ends", lambda: engine.run("ps", "--quiet") == "", 60)
                containers = {
                    run["id"]: engine.inspect(found)
                    for run in outcome.runs
                    for found in engine.containers(run["id"])
                }
                settings = hub.settings
                secrets = {
                    "lake key": settings.lake_access_key,
                    "lake secret": settings.lake_secret_key.get_secret_value(),
                    "archive password": postgres.password,
                    "Prefect password": settings.prefect_api_auth_string.get_secret_value().partition(":")[2],
                }
                yield Docked(engine, played.services, hub, api, reference, outcome, containers, secrets)
        finally:
            played.services.down()
            shutil.rmtree(home, ignore_errors=True)
    clock.done("everything")
