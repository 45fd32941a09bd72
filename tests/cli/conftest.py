"""The command line as its user meets it: arguments in, exit code and two streams out."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from starloom.cli import main
from starloom.hub import Hub
from starloom.settings import load_settings
from starloom.sky.samples import tres1_frames


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"code", "message", "hint", "retryable"}
        assert error["message"]
        assert error["hint"]
        return error


Run = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which nothing was ever set up."""
    for name in [name for name in os.environ if name.startswith("STARLOOM_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("STARLOOM_HOME", str(home))
    return home


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Take back what a command has set up: its handler writes to what pytest captures of one test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run(home: Path, own_logging: None, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: `run("mission", "list", "--json")`."""

    def call(*words: str | Path) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def program(home: Path) -> Run:
    """Run a command as a program of its own, with more environment if wanted."""

    def call(*words: str | Path, before: Callable[[], None] | None = None, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "starloom", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=before,
            timeout=120,
        )
        assert "Traceback" not in done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def hub(home: Path) -> Hub:
    """The home's hub, set up with a folder lake and a SQLite archive."""
    hub = Hub.open(load_settings(home))
    hub.archive.migrate()
    hub.lake.prepare()
    return hub


@pytest.fixture(scope="session")
def real() -> list[Path]:
    """Frames of a real telescope, not named by the grammar."""
    return tres1_frames()
