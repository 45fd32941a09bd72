"""Claims: who may stack a mission, proven by a lease on the database's clock and an epoch that fences writes.

A claim is a row of ``revision``. Every claim of a mission raises the epoch; what a holder writes is conditional on
its row still being held, so one that was paused, cut off or declared dead publishes nothing when it wakes up.

A database may commit and lose the connection before it says so. Whoever asks again with the same token finds what
has been done: claim, bind, publish and settling as unchanged may all be repeated. `starloom.archive.giving_back`
holds what becomes of a mission whose holder failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, bindparam, update
from sqlmodel import Session, col, func, select

from starloom.archive.engine import Archive, database_now
from starloom.archive.models import (
    Calibration,
    Frame,
    Mission,
    Photometry,
    Product,
    Revision,
    RevisionInput,
    Solution,
    StatusEvent,
)
from starloom.errors import Conflict, Unavailable

HELD = ("claimed", "bound")


class AlreadyClaimed(Conflict):
    """The mission is held by another run, or the event has been dealt with; nothing to do."""

    code = "already-claimed"
    hint = "Nothing: the run that holds the mission does the work."


class LeaseLost(Conflict):
    """The claim is no longer this holder's; whatever it still does must not be published."""

    code = "lease-lost"
    hint = "Nothing: the mission has been given to another run, or back to the queue."


class MissionCancelled(LeaseLost):
    """The mission was cancelled while it was being stacked: nothing is published."""

    code = "mission-cancelled"
    hint = "`starloom mission complete` takes it up again."


@dataclass(frozen=True)
class Claim:
    """Proof of holding a mission: revision number, epoch and secret token."""

    mission_id: str
    revision_id: int
    n: int
    epoch: int
    token: str


@dataclass(frozen=True)
class BoundInput:
    """One exact input of a bound revision."""

    frame: Frame
    solution: Solution
    photometry: Photometry
    calibration: Calibration | None = None


@dataclass(frozen=True)
class NewProduct:
    """A product to be published."""

    band: str
    pointing: int
    sci_key: str
    sci_version: str | None
    sha256: str
    bytes: int
    preview_key: str | None
    summary: dict[str, Any]
    track: str = "sidereal"


@dataclass(frozen=True)
class FrameOutcome:
    """How a frame entered the stack: its weight, scale and, for weight 0, the reason."""

    frame_id: str
    weight: float | None
    scale: float | None
    rejected_fraction: float | None
    reason: str | None


def locked_mission(
    session: Session, mission_id: str, *, shared: bool = False, skip: bool = False
) -> Mission | None:
    """Return a mission with its row locked; on SQLite the transaction itself is the lock.

    ``skip`` returns None where somebody else holds the lock. The lock is the one that leaves foreign keys alone:
    writing a frame of the mission must not wait for it, nor dead-lock with it.
    """
    return session.execute(_lock_of(shared, skip), {"wanted": mission_id}).scalar_one_or_none()


@lru_cache
def _lock_of(shared: bool, skip: bool) -> Select[tuple[Mission]]:
    query = select(Mission).where(Mission.id == bindparam("wanted"))
    query = query.with_for_update(read=shared, key_share=not shared, skip_locked=skip)
    return query.execution_options(populate_existing=True)


def claim(
    archive: Archive, mission_id: str, event_id: int, holder: str, lease_s: float, *, token: str | None = None
) -> Claim:
    """Take a COMPLETE mission for an open event.

    Parameters
    ----------
    holder
        Name of the run. A run that crashed and was started again finds the claim of its dead process and takes it
        over at once, under the next epoch.
    token
        Chosen by a caller who may ask again: a claim that was made with it is returned, not refused.

    Raises
    ------
    AlreadyClaimed
        The event is not open, or the mission is not COMPLETE or held by a living lease. It is counted with the
        event.
    """
    try:
        with archive.transaction() as session:
            return _claim(session, mission_id, event_id, holder, lease_s, token or secrets.token_hex(16))
    except AlreadyClaimed:
        _count_surplus(archive, mission_id, event_id)
        raise


