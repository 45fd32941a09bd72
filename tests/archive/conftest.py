"""Every archive test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from starloom.archive import Archive


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """A database without any table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'archive.sqlite'}"
    else:
        server = make_url(request.getfixturevalue("postgres_url"))
        name = f"t{uuid4().hex}"
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        admin.dispose()
        url = server.set(database=name).render_as_string(hide_password=False)
    archive = Archive(url)
    yield archive
    archive.dispose()


@pytest.fixture
def archive(empty_archive: Archive) -> Archive:
    """A database at the newest schema."""
    empty_archive.migrate()
    return empty_archive
