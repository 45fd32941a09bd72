"""Frames in the archive: registered, stepped, refused, parked, found again. Callers give the transaction.

Steps are idempotent and keyed by content, so two runs may work on one frame at the same time: whoever settles a
step first has settled it, and the other's word changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, or_, select

from starloom.archive.claims import locked_mission
from starloom.archive.engine import database_now
from starloom.archive.models import STEPS, Announcement, Frame
from starloom.errors import BadInput, Conflict

Step = Literal["ingest", "calibrate", "solve", "measure"]

#: A frame that nobody has settled for this long after it was last touched was left behind by a lost run.
LOST_AFTER_S = 600.0
#: ``Frame.plane`` of a mosaic whose colour planes go on as frames of their own.
MOSAIC = "CFA"
PLANES = ("R", "G1", "G2", "B")
#: Flag of a READY frame that could not be calibrated, solved or measured again; its earlier results stand.
REPROCESSING_FAILED = "reprocessing-failed"
#: Attempts at one frame before it is given up and an operator told.
ATTEMPTS = 12


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
        some = session.exec(select(Frame).where(col(Frame.id).startswith(name_or_id)).limit(2)).all()
        if len(some) > 1:
            raise BadInput(
                f"several frames' ids begin with {name_or_id}", code="ambiguous-id", hint="Give more of it."
            )
        found = next(iter(some), None)
    return found or get(session, name_or_id)


def _locked(session: Session, frame_id: str) -> Frame:
    query = select(Frame).where(Frame.id == frame_id).with_for_update()
    frame = session.exec(query.execution_options(populate_existing=True)).first()
    return frame or get(session, frame_id)


def _touch(session: Session, frame: Frame, *, again_after_s: float | None = LOST_AFTER_S) -> None:
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


def discover(
    session: Session,
    *,
    inbox_key: str,
    etag: str,
    name: str,
    node_id: str,
    obs_req: str | None,
    kind: str,
    start_utc: datetime | None,
) -> Frame | None:
    """Register an object of the inbox; None when it is known already.

    A node that overwrites its own object before it was read has corrected itself: the same row goes on.
    """
    known = session.exec(select(Frame).where(Frame.inbox_key == inbox_key).with_for_update()).first()
    if known is not None:
        if known.disposition == "active" and known.ingest == "pending":
            known.inbox_etag = etag
            return None
        if known.inbox_etag == etag:
            return None
        # Read, and overwritten before its run had freed the inbox: what lies there now is another arrival.
        known.inbox_key = None
        session.flush()
    frame = Frame(
        name=name,
        node_id=node_id,
        obs_req=obs_req,
        kind=kind,
        start_utc=start_utc,
        inbox_key=inbox_key,
        inbox_etag=etag,
        next_attempt_at=database_now(session) + timedelta(seconds=LOST_AFTER_S),
    )
    if not _added(session, frame):
        return None
    waiting = select(Announcement).where(
        Announcement.node_id == node_id, Announcement.name == name, col(Announcement.arrived_at).is_(None)
    )
    for announcement in session.exec(waiting).all():
        announcement.arrived_at = database_now(session)
    session.flush()
    return frame


def _added(session: Session, row: Announcement | Frame) -> bool:
    """Insert a row; False when another run has inserted the same a moment ago."""
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        return False
    return True


def left_behind(session: Session, inbox_key: str, etag: str) -> Frame | None:
    """Return the frame that was read from this very object, if its run ended before it had freed the inbox."""
    known = session.exec(select(Frame).where(Frame.inbox_key == inbox_key, Frame.inbox_etag == etag)).first()
    return known if known is not None and (known.ingest != "pending" or known.disposition != "active") else None


def claim_step(session: Session, frame_id: str, step: Step) -> bool:
    """Tell whether the step is this frame's next one, and push the time at which it counts as lost."""
    frame = _locked(session, frame_id)
    before = STEPS[: STEPS.index(step)]
    wanted = (
        frame.disposition == "active"
        and getattr(frame, step) == "pending"
        and all(getattr(frame, earlier) == "ok" for earlier in before)
        and (step == "ingest" or frame.kind == "light")
        and (step in ("ingest", "calibrate") or frame.plane != MOSAIC)
    )
    if wanted:
        _touch(session, frame)
    return wanted


