"""Stale stacks, computed and never signalled: READY frames that are missing, bound ones that have moved or gone.

A mission that FAILED because it had no usable frame is stale once it has one. A re-solved frame makes a stack
stale only where it matters: the WCS moved by more than 0.1 px, the zero point by more than 0.01 mag, or the pixels
were calibrated otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from sqlalchemy.orm import aliased
from sqlmodel import Session, and_, col, func, or_, select

from starloom.archive.engine import database_now
from starloom.archive.models import (
    Calibration,
    Frame,
    Mission,
    Photometry,
    Revision,
    RevisionInput,
    Solution,
)

#: Code of a mission that FAILED because none of its frames could be used.
NO_FRAMES = "no-usable-frames"
#: How far back a look goes that is told nothing else.
DAY_S = 86400.0
#: So long after the time in its row a change may still not have been there for a claim to see.
SLACK = timedelta(seconds=60)
#: Hours in which every stack is looked at once, whether anything of it is known to have changed.
ROUND_H = 168
#: Missions, or frames, that one statement asks about.
PAGE = 500
_WITHOUT_FRAMES: Any = (Mission.status == "FAILED", Mission.failure_code == NO_FRAMES)
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
        ``late``: READY since, and not in it; ``withdrawn``: weighs in it, and was taken out since; ``wcs-moved``,
        ``zero-point``, ``recalibrated``.
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


def recently_changed(session: Session, within_s: float) -> set[str]:
    """Return the missions of which anything has changed lately that their newest stack cannot know.

    The cost is that of what has changed, whatever the archive's age.
    """
    since = database_now(session) - timedelta(seconds=within_s)
    # A frame may have become READY while a stack was being made that was published lately.
    published = (Revision.status == "published", col(Revision.published_at) >= since)
    began = session.exec(select(func.min(Revision.claimed_at)).where(*published)).one()
    since = min(since, began - SLACK) if began is not None else since
    changed: dict[str, datetime] = {}
    for query in _changes_since(since):
        for mission_id, at in session.exec(query).all():
            if mission_id is not None:
                changed[mission_id] = max(at, changed.get(mission_id, at))
    for page in _pages(changed):
        claimed = (
            select(Revision.mission_id, func.max(Revision.claimed_at))
            .where(col(Revision.mission_id).in_(page), Revision.status == "published")
            .group_by(col(Revision.mission_id))
        )
        for mission_id, at in session.exec(claimed).all():
            if changed[mission_id] < at - SLACK:
                del changed[mission_id]
    return set(changed)


def _changes_since(since: datetime) -> list[Any]:
    """Return the queries of missions and when something of them changed last: READY, set aside, measured again."""
    ready = col(Frame.ready_at) >= since
    fresh = select(col(Frame.id), Frame.obs_req).where(ready).subquery()
    newest: list[Any] = [
        select(Frame.obs_req, func.max(Frame.ready_at)).where(ready),
        select(Frame.obs_req, func.max(Frame.disposition_at)).where(
            Frame.disposition != "active", col(Frame.disposition_at) >= since
        ),
        # Nearly all that was measured became READY with it: those are known, and only the others looked up.
        select(fresh.c.obs_req, func.max(Photometry.created_at))
        .join(Photometry, col(Photometry.frame_id) == fresh.c.id)
        .where(col(Photometry.created_at) >= since),
        select(Frame.obs_req, func.max(Photometry.created_at))
        .join(Photometry, col(Photometry.frame_id) == Frame.id)
        .where(
            col(Photometry.created_at) >= since,
            col(Photometry.frame_id).not_in(select(col(Frame.id)).where(ready)),
        ),
    ]
    return [query.group_by(query.selected_columns[0]) for query in newest]


def share_of_all(session: Session, hour: int) -> set[str]:
    """Return the stacked missions whose turn it is: every one once in `ROUND_H` hours, changed or not.

    What nobody noticed when it happened (no sweep ran for days, rows were put back from a backup) is found so.
    With them come all that failed for want of a usable frame, which are few.
    """
    last = session.exec(select(func.max(Revision.id))).one() or 0
    first, until = (last * turn // ROUND_H for turn in (hour % ROUND_H, hour % ROUND_H + 1))
    mine = (Revision.status == "published", col(Revision.id) > first, col(Revision.id) <= until)
    turn = set(session.exec(select(Revision.mission_id).where(*mine).distinct()).all())
    return turn | set(session.exec(select(Mission.id).where(*_WITHOUT_FRAMES)).all())


def stale_missions(session: Session, quiet_s: float, among: Collection[str] | None = None) -> list[Mission]:
    """Return missions whose newest revision is behind what the archive knows, quiet for ``quiet_s``.

    They are STACKED, or FAILED for want of a usable frame that they have by now. A frame done again is compared
    once: what does not matter is noted in the row, so that later sweeps pass it over. Only stacks of ``among`` are
    looked at; None: of what changed in the last day.
    """
    horizon = database_now(session) - timedelta(seconds=quiet_s)
    looked_at = recently_changed(session, DAY_S) if among is None else among
    latest: dict[str, datetime] = dict(_missions_with_a_first_frame(session, looked_at))
    for mission_id, change in _changes(session, looked_at, note=True):
        latest[mission_id] = max(change.at, latest.get(mission_id, change.at))
    stale = [mission_id for mission_id, moment in latest.items() if moment <= horizon]
    found: list[Mission] = []
    for page in _pages(stale):
        found += session.exec(select(Mission).where(col(Mission.id).in_(page)).order_by(col(Mission.id))).all()
    return found


def why_stale(session: Session, mission_id: str | None = None) -> dict[str, list[Change]]:
    """Return, by mission, why the newest stacks are stale; changes nothing.

    ``mission_id`` asks for one mission alone, None for those that something has changed of in the last day. A
    stack that is not stale, or is being made again, is not there.
    """
    among = recently_changed(session, DAY_S) if mission_id is None else [mission_id]
    found: dict[str, list[Change]] = {}
    for stale, change in _changes(session, among, note=False):
        found.setdefault(stale, []).append(change)
    return found


def in_words(changes: Sequence[Change]) -> str:
    """Return why a stack is stale as people say it: ``2 late frames; WCS of 1 frame moved, by up to 0.4 px``."""
    said = []
    for reason, words, unit in (
        ("late", "late", ""),
        ("withdrawn", "taken out", ""),
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


def _missions_with_a_first_frame(session: Session, among: Collection[str]) -> Iterator[tuple[str, datetime]]:
    """Yield those of the missions that FAILED without a usable frame and have some now, with the latest's time."""
    for page in _pages(among):
        found = session.exec(
            select(Mission.id, func.max(Frame.ready_at))
            .join(Frame, col(Frame.obs_req) == Mission.id)
            .where(
                col(Mission.id).in_(page),
                *_WITHOUT_FRAMES,
                Frame.disposition == "active",
                col(Frame.ready_at).is_not(None),
            )
            .group_by(col(Mission.id))
        ).all()
        yield from ((mission_id, moment) for mission_id, moment in found if moment is not None)


