"""How many there are: of the work all, of what is done only the last days.

To count ten million rows takes a database seconds, and nobody needs the number every time somebody asks how the
hub is. What waits is counted whole, because an index of its own holds it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text as sql
from sqlmodel import Session, col, func, select

from starloom.archive.engine import database_now
from starloom.archive.frames import state_of
from starloom.archive.models import STEPS, UNSETTLED, WAITING, Frame, Mission

#: How far back frames are counted that are done with, and missions.
FRAMES_H = 24
MISSIONS_D = 30
#: Missions that somebody or something is still to do a thing about.
WORK = ("OPEN", "COMPLETE", "STACKING", "FAILED")


def frames_by_state(session: Session, *where: Any) -> dict[str, tuple[int, datetime]]:
    """Return number of frames and time of the oldest, by `state_of`, of those for which conditions hold."""
    told = ("disposition", "kind", "plane", *STEPS)
    is_ready = col(Frame.ready_at).is_not(None)
    columns: list[Any] = [is_ready, *(getattr(Frame, name) for name in told)]
    query = select(func.count(), func.min(Frame.received_at), *columns).where(*where).group_by(*columns)
    found: Any = session.exec(query).all()
    states: dict[str, tuple[int, datetime]] = {}
    for count, oldest, ready, *values in found:
        state = state_of(Frame(ready_at=oldest if ready else None, **dict(zip(told, values, strict=True))))
        before, first = states.get(state, (0, oldest))
        states[state] = (before + count, min(first, oldest))
    return states


def frames_now(session: Session) -> list[dict[str, Any]]:
    """Return rows ``state, count, oldest``: what is under way, whatever its age, and what came in the last day."""
    since = database_now(session) - timedelta(hours=FRAMES_H)
    states = frames_by_state(session, col(Frame.received_at) >= since)
    states.pop("processing", None)
    under_way = frames_by_state(session, sql(UNSETTLED), col(Frame.ready_at).is_(None))
    again = frames_by_state(session, sql(WAITING), col(Frame.ready_at).is_not(None)).get("ready")
    rows = {**under_way, **({"ready, done again": again} if again else {}), **states}
    return [{"state": state, "count": count, "oldest": oldest} for state, (count, oldest) in rows.items()]


def missions_now(session: Session) -> list[dict[str, Any]]:
    """Return rows ``status, count``: missions with something to do, and those that ended in the last month."""
    counted = select(Mission.status, func.count()).group_by(Mission.status)
    since = database_now(session) - timedelta(days=MISSIONS_D)
    rows = session.exec(counted.where(col(Mission.status).in_(WORK))).all()
    ended = session.exec(
        counted.where(col(Mission.status).in_(("STACKED", "CANCELLED")), col(Mission.status_changed_at) >= since)
    ).all()
    return [{"status": status, "count": count} for status, count in (*rows, *ended)]