def still_pending(session: Session, frame_id: str, step: Step) -> Frame | None:
    """Return the frame, locked, if nobody has settled this step of it yet; None: drop what was found out."""
    frame = _locked(session, frame_id)
    return frame if frame.disposition == "active" and getattr(frame, step) == "pending" else None


def settle_step(
    session: Session,
    frame_id: str,
    step: Step,
    *,
    code: str | None = None,
    hint: str | None = None,
    **values: Any,
) -> Frame:
    """Write a step's outcome: ok, or failed with a code. A step settled meanwhile by another run stays.

    ``values`` are columns of the frame that the step has found out.
    """
    frame = _locked(session, frame_id)
    if getattr(frame, step) != "pending" or frame.disposition != "active":
        return frame
    if code and frame.ready_at is not None:
        return _keep_what_it_has(session, frame, {"code": code, "hint": hint, "step": step})
    for column, value in values.items():
        setattr(frame, column, value)
    setattr(frame, step, "failed" if code else "ok")
    setattr(frame, f"{step}_code", code)
    if code:
        frame.disposition_hint = (hint or "")[:500] or None
        frame.last_error = {"code": code, "hint": hint, "step": step}
    _touch(session, frame, again_after_s=None if is_settled(frame) else LOST_AFTER_S)
    _mark_ready_if_settled(session, frame)
    return frame


def _keep_what_it_has(session: Session, frame: Frame, error: dict[str, Any]) -> Frame:
    """End the reprocessing of a READY frame without success: its earlier results were never taken away."""
    for step in STEPS:
        setattr(frame, step, "ok")
    frame.last_error = error
    add_flags(frame, REPROCESSING_FAILED)
    _touch(session, frame, again_after_s=None)
    return frame


def reprocess(session: Session, frame_id: str, since: Step) -> Frame | None:
    """Have a frame's steps done again from ``since`` on, from the raw pixels; None where that cannot be.

    A READY frame stays READY with what it has until the new results are complete; one whose steps failed gets
    another chance. Frames set aside, mosaics already split and frames still under way are left alone.
    """
    frame = _locked(session, frame_id)
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
        _touch(session, frame, again_after_s=0.0)
        return frame
    for step in STEPS[first:]:
        setattr(frame, step, "pending")
        setattr(frame, f"{step}_code", None)
    frame.flags = [flag for flag in frame.flags if flag != REPROCESSING_FAILED]
    frame.disposition_hint = frame.last_error = None
    frame.attempts = 0
    _touch(session, frame, again_after_s=0.0)
    return frame


def _mark_ready_if_settled(session: Session, frame: Frame) -> None:
    usable = frame.disposition == "active" and frame.kind == "light"
    if frame.ready_at is not None or not usable or any(getattr(frame, step) != "ok" for step in STEPS):
        return
    if frame.mission_id is not None:
        # Shared with other frames, exclusive with `bind`: a frame is either bound now or seen as late.
        locked_mission(session, frame.mission_id, shared=True)
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
                    "received_at", "embargo_until", "licence", "credit",
                }
            )  # fmt: skip
            digest = hashlib.sha256(f"{mosaic.pixel_digest}:{plane}".encode()).hexdigest()
            known = Frame(
                id=plane_id, plane=plane, band=band, pixel_digest=digest, ingest="ok", calibrate="ok", **copied
            )
            session.add(known)
            _touch(session, known)
        else:
            reprocess(session, known.id, "solve")
        planes.append(known)
    session.flush()
    return planes


def add_flags(frame: Frame, *flags: str) -> None:
    """Add quality flags; a new list, because the database sees only assignments."""
    frame.flags = sorted({*frame.flags, *flags})


