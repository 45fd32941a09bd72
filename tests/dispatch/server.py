"""A real Prefect server for the session, with everything registered that `starloom up` registers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from starloom.dispatch.deploying import register
from starloom.dispatch.embedded import Embedded, program_environment
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.errors import Unavailable
from starloom.settings import Settings, load_settings


class PatientApi(PrefectApi):
    """Asks again where the server's SQLite was locked (503): the machine is busy, and that is not the question."""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        deadline = time.monotonic() + 20
        while True:
            try:
                return super().call(method, path, body)
            except Unavailable as error:
                if "answered 503" not in error.message or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)


@dataclass
class RunningPrefect:
    """The server, its settings and a client."""

    home: Path
    settings: Settings
    environment: dict[str, str]
    api: PrefectApi

    def automation_ids(self, deployment: str) -> list[str]:
        wanted = self.api.deployment_id(deployment)
        return [a["id"] for a in self.api.automations() if wanted in str(a.get("actions"))]

    @contextmanager
    def deaf(self, deployment: str) -> Iterator[None]:
        """Switch the deployment's own trigger off: what is published then is lost."""
        ids = self.automation_ids(deployment)
        assert ids
        for automation in ids:
            self.api.enable_automation(automation, enabled=False)
        try:
            yield
        finally:
            for automation in ids:
                self.api.enable_automation(automation, enabled=True)


_running: list[RunningPrefect] = []


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[RunningPrefect]:
    """Started once, whichever folder's tests come first; stopped by pid at the end of the session."""
    if _running:  # the fixture of another folder has started it, and stops it
        yield _running[0]
        return
    home = Path(tempfile.mkdtemp(prefix="starloom-prefect-"))
    service = Embedded(home)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("STARLOOM_PREFECT_API_URL", "STARLOOM_LAKE_URL", "STARLOOM_ARCHIVE_URL"):
                patch.delenv(name, raising=False)
            patch.setenv("STARLOOM_INGEST_INTERVAL_S", "3600")
            service._up_prefect(lambda _: None)
            settings = load_settings(home)
            environment = program_environment(settings, checkout())
            register(settings, environment, checkout(), lambda _: None)
        api = PatientApi.from_settings(settings)
        _running.append(RunningPrefect(home, settings, environment, api))
        yield _running[0]
        api.close()
    finally:
        _running.clear()
        service.down()
        shutil.rmtree(home, ignore_errors=True)