def _pages(ids: Collection[str]) -> Iterator[Sequence[str]]:
    """Yield ids in order, so many at a time as a statement takes."""
    ordered = sorted(ids)
    for i in range(0, len(ordered), PAGE):
        yield ordered[i : i + PAGE]


def _newest(session: Session, missions: Sequence[str]) -> dict[int, tuple[str, datetime]]:
    """Return mission and time of publication of the newest revisions of those of the missions that are STACKED."""
    newer = aliased(Revision)
    later = select(newer.id).where(
        newer.mission_id == Revision.mission_id, newer.n > Revision.n, newer.status == "published"
    )
    found: Sequence[Any] = session.exec(
        select(Revision.id, Revision.mission_id, Revision.published_at)
        .join(Mission, col(Mission.id) == Revision.mission_id)
        .where(
            col(Revision.mission_id).in_(missions),
            Revision.status == "published",
            Mission.status == "STACKED",
            ~later.exists(),
        )
    ).all()
    return {revision_id: (mission_id, at) for revision_id, mission_id, at in found}


def _changes(session: Session, missions: Collection[str], *, note: bool) -> Iterator[tuple[str, Change]]:
    for page in _pages(missions):
        newest = _newest(session, page)
        if not newest:
            continue
        for look in (_late_frames(session, newest), _frames_gone(session, newest)):
            yield from ((newest[change.revision_id][0], change) for change in look)
        for change in _changed_inputs(session, newest, note=note):
            yield newest[change.revision_id][0], change


