"""The sky as apertures see it: sums where there is no star, with correlated noise and unseen stars in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.photometry.apertures import Apertures

Floats = NDArray[np.float64]

#: Empty apertures wanted: their scatter is then known to 3 %.
WANTED = 800
ENOUGH = 50
SEED = 20_261


@dataclass(frozen=True)
class EmptyApertures:
    """What the sum in an empty aperture is, ADU: its median and standard deviation, and how many tell it."""

    level_adu: float
    noise_adu: float
    count: int


def random_places(
    apertures: Apertures, x: Floats, y: Floats, *, reach_px: float, count: int
) -> tuple[Floats, Floats, Floats]:
    """Return random places ``reach_px`` away from the edge, and how far each is from the nearest source.

    Parameters
    ----------
    x, y
        Sources, 0-based pixels, shape ``(n,)``.
    count
        How many places; none where the frame is too small.
    """
    ny, nx = apertures.pixels.shape
    if min(nx, ny) < 3 * reach_px:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    rng = np.random.default_rng(SEED)
    px, py = (rng.uniform(reach_px, side - 1 - reach_px, count) for side in (nx, ny))
    if not len(x):
        return px, py, np.full(count, np.inf)
    clear, _ = cKDTree(np.column_stack([x, y])).query(np.column_stack([px, py]))
    return px, py, np.asarray(clear, np.float64)


def empty_apertures(
    apertures: Apertures, x: Floats, y: Floats, *, radius_px: float, clear_px: float, sigma_adu: float
) -> EmptyApertures:
    """Measure the sky in apertures of a radius.

    Parameters
    ----------
    x, y
        Positions of all sources, 0-based pixels.
    clear_px
        Distance to the nearest source from which a place is empty.
    sigma_adu
        Noise of one pixel: what remains to go by where the frame has no empty places.
    """
    px, py, clear = random_places(apertures, x, y, reach_px=apertures.reach(radius_px), count=4 * WANTED)
    px, py = px[clear > clear_px][:WANTED], py[clear > clear_px][:WANTED]
    good = apertures.masked_pixels(px, py, radius_px) == 0
    px, py = px[good], py[good]
    if len(px) < ENOUGH:
        return EmptyApertures(0.0, sigma_adu * float(np.sqrt(apertures.area(radius_px))), len(px))
    sums = apertures.sums(px, py, radius_px)
    middle = float(np.median(sums))
    # What stands out on the bright side is a star that nobody listed: the dark side and the middle tell the noise.
    low = np.sort(middle - sums[sums <= middle])
    return EmptyApertures(middle, float(low[int(0.6827 * len(low))]), len(sums))
