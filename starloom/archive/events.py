"""Status events: what the database's trigger wrote, open until claimed or superseded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import update
from sqlmodel import Session, col, func, or_, select

from starloom.archive.claims import HELD
from starloom.archive.engine import database_now
from starloom.archive.models import Mission, Revision, StatusEvent

PAGE = 500
ENDINGS = ("STACKED", "FAILED", "CANCELLED")


def open_events(session: Session, limit: int = PAGE) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return open events with their missions, oldest first: a selection, never a cursor that can skip one."""
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open")
        .order_by(col(StatusEvent.id))
        .limit(limit)
    ).all()


def due_events(session: Session, limit: int = PAGE) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return the open events whose time to be looked at has come, longest waiting first.

    Those that wait are left out before the limit is applied: hundreds of waiting ones never hide a new one.
    """
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(
            StatusEvent.state == "open",
            or_(
                col(StatusEvent.next_publish_at).is_(None),
                col(StatusEvent.next_publish_at) <= database_now(session),
            ),
        )
        .order_by(func.coalesce(StatusEvent.next_publish_at, StatusEvent.created_at), col(StatusEvent.id))
        .limit(limit)
    ).all()


def spent_events(session: Session) -> dict[int, str]:
    """Return the open events that ask for nothing any more, with the reason.

    An event asks for work only when it says COMPLETE, its mission still is COMPLETE, and no later event of the
    same mission asks for the same.
    """
    newest = (
        select(StatusEvent.mission_id, func.max(StatusEvent.id).label("id"))
        .where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE")
        .group_by(col(StatusEvent.mission_id))
        .subquery()
    )
    found = session.exec(
        select(StatusEvent, Mission.status, newest.c.id)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .outerjoin(newest, newest.c.mission_id == StatusEvent.mission_id)
        .where(
            StatusEvent.state == "open",
            or_(
                col(StatusEvent.new_status) != "COMPLETE",
                col(Mission.status) != "COMPLETE",
                col(StatusEvent.id) != newest.c.id,
            ),
        )
        .order_by(col(StatusEvent.id))
        .limit(PAGE)
    ).all()
    return {
        event.id: (
            f"event {latest} asks for the same"
            if event.new_status == "COMPLETE" == status
            else f"asks for nothing; the mission is {status}"
        )
        for event, status, latest in found
        if event.id is not None
    }


def news(session: Session) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return the open events that tell the end of something: they ask for no work, but people want to hear."""
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open", col(StatusEvent.new_status).in_(ENDINGS))
        .order_by(col(StatusEvent.id))
        .limit(PAGE)
    ).all()


def supersede_spent(session: Session) -> int:
    """Close the open events that ask for nothing any more; return how many."""
    closed = 0
    for event_id, reason in spent_events(session).items():
        # Conditional: a run may have claimed it since it was read.
        done = session.exec(
            update(StatusEvent)
            .where(col(StatusEvent.id) == event_id, col(StatusEvent.state) == "open")
            .values(state="superseded", note=reason[:255])
        )
        closed += done.rowcount
    return closed


def take_attempt(session: Session, event_id: int, attempt: int, wait_s: float, note: str) -> bool:
    """Take the next attempt at an event, once: False when another relay has it, or the event is open no more.

    ``next_publish_at`` says when to look again whether the event has been claimed.
    """
    now = database_now(session)
    taken = session.exec(
        update(StatusEvent)
        .where(
            col(StatusEvent.id) == event_id,
            col(StatusEvent.state) == "open",
            col(StatusEvent.publish_attempts) == attempt - 1,
        )
        .values(
            publish_attempts=attempt,
            published_at=now,
            next_publish_at=now + timedelta(seconds=wait_s),
            note=note[:255],
        )
    )
    return bool(taken.rowcount == 1)


def give_attempt_back(session: Session, event_id: int, attempt: int, wait_s: float, note: str) -> None:
    """Undo `take_attempt` where Prefect could not be told: the same attempt, with the same key, comes again."""
    session.exec(
        update(StatusEvent)
        .where(
            col(StatusEvent.id) == event_id,
            col(StatusEvent.state) == "open",
            col(StatusEvent.publish_attempts) == attempt,
        )
        .values(
            publish_attempts=attempt - 1,
            next_publish_at=database_now(session) + timedelta(seconds=wait_s),
            note=note[:255],
        )
    )


def postpone(session: Session, event_id: int, wait_s: float, note: str) -> None:
    """Look at an open event again later, and say why it waits."""
    session.exec(
        update(StatusEvent)
        .where(col(StatusEvent.id) == event_id, col(StatusEvent.state) == "open")
        .values(next_publish_at=database_now(session) + timedelta(seconds=wait_s), note=note[:255])
    )


def is_held(session: Session, mission_id: str) -> bool:
    """Tell whether a living lease holds the mission."""
    held = select(func.count()).where(
        Revision.mission_id == mission_id,
        col(Revision.status).in_(HELD),
        col(Revision.lease_until) > database_now(session),
    )
    return session.exec(held).one() > 0


def announce_unheard(session: Session) -> list[str]:
    """Write the events that nothing else wrote, and return their missions.

    A mission that is COMPLETE without an open event, or STACKING without a holder, would wait for ever: a
    trigger was missing for a while, a row was restored from a backup or changed by a careless hand.
    """
    unheard = session.exec(
        select(Mission)
        .where(
            Mission.status == "COMPLETE",
            col(Mission.id).not_in(
                select(StatusEvent.mission_id).where(
                    StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE"
                )
            ),
        )
        .with_for_update()
    ).all()
    for mission in unheard:
        session.add(
            StatusEvent(
                mission_id=mission.id,
                new_status="COMPLETE",
                created_at=database_now(session),
                note="found by sweep: no event asked for it",
            )
        )
    ownerless = session.exec(
        select(Mission)
        .where(
            Mission.status == "STACKING",
            col(Mission.id).not_in(select(Revision.mission_id).where(col(Revision.status).in_(HELD))),
        )
        .with_for_update()
    ).all()
    for mission in ownerless:
        mission.status = "COMPLETE"  # the trigger writes the event
    session.flush()
    return [mission.id for mission in (*unheard, *ownerless)]
