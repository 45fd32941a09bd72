"""Expand and contract: what a release of before a migration says in SQL still works after it, on both databases.

The tables are read from a database of the old schema, as the old release's models have them, and used on the new
one: the old images go on while the archive has been migrated already.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Connection, DateTime, MetaData, Numeric, String, Table, insert, select, update

from starloom.archive import Archive, models
from starloom.archive.schema import newest_schema
from starloom.errors import StarloomError
from tests.archive.test_migrations import events, history, run

#: The rule holds from here on; the migrations before it were made when no hub ran.
SINCE = "0003"
NOT_OURS = {"alembic_version"}
#: Columns whose words are checked.
WORDS = {
    ("frame", "kind"): "light",
    ("frame", "disposition"): "active",
    ("master", "kind"): "dark",
    ("mission", "status"): "OPEN",
    ("status_event", "state"): "open",
    ("revision", "status"): "published",
    ("product", "track"): "sidereal",
    ("raw_check", "state"): "ok",
} | {("frame", step): "pending" for step in models.STEPS}
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def tables(archive: Archive) -> list[Table]:
    """The tables as they are now, those that others refer to first."""
    found = MetaData()
    found.reflect(archive.engine)
    return [table for table in found.sorted_tables if table.name not in NOT_OURS]


def value(column: Column[Any], number: int, parents: dict[str, dict[str, Any]]) -> Any:
    table = column.table.name
    for key in column.foreign_keys:
        target, _, name = key.target_fullname.partition(".")
        return None if target == table else parents[target][name]
    if (table, column.name) in WORDS:
        return WORDS[table, column.name]
    if isinstance(column.type, JSON):
        return {}
    if isinstance(column.type, DateTime):
        return MOMENT
    if isinstance(column.type, String):
        return f"{column.name[:8]}-{number}"[: column.type.length or 255]
    if column.type.python_type is bool:
        return False
    if column.primary_key:
        return number + 1000  # past what the database's own counters give
    return float(number) if isinstance(column.type, Numeric) else number


def write_a_row_into_each(connection: Connection, old: list[Table], number: int) -> dict[str, dict[str, Any]]:
    """Insert a row with every column that the old release knows; return the rows by table."""
    rows: dict[str, dict[str, Any]] = {}
    for table in old:
        rows[table.name] = {column.name: value(column, number, rows) for column in table.columns}
        connection.execute(insert(table).values(rows[table.name]))
    return rows


@pytest.mark.parametrize("start", [revision for revision in history()[:-1] if revision >= SINCE])
def test_the_sql_of_an_older_release_works_on_the_newest_schema(empty_archive: Archive, start: str) -> None:
    archive = empty_archive
    archive.migrate(start)
    old = tables(archive)
    with archive.engine.begin() as connection:
        before = write_a_row_into_each(connection, old, 1)

    archive.migrate()

    with archive.engine.begin() as connection:
        for table in old:
            [row] = connection.execute(select(table)).mappings()
            kept = {name: said for name, said in before[table.name].items() if not isinstance(said, datetime)}
            assert {name: row[name] for name in kept} == kept, "rows of before are as they were"
        write_a_row_into_each(connection, old, 2)
        for table in old:
            assert len(connection.execute(select(table)).all()) == 2
            for column in table.columns:
                if not column.primary_key:
                    connection.execute(update(table).values({column.name: column}))

    run(archive, "UPDATE mission SET status = 'COMPLETE' WHERE id = 'id-2'")
    assert ("OPEN", "COMPLETE", "open") in events(archive, "id-2")


def test_a_schema_of_a_later_release_is_refused(archive: Archive) -> None:
    run(archive, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(
        StarloomError, match=f"schema 9999, this version of starloom knows {newest_schema()}"
    ) as no:
        archive.migrate()
    assert no.value.code == "archive-newer"
    run(archive, "UPDATE alembic_version SET version_num = :now", now=newest_schema())
