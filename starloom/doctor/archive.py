"""The archive: reached, at the right schema, with the trigger that makes events, on a clock that agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlmodel import Session, func, select

from starloom.archive import Archive
from starloom.archive.engine import database_now, missing_file
from starloom.archive.models import Mission, StatusEvent
from starloom.archive.schema import newest_schema, refuse_newer, schema_of
from starloom.backup import postgres
from starloom.backup.saving import server_major
from starloom.doctor.finding import Check, Group, Trouble
from starloom.settings import Settings

#: Clocks of hub, archive and lake may differ by so much.
MAX_SKEW_S = 2.0


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    archive = Archive(settings.archive_url.get_secret_value())
    try:
        with archive.session() as session:
            yield session
    finally:
        archive.dispose()


def _asking(look: Callable[[Session, Settings], str]) -> Callable[[Settings], str]:
    def ask(settings: Settings) -> str:
        with _session(settings) as session:
            return look(session, settings)

    return ask


def answers(settings: Settings) -> str:
    """Ask the database anything; never make one by asking."""
    url = make_url(settings.archive_url.get_secret_value())
    if (path := missing_file(settings.archive_url.get_secret_value())) is not None:
        raise Trouble(f"there is no archive at {path}", "`starloom up` makes one; or set STARLOOM_HOME.")
    with _session(settings) as session:
        if url.get_backend_name() == "sqlite":
            version = "SQLite " + str(session.connection().execute(text("SELECT sqlite_version()")).scalar_one())
        else:
            version = str(session.connection().execute(text("SELECT version()")).scalar_one()).split(" on ")[0]
    return f"{version}, {url.render_as_string(hide_password=True)}"


def is_at_the_newest_schema(session: Session, _: Settings) -> str:
    """Compare the schema with the one that this release speaks."""
    revision = schema_of(session.connection())
    refuse_newer("the archive", revision)
    if revision != newest_schema():
        raise Trouble(
            f"schema {revision or 'none'}, this release speaks {newest_schema()}",
            "`starloom up` migrates it; take a backup first (docs/upgrade.md).",
        )
    return revision


def trigger_fires(session: Session, _: Settings) -> str:
    """Change a status in a transaction that is rolled back, and see whether the database wrote the event."""
    name = f"doctor-{uuid4().hex[:12]}"
    events = select(func.count()).where(StatusEvent.mission_id == name)
    try:
        mission = Mission(id=name)
        session.add(mission)
        session.flush()
        mission.status = "COMPLETE"
        session.flush()
        written = session.exec(events).one()
    finally:
        session.rollback()
    if written != 1:
        raise Trouble(
            f"a change of a mission's status wrote {written} events instead of one",
            "`starloom up` puts the trigger back; until then the relay finds such missions within seconds.",
        )
    return "a status changed in a transaction that was rolled back wrote its event"


def clock_agrees(session: Session, _: Settings) -> str:
    """Compare the database's clock, which decides about leases, with this machine's."""
    before = datetime.now(UTC)
    there = database_now(session)
    after = datetime.now(UTC)
    skew = max((before - there).total_seconds(), (there - after).total_seconds(), 0.0)
    if skew > MAX_SKEW_S:
        raise Trouble(f"the database's clock differs by {skew:.1f} s", "Set both machines' clocks by NTP.")
    return f"within {max(skew, (after - before).total_seconds()):.2f} s"


def speaks_utc(session: Session, settings: Settings) -> str:
    """Look in which zone and encoding a PostgreSQL database speaks to people who use plain SQL."""
    if make_url(settings.archive_url.get_secret_value()).get_backend_name() == "sqlite":
        return "UTC, as all times are written"
    connection = session.connection()
    encoding = str(connection.execute(text("SHOW server_encoding")).scalar_one())
    zone = str(connection.execute(text("SHOW timezone")).scalar_one())
    if encoding != "UTF8":
        raise Trouble(f"the database's encoding is {encoding}", "Make the database anew with ENCODING 'UTF8'.")
    if zone not in ("UTC", "Etc/UTC", "GMT"):
        raise Trouble(
            f"times are shown in {zone} to whoever asks by plain SQL",
            "ALTER DATABASE … SET timezone TO 'UTC'; what is stored is right in any case.",
            "warning",
        )
    return f"{zone}, {encoding}"


def can_be_backed_up(settings: Settings) -> str:
    """Look for the programs that a backup of PostgreSQL needs."""
    if make_url(settings.archive_url.get_secret_value()).get_backend_name() == "sqlite":
        return "SQLite's online backup"
    with _session(settings) as session:
        major = server_major(session.connection())
    tools = [postgres.find_tool(name, major) for name in ("pg_dump", "pg_restore")]
    return ", ".join(f"{path} {version}" for path, version in tools)


GROUP = Group(
    "archive",
    Check("answers", "Everything the hub knows is in it.", answers),
    (
        Check(
            "schema", "Code and tables of different releases misread each other.", _asking(is_at_the_newest_schema)
        ),
        Check("status trigger", "A status changed by plain SQL must become an event.", _asking(trigger_fires)),
        Check("clock", "Leases run on the database's clock, retries are planned by it.", _asking(clock_agrees)),
        Check("time zone", "People read times there.", _asking(speaks_utc)),
        Check("backup tools", "A backup that cannot be taken is noticed when it is needed.", can_be_backed_up),
    ),
)
