"""What operators ask for, from the command line and from the Prefect UI alike: frames again, a stack again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlmodel import col, select

from starloom.archive import Archive, dispositions, missions, selecting
from starloom.archive.frames import subject_of
from starloom.archive.models import STEPS, Frame, Mission, StatusEvent
from starloom.errors import BadInput, Conflict, StarloomError
from starloom.receipts import write_receipt

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Conditions of which one holds for a frame that another try may help.
_NOT_WELL = ("disposition=quarantined", *(f"{step}=failed" for step in STEPS), "attempts>0")


def frames_to_requeue(hub: Hub, where: Sequence[str], *, limit: int) -> list[Frame]:
    """Return the frames that conditions name and that may be tried again: set aside, or with a step that failed.

    Raises
    ------
    BadInput
        ``bad-condition``; ``no-condition``: all frames of the archive are never meant.
    """
    if not where:
        raise BadInput(
            "no condition says which frames",
            code="no-condition",
            hint="Give some, such as node=T42 or disposition_code=retries-spent.",
        )
    found: dict[str, Frame] = {}
    with hub.archive.session() as session:
        for state in _NOT_WELL:
            some = selecting.every_frame_where(session, [*where, state], limit=limit - len(found))
            found |= {frame.id: frame for frame in some if frame.ready_at is None}
            if len(found) >= limit:
                break
    return [frame for frame in found.values() if frame.disposition in ("active", "quarantined")]


def requeue(hub: Hub, found: Sequence[Frame]) -> list[Frame]:
    """Try frames again from their first step that is not ok, and tell their nodes; return those that are.

    One short transaction a frame, so that steps of others go on between.
    """
    again = []
    for one in found:
        try:
            with hub.archive.transaction() as session:
                frame = dispositions.requeue(session, one.id)
        except (BadInput, Conflict) as error:
            log.warning("left alone: %s", error.message, extra=subject_of(one))
            continue
        log.info("%s is tried again", frame.name, extra=subject_of(frame))
        again.append(frame)
    try:
        for frame in again:
            write_receipt(hub, frame)
    except StarloomError as error:
        log.warning("not every receipt was written: %s", error.message)
    return again


def restack(archive: Archive, mission_id: str, reason: str) -> tuple[Mission, bool]:
    """Ask for a mission's next revision, with a reason that stands in its event; False: it was asked for already.

    Raises
    ------
    BadInput
        ``unknown-mission``.
    Conflict
        ``mission-open``, ``mission-cancelled``: not from this status.
    """
    with archive.transaction() as session:
        mission, changed = missions.change(session, mission_id, "restack")
        if changed:
            asked = select(StatusEvent).where(StatusEvent.mission_id == mission_id, StatusEvent.state == "open")
            event = session.exec(asked.order_by(col(StatusEvent.id).desc()).limit(1)).one()
            event.reason = reason[:255] or None
    again = "" if changed else " was asked for already"
    log.info("restack%s: %s", again, reason or "-", extra={"mission": mission_id})
    return mission, changed
