"""What is wrong at the moment, in rows: told once when it begins and once when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, col, or_, select

from starloom.archive.engine import database_now
from starloom.archive.models import Condition


@dataclass(frozen=True)
class Measured:
    """One number that was looked at.

    Parameters
    ----------
    kind, subject
        What it measures, and of what.
    value
        The number.
    limit
        From here on it is told.
    clear
        Below this it is over; between the two it stays as it was, so that a number at the limit is no alarm bell.
    message, fine
        What to say when it begins, and when it ends.
    """

    kind: str
    subject: str
    value: float
    limit: float
    clear: float
    message: str
    fine: str


def note(session: Session, kind: str, measured: Sequence[Measured]) -> None:
    """Begin, keep or end the conditions of a kind; what is measured no more has ended.

    A condition that begins again before its end was told goes on; one that ends before its beginning was told
    leaves no trace.
    """
    rows = {
        row.subject: row for row in session.exec(select(Condition).where(Condition.kind == kind).with_for_update())
    }
    now = database_now(session)
    for item in measured:
        row = rows.pop(item.subject, None)
        lasted = row is not None and row.ended_at is None
        if item.value >= (item.clear if lasted else item.limit):
            if row is None:
                row = Condition(
                    kind=kind, subject=item.subject, began_at=now, value=item.value, message=item.message
                )
            row.value, row.message, row.ended_at = item.value, item.message[:500], None
            session.add(row)
        elif row is not None and lasted:
            _end(session, row, item.fine)
    for row in rows.values():
        if row.ended_at is None:
            _end(session, row, f"{row.subject} is looked at no more.")


def _end(session: Session, row: Condition, fine: str) -> None:
    if row.told_at is None:
        session.delete(row)
        return
    row.ended_at, row.message = database_now(session), fine[:500]
    session.add(row)


def untold(session: Session) -> Sequence[Condition]:
    """Return the conditions whose beginning or end nobody has been told, oldest first."""
    return session.exec(
        select(Condition)
        .where(or_(col(Condition.told_at).is_(None), col(Condition.ended_at).is_not(None)))
        .order_by(col(Condition.began_at), col(Condition.kind), col(Condition.subject))
    ).all()


def note_told(session: Session, told: Condition) -> None:
    """Note that a condition was told as it was when it was read; the row of one that has ended goes."""
    row = session.get(Condition, (told.kind, told.subject), with_for_update=True)
    if row is None or row.ended_at != told.ended_at:
        return  # it has changed since, and is told once more
    if row.ended_at is not None:
        session.delete(row)
    else:
        row.told_at = database_now(session)


def lasting(session: Session) -> Sequence[Condition]:
    """Return what is wrong now, longest first."""
    return session.exec(
        select(Condition).where(col(Condition.ended_at).is_(None)).order_by(col(Condition.began_at))
    ).all()
