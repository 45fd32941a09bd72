"""What becomes of a frame apart from its steps: set aside, withdrawn, parked, given another chance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, func, select

from starloom.archive.arrivals import twin
from starloom.archive.claims import locked_mission
from starloom.archive.engine import database_now
from starloom.archive.frames import (
    LOST_AFTER_S,
    get,
    is_settled,
    keep_what_it_has,
    locked,
    mark_ready_if_settled,
    put_down,
    touch,
)
from starloom.archive.models import STEPS, Attempt, Frame
from starloom.errors import BadInput, Conflict

#: Code of a frame whose budget of tries is spent.
SPENT = "retries-spent"
#: Code of a try that ended with its run.
CUT_OFF = "run-lost"
#: How far back `quarantined_by_code` looks, days.
RECENT_D = 30
#: Tries of a frame that its history keeps.
KEPT = 20


def quarantine(session: Session, frame_id: str, code: str, hint: str, *, raw_key: str | None = None) -> Frame:
    """Set a frame aside for good, with the reason; its bytes are kept, and a READY frame keeps its place."""
    frame = locked(session, frame_id)
    if frame.disposition != "active":
        return frame
    if frame.ready_at is not None:
        return keep_what_it_has(session, frame, {"code": code, "hint": hint})
    frame.disposition, frame.disposition_code, frame.disposition_hint = "quarantined", code, hint[:500]
    if frame.ingest == "pending":
        frame.ingest, frame.ingest_code = "failed", code
    if raw_key is not None:
        frame.raw_key = raw_key
    frame.in_hand = None
    frame.disposition_at = database_now(session)
    touch(session, frame, again_after_s=None)
    return frame


def refuse(session: Session, frame_id: str, error: dict[str, Any], **values: Any) -> Frame:
    """Quarantine a frame that ingest refuses; one that another run has settled meanwhile stays as it is.

    ``error`` holds ``code``, ``message`` and ``hint``; ``values`` are columns that the step has found out.
    """
    frame = locked(session, frame_id)
    if frame.ingest != "pending" or frame.disposition != "active":
        return frame
    for column, value in values.items():
        setattr(frame, column, value)
    frame.last_error = error
    return quarantine(session, frame_id, str(error["code"]), str(error.get("hint") or ""))


def withdraw(session: Session, frame_id: str, reason: str) -> Frame:
    """Take a frame out by its owner's or an operator's word; pixels stay, later revisions do without it.

    A published stack that it weighs in becomes stale.
    """
    frame = get(session, frame_id)
    if frame.obs_req is not None:
        # Before the frame's own lock, as `bind` takes them: it is bound before this, or not at all.
        locked_mission(session, frame.obs_req, shared=True)
    frame = locked(session, frame_id)
    frame.disposition, frame.disposition_code, frame.disposition_hint = "withdrawn", "withdrawn", reason[:500]
    frame.disposition_at = database_now(session)
    frame.ready_at = None
    put_down(frame)
    touch(session, frame, again_after_s=None)
    return frame


def requeue(session: Session, frame_id: str) -> Frame:
    """Try a frame again from its first step that is not ok; a quarantined or withdrawn one becomes active.

    Raises
    ------
    BadInput
        ``frame-is-duplicate``: its pixels are already in the archive under another id.
    Conflict
        ``frame-replaced``: it was withdrawn, and another frame stands in its place.
    """
    frame = locked(session, frame_id)
    if frame.disposition == "duplicate":
        raise BadInput(
            f"frame {frame.id} is a duplicate of {frame.duplicate_of}",
            code="frame-is-duplicate",
            hint=f"Requeue {frame.duplicate_of} instead.",
        )
    if frame.disposition == "withdrawn" and frame.ingest == "ok" and twin(session, frame) is not None:
        raise Conflict(
            f"frame {frame.id}: another frame has taken its place since it was withdrawn",
            code="frame-replaced",
            hint="Withdraw that one first; `starloom frames list` shows both.",
        )
    if frame.disposition_code == "name-conflict":
        frame.ingest = "pending"  # whether the conflict is gone, ingest must say
    frame.disposition, frame.disposition_code, frame.disposition_hint = "active", None, None
    for step in STEPS:
        if getattr(frame, step) == "failed":
            setattr(frame, step, "pending")
            setattr(frame, f"{step}_code", None)
    put_down(frame)
    frame.disposition_at = database_now(session)
    frame.last_error = None
    frame.duplicate_of = None
    touch(session, frame, again_after_s=0.0)
    if is_settled(frame):
        frame.next_attempt_at = None
    mark_ready_if_settled(session, frame)
    return frame


def park(session: Session, frame_id: str, record: dict[str, Any], wait_s: float, *, budget: int) -> Frame:
    """Record an error that may pass, and when to try again; after ``budget`` tries of a step it is quarantined."""
    frame = locked(session, frame_id)
    if is_settled(frame):
        return frame
    step = frame.in_hand or next_step(frame)
    frame.attempts += 1
    frame.in_hand = None
    frame.last_error = record | {"step": step}
    number = frame.attempts
    if number >= budget:
        said = f"{step}: {number} tries, the last one: {record.get('message', '')}"
        frame = quarantine(session, frame_id, SPENT, said)
    else:
        touch(session, frame, again_after_s=wait_s)
    note_attempt(session, frame, step, record, number)
    return frame


def note_attempt(session: Session, frame: Frame, step: str, record: dict[str, Any], number: int) -> None:
    """Write a try that came to nothing into the frame's history, of which the newest `KEPT` stay."""
    session.add(
        Attempt(
            frame_id=frame.id,
            at=database_now(session),
            step=step,
            code=str(record.get("code", "unexpected"))[:64],
            message=str(record.get("message", ""))[:500],
            number=number,
            next_attempt_at=frame.next_attempt_at if number else None,
            alert=frame.disposition_code == SPENT,
        )
    )
    session.flush()
    oldest = (
        select(Attempt.id)
        .where(Attempt.frame_id == frame.id)
        .order_by(col(Attempt.id).desc())
        .offset(KEPT)
        .limit(1)
    )
    if (last := session.exec(oldest).first()) is not None:
        session.exec(delete(Attempt).where(col(Attempt.frame_id) == frame.id, col(Attempt.id) <= last))


