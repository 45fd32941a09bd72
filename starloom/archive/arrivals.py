"""Frames as they arrive: announced, found in the inbox, told apart from what is known already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, bindparam, update
from sqlalchemy import text as sql
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, or_, select

from starloom.archive.engine import database_now
from starloom.archive.frames import LOST_AFTER_S, add_flags, is_settled, locked, put_down, touch
from starloom.archive.models import UNSETTLED, Announcement, Frame

# Made once: `starloom.archive.frames` says why.
_AT = select(Frame).where(Frame.inbox_key == bindparam("at")).with_for_update()
_AWAITED = select(Announcement).where(
    Announcement.node_id == bindparam("node"),
    Announcement.name == bindparam("called"),
    col(Announcement.arrived_at).is_(None),
)


def discover(
    session: Session,
    *,
    inbox_key: str,
    etag: str,
    name: str,
    node_id: str,
    obs_req: str | None,
    kind: str,
    start_utc: datetime | None,
) -> Frame | None:
    """Register an object of the inbox; None when it is known already.

    A node that overwrites its own object before it was read has corrected itself: the same row goes on.
    """
    known = session.execute(_AT, {"at": inbox_key}).scalar_one_or_none()
    if known is not None:
        if known.disposition == "active" and known.ingest == "pending":
            known.inbox_etag = etag
            return None
        if known.inbox_etag == etag:
            return None
        # Read, and overwritten before its run had freed the inbox: what lies there now is another arrival.
        known.inbox_key = None
        session.flush()
    frame = Frame(
        name=name,
        node_id=node_id,
        obs_req=obs_req,
        kind=kind,
        start_utc=start_utc,
        inbox_key=inbox_key,
        inbox_etag=etag,
        next_attempt_at=database_now(session) + timedelta(seconds=LOST_AFTER_S),
    )
    if not _added(session, frame):
        return None
    for announcement in session.execute(_AWAITED, {"node": node_id, "called": name}).scalars().all():
        announcement.arrived_at = database_now(session)
        frame.traceparent = announcement.traceparent or frame.traceparent
    session.flush()
    return frame


def _added(session: Session, row: Announcement | Frame) -> bool:
    """Insert a row; False when another run has inserted the same a moment ago."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def known_at(session: Session, inbox_keys: Collection[str]) -> dict[str, Frame]:
    """Return the frames of objects that the inbox held when they were last looked at, by key."""
    found = session.exec(select(Frame).where(col(Frame.inbox_key).in_(inbox_keys))).all()
    return {str(frame.inbox_key): frame for frame in found}


def is_left_behind(frame: Frame, etag: str) -> bool:
    """Tell whether a frame was read from this very object, by a run that ended before it had freed the inbox."""
    return frame.inbox_etag == etag and (frame.ingest != "pending" or frame.disposition != "active")


def taken_up(session: Session, names: Collection[str]) -> set[tuple[str, str | None]]:
    """Return name and etag of what was read and freed: a list made before that still shows it in the inbox."""
    query = select(Frame.name, Frame.inbox_etag).where(col(Frame.name).in_(names), col(Frame.inbox_key).is_(None))
    return set(session.exec(query).all())


def record_ingest(session: Session, frame_id: str, *, pixel_digest: str, **values: Any) -> Frame:
    """File a frame that passed all checks: by its pixels it is new, a duplicate, or in conflict with its name.

    Identity is node, start and decoded pixels within one mission. Another header or another compression changes
    nothing: ``duplicate``. The same node, start and mission with other pixels: ``name-conflict``.
    """
    frame = locked(session, frame_id)
    if frame.ingest != "pending" or frame.disposition != "active":
        return frame
    values |= {"pixel_digest": pixel_digest, "ingest": "ok"}
    _hold_place(session, frame)
    held_by = twin(session, frame)
    if held_by is None:
        try:
            with session.begin_nested():
                _filed(session, frame, values)
                session.flush()
        except IntegrityError:  # the same pixels were committed by another run a moment ago
            session.refresh(frame)
            held_by = twin(session, frame)
    if held_by is not None:
        frame.disposition_at = database_now(session)
        if held_by.pixel_digest == pixel_digest:
            frame.disposition, frame.disposition_code = "duplicate", "duplicate"
            frame.disposition_hint = "These pixels arrived before; nothing to do."
        else:
            frame.disposition, frame.disposition_code = "quarantined", "name-conflict"
            frame.disposition_hint = (
                "Another frame of this node, mission and start time has other pixels; correct the start time "
                "in the name, or withdraw the other frame."
            )
        frame.duplicate_of = held_by.id
        _filed(session, frame, values)
        session.flush()
    return frame


