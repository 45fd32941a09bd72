"""Every archive test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.archive import Archive
from tests.conftest import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """A database without any table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'archive.sqlite'}"
    else:
        url = fresh_database(request.getfixturevalue("postgres_url"))
    archive = Archive(url)
    yield archive
    archive.dispose()


@pytest.fixture
def archive(empty_archive: Archive) -> Archive:
    """A database at the newest schema."""
    empty_archive.migrate()
    return empty_archive