def _count_surplus(archive: Archive, mission_id: str, event_id: int) -> None:
    """Count a run that came for nothing; that it ends in peace is worth more than the count."""
    with contextlib.suppress(Unavailable), archive.transaction() as session:
        session.exec(
            update(StatusEvent)
            .where(col(StatusEvent.id) == event_id, col(StatusEvent.mission_id) == mission_id)
            .values(surplus_runs=StatusEvent.surplus_runs + 1)
        )


def _claim(session: Session, mission_id: str, event_id: int, holder: str, lease_s: float, token: str) -> Claim:
    mission = locked_mission(session, mission_id)
    # Apart from the locking: what one statement asks is answered as it was before it waited for the lock.
    mine = [Revision.mission_id == mission_id]
    found = session.exec(
        select(
            StatusEvent,
            select(func.max(Revision.n)).where(*mine, Revision.status == "published").scalar_subquery(),
            select(func.max(Revision.epoch)).where(*mine).scalar_subquery(),
            select(func.count()).where(*mine, col(Revision.status).in_(HELD)).scalar_subquery(),
        ).where(StatusEvent.id == event_id, StatusEvent.mission_id == mission_id)
    ).first()
    if mission is None or found is None or found[0].new_status != "COMPLETE":
        raise AlreadyClaimed(f"no mission {mission_id} with event {event_id}", code="no-such-event")
    event, last_n, last_epoch, held = found
    now = database_now(session)
    resumed = False
    if held:
        mine_already = _claim_of(session, mission_id, token)
        if mine_already is not None:
            return mine_already
        own = _end_silent(session, mission_id, event_id, holder, now)
        resumed = own and mission.status == "STACKING"
    if not resumed and (event.state != "open" or mission.status != "COMPLETE"):
        raise AlreadyClaimed(f"mission {mission_id} is {mission.status}, event {event_id} is {event.state}")
    revision = Revision(
        mission_id=mission_id,
        n=(last_n or 0) + 1,
        epoch=(last_epoch or 0) + 1,
        event_id=event_id,
        token=token,
        holder=holder,
        claimed_at=now,
        lease_until=now + timedelta(seconds=lease_s),
    )
    session.add(revision)
    event.state = "claimed"
    mission.status = "STACKING"
    session.flush()
    assert revision.id is not None
    return Claim(mission_id, revision.id, revision.n, revision.epoch, revision.token)


def _claim_of(session: Session, mission_id: str, token: str) -> Claim | None:
    """Return the living claim that was made with a token, if there is one."""
    held = session.exec(
        select(Revision).where(
            Revision.mission_id == mission_id, Revision.token == token, col(Revision.status).in_(HELD)
        )
    ).first()
    if held is None or held.id is None:
        return None
    return Claim(mission_id, held.id, held.n, held.epoch, token)


def _end_silent(session: Session, mission_id: str, event_id: int, holder: str, now: datetime) -> bool:
    """End the claims of holders that are dead: their lease has run out, or their run is at its beginning again.

    Returns
    -------
    bool
        True: the claim that was ended was this run's own, for the same event.

    Raises
    ------
    AlreadyClaimed
        A lease is alive.
    """
    own = False
    for held in session.exec(
        select(Revision).where(Revision.mission_id == mission_id, col(Revision.status).in_(HELD)).with_for_update()
    ):
        restarted = bool(holder) and held.holder == holder and held.event_id == event_id
        if not restarted and held.lease_until > now:
            raise AlreadyClaimed(f"mission {mission_id} is held by {held.holder or 'another run'}")
        own = own or restarted
        held.status = "expired"
        held.error = silent(held)
    session.flush()
    return own


def silent(revision: Revision) -> dict[str, Any]:
    """Return the error of a holder that renewed its lease no more."""
    return {"code": "lease-expired", "message": f"{revision.holder} fell silent", "retryable": True}


def held_revision(session: Session, claim: Claim) -> Revision:
    """Return the claim's row, locked, or raise `LeaseLost`. A lease merely overdue still holds until taken."""
    revision = _own(session, claim)
    if revision is None or revision.status not in HELD:
        raise LeaseLost(f"mission {claim.mission_id} revision {claim.n} epoch {claim.epoch} is no longer held")
    return revision


