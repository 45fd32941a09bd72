"""A real S3 server for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.dispatch.embedded import plain_environment
from starloom.lake.seaweed import SeaweedFS
from tests.chaos.programs import Program


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    """SeaweedFS on loopback; yields the settings that reach it."""
    with tempfile.TemporaryDirectory(prefix="starloom-s3-", ignore_cleanup_errors=True) as folder:
        lake = SeaweedFS(Path(folder))
        said = lake.prepare()
        program = Program(Path(folder), "lake", lake.command, plain_environment(), Path(folder))
        program.start()
        try:
            lake.wait_ready(60)
            yield {name.removeprefix("STARLOOM_").lower(): value for name, value in said.items()}
        finally:
            program.kill(1e9)