def attempts_at(session: Session, frame_id: str) -> list[dict[str, Any]]:
    """Return a frame's history of tries that came to nothing, newest first."""
    found = select(Attempt).where(Attempt.frame_id == frame_id).order_by(col(Attempt.id).desc())
    return [row.model_dump(exclude={"id", "frame_id"}) for row in session.exec(found).all()]


def quarantined_by_code(session: Session) -> Sequence[tuple[str, int, datetime | None]]:
    """Return code, number and earliest time of the frames set aside in the last `RECENT_D` days, by code."""
    since = database_now(session) - timedelta(days=RECENT_D)
    found = session.exec(
        select(Frame.disposition_code, func.count(), func.min(Frame.disposition_at))
        .where(Frame.disposition == "quarantined", col(Frame.disposition_at) >= since)
        .group_by(col(Frame.disposition_code))
        .order_by(col(Frame.disposition_code))
    ).all()
    return [(code or "unknown", count, since) for code, count, since in found]


def next_step(frame: Frame) -> str:
    """Return the first step of a frame that is not ok."""
    return next((step for step in STEPS if getattr(frame, step) != "ok"), STEPS[-1])


def cut_off(session: Session, frame_id: str, *, budget: int) -> Frame:
    """Count a try that ended with the run that made it: a frame that kills its worker must not do so for ever.

    For a frame whose next attempt is due and which a step still holds; it is handed out again by the caller.
    """
    frame = locked(session, frame_id)
    if frame.in_hand is None:
        return frame
    record = {
        "code": CUT_OFF,
        "message": f"the run that worked on {frame.in_hand} was lost",
        "hint": "If it happens again, the frame may be too much for the machine: look at the worker's log.",
        "retryable": True,
    }
    return park(session, frame_id, record, LOST_AFTER_S, budget=budget)
