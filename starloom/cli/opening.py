"""What a command needs before it can work: settings that make sense, and an archive that is set up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.errors import BadInput, StarloomError
from starloom.settings import Settings, load_settings

if TYPE_CHECKING:
    from starloom.archive import Archive
    from starloom.archive.models import Frame
    from starloom.hub import Hub
    from starloom.lake import Lake

#: What this command has opened, to be closed at its end whatever happens in between.
_OPEN: list[Callable[[], None]] = []

_NOT_READY = "`starloom up` sets it up. Is STARLOOM_HOME the right folder?"


def open_settings() -> Settings:
    """Read the settings; a wrong one raises `BadInput` (``bad-setting``) that names the variable."""
    from pydantic_settings import SettingsError

    try:
        return load_settings()
    except SettingsError as error:
        raise BadInput(str(error), code="bad-setting", hint="Correct the variable.") from error


def open_archive(*, create: bool = False) -> Archive:
    """Return the archive of the settings, at the schema that this version of starloom speaks.

    Parameters
    ----------
    create
        Set up an embedded (SQLite) archive that is not there yet. A PostgreSQL archive is never touched: its
        migrations are its operator's decision.

    Raises
    ------
    StarloomError
        ``archive-not-ready``, ``archive-outdated`` or ``archive-newer``.
    Unavailable
        ``archive-unavailable``.
    BadInput
        ``bad-archive-url``, ``no-driver``.
    """
    return _open_archive(open_settings(), create=create)


def open_hub() -> Hub:
    """Return lake and archive of the settings, the archive set up; see `open_archive`."""
    from starloom.hub import Hub

    settings = open_settings()
    return Hub(settings, _connect(settings), _open_archive(settings, create=False))


def open_hub_to_restore() -> Hub:
    """Return lake and archive of the settings, whatever state the archive is in, or none."""
    from starloom.hub import Hub

    hub = Hub.open(open_settings())
    _OPEN.extend((hub.archive.dispose, hub.lake.close))
    return hub


def tell_nodes(hub: Hub, changed: Sequence[Frame]) -> None:
    """Write the receipts of frames that a command has changed; a lake that is gone takes nothing back."""
    from starloom.cli.output import progress
    from starloom.receipts import write_receipt

    try:
        for frame in changed:
            write_receipt(hub, frame)
    except StarloomError as error:
        progress.print(
            f"Done, but the nodes' receipts could not be written: {error.message} ({error.code})",
            markup=False,
            soft_wrap=True,
        )


def open_lake() -> Lake:
    """Return the lake of the settings; nothing is contacted yet.

    Raises
    ------
    StarloomError
        ``lake-not-ready``: a folder that is not there. Frames put into a folder of that name now would wait for
        a hub that, once started, looks elsewhere.
    """
    from starloom.lake.folder import FolderLake

    lake = _connect(open_settings())
    if isinstance(lake, FolderLake) and not lake.root.is_dir():
        raise StarloomError(
            f"there is no lake at {lake.root}",
            code="lake-not-ready",
            hint="At a telescope set STARLOOM_LAKE_URL, STARLOOM_LAKE_ENDPOINT and the node's key; at the hub, "
            "`starloom up` sets it up.",
        )
    return lake


def close_all() -> None:
    """Close what this command has opened."""
    while _OPEN:
        _OPEN.pop()()


def _connect(settings: Settings) -> Lake:
    from starloom.lake import connect

    lake = connect(settings)
    _OPEN.append(lake.close)
    return lake


def _open_archive(settings: Settings, *, create: bool) -> Archive:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from starloom.archive import Archive
    from starloom.archive.schema import newest_schema, refuse_newer, schema_of

    text = settings.archive_url.get_secret_value()
    try:
        url = make_url(text)
        embedded = url.get_backend_name() == "sqlite"
        # Looking must not make an empty database in a folder that was only misspelt.
        if embedded and not create and url.database and not Path(url.database).is_file():
            raise _not_ready(f"there is no archive at {url.database}")
        archive = Archive(text)
        _OPEN.append(archive.dispose)
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # The error may quote the URL, and the URL may hold a password.
        raise BadInput(
            "STARLOOM_ARCHIVE_URL is no URL of a database",
            code="bad-archive-url",
            hint="Write sqlite:////folder/archive.sqlite or postgresql+psycopg://user:password@host/database.",
        ) from error
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the archive needs the Python package {error.name}",
            code="no-driver",
            hint="Install starloom with the extra `postgres`.",
        ) from error
    with archive.session() as session:
        has = schema_of(session.connection())
    newest = newest_schema()
    if has == newest:
        return archive
    if create and archive.is_sqlite and (has is None or has < newest):
        archive.migrate()
        return archive
    if has is None:
        raise _not_ready(f"{archive!r} has no tables yet")
    refuse_newer(repr(archive), has)
    raise StarloomError(
        f"{archive!r} is at schema {has}, this version of starloom needs {newest}",
        code="archive-outdated",
        hint="`starloom up` brings it up to date.",
    )


def _not_ready(message: str) -> StarloomError:
    return StarloomError(message, code="archive-not-ready", hint=_NOT_READY)
