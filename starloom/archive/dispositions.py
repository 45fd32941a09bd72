"""What becomes of a frame apart from its steps: set aside, withdrawn, parked, given another chance."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from starloom.archive.arrivals import twin
from starloom.archive.claims import locked_mission
from starloom.archive.frames import (
    ATTEMPTS,
    is_settled,
    keep_what_it_has,
    locked,
    mark_ready_if_settled,
    touch,
)
from starloom.archive.models import STEPS, Frame
from starloom.errors import BadInput, Conflict


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
    frame.ready_at = None
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
    """Take a frame out by its owner's or an operator's word; pixels stay, later revisions do without it."""
    frame = locked(session, frame_id)
    if frame.mission_id is not None:
        locked_mission(session, frame.mission_id, shared=True)
    frame.disposition, frame.disposition_code, frame.disposition_hint = "withdrawn", "withdrawn", reason[:500]
    frame.ready_at = None
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
    frame.attempts = 0
    frame.last_error = None
    frame.duplicate_of = None
    touch(session, frame, again_after_s=0.0)
    if is_settled(frame):
        frame.next_attempt_at = None
    mark_ready_if_settled(session, frame)
    return frame


def park(session: Session, frame_id: str, record: dict[str, Any], wait_s: float) -> Frame:
    """Record an error that may pass, and when to try again; after `ATTEMPTS` the frame is quarantined."""
    frame = locked(session, frame_id)
    if is_settled(frame):
        return frame
    frame.attempts += 1
    frame.last_error = record
    if frame.attempts >= ATTEMPTS:
        return quarantine(session, frame_id, "retries-exhausted", str(record.get("message", ""))[:500])
    touch(session, frame, again_after_s=wait_s)
    return frame
