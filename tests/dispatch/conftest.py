from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from starloom.archive import Archive, missions
from starloom.dispatch.relay import Relay
from starloom.dispatch.rest import PrefectApi
from starloom.settings import Settings
from tests.dispatch.server import PatientApi, RunningPrefect, prefect_server

__all__ = ["prefect_server"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a hub with nothing in it."""
    return Settings(home=tmp_path / "home")


@pytest.fixture
def archive(settings: Settings) -> Iterator[Archive]:
    made = Archive(settings.archive_url.get_secret_value())
    made.migrate()
    yield made
    made.dispose()


@pytest.fixture
def mission(archive: Archive) -> str:
    """An OPEN mission of a name that no other test uses: the server is shared."""
    name = f"m{uuid4().hex[:8]}"
    with archive.transaction() as session:
        missions.create_mission(session, name)
    return name


@pytest.fixture
def make_relay(
    settings: Settings, archive: Archive, prefect_server: RunningPrefect
) -> Iterator[Callable[..., Relay]]:
    """Relays over the test's archive and the real server."""
    made: list[PrefectApi] = []

    def make(url: str = "", **changes: object) -> Relay:
        api = PrefectApi(url) if url else PatientApi(prefect_server.settings.prefect_api_url)
        made.append(api)
        return Relay(settings.model_copy(update=changes), archive, api)

    yield make
    for api in made:
        api.close()
