"""Stale stacks, computed and never signalled: READY frames that are missing, and bound ones that have moved.

A re-solved frame makes a stack stale only where it matters: the WCS moved by more than 0.1 px, the zero point by
more than 0.01 mag, or the pixels were calibrated otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, col, func, or_, select

from starloom.archive.engine import database_now
from starloom.archive.models import Calibration, Frame, Mission, Photometry, Revision, RevisionInput, Solution

MOVED_PX = 0.1
ZERO_POINT_MAG = 0.01


@dataclass(frozen=True)
class Change:
    """Why a stack is behind what the archive knows of one of its frames.

    Parameters
    ----------
    revision_id, frame_id
        The newest revision and the frame.
    reason
        ``late``: READY since, and not in it; ``wcs-moved``, ``zero-point``, ``recalibrated``.
    at
        Since when.
    amount
        Pixels that the WCS moved at its worst, or magnitudes that the zero point did; None where neither tells it.
    """

    revision_id: int
    frame_id: str
    reason: str
    at: datetime
    amount: float | None = None


def stale_missions(session: Session, quiet_s: float) -> list[Mission]:
    """Return STACKED missions whose newest revision is behind what the archive knows, quiet for ``quiet_s``.

    A frame done again is compared once: what does not matter is noted in the row, so that later sweeps pass it
    over.
    """
    horizon = database_now(session) - timedelta(seconds=quiet_s)
    newest = _newest_revisions(session)
    latest: dict[int, datetime] = {}
    for change in _changes(session, newest, note=True):
        latest[change.revision_id] = max(change.at, latest.get(change.revision_id, change.at))
    stale = [newest[revision_id] for revision_id, moment in latest.items() if moment < horizon]
    return list(session.exec(select(Mission).where(col(Mission.id).in_(stale)).order_by(col(Mission.id))).all())


def why_stale(session: Session, mission_id: str | None = None) -> dict[str, list[Change]]:
    """Return, by mission, why the newest stacks are stale; changes nothing.

    ``mission_id`` asks for one mission alone. A stack that is not stale, or is being made again, is not there.
    """
    newest = _newest_revisions(session, mission_id)
    found: dict[str, list[Change]] = {}
    for change in _changes(session, newest, note=False):
        found.setdefault(newest[change.revision_id], []).append(change)
    return found


def in_words(changes: Sequence[Change]) -> str:
    """Return why a stack is stale as people say it: ``2 late frames; WCS of 1 frame moved, by up to 0.4 px``."""
    said = []
    for reason, words, unit in (
        ("late", "late", ""),
        ("wcs-moved", "with a WCS moved by up to", " px"),
        ("zero-point", "with a zero point moved by up to", " mag"),
        ("recalibrated", "calibrated otherwise", ""),
    ):
        some = [change for change in changes if change.reason == reason]
        if not some:
            continue
        amounts = [change.amount for change in some if change.amount is not None and np.isfinite(change.amount)]
        if unit:
            words = f"{words} {max(amounts):.2g}{unit}" if amounts else words.removesuffix(" by up to")
        said.append(f"{len(some)} frame{'s' * (len(some) > 1)} {words}")
    return "; ".join(said)


def _newest_revisions(session: Session, mission_id: str | None = None) -> dict[int, str]:
    """Return the newest published revision of every STACKED mission, or of one."""
    only = [] if mission_id is None else [Revision.mission_id == mission_id]
    tops = (
        select(Revision.mission_id, func.max(Revision.n).label("n"))
        .where(Revision.status == "published")
        .group_by(col(Revision.mission_id))
        .subquery()
    )
    found = session.exec(
        select(Revision.id, Revision.mission_id)
        .join(Mission, col(Mission.id) == Revision.mission_id)
        .join(tops, (tops.c.mission_id == Revision.mission_id) & (tops.c.n == Revision.n))
        .where(Revision.status == "published", Mission.status == "STACKED", *only)
    ).all()
    return {int(revision_id or 0): mission_id for revision_id, mission_id in found}


def _changes(session: Session, newest: Mapping[int, str], *, note: bool) -> Iterator[Change]:
    for revision_id, mission_id in newest.items():
        yield from _late_frames(session, revision_id, mission_id)
    yield from _changed_inputs(session, newest, note=note)


def _late_frames(session: Session, revision_id: int, mission_id: str) -> Iterator[Change]:
    """Yield frames that became READY and are not in the revision."""
    bound = select(RevisionInput.frame_id).where(RevisionInput.revision_id == revision_id)
    found = session.exec(
        select(Frame.id, Frame.ready_at).where(
            Frame.mission_id == mission_id,
            Frame.disposition == "active",
            col(Frame.ready_at).is_not(None),
            col(Frame.id).not_in(bound),
        )
    ).all()
    for frame_id, ready_at in found:
        assert ready_at is not None
        yield Change(revision_id, frame_id, "late", ready_at)


def _changed_inputs(session: Session, newest: Mapping[int, str], *, note: bool) -> Iterator[Change]:
    """Yield bound frames that have changed enough to matter; with ``note`` remember those that have not."""
    photometry_now, solution_now = aliased(Photometry), aliased(Solution)
    rows: list[Any] = list(
        session.exec(
            select(RevisionInput, Frame, Solution, solution_now, Photometry, photometry_now)  # type: ignore[call-overload]
            .join(Frame, col(Frame.id) == RevisionInput.frame_id)
            .join(Solution, col(Solution.id) == RevisionInput.solution_id)
            .join(Photometry, col(Photometry.id) == RevisionInput.photometry_id)
            .join(photometry_now, and_(photometry_now.frame_id == Frame.id, col(photometry_now.current).is_(True)))
            .join(solution_now, and_(solution_now.frame_id == Frame.id, col(solution_now.current).is_(True)))
            .where(
                col(RevisionInput.revision_id).in_(list(newest)),
                Frame.disposition == "active",
                photometry_now.id != RevisionInput.photometry_id,
                or_(
                    col(RevisionInput.compared_photometry_id).is_(None),
                    col(RevisionInput.compared_photometry_id) != photometry_now.id,
                ),
            )
        ).all()
    )
    for part, frame, then, now, measured_then, measured_now in rows:
        reason, amount = _difference(session, part, frame, (then, now), (measured_then, measured_now))
        if reason is not None:
            yield Change(part.revision_id, frame.id, reason, measured_now.created_at, amount)
        elif note:
            part.compared_photometry_id = measured_now.id


def _difference(
    session: Session,
    part: RevisionInput,
    frame: Frame,
    solutions: tuple[Solution, Solution],
    measured: tuple[Photometry, Photometry],
) -> tuple[str | None, float | None]:
    """Return what about a frame has changed since it was bound, and by how much."""
    then, now = solutions
    moved = moved_px(then.wcs, now.wcs, (frame.height or 1, frame.width or 1))
    if moved > MOVED_PX:
        return "wcs-moved", moved
    before, after = (photometry.zero_point_mag for photometry in measured)
    if _retied(before, after):
        return "zero-point", None if before is None or after is None else abs(after - before)
    if _recalibrated(session, part.calibration_id, now.calibration_id):
        return "recalibrated", None
    return None, None


def _retied(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is not now
    return abs(now - then) > ZERO_POINT_MAG


def _recalibrated(session: Session, then: int | None, now: int | None) -> bool:
    """Tell whether other masters, or another mask, made the pixels."""

    def masters(calibration_id: int | None) -> tuple[object, ...]:
        row = session.get(Calibration, calibration_id) if calibration_id is not None else None
        if row is None:
            return (None,) * 6
        # A mask made otherwise from the same masters shows in its size.
        return row.bias_id, row.dark_id, row.flat_id, row.defects_id, row.dark_scale, row.masked_fraction

    return then != now and masters(then) != masters(now)


def moved_px(then: dict[str, Any], now: dict[str, Any], shape: tuple[int, int]) -> float:
    """Return how far two WCS of a frame are apart at the worst of its corners and centre, pixels.

    Parameters
    ----------
    then, now
        FITS cards of the two.
    shape
        ``(ny, nx)`` of the frame.
    """
    if then == now:
        return 0.0
    ny, nx = shape
    x, y = (a.ravel() for a in np.meshgrid([0.0, (nx - 1) / 2, nx - 1.0], [0.0, (ny - 1) / 2, ny - 1.0]))
    old, new = (WCS(fits.Header(cards), fix=False) for cards in (then, now))
    ra, dec = old.all_pix2world(x, y, 0)
    back_x, back_y = new.wcs_world2pix(ra, dec, 0)
    there_x, there_y = new.wcs_world2pix(*new.all_pix2world(x, y, 0), 0)
    # Both in the new map's linear pixels: no inversion of a distortion, which may fail in a corner.
    distance = np.hypot(back_x - there_x, back_y - there_y)
    return float(np.max(distance)) if np.isfinite(distance).all() else float("inf")
