"""Column types and small builders that every table shares."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, Index, String
from sqlalchemy import text as sql
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field


class UtcDateTime(TypeDecorator[datetime]):
    """Aware times in UTC on every database; a naive time is refused instead of guessed.

    SQLite keeps text and no zone: what is read back gets UTC, which is the only zone ever written.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What values of this column are."""
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn an aware time into UTC; refuse a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive time {value!r}: the archive takes aware times only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the present, aware, UTC: the default of columns that say when a row was made."""
    return datetime.now(UTC)


def one_of(table: str, column: str, values: tuple[str, ...], *, nullable: bool = False) -> CheckConstraint:
    """Return a named CHECK that a text column holds one of the given words."""
    words = ", ".join(f"'{value}'" for value in values)
    rule = f"{column} IN ({words})" + (f" OR {column} IS NULL" if nullable else "")
    return CheckConstraint(rule, name=f"ck_{table}_{column}")


def partial(name: str, where: str, *columns: Any, unique: bool = False) -> Index:
    """Return an index of the rows for which a condition holds: small where they are few, whatever the history."""
    condition = sql(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def text(length: int, *, default: Any = ..., **options: Any) -> Any:
    """Return a text column of limited length."""
    return Field(default, max_length=length, sa_type=String(length), **options)


def time(*, default: Any = None, **options: Any) -> Any:
    """Return an aware-time column; without a default it is NULL."""
    if callable(default):
        return Field(default_factory=default, sa_type=UtcDateTime, **options)
    return Field(default, sa_type=UtcDateTime, **options)


def json(default_factory: Any = None) -> Any:
    """Return a JSON column; without a factory it is NULL."""
    if default_factory is None:
        return Field(None, sa_type=JSON)
    return Field(default_factory=default_factory, sa_type=JSON)
