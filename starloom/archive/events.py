"""Status events: what the database's trigger wrote, open until claimed or superseded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, literal, update
from sqlalchemy import text as sql
from sqlmodel import Session, and_, col, func, or_, select

from starloom.archive.claims import HELD
from starloom.archive.engine import database_now
from starloom.archive.models import Mission, Revision, StatusEvent

PAGE = 500
ENDINGS = ("STACKED", "FAILED", "CANCELLED")
_NOTE = 255


def open_events(session: Session, limit: int = PAGE) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return open events with their missions, oldest first: a selection, never a cursor that can skip one."""
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open")
        .order_by(col(StatusEvent.id))
        .limit(limit)
    ).all()


def _newest_wishes() -> Any:
    """Return the newest open event of every mission that asks for work: one pass over the open ones."""
    return (
        select(func.max(StatusEvent.id))
        .where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE")
        .group_by(col(StatusEvent.mission_id))
    )


def due_events(session: Session, limit: int = PAGE) -> Sequence[StatusEvent]:
    """Return the events that ask for work and whose time to be looked at has come, longest waiting first.

    Those that wait are left out before the limit is applied: hundreds of waiting ones never hide a new one.
    """
    return session.exec(
        select(StatusEvent)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(
            StatusEvent.state == "open",
            StatusEvent.new_status == "COMPLETE",
            Mission.status == "COMPLETE",
            col(StatusEvent.id).in_(_newest_wishes()),
            _is_due(session),
        )
        .order_by(func.coalesce(StatusEvent.next_publish_at, StatusEvent.created_at), col(StatusEvent.id))
        .limit(limit)
    ).all()


def _is_due(session: Session) -> Any:
    return or_(
        col(StatusEvent.next_publish_at).is_(None), col(StatusEvent.next_publish_at) <= database_now(session)
    )


def news(session: Session) -> Sequence[tuple[StatusEvent, Mission]]:
    """Return the open events that tell the end of something: they ask for no work, but people want to hear."""
    return session.exec(
        select(StatusEvent, Mission)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open", col(StatusEvent.new_status).in_(ENDINGS))
        .order_by(col(StatusEvent.id))
        .limit(PAGE)
    ).all()


def close_told(session: Session, event_ids: Iterable[int], note: str) -> None:
    """Close news that have been told; nothing else, whatever has come since they were read."""
    session.exec(
        update(StatusEvent)
        .where(
            col(StatusEvent.id).in_(list(event_ids)),
            col(StatusEvent.state) == "open",
            col(StatusEvent.new_status).in_(ENDINGS),
        )
        .values(state="superseded", note=note[:_NOTE])
    )


def supersede_spent(session: Session) -> int:
    """Close the open events that ask for nothing any more and are no news; return how many."""
    status = select(Mission.status).where(Mission.id == StatusEvent.mission_id).scalar_subquery()
    asks = col(StatusEvent.new_status) == "COMPLETE"
    asks_nothing = or_(
        asks & (col(Mission.status) != "COMPLETE"), col(StatusEvent.new_status).in_(("OPEN", "STACKING"))
    )
    closed = 0
    for spent, note in (
        (asks_nothing, literal("asks for nothing; the mission is ") + status),
        (asks & col(StatusEvent.id).not_in(_newest_wishes()), literal("a later event asks for the same")),
    ):
        # In order, and past what another relay has in hand: two that close the same never wait for each other.
        ids = session.exec(
            select(StatusEvent.id)
            .join(Mission, col(Mission.id) == StatusEvent.mission_id)
            .where(StatusEvent.state == "open", spent)
            .order_by(col(StatusEvent.id))
            .limit(PAGE)
            .with_for_update(skip_locked=True, of=StatusEvent)
        ).all()
        session.exec(
            update(StatusEvent)
            .where(col(StatusEvent.id).in_(ids))
            .values(state="superseded", note=note)
            .execution_options(synchronize_session=False)
        )
        closed += len(ids)
    return closed


def take_attempts(session: Session, event_ids: Sequence[int], lease_s: float) -> dict[int, int]:
    """Take the next attempts at due events, each once; return the number of the attempt by event.

    What another relay has taken, or is just taking, is left out. The attempt counts only when Prefect has been
    told (`attempts_told`): one that was taken by a relay that died comes again when the lease is over, under the
    same number, and with it under the same key.
    """
    found = session.exec(
        select(StatusEvent.id, StatusEvent.publish_attempts)
        .where(col(StatusEvent.id).in_(event_ids), StatusEvent.state == "open", _is_due(session))
        .order_by(col(StatusEvent.id))
        .with_for_update(skip_locked=True)
    ).all()
    taken = {event_id: attempts + 1 for event_id, attempts in found if event_id is not None}
    session.exec(
        update(StatusEvent)
        .where(col(StatusEvent.id).in_(taken))
        .values(next_publish_at=database_now(session) + timedelta(seconds=lease_s), note="telling Prefect")
        .execution_options(synchronize_session=False)
    )
    return taken


def attempts_told(
    session: Session, taken: Mapping[int, int], wait_s: Callable[[int], float], note: Callable[[int], str]
) -> None:
    """Count attempts that Prefect has been told of, and say when to look again whether the event was claimed.

    ``wait_s`` and ``note`` are given the number of the attempt.
    """
    now = database_now(session)
    for attempt, event_ids in _by_attempt(taken).items():
        mine = [
            col(StatusEvent.id).in_(event_ids),
            # Claimed already, where the run was quick: counted all the same.
            col(StatusEvent.state).in_(("open", "claimed")),
            col(StatusEvent.publish_attempts) == attempt - 1,
        ]
        values = {
            "publish_attempts": attempt,
            "published_at": now,
            "next_publish_at": now + timedelta(seconds=wait_s(attempt)),
            "note": note(attempt)[:_NOTE],
        }
        session.exec(
            update(StatusEvent).where(*mine).values(**values).execution_options(synchronize_session=False)
        )


