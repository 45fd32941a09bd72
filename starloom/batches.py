"""Batches and chunks of frames: what flows hand to tasks instead of pixels.

A task run costs the orchestrator more than most steps cost the frame, so a task takes a chunk of frames.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from starloom.archive import dispositions
from starloom.archive import frames as frame_rows
from starloom.errors import BadInput, StarloomError, Unavailable
from starloom.lake.keys import BadKey
from starloom.receipts import write_receipt
from starloom.telemetry import traces
from starloom.telemetry.context import about

if TYPE_CHECKING:
    from starloom.archive.models import Frame
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: First wait of a parked frame, seconds; doubled with every attempt, a day at most.
PARK_BASE_S = 30.0
PARK_MAX_S = 86400.0
#: What the step of each room is called in a trace.
SPANS = {
    "starloom.frames.step": "ingest",
    "starloom.calibration.step": "calibrate",
    "starloom.astrometry.step": "solve",
    "starloom.photometry.step": "measure",
}


class FrameChunk(BaseModel):
    """A handful of frames that one task works on."""

    name: str = Field(description="Where it stands in its batch, for people.")
    frame_ids: list[str] = Field(description="Archive ids.")
    seconds: dict[str, float] = Field(
        default_factory=dict, description="What the steps have taken so far, by frame."
    )


class FrameBatch(BaseModel):
    """Frames that arrived together; ``process-frames`` takes one batch per run."""

    name: str = Field(description="Name of the run in the Prefect UI.")
    frame_ids: list[str] = Field(description="Archive ids.")
    chunk_size: int = Field(default=8, ge=1, description="Frames per task.")

    @property
    def key(self) -> str:
        """Idempotency key: the same batch asked for twice is one run."""
        return "batch:" + hashlib.sha256(" ".join([self.name, *self.frame_ids]).encode()).hexdigest()[:32]

    def chunks(self) -> list[FrameChunk]:
        """Split into chunks of at most ``chunk_size`` frames."""
        parts = [self.frame_ids[i : i + self.chunk_size] for i in range(0, len(self.frame_ids), self.chunk_size)]
        return [FrameChunk(name=f"{i + 1}/{len(parts)}", frame_ids=part) for i, part in enumerate(parts)]


def batches(frame_ids: Iterable[str], label: str, *, chunk_size: int, batch_size: int = 64) -> list[FrameBatch]:
    """Put frame ids into batches of at most ``batch_size``, named ``label`` with the time and their number."""
    ids = list(frame_ids)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return [
        FrameBatch(
            name=f"{label} {stamp} {len(part)} frames" + (f" #{i // batch_size + 1}" if i else ""),
            frame_ids=part,
            chunk_size=chunk_size,
        )
        for i in range(0, len(ids), batch_size)
        if (part := ids[i : i + batch_size])
    ]


class FramesWait(Unavailable):
    """Some frames of a chunk met an error that may pass; the others went on."""

    code = "frames-wait"
    hint = "Nothing: the task tries them again, then `sweep` does."


def advance(hub: Hub, chunk: FrameChunk, step: Callable[[Hub, str], None], *, last_try: bool = True) -> FrameChunk:
    """Run one step for every frame of the chunk; a frame that fails for now is parked, not lost.

    A step commits its own outcome, fatal ones included. What reaches us here is an error that may pass (a
    service down, the disk full), one about this frame alone, or one nobody foresaw. The frame's neighbours go
    on in any case.

    Parameters
    ----------
    last_try
        False while the caller will come again soon: errors that may pass are left to it, and nothing is parked
        for them yet.

    Raises
    ------
    FramesWait
        Not on the last try: some frames met an error that may pass.
    """
    waiting: dict[str, StarloomError] = {}
    seconds = dict(chunk.seconds)
    known = _known(hub, chunk.frame_ids)
    for frame_id in chunk.frame_ids:
        subject, traceparent = known.get(frame_id, ({"frame": frame_id}, None))
        begun = time.monotonic()
        with about(**subject):
            error = _take_step(hub, frame_id, step, traceparent, last_try=last_try)
        if error is not None:
            waiting[frame_id] = error
        seconds[frame_id] = seconds.get(frame_id, 0.0) + time.monotonic() - begun
    if waiting:
        _note_waiting(hub, waiting)
        first, why = next(iter(waiting.items()))
        raise FramesWait(f"{len(waiting)} of {len(chunk.frame_ids)} frames wait; {first}: {why.message}")
    return chunk.model_copy(update={"seconds": seconds})


def _known(hub: Hub, frame_ids: list[str]) -> dict[str, tuple[dict[str, str | None], str | None]]:
    """Return what log lines and traces say of the frames; nothing where the archive does not answer."""
    try:
        with hub.archive.session() as session:
            return frame_rows.subjects(session, frame_ids)
    except Unavailable:  # the steps say so
        return {}


def _take_step(
    hub: Hub, frame_id: str, step: Callable[[Hub, str], None], traceparent: str | None, *, last_try: bool
) -> StarloomError | None:
    """Run a step for one frame; return the error that its task is to come again for."""
    room = step.__module__
    try:
        with traces.span(SPANS.get(room, room), parent=traceparent, frame=frame_id):
            step(hub, frame_id)
    except BadInput as error:
        log.warning("%s: quarantined: %s (%s)", room, error.message, error.code)
        refuse(hub, frame_id, error)
    except Exception as error:  # recorded in the archive; sweep tries again
        if not last_try and isinstance(error, StarloomError) and error.retryable:
            log.warning("%s: %s (%s)", room, error.message, error.code)
            return error
        log.exception("%s: parked", room)
        park(hub, frame_id, error)
    except BaseException as error:
        # The task ran out of time, or its process is asked to end: this frame may be the one that hangs.
        log.warning("%s: parked, cut off by %s", room, type(error).__name__)
        park(hub, frame_id, error)
        raise
    return None


def _note_waiting(hub: Hub, waiting: dict[str, StarloomError]) -> None:
    """Write tries that the task repeats by itself into the frames' history; they cost none of their budget."""
    try:
        with hub.archive.transaction() as session:
            for frame_id, error in waiting.items():
                frame = frame_rows.get(session, frame_id)
                step = frame.in_hand or dispositions.next_step(frame)
                dispositions.note_attempt(session, frame, step, error.as_dict(), 0)
    except Unavailable as trouble:  # it may be the archive that they wait for
        log.warning("not in the history of %d frames: %s", len(waiting), trouble.message)


