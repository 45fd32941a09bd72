"""The archive's door: one engine, short transactions, migrations and the status trigger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, DateTime, create_engine, event, func
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlmodel import Session

from starloom.archive.schema import refuse_newer, schema_of
from starloom.errors import Unavailable

BUSY_TIMEOUT_MS = 30_000
#: What each of our PostgreSQL sessions asks of the server. A holder that is stopped (SIGSTOP, a host that lost its
#: power) in the middle of a transaction would keep its row locks for ever, and nobody could take its mission over;
#: a row that somebody has locked in a forgotten session must not keep everything behind it waiting.
POSTGRES_OPTIONS = "-c idle_in_transaction_session_timeout=20s -c lock_timeout=30s"
#: A server that is gone without a word is noticed after half a minute, not after the kernel's quarter of an hour.
POSTGRES_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def missing_file(url: str) -> str | None:
    """Return the path of a SQLite database that is not there, None otherwise: opening it would create it."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file():
        return None
    return parsed.database or ""


class Archive:
    """The metadata database: SQLite on one host, PostgreSQL for a network, the same code for both.

    Parameters
    ----------
    url
        SQLAlchemy URL, ``sqlite:///path`` or ``postgresql+psycopg://…``. The parent folder of a SQLite file is
        made. Nothing is created in the database before :meth:`migrate`.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_pre_ping": True}
        if self.is_sqlite and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_MS / 1000}
        if self._url.get_backend_name() == "postgresql":
            said = self._url.query
            options["connect_args"] = {
                **{name: value for name, value in POSTGRES_CONNECTION.items() if name not in said},
                # The URL's own come last and win.
                "options": f"{POSTGRES_OPTIONS} {said.get('options', '')}".strip(),
            }
        self.engine: Engine = create_engine(self._url, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)

    def __repr__(self) -> str:
        return f"Archive({self._url.render_as_string(hide_password=True)})"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Read. Rows stay usable after the session; nothing is written and no lock is kept.

        Raises
        ------
        Unavailable
            The database does not answer.
        """
        with self._speaking(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Write, all or nothing. Keep it short: on SQLite it holds the one write lock from its beginning.

        Raises
        ------
        Unavailable
            The database does not answer, or stayed locked for half a minute.
        """
        with self._speaking(), Session(self.engine, expire_on_commit=False) as session:
            if self.is_sqlite:
                session.connection(execution_options={"starloom_begin": "IMMEDIATE"})
            try:
                yield session
            except BaseException:
                session.rollback()
                raise
            session.commit()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # A connection that the server has cut is no error of the statement, whatever class its error has.
            if not (isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated):
                raise
            where = self._url.render_as_string(hide_password=True)
            raise Unavailable(
                f"archive {where}: {type(error.orig).__name__}: {str(error.orig).strip()}",
                code="archive-unavailable",
            ) from error

    @property
    def url(self) -> URL:
        """Where the database is; it may hold a password."""
        return self._url

    def ping(self) -> None:
        """Raise `Unavailable` unless the database answers."""
        with self.session() as session:
            database_now(session)

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to a revision; put the status trigger and, at the newest, the ObsCore view in place.

        Raises
        ------
        StarloomError
            ``archive-newer``: a later release has migrated it.
        """
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        from starloom.archive import obscore

        config = Config()
        config.set_main_option("script_location", str(files("starloom.archive") / "migrations"))
        with self._speaking(), self.engine.connect() as connection:
            refuse_newer(repr(self), schema_of(connection))
            config.attributes["connection"] = connection
            obscore.drop_view(connection)
            command.upgrade(config, revision)
            if revision in ("head", *ScriptDirectory.from_config(config).get_heads()):
                obscore.create_view(connection)
            connection.commit()
        self.apply_trigger()

    def apply_trigger(self) -> None:
        """(Re-)create the trigger that turns a status change into an event; one versioned file per database."""
        name = f"status_trigger.{'sqlite' if self.is_sqlite else 'postgresql'}.sql"
        script = (files("starloom.archive") / "ddl" / name).read_text(encoding="utf-8")
        with self.transaction() as session:
            for statement in script.split(";;"):
                if statement.strip():
                    session.connection().exec_driver_sql(statement)

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def database_now(session: Session) -> datetime:
    """Return the database's clock, aware, UTC: it alone decides about leases, because workers' clocks differ."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        stamp = connection.exec_driver_sql("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')").scalar_one()
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return moment.astimezone(UTC)


def database_soon(dialect: str, seconds: float) -> ColumnElement[Any]:
    """Return the moment that is so many seconds away by `database_now`, for use within a statement."""
    if dialect == "sqlite":  # as SQLAlchemy writes times there
        return func.strftime("%Y-%m-%d %H:%M:%f000", "now", f"{seconds} seconds")
    return func.clock_timestamp(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes late and is DEFERRED: two readers that both want to write then fail with
        # "database is locked" at once, whatever the time-out. We begin ourselves, below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("starloom_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")