def give_attempts_back(session: Session, taken: Mapping[int, int], wait_s: float, note: str) -> None:
    """Undo `take_attempts` where Prefect could not be told: the same attempts, with the same keys, come again."""
    again = database_now(session) + timedelta(seconds=wait_s)
    for attempt, event_ids in _by_attempt(taken).items():
        session.exec(
            update(StatusEvent)
            .where(
                col(StatusEvent.id).in_(event_ids),
                col(StatusEvent.state) == "open",
                col(StatusEvent.publish_attempts) == attempt - 1,
            )
            .values(next_publish_at=again, note=note[:_NOTE])
            .execution_options(synchronize_session=False)
        )


def _by_attempt(taken: Mapping[int, int]) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = defaultdict(list)
    for event_id, attempt in taken.items():
        grouped[attempt].append(event_id)
    return grouped


def postpone(session: Session, reasons: Mapping[int, str], wait_s: float) -> None:
    """Look at open events again later, and say why each waits."""
    if not reasons:
        return
    again = database_now(session) + timedelta(seconds=wait_s)
    session.connection().execute(
        update(StatusEvent)
        .where(col(StatusEvent.id) == bindparam("b_event"), col(StatusEvent.state) == "open")
        .values(next_publish_at=again, note=bindparam("b_reason")),
        [{"b_event": event_id, "b_reason": reason[:_NOTE]} for event_id, reason in sorted(reasons.items())],
    )


def held_missions(session: Session, mission_ids: Iterable[str]) -> set[str]:
    """Return those of the missions that a living lease holds."""
    return set(
        session.exec(
            select(Revision.mission_id).where(
                col(Revision.mission_id).in_(list(mission_ids)),
                col(Revision.status).in_(HELD),
                col(Revision.lease_until) > database_now(session),
            )
        ).all()
    )


def holders(session: Session) -> set[str]:
    """Return who holds a mission now: names of holders with a living lease."""
    held = select(Revision.holder).where(
        col(Revision.status).in_(HELD), col(Revision.lease_until) > database_now(session)
    )
    return set(session.exec(held).all())


def awaited(session: Session) -> set[int]:
    """Return the open events that Prefect was told of and whose run may still come."""
    told = select(StatusEvent.id).where(
        StatusEvent.state == "open",
        StatusEvent.new_status == "COMPLETE",
        StatusEvent.publish_attempts > 0,
        col(StatusEvent.next_publish_at) > database_now(session),
    )
    return {event_id for event_id in session.exec(told).all() if event_id is not None}


def oldest_open(session: Session) -> tuple[int, datetime] | None:
    """Return the event that has asked for work for the longest time, and since when."""
    found = session.exec(
        select(StatusEvent.id, StatusEvent.created_at)
        .where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE")
        .order_by(col(StatusEvent.id))
        .limit(1)
    ).first()
    return None if found is None or found[0] is None else (found[0], found[1])


def newest_claim(session: Session) -> datetime | None:
    """Return when a mission was last claimed."""
    return session.exec(select(func.max(Revision.claimed_at))).one()


def surplus_runs(session: Session, within_s: float) -> int:
    """Count the runs that found their mission taken, for events not older than ``within_s``."""
    since = database_now(session) - timedelta(seconds=within_s)
    total = select(func.sum(StatusEvent.surplus_runs)).where(
        sql("surplus_runs > 0"), StatusEvent.created_at >= since
    )
    return session.exec(total).one() or 0


def announce_unheard(session: Session) -> list[str]:
    """Write the events that nothing else wrote, and return their missions.

    A mission that is COMPLETE without an open event, or STACKING without a holder, would wait for ever: a
    trigger was missing for a while, a row was restored from a backup or changed by a careless hand. A row that
    somebody has locked is left for the next time.
    """
    unheard = session.exec(
        select(Mission).where(*_unheard()).with_for_update(key_share=True, skip_locked=True)
    ).all()
    for mission in unheard:
        session.add(
            StatusEvent(
                mission_id=mission.id,
                new_status="COMPLETE",
                created_at=database_now(session),
                note="no event had asked for it",
            )
        )
    ownerless = session.exec(
        select(Mission).where(*_ownerless()).with_for_update(key_share=True, skip_locked=True)
    ).all()
    for mission in ownerless:
        mission.status = "COMPLETE"  # the trigger writes the event
    session.flush()
    return [mission.id for mission in (*unheard, *ownerless)]


def has_unheard(session: Session) -> bool:
    """Tell whether `announce_unheard` would find something, without a lock."""
    found = select(Mission.id).where(or_(and_(*_unheard()), and_(*_ownerless())))
    return session.exec(found.limit(1)).first() is not None


def _unheard() -> list[Any]:
    asked = select(StatusEvent.mission_id).where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE")
    return [Mission.status == "COMPLETE", col(Mission.id).not_in(asked)]


def _ownerless() -> list[Any]:
    held = select(Revision.mission_id).where(col(Revision.status).in_(HELD))
    return [Mission.status == "STACKING", col(Mission.id).not_in(held)]
