"""Take a backup: one consistent snapshot of the archive, and the manifest that describes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, create_engine, func, inspect, select, table, text

from starloom import __version__
from starloom.archive import Archive
from starloom.archive.engine import database_now
from starloom.archive.schema import schema_of
from starloom.backup import manifest, postgres, sqlite
from starloom.backup.manifest import Manifest
from starloom.errors import StarloomError


def dump_archive(archive: Archive, folder: Path) -> Manifest:
    """Write a backup of the archive, in use or not, into an empty folder; the manifest comes last.

    Raises
    ------
    StarloomError
        ``archive-not-ready``: it has no tables; what `starloom.backup.postgres.dump` raises.
    Unavailable
        ``archive-unavailable``.
    """
    with archive.session() as session:
        taken_at = database_now(session)
    if archive.is_sqlite:
        made = _dump_sqlite(archive, folder / sqlite.DUMP, taken_at)
    else:
        made = _dump_postgres(archive, folder / postgres.DUMP, taken_at)
    (folder / manifest.NAME).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return made


def _dump_sqlite(archive: Archive, target: Path, taken_at: datetime) -> Manifest:
    tool = sqlite.dump(Path(archive.url.database or "").absolute(), target)
    # Counted in the copy: the archive goes on.
    engine = create_engine(f"sqlite:///{target}")
    with engine.connect() as connection:
        revision, rows = described(connection)
    engine.dispose()
    return _manifest("sqlite", tool, taken_at, revision, rows, target)


def _dump_postgres(archive: Archive, target: Path, taken_at: datetime) -> Manifest:
    with _snapshot(archive) as (connection, snapshot):
        revision, rows = described(connection)
        major = server_major(connection)
        tool = postgres.dump(archive.url, target, server_major=major, snapshot=snapshot)
    return _manifest("postgresql", tool, taken_at, revision, rows, target)


def _manifest(
    database: str, tool: str, taken_at: datetime, revision: str, rows: dict[str, int], target: Path
) -> Manifest:
    return Manifest(
        taken_at=taken_at,
        starloom_version=__version__,
        database=database,
        tool=tool,
        schema_revision=revision,
        files=[manifest.describe(target)],
        rows=rows,
    )


@contextmanager
def _snapshot(archive: Archive) -> Iterator[tuple[Connection, str]]:
    """Hold a transaction whose view of the database pg_dump can take over: what is counted is what is dumped."""
    with archive.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="REPEATABLE READ")
        # Our sessions are cut off when they idle in a transaction; this one waits for pg_dump.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection, str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())


def server_major(connection: Connection) -> int:
    """Return the major version of a PostgreSQL server."""
    return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000


def described(connection: Connection) -> tuple[str, dict[str, int]]:
    """Return a database's schema and the rows of each of its tables.

    Raises
    ------
    StarloomError
        ``archive-not-ready``: it has no tables.
    """
    revision = schema_of(connection)
    if revision is None:
        raise StarloomError(
            "there is nothing to back up: the archive has no tables yet",
            code="archive-not-ready",
            hint="`starloom up` sets it up. Is STARLOOM_HOME the right folder?",
        )
    return revision, rows_of(connection, inspect(connection).get_table_names())


def rows_of(connection: Connection, tables: Iterable[str]) -> dict[str, int]:
    """Return the number of rows of tables, by name."""
    return {
        name: int(connection.execute(select(func.count()).select_from(table(name))).scalar_one())
        for name in sorted(tables)
    }
