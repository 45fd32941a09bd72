"""Batches and chunks of frames: what flows hand to tasks instead of pixels.

A task run costs the orchestrator more than most steps cost the frame, so a task takes a chunk of frames.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from starloom.archive import dispositions
from starloom.archive import frames as frame_rows
from starloom.errors import BadInput, StarloomError, Unavailable
from starloom.lake.keys import BadKey
from starloom.receipts import write_receipt

if TYPE_CHECKING:
    from starloom.archive.models import Frame
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: First wait of a parked frame, seconds; doubled with every attempt, a day at most.
PARK_BASE_S = 30.0
PARK_MAX_S = 86400.0


class FrameChunk(BaseModel):
    """A handful of frames that one task works on."""

    name: str = Field(description="Where it stands in its batch, for people.")
    frame_ids: list[str] = Field(description="Archive ids.")


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
    for frame_id in chunk.frame_ids:
        try:
            step(hub, frame_id)
        except BadInput as error:
            log.warning("frame=%s %s: quarantined: %s (%s)", frame_id, step.__module__, error.message, error.code)
            refuse(hub, frame_id, error)
        except Exception as error:  # recorded in the archive; sweep tries again
            if not last_try and isinstance(error, StarloomError) and error.retryable:
                log.warning("frame=%s %s: %s (%s)", frame_id, step.__module__, error.message, error.code)
                waiting[frame_id] = error
                continue
            log.exception("frame=%s %s: parked", frame_id, step.__module__)
            park(hub, frame_id, error)
        except BaseException as error:
            # The task ran out of time, or its process is asked to end: this frame may be the one that hangs.
            log.warning("frame=%s %s: parked, cut off by %s", frame_id, step.__module__, type(error).__name__)
            park(hub, frame_id, error)
            raise
    if waiting:
        _note_waiting(hub, waiting)
        first, why = next(iter(waiting.items()))
        raise FramesWait(f"{len(waiting)} of {len(chunk.frame_ids)} frames wait; {first}: {why.message}")
    return chunk


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
        log.warning("frame=%s no receipt: %s", frame_id, impossible.message)


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
        log.error("frame=%s quarantined: %s", frame_id, frame.disposition_hint)
        tell_spent(hub, frame)


def tell_spent(hub: Hub, frame: Frame) -> None:
    """Write the receipt of a frame that is tried no more; where the lake is the trouble, it is written later."""
    try:
        write_receipt(hub, frame)
    except StarloomError as error:
        log.warning("frame=%s no receipt: %s", frame.id, error.message)
