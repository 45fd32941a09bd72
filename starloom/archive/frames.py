"""Frames in the archive: found, stepped, done again. Callers give the transaction.

Steps are idempotent and keyed by content, so two runs may work on one frame at the same time: whoever settles a
step first has settled it, and the other's word changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID, uuid5

from sqlalchemy import bindparam, update
from sqlalchemy import text as sql
from sqlalchemy.sql.dml import ReturningUpdate
from sqlmodel import Session, col, or_, select

from starloom.archive.claims import locked_mission
from starloom.archive.engine import database_now, database_soon
from starloom.archive.models import STEPS, UNSETTLED, WAITING, Frame
from starloom.errors import BadInput

Step = Literal["ingest", "calibrate", "solve", "measure"]

#: A frame that nobody has settled for this long after it was last touched was left behind by a lost run.
LOST_AFTER_S = 600.0
#: ``Frame.plane`` of a mosaic whose colour planes go on as frames of their own.
MOSAIC = "CFA"
PLANES = ("R", "G1", "G2", "B")
#: Flag of a READY frame that could not be calibrated, solved or measured again; its earlier results stand.
REPROCESSING_FAILED = "reprocessing-failed"


def get(session: Session, frame_id: str) -> Frame:
    """Return a frame.

    Raises
    ------
    BadInput
        ``no-such-frame``.
    """
    frame = session.get(Frame, frame_id)
    if frame is None:
        raise BadInput(
            f"no frame {frame_id}",
            code="no-such-frame",
            hint="`starloom frames list` shows the ids.",
        )
    return frame


def subject_of(frame: Frame) -> dict[str, str | None]:
    """Return what log lines and spans about a frame carry."""
    return {"frame": frame.id, "node": frame.node_id, "mission": frame.obs_req}


def subjects(session: Session, frame_ids: Sequence[str]) -> dict[str, tuple[dict[str, str | None], str | None]]:
    """Return `subject_of` and the trace context of frames, by id, without reading their rows whole."""
    query = select(Frame.id, Frame.node_id, Frame.obs_req, Frame.traceparent).where(col(Frame.id).in_(frame_ids))
    return {
        frame_id: ({"frame": frame_id, "node": node, "mission": mission}, traceparent)
        for frame_id, node, mission, traceparent in session.exec(query)
    }


#: Characters of an id's beginning that name a frame where people write it.
SHORT_ID = 8


def find(session: Session, name_or_id: str) -> Frame:
    """Return a frame by its id, the beginning of its id, or the newest one of its file name.

    Of a mosaic and its colour planes, which share a name, the name means the mosaic.

    Raises
    ------
    BadInput
        ``no-such-frame``, or ``ambiguous-id``: several ids begin so.
    """
    frame = session.get(Frame, name_or_id)
    if frame is not None:
        return frame
    newest = (
        select(Frame)
        .where(Frame.name == name_or_id, or_(col(Frame.plane).is_(None), Frame.plane == MOSAIC))
        .order_by(col(Frame.received_at).desc())
        .limit(1)
    )
    found = session.exec(newest).first()
    if found is None and len(name_or_id) >= SHORT_ID - 2 and set(name_or_id) <= set("0123456789abcdef"):
        # A range, where LIKE would find no index under most collations: "g" comes after every digit of an id.
        begins = (col(Frame.id) >= name_or_id, col(Frame.id) < name_or_id + "g")
        some = session.exec(select(Frame).where(*begins).limit(2)).all()
        if len(some) > 1:
            raise BadInput(
                f"several frames' ids begin with {name_or_id}", code="ambiguous-id", hint="Give more of it."
            )
        found = next(iter(some), None)
    return found or get(session, name_or_id)


# Statements that every frame needs are made once: to make one costs more than to send it.
_LOCK = (
    select(Frame)
    .where(Frame.id == bindparam("wanted"))
    .with_for_update(key_share=True)
    .execution_options(populate_existing=True)
)


def locked(session: Session, frame_id: str) -> Frame:
    """Return a frame with its row locked and read anew; on SQLite the transaction itself is the lock.

    Foreign keys are left alone, as in `starloom.archive.claims.locked_mission`.
    """
    return session.execute(_LOCK, {"wanted": frame_id}).scalar_one_or_none() or get(session, frame_id)


def touch(session: Session, frame: Frame, *, again_after_s: float | None = LOST_AFTER_S) -> None:
    """Raise the version and set when ``sweep`` may take the frame up; None: it needs nobody."""
    frame.version += 1
    frame.next_attempt_at = (
        None if again_after_s is None else database_now(session) + timedelta(seconds=again_after_s)
    )


def is_settled(frame: Frame) -> bool:
    """Tell whether nothing more will happen to the frame by itself."""
    if frame.disposition != "active" or any(getattr(frame, step) == "failed" for step in STEPS):
        return True
    if frame.kind != "light":
        return frame.ingest == "ok"
    if frame.plane == MOSAIC:
        return frame.calibrate == "ok"
    return all(getattr(frame, step) == "ok" for step in STEPS)


def state_of(frame: Frame) -> str:
    """Return one word for people: ready, processing, duplicate, quarantined, solve-failed, filed, split, …"""
    if frame.disposition != "active":
        return frame.disposition
    if frame.ready_at is not None:
        return "ready"
    for step in STEPS:
        if getattr(frame, step) == "failed":
            return f"{step}-failed"
    if not is_settled(frame):
        return "processing"
    return "split" if frame.plane == MOSAIC else "filed"


def claim_step(session: Session, frame_id: str, step: Step) -> Frame | None:
    """Return the frame, locked, if the step is its next one, and push the time at which it counts as lost.

    Raises
    ------
    BadInput
        ``no-such-frame``.
    """
    claim = _claim_of(step, session.get_bind().dialect.name)
    frame = session.execute(claim, {"claimed": frame_id}).scalar_one_or_none()
    if frame is None:
        get(session, frame_id)  # that it is not due is no error, that there is none is one
    return frame


@lru_cache
def _claim_of(step: Step, dialect: str) -> ReturningUpdate[tuple[Frame]]:
    wanted = [
        col(Frame.id) == bindparam("claimed"),
        col(Frame.disposition) == "active",
        col(getattr(Frame, step)) == "pending",
        *(col(getattr(Frame, earlier)) == "ok" for earlier in STEPS[: STEPS.index(step)]),
    ]
    if step != "ingest":
        wanted.append(col(Frame.kind) == "light")
    if step not in ("ingest", "calibrate"):
        wanted.append(col(Frame.plane).is_distinct_from(MOSAIC))
    claim = update(Frame).where(*wanted).returning(Frame)
    return claim.values(
        in_hand=step, version=col(Frame.version) + 1, next_attempt_at=database_soon(dialect, LOST_AFTER_S)
    ).execution_options(synchronize_session=False, populate_existing=True)


def still_pending(session: Session, frame_id: str, step: Step) -> Frame | None:
    """Return the frame, locked, if nobody has settled this step of it yet; None: drop what was found out."""
    frame = locked(session, frame_id)
    return frame if frame.disposition == "active" and getattr(frame, step) == "pending" else None


def settle_step(
    session: Session,
    frame_id: str,
    step: Step,
    *,
    code: str | None = None,
    hint: str | None = None,
    message: str | None = None,
    **values: Any,
) -> Frame:
    """Write a step's outcome: ok, or failed with a code. A step settled meanwhile by another run stays.

    ``message`` says what happened, ``hint`` what can be done about it; ``values`` are columns of the frame that
    the step has found out.
    """
    return settle(session, locked(session, frame_id), step, code=code, hint=hint, message=message, **values)


def settle(
    session: Session,
    frame: Frame,
    step: Step,
    *,
    code: str | None = None,
    hint: str | None = None,
    message: str | None = None,
    **values: Any,
) -> Frame:
    """Do as `settle_step` does with a frame that this transaction has locked."""
    if getattr(frame, step) != "pending" or frame.disposition != "active":
        return frame
    error = {"code": code, "hint": hint, "step": step} | ({"message": message} if message else {})
    if code and frame.ready_at is not None:
        return keep_what_it_has(session, frame, error)
    for column, value in values.items():
        setattr(frame, column, value)
    setattr(frame, step, "failed" if code else "ok")
    setattr(frame, f"{step}_code", code)
    put_down(frame)
    if code:
        frame.disposition_hint = (hint or "")[:500] or None
        frame.last_error = error
    touch(session, frame, again_after_s=None if is_settled(frame) else LOST_AFTER_S)
    mark_ready_if_settled(session, frame)
    return frame


def put_down(frame: Frame) -> None:
    """Say that the step in hand has ended: the next one has its whole budget of attempts."""
    frame.in_hand = None
    frame.attempts = 0


def keep_what_it_has(session: Session, frame: Frame, error: dict[str, Any]) -> Frame:
    """End the reprocessing of a READY frame without success: its earlier results were never taken away."""
    for step in STEPS:
        setattr(frame, step, "ok")
    put_down(frame)
    frame.last_error = error
    add_flags(frame, REPROCESSING_FAILED)
    touch(session, frame, again_after_s=None)
    return frame


def reprocess(session: Session, frame_id: str, since: Step) -> Frame | None:
    """Have a frame's steps done again from ``since`` on, from the raw pixels; None where that cannot be.

    A READY frame stays READY with what it has until the new results are complete; one whose steps failed gets
    another chance. Frames set aside, mosaics already split and frames still under way are left alone.
    """
    frame = locked(session, frame_id)
    first = max(STEPS.index(since), STEPS.index("calibrate"))
    if frame.plane not in (None, MOSAIC):
        first = max(first, STEPS.index("solve"))  # a plane is cut from its mosaic's pixels
    done = all(getattr(frame, step) == "ok" for step in STEPS[:first])
    if frame.disposition != "active" or frame.kind != "light" or not done:
        return None
    if frame.ready_at is None and not is_settled(frame):
        return None
    if frame.plane == MOSAIC:
        if since != "calibrate":
            return None  # its planes are solved, not the mosaic
        frame.calibrate, frame.calibrate_code = "pending", None
        touch(session, frame, again_after_s=0.0)
        return frame
    for step in STEPS[first:]:
        setattr(frame, step, "pending")
        setattr(frame, f"{step}_code", None)
    frame.flags = [flag for flag in frame.flags if flag != REPROCESSING_FAILED]
    frame.disposition_hint = frame.last_error = None
    put_down(frame)
    touch(session, frame, again_after_s=0.0)
    return frame


def mark_ready_if_settled(session: Session, frame: Frame) -> None:
    """Say when a usable frame became READY: once, when the last of its steps is ok."""
    usable = frame.disposition == "active" and frame.kind == "light"
    if frame.ready_at is not None or not usable or any(getattr(frame, step) != "ok" for step in STEPS):
        return
    if frame.obs_req is not None:
        # Shared with other frames, exclusive with `bind`: a frame is either bound now or seen as late.
        with session.no_autoflush:  # the frame is written once, with all that is still to be said of it
            locked_mission(session, frame.obs_req, shared=True)
    frame.ready_at = database_now(session)
    frame.last_error = None


def plane_ids(mosaic: Frame) -> list[str]:
    """Return the ids of the colour planes of a mosaic."""
    return [uuid5(UUID(mosaic.id), plane).hex for plane in PLANES]


def add_planes(session: Session, mosaic: Frame, bands: dict[str, str]) -> list[Frame]:
    """Register the colour planes of a mosaic as frames of their own, once; ``bands`` maps plane to band.

    A plane's id and digest follow from its mosaic's. Where the mosaic was calibrated again, its planes, which are
    cut from those pixels, are solved and measured again.
    """
    planes = []
    for plane, band in bands.items():
        plane_id = uuid5(UUID(mosaic.id), plane).hex
        known = session.get(Frame, plane_id)
        if known is None:
            copied = mosaic.model_dump(
                include={
                    "name", "node_id", "obs_req", "mission_id", "instrument_id", "kind", "start_utc", "exposure_s",
                    "filter", "raw_key", "raw_version", "raw_sha256", "raw_bytes", "header", "flags",
                    "received_at", "traceparent", "embargo_until", "licence", "credit",
                }
            )  # fmt: skip
            digest = hashlib.sha256(f"{mosaic.pixel_digest}:{plane}".encode()).hexdigest()
            known = Frame(
                id=plane_id, plane=plane, band=band, pixel_digest=digest, ingest="ok", calibrate="ok", **copied
            )
            session.add(known)
            touch(session, known)
        else:
            reprocess(session, known.id, "solve")
        planes.append(known)
    session.flush()
    return planes


def add_flags(frame: Frame, *flags: str) -> None:
    """Add quality flags; a new list, because the database sees only assignments."""
    frame.flags = sorted({*frame.flags, *flags})


def set_flags(frame: Frame, **wanted: bool) -> None:
    """Add the quality flags that hold and take away those that do not; ``_`` in a name stands for ``-``."""
    named = {name.replace("_", "-"): holds for name, holds in wanted.items()}
    kept = {flag for flag in frame.flags if flag not in named}
    frame.flags = sorted(kept | {flag for flag, holds in named.items() if holds})


def due(session: Session, limit: int) -> Sequence[Frame]:
    """Return frames whose next attempt is due, longest waiting first."""
    return session.exec(
        select(Frame)
        .where(sql(WAITING), col(Frame.next_attempt_at) <= database_now(session))
        .order_by(col(Frame.next_attempt_at))
        .limit(limit)
    ).all()


def forgotten(session: Session, limit: int) -> Sequence[str]:
    """Return frames that have steps to do and no time at which anybody would look at them again.

    No step leaves a frame so; a row changed by hand or restored from a backup may be.
    """
    query = select(Frame.id).where(sql(UNSETTLED), col(Frame.next_attempt_at).is_(None))
    return session.exec(query.limit(limit)).all()


def hold(session: Session, frame_ids: Sequence[str]) -> None:
    """Say that frames have been handed to a run: they count as lost only after `LOST_AFTER_S` again."""
    for frame_id in frame_ids:
        touch(session, locked(session, frame_id))


def list_frames(
    session: Session,
    *,
    mission: str | None = None,
    node: str | None = None,
    disposition: str | None = None,
    limit: int = 200,
) -> Sequence[Frame]:
    """Return frames, newest first."""
    query = select(Frame)
    if mission is not None:
        query = query.where(Frame.obs_req == mission)
    if node is not None:
        query = query.where(Frame.node_id == node)
    if disposition is not None:
        query = query.where(Frame.disposition == disposition)
    return session.exec(query.order_by(col(Frame.received_at).desc(), col(Frame.id).desc()).limit(limit)).all()
