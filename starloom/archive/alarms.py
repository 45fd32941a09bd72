"""What somebody must be told of beside the ends of missions: frames given up, bytes that are lost.

An alarm stays in its row until it has been told, as an event stays open until it is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, select

from starloom.archive.models import Attempt, Frame, RawCheck

PAGE = 200


@dataclass(frozen=True)
class Alarm:
    """Something to be told.

    Parameters
    ----------
    event, resource, payload
        As Prefect is told.
    attempt, raw_key
        The row that remembers it: one of the two.
    """

    event: str
    resource: str
    payload: dict[str, Any]
    attempt: int | None = None
    raw_key: str | None = None

    @property
    def key(self) -> str:
        """What is the same when it is told twice."""
        return f"{self.event}:{self.attempt or self.raw_key}:{self.payload.get('at')}"


def due_alarms(session: Session) -> list[Alarm]:
    """Return what nobody has been told yet, oldest first."""
    spent = session.exec(
        select(Attempt, Frame)
        .join(Frame, col(Frame.id) == Attempt.frame_id)
        .where(col(Attempt.alert).is_(True))
        .order_by(col(Attempt.id))
        .limit(PAGE)
    ).all()
    lost = session.exec(
        select(RawCheck).where(col(RawCheck.alert).is_(True)).order_by(col(RawCheck.checked_at)).limit(PAGE)
    ).all()
    return [
        Alarm(
            "starloom.frame.retries-spent",
            f"starloom.frame.{frame.id}",
            {
                "frame_id": frame.id,
                "name": frame.name,
                "node": frame.node_id,
                "mission_id": frame.obs_req,
                "step": attempt.step,
                "code": attempt.code,
                "message": attempt.message,
                "attempts": attempt.number,
                "at": attempt.at.isoformat(),
            },
            attempt=attempt.id,
        )
        for attempt, frame in spent
    ] + [
        Alarm(
            "starloom.lake.damaged",
            f"starloom.raw.{check.key}",
            {
                "key": check.key,
                "state": check.state,
                "copy_state": check.copy_state,
                "detail": check.detail,
                "at": check.checked_at.isoformat(),
            },
            raw_key=check.key,
        )
        for check in lost
    ]


def note_told(session: Session, alarms: list[Alarm]) -> None:
    """Note that alarms have been told."""
    for table, column, told in (
        (Attempt, col(Attempt.id), [alarm.attempt for alarm in alarms if alarm.attempt is not None]),
        (RawCheck, col(RawCheck.key), [alarm.raw_key for alarm in alarms if alarm.raw_key is not None]),
    ):
        session.exec(update(table).where(column.in_(told)).values(alert=False))
