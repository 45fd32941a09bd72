"""What is drawn over a frame: its stars, their partners in the catalogue, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.astrometry.detect import StarList
from starloom.astrometry.refine import on_frame
from starloom.astrometry.seams import CatalogProvider, WcsCards
from starloom.astrometry.tangent import project
from starloom.astrometry.wcs import PlaneMap, map_from_cards
from starloom.refcat import CatalogStars

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Partners are looked for within this many times the rms of the fit, between these bounds in pixels.
TOLERANCE_RMS = 4.0
MIN_TOLERANCE_PX, MAX_TOLERANCE_PX = 1.0, 3.0
#: Catalogue stars that are looked at, the brightest: a page holds no more.
CATALOG_STARS = 8000
#: Steps of the inversion of a map: each shrinks the error by the distortion's slope, which is a few per cent.
INVERSIONS = 6


@dataclass(frozen=True)
class Overlay:
    """Positions on one frame, in 0-based pixels of it.

    Parameters
    ----------
    shape
        ``(ny, nx)`` of the frame.
    stars
        The detected stars; None where detection failed.
    map
        The frame's WCS; None where it has none, and everything below is empty.
    matched
        Indexes into ``stars`` of those with a partner in the catalogue, shape ``(n,)``.
    residual_px
        Star minus catalogue along x and y, shape ``(n, 2)``.
    missing_x, missing_y
        Catalogue stars on the frame without a partner, brightest first.
    tolerance_px
        How far apart partners may be.
    """

    shape: tuple[int, int]
    stars: StarList | None
    map: PlaneMap | None
    matched: Ints
    residual_px: Floats
    missing_x: Floats
    missing_y: Floats
    tolerance_px: float = MAX_TOLERANCE_PX

    @property
    def rms_px(self) -> float:
        """Root mean square of the two-dimensional residuals; NaN without any."""
        if not len(self.matched):
            return float("nan")
        return float(np.sqrt(np.mean(np.sum(self.residual_px**2, axis=1))))


def overlay(
    shape: tuple[int, int],
    stars: StarList | None,
    wcs: PlaneMap | None = None,
    catalog: CatalogStars | None = None,
    *,
    pairs: tuple[Ints, Ints] | None = None,
    rms_px: float | None = None,
) -> Overlay:
    """Bring stars and catalogue together under a WCS.

    Parameters
    ----------
    shape
        ``(ny, nx)`` of the frame.
    stars
        The detected stars.
    wcs
        The frame's map of pixels onto the sky.
    catalog
        Catalogue stars around the frame, at its epoch.
    pairs
        Indexes into ``stars`` and ``catalog`` of the pairs a fit rests on; without them every star and catalogue
        star that are each other's nearest within the tolerance are a pair.
    rms_px
        Of the fit, from which the tolerance follows; None allows the widest.
    """
    none = np.zeros(0)
    if wcs is None or catalog is None or stars is None:
        return Overlay(shape, stars, wcs, none.astype(np.int64), np.zeros((0, 2)), none, none)
    x, y = pixels_of(wcs, catalog.ra_deg, catalog.dec_deg, shape)
    tolerance = MAX_TOLERANCE_PX
    if rms_px is not None and np.isfinite(rms_px):
        tolerance = float(np.clip(TOLERANCE_RMS * rms_px, MIN_TOLERANCE_PX, MAX_TOLERANCE_PX))
    near_star, near_catalog = _nearest(stars, x, y, tolerance)
    star_index, catalog_index = pairs if pairs is not None else (near_star, near_catalog)
    ny, nx = shape
    with np.errstate(invalid="ignore"):
        alone = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    # A pair that the fit put aside as an outlier is no lost star either.
    alone[catalog_index] = alone[near_catalog] = False
    residual = np.stack([stars.x[star_index] - x[catalog_index], stars.y[star_index] - y[catalog_index]], axis=1)
    return Overlay(shape, stars, wcs, star_index, residual, x[alone], y[alone], tolerance)


def overlay_on_catalog(
    shape: tuple[int, int],
    stars: StarList | None,
    cards: WcsCards,
    refcat: CatalogProvider,
    *,
    epoch: float | None = None,
    rms_px: float | None = None,
) -> Overlay:
    """Bring stars together with a catalogue's, moved to ``epoch`` (Julian year), under the WCS of ``cards``."""
    if not cards:
        return overlay(shape, stars)
    wcs = map_from_cards(cards, shape)
    radius = min(float(np.hypot(*shape)) / 2 * wcs.scale_arcsec / 3600 * 1.05, 60.0)
    catalog = refcat.cone(wcs.ra0_deg, wcs.dec0_deg, radius, limit=CATALOG_STARS, epoch=epoch)
    return overlay(shape, stars, wcs, catalog, rms_px=rms_px)


def pixels_of(wcs: PlaneMap, ra_deg: Floats, dec_deg: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return where points of the sky fall on a frame, 0-based pixels; NaN for what is not near it."""
    xi, eta = project(ra_deg, dec_deg, wcs.ra0_deg, wcs.dec0_deg)
    near = on_frame(wcs, xi, eta, shape, margin_px=0.05 * max(shape))
    linear = np.linalg.inv(wcs.cd) @ np.stack([xi[near], eta[near]])
    at_x, at_y = linear[0] + wcs.x0, linear[1] + wcs.y0
    x, y = at_x, at_y
    for _ in range(INVERSIONS):
        dx, dy = wcs.displacement_px(x, y)
        x, y = at_x - dx, at_y - dy
    whole = np.full((2, len(xi)), np.nan)
    whole[:, near] = x, y
    return whole[0], whole[1]


def _nearest(stars: StarList, x: Floats, y: Floats, tolerance_px: float) -> tuple[Ints, Ints]:
    """Return indexes of stars and catalogue positions that are each other's nearest."""
    known = np.flatnonzero(np.isfinite(x + y))
    if not len(known) or not len(stars):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    detected = cKDTree(np.column_stack([stars.x, stars.y]))
    positions = np.column_stack([x[known], y[known]])
    distance, star = detected.query(positions, distance_upper_bound=tolerance_px)
    _, back = cKDTree(positions).query(detected.data)
    pair = np.flatnonzero(np.isfinite(distance))
    pair = pair[back[star[pair]] == pair]
    return star[pair].astype(np.int64), known[pair].astype(np.int64)
