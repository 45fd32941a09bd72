"""Rows that nobody needs any more: what was on its way and came, what failed before it went well, spent events.

Frames, solutions, photometry, revisions and their inputs are never removed: they say what a stack was made of.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, SQLModel, col, or_, select

from starloom.archive.engine import database_now
from starloom.archive.models import Announcement, Attempt, Frame, Mission, Revision, StatusEvent

#: Rows of a table that one call removes at most: a transaction stays short.
PAGE = 5000


def prune(session: Session, days: float) -> int:
    """Remove what has been of no use for so many days, a page of each table; return how many rows.

    - announcements of frames that have come, or did not come in time;
    - tries that came to nothing of frames that are READY since, or were set aside;
    - status events that ask for nothing, of missions that have been quiet as long.
    """
    before = database_now(session) - timedelta(days=days)
    claimed = select(Revision.event_id).where(col(Revision.event_id).is_not(None))
    spent: list[tuple[type[SQLModel], Any]] = [
        (
            Announcement,
            select(Announcement.id).where(
                or_(col(Announcement.arrived_at) < before, col(Announcement.expires_at) < before)
            ),
        ),
        (
            Attempt,
            select(Attempt.id)
            .join(Frame, col(Frame.id) == Attempt.frame_id)
            .where(
                col(Attempt.at) < before,
                col(Attempt.alert).is_(False),
                or_(col(Frame.ready_at).is_not(None), Frame.disposition != "active"),
            ),
        ),
        (
            StatusEvent,
            select(StatusEvent.id)
            .join(Mission, col(Mission.id) == StatusEvent.mission_id)
            .where(
                StatusEvent.state == "superseded",
                col(StatusEvent.created_at) < before,
                col(Mission.status_changed_at) < before,
                col(StatusEvent.id).not_in(claimed),
            ),
        ),
    ]
    removed = 0
    for table, found in spent:
        ids = session.exec(found.limit(PAGE)).all()
        session.exec(delete(table).where(table.id.in_(ids)))  # type: ignore[attr-defined]
        removed += len(ids)
    return removed