def _filed(session: Session, frame: Frame, values: dict[str, Any]) -> None:
    for column, value in values.items():
        setattr(frame, column, value)
    put_down(frame)
    if frame.obs_req is not None and frame.mission_id is None:
        add_flags(frame, "unknown-mission")
    touch(session, frame, again_after_s=None if is_settled(frame) else LOST_AFTER_S)


def _hold_place(session: Session, frame: Frame) -> None:
    """Let one run at a time decide who holds a place; on SQLite the transaction itself does.

    The unique index keeps the same pixels apart, but two frames of one name with other pixels would both find
    the place free.
    """
    if session.connection().dialect.name == "postgresql":
        place = f"{frame.node_id} {frame.start_utc} {frame.obs_req} {frame.kind}"
        lock = sql("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))")
        session.connection().execute(lock, {"place": place})


def twin(session: Session, frame: Frame) -> Frame | None:
    """Return the active frame that holds this one's place (mission, node, start), if there is one."""
    place = {"node": frame.node_id, "start": frame.start_utc, "is": frame.kind, "besides": frame.id}
    if frame.obs_req:
        place["mission"] = frame.obs_req
    with session.no_autoflush:
        return session.execute(_twin_of(bool(frame.obs_req)), place).scalars().first()


@lru_cache
def _twin_of(in_mission: bool) -> Select[tuple[Frame]]:
    return select(Frame).where(
        Frame.node_id == bindparam("node"),
        Frame.start_utc == bindparam("start"),
        Frame.obs_req == bindparam("mission") if in_mission else col(Frame.obs_req).is_(None),
        Frame.kind == bindparam("is"),
        Frame.disposition == "active",
        Frame.ingest == "ok",
        Frame.id != bindparam("besides"),
    )


def leave_inbox(session: Session, frame_id: str) -> None:
    """Forget the inbox object, which is gone: the same name may come again."""
    session.execute(_LEAVE, {"gone": frame_id})


_LEAVE = update(Frame).where(col(Frame.id) == bindparam("gone")).values(inbox_key=None)


def announce(
    session: Session,
    *,
    node_id: str,
    name: str,
    obs_req: str | None,
    size: int,
    sha256: str,
    expires_at: datetime,
    traceparent: str | None = None,
) -> None:
    """Note that a frame is on its way; said again, it lives longer."""
    known = session.exec(
        select(Announcement).where(
            Announcement.node_id == node_id, Announcement.name == name, Announcement.sha256 == sha256
        )
    ).first()
    if known is not None:
        known.expires_at = expires_at
        return
    # An earlier frame of the same name, which this one corrects, is not the one announced.
    arrived = session.exec(
        select(Frame.id).where(
            Frame.node_id == node_id,
            Frame.name == name,
            or_(Frame.raw_sha256 == sha256, col(Frame.inbox_key).is_not(None)),
        )
    ).first()
    _added(
        session,
        Announcement(
            node_id=node_id,
            name=name,
            obs_req=obs_req,
            size=size,
            sha256=sha256,
            announced_at=database_now(session),
            expires_at=expires_at,
            arrived_at=database_now(session) if arrived else None,
            traceparent=traceparent,
        ),
    )


def in_flight(session: Session, obs_req: str) -> int:
    """Count what a mission should wait for: announced and not here, or here and not settled."""
    return in_flight_of(session, [obs_req]).get(obs_req, 0)


def in_flight_of(session: Session, obs_reqs: Collection[str]) -> dict[str, int]:
    """Return `in_flight` of those of many missions that have anything in flight."""
    announced = select(Announcement.obs_req, func.count()).where(
        col(Announcement.obs_req).in_(obs_reqs),
        col(Announcement.arrived_at).is_(None),
        col(Announcement.expires_at) > database_now(session),
    )
    unsettled = select(Frame.obs_req, func.count()).where(
        sql(UNSETTLED), col(Frame.obs_req).in_(obs_reqs), Frame.kind == "light", col(Frame.ready_at).is_(None)
    )
    counts: Counter[str] = Counter()
    for query, column in ((announced, Announcement.obs_req), (unsettled, Frame.obs_req)):
        for obs_req, count in session.exec(query.group_by(column)).all():
            counts[str(obs_req)] += count
    return dict(counts)