def _own(session: Session, claim: Claim) -> Revision | None:
    """Return the row that the claim made, locked, whatever has become of it."""
    query = select(Revision).where(Revision.id == claim.revision_id, Revision.token == claim.token)
    return session.exec(query.with_for_update().execution_options(populate_existing=True)).first()


def _ended_by_cancelling(revision: Revision, mission: Mission | None) -> bool:
    """End a claim whose mission has been cancelled: what it makes is not wanted any more."""
    if mission is None or mission.status != "CANCELLED":
        return False
    revision.status = "failed"
    revision.error = {"code": MissionCancelled.code, "message": "the mission was cancelled", "retryable": False}
    return True


def renew(archive: Archive, claim: Claim, lease_s: float) -> None:
    """Prolong the lease.

    Raises
    ------
    LeaseLost
        The mission has been taken over, given back or cancelled (`MissionCancelled`).
    """
    with archive.transaction() as session:
        revision = held_revision(session, claim)
        cancelled = _ended_by_cancelling(revision, session.get(Mission, claim.mission_id))
        if not cancelled:
            revision.lease_until = database_now(session) + timedelta(seconds=lease_s)
    if cancelled:
        raise MissionCancelled(f"mission {claim.mission_id} was cancelled")


def bind(archive: Archive, claim: Claim, parameters: dict[str, Any], coadd_version: int) -> list[BoundInput]:
    """Write down the exact inputs of the revision, once; a bound revision returns the same set again.

    The mission's row is locked: a frame that becomes READY takes the same lock, so it is either bound now or
    seen as late, never between.

    Raises
    ------
    LeaseLost
        The claim is no longer held.
    """
    with archive.transaction() as session:
        locked_mission(session, claim.mission_id)
        revision = held_revision(session, claim)
        if revision.status == "claimed":
            for frame, solution, photometry in session.exec(_ready(claim.mission_id)).all():
                assert solution.id is not None
                assert photometry.id is not None
                session.add(
                    RevisionInput(
                        revision_id=claim.revision_id,
                        frame_id=frame.id,
                        solution_id=solution.id,
                        photometry_id=photometry.id,
                        calibration_id=solution.calibration_id,
                    )
                )
            revision.status = "bound"
            revision.bound_at = database_now(session)
            revision.parameters = parameters
            revision.coadd_version = coadd_version
            session.flush()
        bound = _bound(session, claim.revision_id)
        revision.input_hash = _input_hash(bound, revision.parameters or {}, revision.coadd_version or 0)
        return bound


def _ready(mission_id: str) -> Any:
    return (
        select(Frame, Solution, Photometry)
        .join(Solution, col(Solution.frame_id) == Frame.id)
        .join(Photometry, col(Photometry.frame_id) == Frame.id)
        .where(
            Frame.obs_req == mission_id,  # as its name says: a frame may be here before its mission is
            Frame.disposition == "active",
            col(Frame.ready_at).is_not(None),
            col(Solution.current).is_(True),
            col(Photometry.current).is_(True),
        )
        .order_by(col(Frame.id))
    )


def _bound(session: Session, revision_id: int) -> list[BoundInput]:
    rows = session.exec(
        select(Frame, Solution, Photometry, Calibration)
        .join(RevisionInput, col(RevisionInput.frame_id) == Frame.id)
        .join(Solution, col(Solution.id) == RevisionInput.solution_id)
        .join(Photometry, col(Photometry.id) == RevisionInput.photometry_id)
        .join(Calibration, col(Calibration.id) == RevisionInput.calibration_id, isouter=True)
        .where(RevisionInput.revision_id == revision_id)
        .order_by(col(Frame.id))
    ).all()
    return [BoundInput(*row) for row in rows]


