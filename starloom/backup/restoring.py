"""Load a backup into an empty archive, or in the place of one that is given up, and migrate it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import MetaData, create_engine, inspect, text

from starloom.archive import Archive, obscore
from starloom.archive.schema import refuse_newer, schema_of
from starloom.backup import postgres, sqlite
from starloom.backup.manifest import Manifest, check_files
from starloom.backup.saving import described, rows_of, server_major
from starloom.errors import BadInput, Conflict, StarloomError

#: Tables in which a hub that was only set up has no rows.
_OF_WORTH = {"mission", "frame", "node"}


def load_backup(archive: Archive, folder: Path, manifest: Manifest, *, force: bool = False) -> None:
    """Load a backup, compare its rows with the manifest, and migrate it to the newest schema.

    Everything is checked before anything is changed. What goes wrong afterwards leaves an empty archive, into
    which the same backup can be loaded again.

    Parameters
    ----------
    force
        Replace an archive that holds missions, frames or nodes.

    Raises
    ------
    BadInput
        ``backup-damaged``; ``other-database``: a backup of SQLite for PostgreSQL, or the other way round.
    StarloomError
        ``archive-newer``: the backup is of a later release; what `starloom.backup.postgres` raises;
        ``backup-incomplete``.
    Conflict
        ``archive-not-empty``; ``archive-in-use``: other programs are connected to it.
    """
    refuse_newer("the backup", manifest.schema_revision)
    if manifest.database != archive.url.get_backend_name():
        raise BadInput(
            f"the backup is of {manifest.database}, the archive is {archive.url.get_backend_name()}",
            code="other-database",
            hint="Set STARLOOM_ARCHIVE_URL to a database of the kind that was backed up.",
        )
    check_files(folder, manifest)
    _check_target(archive, force=force)
    source = folder / manifest.files[0].name
    if archive.is_sqlite:
        archive.dispose()
        sqlite.load(source, Path(archive.url.database or "").absolute())
    else:
        with archive.engine.connect() as connection:
            tool = postgres.find_loader(manifest.tool, server_major(connection))
        _empty(archive)
        archive.dispose()
        postgres.load(tool, archive.url, source)
    _check_rows(archive, manifest)
    archive.migrate()


def _check_target(archive: Archive, *, force: bool) -> None:
    path = Path(archive.url.database or "")
    if archive.is_sqlite and not path.is_file():
        return
    with archive.session() as session:
        connection = session.connection()
        there = set(inspect(connection).get_table_names())
        rows = {name: count for name, count in rows_of(connection, there & _OF_WORTH).items() if count}
        others = 0
        if not archive.is_sqlite:
            others = connection.execute(
                text(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )
            ).scalar_one()
    if rows and not force:
        held = ", ".join(f"{count} rows of {name}" for name, count in rows.items())
        raise Conflict(
            f"{archive!r} is not empty: {held}",
            code="archive-not-empty",
            hint="Restore into an empty database, or give up what is there with --force.",
        )
    if others:
        raise Conflict(
            f"{others} other sessions are connected to {archive!r}",
            code="archive-in-use",
            hint="Stop relay, workers and everything else that uses it, then restore.",
        )


def _empty(archive: Archive) -> None:
    """Drop every table of the database, and with them our view and triggers."""
    with archive.engine.begin() as connection:
        if schema_of(connection) is not None:
            obscore.drop_view(connection)
        there = MetaData()
        there.reflect(connection)
        there.drop_all(connection)
        connection.execute(text("DROP FUNCTION IF EXISTS mission_status_event()"))


def _check_rows(archive: Archive, manifest: Manifest) -> None:
    engine = create_engine(archive.url)
    with engine.connect() as connection:
        _, rows = described(connection)
    engine.dispose()
    wrong = sorted(
        name for name in manifest.rows.keys() | rows.keys() if manifest.rows.get(name) != rows.get(name)
    )
    if wrong:
        raise StarloomError(
            f"{wrong[0]} has {rows.get(wrong[0])} rows, the backup had {manifest.rows.get(wrong[0])}",
            code="backup-incomplete",
            hint="Load another backup; this one did not arrive whole.",
        )
