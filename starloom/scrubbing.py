"""Scrubbing: stored raw frames are compared with the hash in their keys, a share at a time, and copied once more.

Disks lose bits in silence. Whatever is found is written into ``raw_check``; a damaged object is an alarm, which
the relay tells. Nothing is mended here: which of two copies is right, the hash says, and putting it back is a
person's act, because the raw bucket is locked.
"""

from __future__ import annotations

import errno
import logging
import math
import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import false, insert, literal, true
from sqlalchemy import text as sql
from sqlmodel import Session, col, func, or_, select

from starloom.archive.columns import UtcDateTime
from starloom.archive.engine import database_now
from starloom.archive.models import DAMAGED, NOT_COPIED, Frame, RawCheck
from starloom.errors import Unavailable
from starloom.frames import sha256_of
from starloom.lake import Lake, ObjectMissing, connect
from starloom.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: What the store has and does not give: it has noticed the damage itself.
UNREADABLE = "unreadable"
#: ``tidy`` runs so often: each time, this part of a day's share is checked.
RUNS_A_DAY = 24
#: Objects that are asked for at once; so many that have no second copy are given one in a run.
AT_ONCE = 500
#: Seconds after which a run leaves the rest to the next.
ENOUGH_S = 1800.0
#: A frame is looked at for its raw object when it comes, and so many days later.
LOOKS_D = (0, 1, 2)
#: The last run began at most so long before the last object that it checked.
OVERLAP = timedelta(hours=1)
#: When an object was checked that has never been.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
#: From so many objects on, PostgreSQL's estimate of their number will do.
MANY = 100_000
_HASH = re.compile(r"/([0-9a-f]{64})\.fits(?:\.fz)?$")


def second_copy(settings: Settings) -> Lake | None:
    """Return the lake that holds the second copy of raw frames, None where none is configured.

    Raises
    ------
    BadInput
        ``bad-lake-url``.
    """
    if not settings.raw_copy_url:
        return None
    return connect(
        settings.model_copy(
            update={
                "lake_url": settings.raw_copy_url,
                "lake_endpoint": settings.raw_copy_endpoint,
                "lake_public_endpoint": "",
                "lake_region": settings.raw_copy_region,
                "lake_access_key": settings.raw_copy_access_key,
                "lake_secret_key": settings.raw_copy_secret_key,
            }
        )
    )


def scrub(hub: Hub) -> dict[str, int]:
    """Check the raw objects that are due, those longest unchecked first; return the counts of what was found.

    Each result is committed by itself: a run that ends early has done what it has done.
    """
    counts = {"raw_checked": 0, "raw_damaged": 0, "raw_copied": 0}
    if hub.settings.scrub_days <= 0:
        return counts
    copy = second_copy(hub.settings)
    if copy is not None:
        copy.prepare()
    until = time.monotonic() + ENOUGH_S
    with hub.archive.transaction() as session:
        note_new(session)
        share = share_of(session, hub.settings.scrub_days)
    for key, version in _due_objects(hub, share, with_copy=copy is not None):
        check, copied = check_object(hub.lake, copy, key, version)
        damaged = check.alert
        with hub.archive.transaction() as session:
            known = session.get(RawCheck, key)
            if known is not None and known.detail == check.detail:
                check.alert = known.alert  # what was found before is told once
            check.checked_at = database_now(session)
            session.merge(check)
        counts["raw_checked"] += 1
        counts["raw_damaged"] += damaged
        counts["raw_copied"] += copied
        if damaged:
            log.error("lake: %s is damaged: %s", key, check.detail)
        if time.monotonic() > until:
            break
    return counts


def _due_objects(hub: Hub, share: int, *, with_copy: bool) -> Iterator[tuple[str, str | None]]:
    """Yield key and version of the raw objects to be checked now; those yielded must be checked.

    Those known to be damaged come every time, after the others: what was put back is confirmed within the hour.
    """
    with hub.archive.session() as session:
        known = known_damaged(session)
    while share > 0:
        with hub.archive.session() as session:
            some = longest_unchecked(session, min(share, AT_ONCE))
        yield from some
        share -= AT_ONCE
    if with_copy:
        with hub.archive.session() as session:
            some = not_copied(session)
        yield from some
    yield from known


def share_of(session: Session, days: int) -> int:
    """Return how many objects to check in a run, so that all are within the days."""
    return math.ceil(about_how_many(session) / (days * RUNS_A_DAY))


def longest_unchecked(session: Session, limit: int) -> list[tuple[str, str | None]]:
    """Return key and version of the raw objects that were checked the longest ago, or never."""
    oldest = select(RawCheck.key, RawCheck.version).order_by(col(RawCheck.checked_at), col(RawCheck.key))
    return list(session.exec(oldest.limit(limit)).all())


