"""A small hub on each database: a folder lake, frames of a known sky, and what becomes of them after a loss."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from starloom import holding
from starloom.archive import Archive, events
from starloom.coadd import step as coadd
from starloom.demo.watching import complete_by_plain_sql
from starloom.holding import StackRef
from starloom.hub import Hub
from tests.steps.conftest import Station, exposure, frames, postgres_station, station

__all__ = ["exposure", "frames", "postgres_station", "station"]


@pytest.fixture
def at_home(station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    """A station that is this process's hub."""
    monkeypatch.setenv("STARLOOM_HOME", str(tmp_path / "home"))
    return station


@pytest.fixture(params=["sqlite", "postgresql"])
def hub_at(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    """The same on either database."""
    monkeypatch.setenv("STARLOOM_HOME", str(tmp_path / "home"))
    made: Station = request.getfixturevalue("station" if request.param == "sqlite" else "postgres_station")
    return made


def stack(hub: Hub, mission: str = "550") -> StackRef:
    """Stack a COMPLETE mission as the flow does."""
    with hub.archive.transaction() as session:
        events.supersede_spent(session)
    with hub.archive.session() as session:
        event = [event for event, _ in events.open_events(session) if event.mission_id == mission][-1]
    assert event.id is not None
    with holding.claimed(hub, mission, event.id, holder="test") as claim:
        plans = coadd.bind_and_plan(hub, claim)
        for plan in plans:
            for batch in plan.batches():
                coadd.stack_tiles(batch)
        return coadd.publish(hub, claim, plans)


def complete(hub: Hub, mission: str = "550") -> None:
    complete_by_plain_sql(hub.archive, mission)


def destroy(hub: Hub) -> None:
    """Lose the archive, whole."""
    destroy_database(hub.archive)


def destroy_database(archive: Archive) -> None:
    """Remove a SQLite file with all that belongs to it, or make a PostgreSQL database anew."""
    archive.dispose()
    if archive.is_sqlite:
        path = Path(archive.url.database or "")
        for part in path.parent.glob(f"{path.name}*"):
            part.unlink()
        return
    admin = create_engine(archive.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {archive.url.database}")
        connection.exec_driver_sql(f"CREATE DATABASE {archive.url.database}")
    admin.dispose()
