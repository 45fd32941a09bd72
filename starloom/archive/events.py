"""Status events: what the database's trigger wrote, open until claimed or superseded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlmodel import Session, col, func, select

from starloom.archive.claims import HELD
from starloom.archive.engine import database_now
from starloom.archive.models import Mission, Revision, StatusEvent


def open_events(session: Session, limit: int = 500) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return open events with their missions, oldest first: a selection, never a cursor that can skip one."""
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open")
        .order_by(col(StatusEvent.id))
        .limit(limit)
    ).all()


def supersede_spent(session: Session) -> int:
    """Close the open events that ask for nothing any more; return how many.

    An event asks for work only when it says COMPLETE, its mission still is COMPLETE, and no later event of the
    same mission asks for the same.
    """
    newest: dict[str, int] = {}
    found = open_events(session)
    for event, mission in found:
        if event.new_status == "COMPLETE" == mission.status:
            newest[mission.id] = max(newest.get(mission.id, 0), event.id or 0)
    closed = 0
    for event, mission in found:
        if event.id == newest.get(mission.id):
            continue
        event.state = "superseded"
        event.note = (
            f"event {newest[mission.id]} asks for the same"
            if mission.id in newest and event.new_status == "COMPLETE"
            else f"asks for nothing; the mission is {mission.status}"
        )
        closed += 1
    return closed


def record_publish(session: Session, event_id: int, wait_s: float, note: str) -> None:
    """Write down that an event was published, and when to look again whether it has been claimed."""
    event = session.get(StatusEvent, event_id)
    if event is None or event.state != "open":
        return
    now = database_now(session)
    event.publish_attempts += 1
    event.published_at = now
    event.next_publish_at = now + timedelta(seconds=wait_s)
    event.note = note[:255]


def postpone(session: Session, event_id: int, wait_s: float, note: str) -> None:
    """Look at an open event again later, and say why it waits."""
    event = session.get(StatusEvent, event_id)
    if event is None or event.state != "open":
        return
    event.next_publish_at = database_now(session) + timedelta(seconds=wait_s)
    event.note = note[:255]


def is_held(session: Session, mission_id: str) -> bool:
    """Tell whether a living lease holds the mission."""
    held = select(func.count()).where(
        Revision.mission_id == mission_id,
        col(Revision.status).in_(HELD),
        col(Revision.lease_until) > database_now(session),
    )
    return session.exec(held).one() > 0