def known_damaged(session: Session) -> list[tuple[str, str | None]]:
    """Return the damaged raw objects with the version that frames read now, those longest unchecked first."""
    damaged = select(RawCheck.key).where(sql(DAMAGED)).order_by(col(RawCheck.checked_at)).limit(AT_ONCE)
    return [(key, _version_now(session, key)) for key in session.exec(damaged).all()]


def _version_now(session: Session, key: str) -> str | None:
    """Return the version of a raw object that its frame reads; None: the newest.

    No index leads from keys to frames, but one from node and start, which stand in the key.
    """
    _, node, day, _ = key.split("/")
    begin = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    active = (Frame.disposition == "active", col(Frame.pixel_digest).is_not(None), Frame.node_id == node)
    that_day = (col(Frame.start_utc) >= begin, col(Frame.start_utc) < begin + timedelta(days=1))
    return session.exec(select(func.max(Frame.raw_version)).where(*active, *that_day, Frame.raw_key == key)).one()


def not_copied(session: Session) -> list[tuple[str, str | None]]:
    """Return key and version of raw objects that have no second copy yet."""
    uncopied = select(RawCheck.key, RawCheck.version).where(sql(NOT_COPIED)).order_by(col(RawCheck.key))
    return list(session.exec(uncopied.limit(AT_ONCE)).all())


def note_new(session: Session) -> None:
    """Give every raw object a row that has none, as one never checked; looks only at frames of late.

    Of late: that came, or were taken up again, since the newest row was checked; and again a day and two days
    after, for a frame has its raw key only once it was read. So a hub that did not run for a month looks back for
    a month, and one that never did at everything.
    """
    newest = session.exec(select(func.max(RawCheck.checked_at))).one()
    lately: Any = true()
    if newest is not None:
        now, since = database_now(session), newest - OVERLAP
        lately = or_(
            *(
                col(column).between(since - timedelta(days=days), now - timedelta(days=days))
                for column in (Frame.received_at, Frame.disposition_at)
                for days in LOOKS_D
            )
        )
    row: list[Any] = [
        Frame.raw_key,
        func.max(Frame.raw_version),
        literal(NEVER, UtcDateTime),
        literal("ok"),
        false(),
    ]
    new = (
        select(*row)
        .join(RawCheck, col(RawCheck.key) == Frame.raw_key, isouter=True)
        .where(col(Frame.raw_key).startswith("raw/"), col(RawCheck.key).is_(None), lately)
        .group_by(col(Frame.raw_key))
    )
    columns = ["key", "version", "checked_at", "state", "alert"]
    session.connection().execute(insert(RawCheck).from_select(columns, new))


def about_how_many(session: Session) -> int:
    """Return about how many raw objects there are: exactly where they are few, else as the database estimates."""
    if session.connection().dialect.name == "postgresql":
        guess = "SELECT CAST(reltuples AS BIGINT) FROM pg_class WHERE oid = CAST('raw_check' AS regclass)"
        known = int(session.connection().execute(sql(guess)).scalar_one())
        if known >= MANY:
            return known
    return session.exec(select(func.count()).select_from(RawCheck)).one()


def check_object(lake: Lake, copy: Lake | None, key: str, version: str | None) -> tuple[RawCheck, bool]:
    """Compare an object, and its second copy, with the hash in the key; make the copy where there is none.

    Returns
    -------
    check, copied
        ``check.alert`` says that something is lost.
    """
    match = _HASH.search(key)
    wanted = match[1] if match else ""
    copied, copy_state = False, None
    with ExitStack() as files:
        path, state = _fetched(files, lake, key, version, wanted)
        if copy is not None and path is not None and state == "ok" and copy.stat(key) is None:
            copy.put_file(path, key, if_absent=True)
            copied = True
    if copy is not None:
        with ExitStack() as files:
            _, copy_state = _fetched(files, copy, key, None, wanted)
    damaged = state != "ok" or copy_state not in (None, "ok")
    detail = None
    if damaged:
        detail = f"object: {state}; second copy: {copy_state or 'none is configured'}"
    if state == UNREADABLE:
        state = "missing"  # the column's word for what the store does not give; the detail says which
    return RawCheck(
        key=key, version=version, state=state, copy_state=copy_state, detail=detail, alert=damaged
    ), copied


def _fetched(files: ExitStack, lake: Lake, key: str, version: str | None, wanted: str) -> tuple[Path | None, str]:
    """Bring an object for as long as `files` is open, and say how it compares with the hash.

    A store may notice itself that bytes have changed, and answer with an error instead of them.
    """
    try:
        path = files.enter_context(lake.local_copy(key, version=version))
    except ObjectMissing:
        return None, "missing"
    except Unavailable as error:
        lake.ping()  # of a lake that does not answer at all, nothing is known
        log.warning("lake: %s cannot be read: %s", key, error.message)
        return None, UNREADABLE
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None, UNREADABLE
    return path, "ok" if sha256_of(path) == wanted else "mismatch"