def record_ingest(session: Session, frame_id: str, *, pixel_digest: str, **values: Any) -> Frame:
    """File a frame that passed all checks: by its pixels it is new, a duplicate, or in conflict with its name.

    Identity is node, start and decoded pixels within one mission. Another header or another compression changes
    nothing: ``duplicate``. The same node, start and mission with other pixels: ``name-conflict``.
    """
    frame = _locked(session, frame_id)
    if frame.ingest != "pending" or frame.disposition != "active":
        return frame
    for column, value in values.items():
        setattr(frame, column, value)
    _hold_place(session, frame)
    twin = _twin(session, frame)
    if twin is None:
        try:
            with session.begin_nested():
                frame.pixel_digest = pixel_digest
                frame.ingest = "ok"
                session.flush()
        except IntegrityError:  # the same pixels were committed by another run a moment ago
            session.refresh(frame)
            for column, value in values.items():
                setattr(frame, column, value)
            twin = _twin(session, frame)
    if twin is not None:
        frame.ingest = "ok"
        frame.pixel_digest = pixel_digest
        if twin.pixel_digest == pixel_digest:
            frame.disposition, frame.disposition_code = "duplicate", "duplicate"
            frame.disposition_hint = "These pixels arrived before; nothing to do."
        else:
            frame.disposition, frame.disposition_code = "quarantined", "name-conflict"
            frame.disposition_hint = (
                "Another frame of this node, mission and start time has other pixels; correct the start time "
                "in the name, or withdraw the other frame."
            )
        frame.duplicate_of = twin.id
    if frame.obs_req is not None and frame.mission_id is None:
        add_flags(frame, "unknown-mission")
    _touch(session, frame, again_after_s=None if is_settled(frame) else LOST_AFTER_S)
    session.flush()
    return frame


def _hold_place(session: Session, frame: Frame) -> None:
    """Let one run at a time decide who holds a place; on SQLite the transaction itself does.

    The unique index keeps the same pixels apart, but two frames of one name with other pixels would both find
    the place free.
    """
    if session.connection().dialect.name == "postgresql":
        place = f"{frame.node_id} {frame.start_utc} {frame.obs_req} {frame.kind}"
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:place, 0))")
        session.connection().execute(lock, {"place": place})


def _twin(session: Session, frame: Frame) -> Frame | None:
    """Return the active frame that holds this one's place (mission, node, start), if there is one."""
    with session.no_autoflush:
        return session.exec(
            select(Frame).where(
                Frame.node_id == frame.node_id,
                Frame.start_utc == frame.start_utc,
                Frame.obs_req == frame.obs_req if frame.obs_req else col(Frame.obs_req).is_(None),
                Frame.kind == frame.kind,
                Frame.disposition == "active",
                Frame.ingest == "ok",
                Frame.id != frame.id,
            )
        ).first()


def quarantine(session: Session, frame_id: str, code: str, hint: str, *, raw_key: str | None = None) -> Frame:
    """Set a frame aside for good, with the reason; its bytes are kept, and a READY frame keeps its place."""
    frame = _locked(session, frame_id)
    if frame.disposition != "active":
        return frame
    if frame.ready_at is not None:
        return _keep_what_it_has(session, frame, {"code": code, "hint": hint})
    frame.disposition, frame.disposition_code, frame.disposition_hint = "quarantined", code, hint[:500]
    if frame.ingest == "pending":
        frame.ingest, frame.ingest_code = "failed", code
    if raw_key is not None:
        frame.raw_key = raw_key
    frame.ready_at = None
    _touch(session, frame, again_after_s=None)
    return frame


def refuse(session: Session, frame_id: str, error: dict[str, Any], **values: Any) -> Frame:
    """Quarantine a frame that ingest refuses; one that another run has settled meanwhile stays as it is.

    ``error`` holds ``code``, ``message`` and ``hint``; ``values`` are columns that the step has found out.
    """
    frame = _locked(session, frame_id)
    if frame.ingest != "pending" or frame.disposition != "active":
        return frame
    for column, value in values.items():
        setattr(frame, column, value)
    frame.last_error = error
    return quarantine(session, frame_id, str(error["code"]), str(error.get("hint") or ""))


