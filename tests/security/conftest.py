"""A real SeaweedFS, its keys, and what it says of those it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from starloom.lake.policies import Grant
from starloom.lake.refusals import RefusalLog
from starloom.lake.s3 import S3Lake
from tests.dispatch.server import prefect_server
from tests.lake.conftest import RunningSeaweed, node, s3, seaweed, seaweed_settings

__all__ = ["node", "prefect_server", "s3", "seaweed", "seaweed_settings"]


class Refusals:
    """The log of refusals, as a test reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def about(self, key: str, *, patience_s: float = 60.0) -> dict[str, Any]:
        """Wait for the line about a key, or a bucket where the key is empty."""
        deadline = time.monotonic() + patience_s
        while True:
            lines = (
                [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []
            )
            found = [line for line in lines if key in (line["key"], f"{line['bucket']}/")]
            if found:
                return dict(found[-1])
            assert time.monotonic() < deadline, f"no word of {key}: {lines}"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def refusals(seaweed: RunningSeaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Refusals]:
    path = tmp_path_factory.mktemp("refusals") / "refused.log"
    kept = RefusalLog(seaweed.server.audit_port, path)
    # A server that has long called in vain calls again ever more seldom; a new one calls at once.
    seaweed.kill()
    seaweed.start()
    yield Refusals(path)
    kept.close()


@pytest.fixture
def holder(seaweed: RunningSeaweed) -> Iterator[Callable[[Grant], S3Lake]]:
    """The lake as the holder of a new key reaches it; the key is taken away in the end."""
    given: list[tuple[str, S3Lake]] = []

    def give(grant: Grant) -> S3Lake:
        given.append((grant.user, seaweed.server.lake(*seaweed.keys.give(grant))))
        return given[-1][1]

    yield give
    for user, lake in given:
        lake.close()
        seaweed.keys.revoke(user)
