"""A real SeaweedFS for the session, and a lake of each kind for the contract."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.lake import Lake, connect
from starloom.lake.credentials import Credentials
from starloom.lake.seaweed import SeaweedFS
from starloom.settings import Settings


class RunningSeaweed:
    """A server process that a test may stop and start again."""

    def __init__(self, home: Path) -> None:
        self.server = SeaweedFS(home)
        self.keys = Credentials(self.server)
        self.home = home
        self.environment = self.server.prepare()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.home / "seaweed.log").open("ab") as log:
            self.process = subprocess.Popen(self.server.command(), stdout=log, stderr=subprocess.STDOUT)
        self.server.wait_ready(60)

    def kill(self) -> None:
        """SIGKILL: asked politely, SeaweedFS waits 15 s for a subscription that is its own."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def settings(self, **changes: object) -> Settings:
        values = {name.removeprefix("STARLOOM_").lower(): value for name, value in self.environment.items()}
        return Settings(home=self.home, **(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def seaweed() -> Iterator[RunningSeaweed]:
    """The server; stopped at the end of the session."""
    # A path of pytest's own is too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="starloom-sw-", ignore_cleanup_errors=True) as folder:
        running = RunningSeaweed(Path(folder))
        try:
            running.start()
            connect(running.settings()).prepare()
            yield running
        finally:
            running.kill()


@pytest.fixture
def seaweed_settings(seaweed: RunningSeaweed) -> Settings:
    """Settings of a prepared lake on the real server; the buckets are shared by the session."""
    return seaweed.settings()


@pytest.fixture(params=["folder", "seaweed"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    """A prepared lake of each kind."""
    if request.param == "folder":
        settings = Settings(home=tmp_path / "home")
    else:
        settings = request.getfixturevalue("seaweed_settings")
    made = connect(settings)
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def s3(seaweed_settings: Settings) -> Iterator[Lake]:
    """The lake on the real server, for what only S3 does."""
    made = connect(seaweed_settings)
    yield made
    made.close()


@pytest.fixture
def node() -> str:
    """A node's id that no other test uses."""
    return f"T{uuid.uuid4().hex[:10]}"


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    """A file of 11 MiB and a bit: three parts of 5 MiB, the least that S3 takes."""
    path = tmp_path / "big.fits.fz"
    path.write_bytes(os.urandom(11 * 2**20 + 12345))
    return path
