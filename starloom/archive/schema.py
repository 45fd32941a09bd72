"""Which revision of the schema a database is at, and which is the newest that this release knows."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

from sqlalchemy import Connection, inspect, text

from starloom.errors import StarloomError


def schema_of(connection: Connection) -> str | None:
    """Return the revision of a database's schema, None where it has no tables of ours."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


@lru_cache(maxsize=1)
def newest_schema() -> str:
    """Return the newest revision by the names of its files (``0001_first_tables.py``): alembic is slow to load."""
    names = (item.name for item in (files("starloom.archive") / "migrations" / "versions").iterdir())
    return max(match[1] for name in names if (match := re.match(r"(\d{4})_.*\.py$", name)))


def refuse_newer(what: str, revision: str | None) -> None:
    """Refuse a schema of a later release: what this one would write there, nobody has tried.

    Raises
    ------
    StarloomError
        ``archive-newer``.
    """
    if revision is not None and revision > newest_schema():
        raise StarloomError(
            f"{what} is at schema {revision}, this version of starloom knows {newest_schema()}",
            code="archive-newer",
            hint="Install the version of starloom that the hub runs.",
        )