def refuse(hub: Hub, frame_id: str, error: BadInput) -> None:
    """Set a frame aside for good, and tell its node why."""
    with hub.archive.transaction() as session:
        frame = dispositions.quarantine(session, frame_id, error.code, error.hint or error.message)
        frame.last_error = error.as_dict()
    try:
        write_receipt(hub, frame)
    except BadKey as impossible:
        log.warning("no receipt: %s", impossible.message, extra=frame_rows.subject_of(frame))


def park(hub: Hub, frame_id: str, error: BaseException) -> None:
    """Record the error and set the time of the next attempt, doubling from 30 s to a day; at last quarantine."""
    if isinstance(error, StarloomError):
        record = error.as_dict()
    else:
        record = {
            "code": "unexpected" if isinstance(error, Exception) else "cut-off",
            "message": f"{type(error).__name__}: {error}",
            "hint": "Report this with the worker's log; the frame is tried again.",
            "retryable": True,
        }
    with hub.archive.transaction() as session:
        attempts = frame_rows.get(session, frame_id).attempts
        wait_s = min(PARK_BASE_S * 2.0**attempts, PARK_MAX_S)
        frame = dispositions.park(session, frame_id, record, wait_s, budget=hub.settings.frame_attempts)
    if frame.disposition_code == dispositions.SPENT:
        log.error("quarantined: %s", frame.disposition_hint, extra=frame_rows.subject_of(frame))
        tell_spent(hub, frame)


def tell_spent(hub: Hub, frame: Frame) -> None:
    """Write the receipt of a frame that is tried no more; where the lake is the trouble, it is written later."""
    try:
        write_receipt(hub, frame)
    except StarloomError as error:
        log.warning("no receipt: %s", error.message, extra=frame_rows.subject_of(frame))
