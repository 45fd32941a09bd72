"""Which frames belong into one product: the same band, and footprints that touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.coadd.celestial import Vectors, sky_vectors, unit_vectors
from starloom.coadd.inputs import wcs_from_cards


def footprint(wcs: WCS | dict[str, object], shape: tuple[int, int]) -> Vectors:
    """Return the four corners of a frame, by WCS or cards, as ICRS unit vectors around it, shape ``(4, 3)``."""
    ny, nx = shape
    x = np.array([-0.5, nx - 0.5, nx - 0.5, -0.5])
    y = np.array([-0.5, -0.5, ny - 0.5, ny - 0.5])
    wcs = wcs_from_cards(wcs) if isinstance(wcs, dict) else wcs
    return sky_vectors(wcs, x, y)


def _centre_radius(corners: Vectors) -> tuple[Vectors, float]:
    centre = corners.sum(axis=0)
    centre /= np.linalg.norm(centre)
    return centre, float(np.arccos(np.clip((corners @ centre).min(), -1, 1)))


def _tangent(points: Vectors, centre: Vectors) -> NDArray[np.float64]:
    """Project gnomonically around ``centre``: no seam at RA 0, none at the poles."""
    axis = np.eye(3)[np.argmin(np.abs(centre))]
    east = np.cross(axis, centre)
    east /= np.linalg.norm(east)
    north = np.cross(centre, east)
    depth = points @ centre
    return np.stack([points @ east / depth, points @ north / depth], axis=-1)


def _convex_overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Separating-axis test of two convex polygons."""
    for polygon in (a, b):
        edges = np.roll(polygon, -1, axis=0) - polygon
        for normal in np.stack([-edges[:, 1], edges[:, 0]], axis=1):
            pa, pb = a @ normal, b @ normal
            if pa.max() <= pb.min() or pb.max() <= pa.min():
                return False
    return True


def connected(footprints: Sequence[Vectors]) -> list[list[int]]:
    """Return the connected groups of overlapping footprints, as sorted index lists in order of first member."""
    n = len(footprints)
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    rings = [_centre_radius(f) for f in footprints]
    centres = np.array([c for c, _ in rings])
    radii = np.array([r for _, r in rings])
    for i in range(n):
        separation = np.arccos(np.clip(centres[i + 1 :] @ centres[i], -1, 1))
        for j in i + 1 + np.flatnonzero(separation < radii[i] + radii[i + 1 :]):
            if root(i) == root(int(j)):
                continue
            middle = centres[i] + centres[j]
            middle /= np.linalg.norm(middle)
            if _convex_overlap(_tangent(footprints[i], middle), _tangent(footprints[int(j)], middle)):
                low, high = sorted((root(i), root(int(j))))
                parent[high] = low
    groups: dict[int, list[int]] = {}
    for i in range(n):
        groups.setdefault(root(i), []).append(i)
    return [groups[key] for key in sorted(groups)]


def reaches(corners: Vectors, radec_deg: tuple[float, float]) -> bool:
    """Whether a frame is on target: the target within its circumscribed circle, enlarged by a half.

    The slack is for dithers and mosaics around a target; a frame of another field is degrees away.
    """
    target = unit_vectors(np.array(radec_deg[0]), np.array(radec_deg[1]))
    centre, radius = _centre_radius(corners)
    return bool(np.arccos(np.clip(centre @ target, -1, 1)) <= 1.5 * radius)
