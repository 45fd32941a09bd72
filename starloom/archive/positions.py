"""Which frames cover a point of the sky: a HEALPix index in front of the exact footprints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from astropy import units as u
from astropy_healpix import HEALPix
from numpy.typing import NDArray
from sqlalchemy import bindparam, delete
from sqlmodel import Session, and_, col, select

from starloom.archive.models import Frame, FrameCell, Photometry, Solution

#: 0.46° cells: a frame of a degree touches a dozen of them, a wide-field one of 10° some 600.
NSIDE = 128
#: Frames near a point that are looked at: a field's source lists are alike, its visits may be thousands.
NEAR = 200
_GRID = HEALPix(nside=NSIDE, order="nested")
#: `Solution.catalog` of frames that were solved against the network's own stars.
OWN_CATALOG = "own"

Points = Sequence[Sequence[float]]


def _unit(points: Points) -> NDArray[np.float64]:
    ra, dec = np.radians(np.asarray(points, float)).T
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _circle(corners: Points) -> tuple[float, float, float]:
    """Return centre and radius, degrees, of a circle that holds a convex footprint."""
    vectors = _unit(corners)
    middle = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))
    radius = np.degrees(np.arccos(np.clip((vectors @ middle).min(), -1, 1)))
    return (
        float(np.degrees(np.arctan2(middle[1], middle[0])) % 360),
        float(np.degrees(np.arcsin(middle[2]))),
        radius,
    )


def cells_of(corners: Points) -> list[int]:
    """Return the HEALPix cells (nested, `NSIDE`) that a footprint may touch; some neighbours too many."""
    ra, dec, radius = _circle(corners)
    return [int(cell) for cell in _GRID.cone_search_lonlat(ra * u.deg, dec * u.deg, radius * u.deg)]


def index_frame(session: Session, frame_id: str, corners: Points) -> None:
    """Replace the frame's cells by those of its footprint."""
    session.execute(_FORGET, {"of": frame_id})
    session.add_all(FrameCell(frame_id=frame_id, cell=cell) for cell in cells_of(corners))


_FORGET = delete(FrameCell).where(col(FrameCell.frame_id) == bindparam("of"))


def frames_covering(session: Session, ra_deg: float, dec_deg: float, radius_deg: float = 0.0) -> list[Frame]:
    """Return the active frames whose footprint comes within ``radius_deg`` of a point (deg, ICRS).

    Cost follows the number of frames near the point, not the size of the archive.
    """
    wanted = _GRID.cone_search_lonlat(ra_deg * u.deg, dec_deg * u.deg, max(radius_deg, 1e-6) * u.deg)
    near = select(FrameCell.frame_id).where(col(FrameCell.cell).in_(int(cell) for cell in wanted)).distinct()
    rows = session.exec(
        select(Frame, Solution)
        .join(Solution, col(Solution.frame_id) == Frame.id)
        .where(col(Frame.id).in_(near), Frame.disposition == "active", col(Solution.current).is_(True))
        .order_by(col(Frame.start_utc), col(Frame.id))
    ).all()
    point = (ra_deg, dec_deg)
    return [frame for frame, solution in rows if distance_deg(point, solution.footprint) <= radius_deg]


def source_lists_near(
    session: Session, ra_deg: float, dec_deg: float, radius_deg: float, *, besides: str, limit: int
) -> list[tuple[Frame, Solution, Photometry]]:
    """Return the frames with the longest source lists near a point (deg, ICRS), those that hold it first.

    Only solutions that rest on a reference catalogue count: one that rests on other frames would hand their errors
    on. ``besides`` is a frame to be left out.
    """
    wanted = _GRID.cone_search_lonlat(ra_deg * u.deg, dec_deg * u.deg, max(radius_deg, 1e-6) * u.deg)
    near = select(FrameCell.frame_id).where(col(FrameCell.cell).in_(int(cell) for cell in wanted)).limit(NEAR)
    rows = session.exec(
        select(Frame, Solution, Photometry)
        .join(Solution, col(Solution.frame_id) == Frame.id)
        .join(Photometry, and_(Photometry.frame_id == Frame.id, Photometry.solution_id == Solution.id))
        .where(
            col(Frame.id).in_(near),
            Frame.id != besides,
            Frame.disposition == "active",
            col(Solution.current).is_(True),
            Solution.catalog != OWN_CATALOG,
            col(Photometry.current).is_(True),
            col(Photometry.sources_key).is_not(None),
        )
        # Cells reach beyond the circle: some of the longest lists may lie outside of it.
        .order_by(col(Photometry.n_sources).desc(), col(Frame.id))
        .limit(4 * limit)
    ).all()
    point = (ra_deg, dec_deg)
    apart = [(distance_deg(point, solution.footprint), row) for row in rows if (solution := row[1]).footprint]
    within = sorted((pair for pair in apart if pair[0] <= radius_deg), key=lambda pair: pair[0])
    return [(frame, solution, photometry) for _, (frame, solution, photometry) in within[:limit]]


def is_elsewhere(footprint: Points, target: Sequence[float]) -> bool:
    """Tell whether a frame lies further from the target than its own size: not a dither or a mosaic's panel.

    Parameters
    ----------
    footprint
        Corners ``[[ra, dec], …]`` in order round the frame, deg ICRS.
    target
        ``(ra, dec)``, deg ICRS.
    """
    return distance_deg(target, footprint) > separation_deg(footprint[0], footprint[2])


def separation_deg(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the angle, degrees, between two points ``(ra, dec)``, deg."""
    return float(np.degrees(_angle(*_unit([a, b]))))


def distance_deg(point: Sequence[float], corners: Points) -> float:
    """Return the angle, degrees, from a point (deg) to a convex footprint, 0 inside, whatever way it runs."""
    return _distance(_unit([point])[0], _unit(corners))


def _distance(point: NDArray[np.float64], vectors: NDArray[np.float64]) -> float:
    edges = list(zip(vectors, np.roll(vectors, -1, axis=0), strict=True))
    sides = [float(np.dot(np.cross(a, b), point)) for a, b in edges]
    in_front = float(vectors.sum(axis=0) @ point) > 0
    # Of a footprint without an area every side is 0: no point lies inside it.
    if in_front and any(sides) and (all(side >= 0 for side in sides) or all(side <= 0 for side in sides)):
        return 0.0
    return float(np.degrees(min(_arc_distance(point, a, b) for a, b in edges)))


def _arc_distance(point: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the angle, radians, from a point to the great-circle arc between two others."""
    normal = np.cross(a, b)
    length = np.linalg.norm(normal)
    ends: Iterable[float] = (_angle(point, a), _angle(point, b))
    if length < 1e-15:
        return min(ends)
    normal = normal / length
    foot = point - (point @ normal) * normal
    between = np.cross(a, foot) @ normal >= 0 and np.cross(foot, b) @ normal >= 0
    return float(abs(np.arcsin(np.clip(point @ normal, -1, 1)))) if between else min(ends)


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))
