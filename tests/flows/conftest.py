"""A hub of a folder and a SQLite file, frames to feed it with, and Prefect's client turned to the test server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import starloom.hub
from starloom.archive import missions
from starloom.hub import Hub, current_hub
from starloom.lake import keys
from starloom.sky import field_sky
from starloom.sky.network import TARGET, TELESCOPES
from starloom.sky.night import dithers, frame_name, write_frame
from starloom.sky.render import render
from tests.dispatch.server import RunningPrefect, prefect_server
from tests.telemetry.spans import spans

__all__ = ["prefect_server", "spans"]

MISSION = "550"
START = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)
TELESCOPE = TELESCOPES[2]


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three small frames of one field that solve."""
    folder = tmp_path_factory.mktemp("night")
    sky = field_sky(*TARGET, TELESCOPE.radius_deg * 1.3 + 0.1, seed=5, band="V")
    made = []
    for i, pointing in enumerate(dithers(*TARGET, 3, 0.03, seed=5)):
        start = START + timedelta(minutes=i)
        name = frame_name(MISSION, TELESCOPE.node, start)
        made.append(write_frame(folder / name, render(TELESCOPE, sky, pointing, seed=i, start=start)).path)
    return made


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that tasks get from `current_hub`, with one OPEN mission and one registered node."""
    for name in [name for name in os.environ if name.startswith("STARLOOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STARLOOM_HOME", str(tmp_path / "home"))
    starloom.hub._open_for.cache_clear()
    made = current_hub()
    made.archive.migrate()
    made.lake.prepare()
    with made.archive.transaction() as session:
        missions.create_mission(session, MISSION, ra_deg=TARGET[0], dec_deg=TARGET[1])
        missions.register_node(session, TELESCOPE.node, filters={TELESCOPE.filter_name: "V"})
    yield made
    made.archive.dispose()
    starloom.hub._open_for.cache_clear()


def send(hub: Hub, path: Path) -> None:
    """Put a frame into the inbox, as a node does."""
    hub.lake.put_file(path, keys.inbox(TELESCOPE.node, "20261008", path.name))


@pytest.fixture(scope="session")
def prefect_client(prefect_server: RunningPrefect) -> Iterator[RunningPrefect]:
    """Turn this process's Prefect to the test server, with the settings that `starloom up` gives its worker."""
    from prefect import settings

    names = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_RESULTS_PERSIST_BY_DEFAULT")
    wanted = {getattr(settings, name): prefect_server.environment[name] for name in names}
    with settings.temporary_settings(wanted):
        yield prefect_server
