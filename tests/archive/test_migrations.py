"""Every step of the schema's history leads to a database that works, on both databases."""

from __future__ import annotations

from importlib.resources import files

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from starloom.archive import Archive, obscore


def history() -> list[str]:
    """Return the revisions from the first to the newest."""
    config = Config()
    config.set_main_option("script_location", str(files("starloom.archive") / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert len(scripts.get_heads()) == 1, "the history has branched"
    return [script.revision for script in scripts.walk_revisions()][::-1]


def run(archive: Archive, statement: str, **values: object) -> None:
    with archive.transaction() as session:
        session.connection().execute(text(statement), values)


def events(archive: Archive, mission: str) -> list[tuple[str | None, str, str]]:
    with archive.session() as session:
        rows = session.connection().execute(
            text("SELECT old_status, new_status, state FROM status_event WHERE mission_id = :m ORDER BY id"),
            {"m": mission},
        )
        return [tuple(row) for row in rows]  # type: ignore[misc]


def insert_mission(archive: Archive, mission: str) -> None:
    """Insert a row by plain SQL with every column of the time that wants a value."""
    wanted: dict[str, object] = {}
    for column in inspect(archive.engine).get_columns("mission"):
        if not column["nullable"] and column["default"] is None:
            kind = str(column["type"]).upper()
            if "JSON" in kind:
                wanted[column["name"]] = "{}"
            elif "TIME" in kind:
                wanted[column["name"]] = "2026-01-01 00:00:00.000000"
            else:
                wanted[column["name"]] = "" if "CHAR" in kind else 0
    wanted |= {"id": mission, "status": "OPEN"}
    names = ", ".join(wanted)
    run(archive, f"INSERT INTO mission ({names}) VALUES ({', '.join(':' + name for name in wanted)})", **wanted)


def drop_triggers(archive: Archive) -> None:
    if archive.is_sqlite:
        run(archive, "DROP TRIGGER mission_status_inserted")
        run(archive, "DROP TRIGGER mission_status_updated")
    else:
        run(archive, "DROP TRIGGER mission_status_changed ON mission")
        run(archive, "DROP FUNCTION mission_status_event")


def test_after_every_step_a_status_changed_by_sql_is_an_event(empty_archive: Archive) -> None:
    for i, revision in enumerate(history()):
        empty_archive.migrate(revision)
        if "mission" not in inspect(empty_archive.engine).get_table_names():
            continue
        insert_mission(empty_archive, f"m{i}")
        for mission in [f"m{n}" for n in range(i + 1)]:  # those from before the step too
            before = events(empty_archive, mission)
            run(empty_archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = :m", m=mission)
            run(empty_archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = :m", m=mission)
            assert events(empty_archive, mission) == [*before, ("OPEN", "COMPLETE", "open")]
            run(empty_archive, "UPDATE mission SET status = 'OPEN' WHERE id = :m", m=mission)


@pytest.mark.parametrize("start", history()[:-1] or [""])
def test_a_database_of_any_age_comes_to_the_head_with_its_rows(empty_archive: Archive, start: str) -> None:
    if start:
        empty_archive.migrate(start)
        insert_mission(empty_archive, "old")
        run(empty_archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = 'old'")
    empty_archive.migrate()
    if not start:
        insert_mission(empty_archive, "old")
        run(empty_archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = 'old'")
    assert events(empty_archive, "old") == [("OPEN", "COMPLETE", "open")]


def test_the_trigger_comes_back_with_every_migration(archive: Archive) -> None:
    insert_mission(archive, "m")
    drop_triggers(archive)
    run(archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = 'm'")
    assert events(archive, "m") == []
    archive.migrate()  # nothing to migrate, and yet
    run(archive, "UPDATE mission SET status = 'CANCELLED' WHERE id = 'm'")
    assert events(archive, "m") == [("COMPLETE", "CANCELLED", "open")]


def test_a_batch_migration_of_sqlite_loses_no_trigger(archive: Archive) -> None:
    """SQLite alters a table by copying it, and drops its triggers with the old one."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    insert_mission(archive, "m")
    with archive.engine.connect() as connection:
        obscore.drop_view(connection)  # as `migrate` does before every step
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("mission", recreate="always" if archive.is_sqlite else "auto") as batch:
            batch.alter_column("title", nullable=True)
        connection.commit()
    archive.migrate()
    run(archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = 'm'")
    assert events(archive, "m") == [("OPEN", "COMPLETE", "open")]