def _input_hash(bound: Sequence[BoundInput], parameters: dict[str, Any], coadd_version: int) -> str:
    # The band too: a node's filter that was mapped since gives the same frames another stack.
    inputs = [
        (
            item.frame.id,
            item.frame.pixel_digest,
            item.solution.id,
            item.photometry.id,
            item.solution.calibration_id,
            item.frame.band,
        )
        for item in bound
    ]
    text = json.dumps([inputs, parameters, coadd_version], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def publish(
    archive: Archive,
    claim: Claim,
    products: Sequence[NewProduct],
    per_frame: Sequence[FrameOutcome],
    summary: dict[str, Any],
    pinned: dict[str, Any] | None = None,
) -> None:
    """Make the products the mission's revision, in one transaction that only the holder can commit.

    ``pinned`` is what later revisions must keep; grids of products that are new are added to what is pinned.

    Raises
    ------
    LeaseLost
        The claim is no longer held, or its mission was cancelled: the products stay orphans and ``sweep`` removes
        them.
    """
    with archive.transaction() as session:
        mission = locked_mission(session, claim.mission_id)
        assert mission is not None
        done = _own(session, claim)
        if done is not None and done.status == "published":
            return  # asked again: the database had committed, and its answer was lost
        revision = held_revision(session, claim)
        cancelled = _ended_by_cancelling(revision, mission)
        if not cancelled:
            _publish(session, mission, revision, products, per_frame, summary, pinned)
    if cancelled:
        raise MissionCancelled(f"mission {claim.mission_id} was cancelled")


def _publish(
    session: Session,
    mission: Mission,
    revision: Revision,
    products: Sequence[NewProduct],
    per_frame: Sequence[FrameOutcome],
    summary: dict[str, Any],
    pinned: dict[str, Any] | None,
) -> None:
    revision.status = "published"
    revision.published_at = database_now(session)
    revision.summary = summary
    if pinned is not None:
        mission.pinned = _merged_pins(mission.pinned, pinned)
    assert revision.id is not None
    session.add_all(Product(revision_id=revision.id, **vars(product)) for product in products)
    for outcome in per_frame:
        session.exec(
            update(RevisionInput)
            .where(
                col(RevisionInput.revision_id) == revision.id,
                col(RevisionInput.frame_id) == outcome.frame_id,
            )
            .values(
                weight=outcome.weight,
                scale=outcome.scale,
                rejected_fraction=outcome.rejected_fraction,
                reason=outcome.reason,
            )
        )
    # COMPLETE set by hand meanwhile asks for the next revision; its event is open already. Leave it.
    if mission.status == "STACKING":
        mission.status = "STACKED"
        mission.failure_code = mission.failure_hint = None


def _merged_pins(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    known = list((old or {}).get("grids", []))
    places = {(entry["band"], entry["pointing"]) for entry in known}
    added = [entry for entry in new.get("grids", []) if (entry["band"], entry["pointing"]) not in places]
    return {**(old or {}), "grids": known + added}


def settle_unchanged(archive: Archive, claim: Claim) -> bool:
    """End a claim whose bound inputs, parameters and `coadd_version` are those of the newest revision.

    Returns
    -------
    bool
        True: there is nothing to do and the mission is STACKED again. False: stack.

    Raises
    ------
    LeaseLost
        The claim is no longer held.
    """
    with archive.transaction() as session:
        mission = locked_mission(session, claim.mission_id)
        assert mission is not None
        done = _own(session, claim)
        if done is not None and done.status == "unchanged":
            return True
        revision = held_revision(session, claim)
        newest = session.exec(
            select(Revision.input_hash)
            .where(Revision.mission_id == claim.mission_id, Revision.status == "published")
            .order_by(col(Revision.n).desc())
            .limit(1)
        ).first()
        if newest is None or newest != revision.input_hash:
            return False
        revision.status = "unchanged"
        if mission.status == "STACKING":
            mission.status = "STACKED"
            mission.failure_code = mission.failure_hint = None
        return True


def epoch_is_alive(session: Session, mission_id: str, n: int, epoch: int) -> bool:
    """Tell whether objects under ``r{n}/e{epoch}`` belong to a held or published revision."""
    return (
        session.exec(
            select(Revision.id).where(
                Revision.mission_id == mission_id,
                Revision.n == n,
                Revision.epoch == epoch,
                col(Revision.status).in_((*HELD, "published")),
            )
        ).first()
        is not None
    )