def withdraw(session: Session, frame_id: str, reason: str) -> Frame:
    """Take a frame out by its owner's or an operator's word; pixels stay, later revisions do without it."""
    frame = _locked(session, frame_id)
    if frame.mission_id is not None:
        locked_mission(session, frame.mission_id, shared=True)
    frame.disposition, frame.disposition_code, frame.disposition_hint = "withdrawn", "withdrawn", reason[:500]
    frame.ready_at = None
    _touch(session, frame, again_after_s=None)
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
    frame = _locked(session, frame_id)
    if frame.disposition == "duplicate":
        raise BadInput(
            f"frame {frame.id} is a duplicate of {frame.duplicate_of}",
            code="frame-is-duplicate",
            hint=f"Requeue {frame.duplicate_of} instead.",
        )
    if frame.disposition == "withdrawn" and frame.ingest == "ok" and _twin(session, frame) is not None:
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
    _touch(session, frame, again_after_s=0.0)
    if is_settled(frame):
        frame.next_attempt_at = None
    _mark_ready_if_settled(session, frame)
    return frame


def park(session: Session, frame_id: str, record: dict[str, Any], wait_s: float) -> Frame:
    """Record an error that may pass, and when to try again; after `ATTEMPTS` the frame is quarantined."""
    frame = _locked(session, frame_id)
    if is_settled(frame):
        return frame
    frame.attempts += 1
    frame.last_error = record
    if frame.attempts >= ATTEMPTS:
        return quarantine(session, frame_id, "retries-exhausted", str(record.get("message", ""))[:500])
    _touch(session, frame, again_after_s=wait_s)
    return frame


def due(session: Session, limit: int) -> Sequence[Frame]:
    """Return frames whose next attempt is due, longest waiting first."""
    return session.exec(
        select(Frame)
        .where(Frame.disposition == "active", col(Frame.next_attempt_at) <= database_now(session))
        .order_by(col(Frame.next_attempt_at))
        .limit(limit)
    ).all()


def hold(session: Session, frame_ids: Sequence[str]) -> None:
    """Say that frames have been handed to a run: they count as lost only after `LOST_AFTER_S` again."""
    for frame_id in frame_ids:
        _touch(session, _locked(session, frame_id))


def leave_inbox(session: Session, frame_id: str) -> None:
    """Forget the inbox object, which is gone: the same name may come again."""
    _locked(session, frame_id).inbox_key = None


def announce(
    session: Session,
    *,
    node_id: str,
    name: str,
    obs_req: str | None,
    size: int,
    sha256: str,
    expires_at: datetime,
) -> None:
    """Note that a frame is on its way; said again, it lives longer."""
    known = session.exec(
        select(Announcement).where(
            Announcement.node_id == node_id, Announcement.name == name, Announcement.sha256 == sha256
        )
    ).first()
    if known is not None:
        known.expires_at = expires_at
        return
    # An earlier frame of the same name, which this one corrects, is not the one announced.
    arrived = session.exec(
        select(Frame.id).where(
            Frame.node_id == node_id,
            Frame.name == name,
            or_(Frame.raw_sha256 == sha256, col(Frame.inbox_key).is_not(None)),
        )
    ).first()
    _added(
        session,
        Announcement(
            node_id=node_id,
            name=name,
            obs_req=obs_req,
            size=size,
            sha256=sha256,
            announced_at=database_now(session),
            expires_at=expires_at,
            arrived_at=database_now(session) if arrived else None,
        ),
    )


def in_flight(session: Session, obs_req: str) -> int:
    """Count what a mission should wait for: announced and not here, or here and not settled."""
    announced = session.exec(
        select(func.count()).where(
            Announcement.obs_req == obs_req,
            col(Announcement.arrived_at).is_(None),
            col(Announcement.expires_at) > database_now(session),
        )
    ).one()
    open_frames = select(Frame).where(
        Frame.obs_req == obs_req,
        Frame.disposition == "active",
        Frame.kind == "light",
        col(Frame.ready_at).is_(None),
        or_(*(getattr(Frame, step) == "pending" for step in STEPS)),
    )
    return announced + sum(not is_settled(frame) for frame in session.exec(open_frames).all())


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
    return session.exec(query.order_by(col(Frame.received_at).desc(), col(Frame.id)).limit(limit)).all()
