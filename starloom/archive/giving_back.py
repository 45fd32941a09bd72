"""What becomes of a mission whose holder failed or fell silent: tried again, later each time, or FAILED.

Three budgets, because three things are meant. A fatal error is FAILED at once. One that nobody foresaw is tried a
few times: it will most likely come again. An outage (lake, archive, Prefect) and a holder that died are nobody's
fault: they get many tries, spread over hours, and only the count keeps a stack that kills every machine from doing
so for ever.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col, func, or_, select

from starloom.archive.claims import HELD, Claim, held_revision, locked_mission, silent
from starloom.archive.engine import Archive, database_now
from starloom.archive.models import Mission, Revision, StatusEvent

log = logging.getLogger(__name__)

#: First pause before a mission that failed is stacked again, doubled each time, at most `MAX_PAUSE_S`.
PAUSE_S = 30.0
MAX_PAUSE_S = 3600.0
#: Holders in a row that may fall silent before there is a pause at all: machines end, and the next one is there.
DEATHS_AT_ONCE = 2


@dataclass(frozen=True)
class Budget:
    """How often a mission is tried.

    Parameters
    ----------
    attempts
        Errors that nobody foresaw.
    retries
        Failures of every kind together, outages and silent holders among them.
    """

    attempts: int = 3
    retries: int = 12


def fail(archive: Archive, claim: Claim, error: dict[str, Any], *, fatal: bool, budget: Budget) -> None:
    """Give the mission back with the reason: COMPLETE again, which is a new event, or FAILED for good.

    Raises
    ------
    LeaseLost
        The claim is no longer held: somebody else decides.
    """
    with archive.transaction() as session:
        mission = locked_mission(session, claim.mission_id)
        assert mission is not None
        revision = held_revision(session, claim)
        revision.status = "failed"
        revision.error = error
        _give_back(session, mission, revision, fatal=fatal, budget=budget)


def expire_leases(archive: Archive, budget: Budget) -> list[str]:
    """Give back every mission whose lease has run out by the database's clock; return which.

    Any number of programs may do so at once. A mission whose row somebody has locked is left for the next time.
    """
    with archive.session() as session:
        overdue = session.exec(
            select(Revision.mission_id).where(
                col(Revision.status).in_(HELD), col(Revision.lease_until) < database_now(session)
            )
        ).all()
    freed = []
    for mission_id in overdue:
        with archive.transaction() as session:
            mission = locked_mission(session, mission_id, skip=True)
            if mission is None:
                continue
            held = select(Revision).where(Revision.mission_id == mission_id, col(Revision.status).in_(HELD))
            # Locked, so that a renewal is either seen here or comes too late; never overwritten.
            for revision in session.exec(held.with_for_update()).all():
                if revision.lease_until >= database_now(session):
                    continue  # renewed or taken over since we looked
                revision.status = "expired"
                revision.error = silent(revision)
                _give_back(session, mission, revision, fatal=False, budget=budget)
                freed.append(mission_id)
                log.warning(
                    "r%d epoch %d: %s fell silent; the mission is %s",
                    *(revision.n, revision.epoch, revision.holder, mission.status),
                    extra={"mission": mission_id},
                )
    return freed


def _give_back(session: Session, mission: Mission, revision: Revision, *, fatal: bool, budget: Budget) -> None:
    if mission.status != "STACKING":
        return  # COMPLETE or CANCELLED by hand meanwhile: that word is newer
    session.flush()
    error = revision.error or {}
    failures = _failures(session, mission.id, revision.n)
    unforeseen = sum(not one.get("retryable") for one in failures)
    if fatal or unforeseen >= budget.attempts or len(failures) >= budget.retries:
        mission.status = "FAILED"
        mission.failure_code = str(error.get("code", "unexpected"))[:64]
        said = str(error.get("hint") or error.get("message") or "")
        mission.failure_hint = (said if fatal else f"After {len(failures)} attempts: {said}")[:500]
        return
    mission.status = "COMPLETE"
    session.flush()  # the trigger has written the event
    free = DEATHS_AT_ONCE if all(one.get("code") == "lease-expired" for one in failures) else 0
    if len(failures) <= free:
        return
    pause = min(PAUSE_S * 2.0 ** (len(failures) - free - 1), MAX_PAUSE_S)
    session.exec(
        update(StatusEvent)
        .where(
            col(StatusEvent.mission_id) == mission.id,
            col(StatusEvent.state) == "open",
            col(StatusEvent.new_status) == "COMPLETE",
        )
        .values(
            next_publish_at=database_now(session) + timedelta(seconds=pause),
            note=f"attempt {len(failures)} of {budget.retries} failed: {error.get('code')}"[:255],
        )
    )


def _failures(session: Session, mission_id: str, n: int) -> list[dict[str, Any]]:
    """Return the errors of the attempts at a revision since somebody last asked for it."""
    asked = session.exec(
        select(func.max(StatusEvent.id)).where(
            StatusEvent.mission_id == mission_id,
            StatusEvent.new_status == "COMPLETE",
            or_(col(StatusEvent.old_status).is_(None), col(StatusEvent.old_status) != "STACKING"),
        )
    ).one()
    found = session.exec(
        select(Revision.error).where(
            Revision.mission_id == mission_id,
            Revision.n == n,
            col(Revision.status).in_(("failed", "expired")),
            func.coalesce(Revision.event_id, 0) >= (asked or 0),
        )
    ).all()
    return [dict(error or {}) for error in found]