def _late_frames(session: Session, newest: dict[int, tuple[str, datetime]]) -> Iterator[Change]:
    """Yield frames that became READY and are not in the revision."""
    found: Sequence[Any] = session.exec(
        select(Revision.id, Frame.id, Frame.ready_at)
        .join(Frame, col(Frame.obs_req) == Revision.mission_id)
        .join(
            RevisionInput,
            and_(RevisionInput.revision_id == Revision.id, RevisionInput.frame_id == Frame.id),
            isouter=True,
        )
        .where(
            col(Revision.id).in_(newest),
            Frame.disposition == "active",
            col(Frame.ready_at).is_not(None),
            col(RevisionInput.frame_id).is_(None),
        )
    ).all()
    for revision_id, frame_id, ready_at in found:
        yield Change(revision_id, frame_id, "late", ready_at)


def _frames_gone(session: Session, newest: dict[int, tuple[str, datetime]]) -> Iterator[Change]:
    """Yield frames that weigh in the revision and were withdrawn, or set aside by hand, since."""
    found: Sequence[Any] = session.exec(
        select(RevisionInput.revision_id, Frame.id, Frame.disposition_at)
        .join(Frame, col(Frame.id) == RevisionInput.frame_id)
        .where(
            col(RevisionInput.revision_id).in_(newest),
            Frame.disposition != "active",
            or_(col(RevisionInput.weight).is_(None), col(RevisionInput.weight) > 0),
        )
    ).all()
    for revision_id, frame_id, at in found:
        yield Change(revision_id, frame_id, "withdrawn", at or newest[revision_id][1])


def _changed_inputs(session: Session, newest: dict[int, tuple[str, datetime]], *, note: bool) -> Iterator[Change]:
    """Yield bound frames that have changed enough to matter; with ``note`` remember those that have not."""
    photometry_now, solution_now = aliased(Photometry), aliased(Solution)
    measured_again: list[Any] = [
        col(RevisionInput.revision_id).in_(newest),
        col(photometry_now.current).is_(True),
        photometry_now.id != RevisionInput.photometry_id,
        or_(
            col(RevisionInput.compared_photometry_id).is_(None),
            col(RevisionInput.compared_photometry_id) != photometry_now.id,
        ),
    ]
    # Few were measured again: what else is known of a frame is read for those alone.
    again = session.exec(
        select(RevisionInput.frame_id)
        .join(photometry_now, col(photometry_now.frame_id) == RevisionInput.frame_id)
        .where(*measured_again)
    ).all()
    wanted: list[Any] = [RevisionInput, Frame, Solution, solution_now, Photometry, photometry_now]
    for page in _pages(again):
        rows: list[Any] = list(
            session.exec(
                select(*wanted)
                .join(Frame, col(Frame.id) == RevisionInput.frame_id)
                .join(Solution, col(Solution.id) == RevisionInput.solution_id)
                .join(Photometry, col(Photometry.id) == RevisionInput.photometry_id)
                .join(photometry_now, photometry_now.frame_id == Frame.id)
                .join(solution_now, and_(solution_now.frame_id == Frame.id, col(solution_now.current).is_(True)))
                .where(col(RevisionInput.frame_id).in_(page), Frame.disposition == "active", *measured_again)
            ).all()
        )
        for part, frame, then, now, measured_then, measured_now in rows:
            reason, amount = difference(
                session, frame, (then, now), (measured_then, measured_now), part.calibration_id
            )
            if reason is not None:
                yield Change(part.revision_id, frame.id, reason, measured_now.created_at, amount)
            elif note:
                part.compared_photometry_id = measured_now.id


def difference(
    session: Session,
    frame: Frame,
    solutions: tuple[Solution, Solution],
    measured: tuple[Photometry, Photometry],
    calibrated_by: int | None,
) -> tuple[str | None, float | None]:
    """Return what of a frame has changed enough to matter between two solutions of it, and by how much.

    ``calibrated_by`` is the calibration of the earlier one.
    """
    then, now = solutions
    moved = moved_px(then.wcs, now.wcs, (frame.height or 1, frame.width or 1))
    if moved > MOVED_PX:
        return "wcs-moved", moved
    before, after = (photometry.zero_point_mag for photometry in measured)
    if _retied(before, after):
        return "zero-point", None if before is None or after is None else abs(after - before)
    if _recalibrated(session, calibrated_by, now.calibration_id):
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
