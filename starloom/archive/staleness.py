"""Stale stacks, computed and never signalled: READY frames that are missing, and bound ones that have moved.

A re-solved frame makes a stack stale only where it matters: the WCS moved by more than 0.1 px, the zero point by
more than 0.01 mag, or the pixels were calibrated otherwise.
"""

from __future__ import annotations

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


def stale_missions(session: Session, quiet_s: float) -> list[Mission]:
    """Return STACKED missions whose newest revision is behind what the archive knows, quiet for ``quiet_s``."""
    horizon = database_now(session) - timedelta(seconds=quiet_s)
    newest = _newest_revisions(session)
    latest: dict[int, datetime] = {}
    for revision_id, mission_id in newest.items():
        late = _late_frames(session, revision_id, mission_id)
        if late is not None:
            latest[revision_id] = late
    for part, changed_at in _changed_inputs(session):
        if part.revision_id in newest:
            latest[part.revision_id] = max(changed_at, latest.get(part.revision_id, changed_at))
    stale = [newest[revision_id] for revision_id, moment in latest.items() if moment < horizon]
    return list(session.exec(select(Mission).where(col(Mission.id).in_(stale)).order_by(col(Mission.id))).all())


def _newest_revisions(session: Session) -> dict[int, str]:
    """Return the newest published revision of every STACKED mission."""
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
        .where(Revision.status == "published", Mission.status == "STACKED")
    ).all()
    return {int(revision_id or 0): mission_id for revision_id, mission_id in found}


def _late_frames(session: Session, revision_id: int, mission_id: str) -> datetime | None:
    """Return when the last frame became READY that the revision does not hold, None where it holds them all."""
    bound = select(RevisionInput.frame_id).where(RevisionInput.revision_id == revision_id)
    return session.exec(
        select(func.max(Frame.ready_at)).where(
            Frame.mission_id == mission_id,
            Frame.disposition == "active",
            col(Frame.ready_at).is_not(None),
            col(Frame.id).not_in(bound),
        )
    ).one()


def _changed_inputs(session: Session) -> list[tuple[RevisionInput, datetime]]:
    """Return bound frames that have changed enough to matter, and when.

    A pair is compared once: what does not matter is noted in the row, so that later sweeps pass it over.
    """
    photometry_now, solution_now = aliased(Photometry), aliased(Solution)
    rows: list[Any] = list(
        session.exec(
            select(RevisionInput, Frame, Solution, solution_now, Photometry, photometry_now)  # type: ignore[call-overload]
            .join(Revision, col(Revision.id) == RevisionInput.revision_id)
            .join(Mission, col(Mission.id) == Revision.mission_id)
            .join(Frame, col(Frame.id) == RevisionInput.frame_id)
            .join(Solution, col(Solution.id) == RevisionInput.solution_id)
            .join(Photometry, col(Photometry.id) == RevisionInput.photometry_id)
            .join(photometry_now, and_(photometry_now.frame_id == Frame.id, col(photometry_now.current).is_(True)))
            .join(solution_now, and_(solution_now.frame_id == Frame.id, col(solution_now.current).is_(True)))
            .where(
                Revision.status == "published",
                Mission.status == "STACKED",
                photometry_now.id != RevisionInput.photometry_id,
                or_(
                    col(RevisionInput.compared_photometry_id).is_(None),
                    col(RevisionInput.compared_photometry_id) != photometry_now.id,
                ),
            )
        ).all()
    )
    changed = []
    for part, frame, then, now, measured_then, measured_now in rows:
        if (
            moved_px(then.wcs, now.wcs, (frame.height or 1, frame.width or 1)) > MOVED_PX
            or _retied(measured_then.zero_point_mag, measured_now.zero_point_mag)
            or _recalibrated(session, part.calibration_id, now.calibration_id)
        ):
            changed.append((part, measured_now.created_at))
        else:
            part.compared_photometry_id = measured_now.id
    return changed


def _retied(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is not now
    return abs(now - then) > ZERO_POINT_MAG


def _recalibrated(session: Session, then: int | None, now: int | None) -> bool:
    """Tell whether other masters, or another mask, made the pixels."""

    def masters(calibration_id: int | None) -> tuple[object, ...]:
        row = session.get(Calibration, calibration_id) if calibration_id is not None else None
        if row is None:
            return (None,) * 5
        return row.bias_id, row.dark_id, row.flat_id, row.defects_id, row.dark_scale

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
