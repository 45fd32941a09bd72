"""Maxima of a strip that an optical system can have made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.coadd.strip import Floats, Strip
from starloom.coadd.strip_kernels import find_peaks

BRIGHT_SIGMA = 15.0
"""Peak over the noise from which on a star tells the seeing."""

_PEAK_SIGMA = 6.0
#: The far neighbour of an off-centre star of FWHM 2 px holds 0.21 of the peak, a hot pixel's nothing.
_NEIGHBOUR_SHARE = 0.1
_MOST_COVERED = 100.0


@dataclass(frozen=True, eq=False)
class Peaks:
    """Maxima of a strip, brightest first, as of `find_peaks`; which are not saturated; a first guess of FWHM."""

    table: NDArray[np.float32]
    usable: NDArray[np.bool_]
    guess: float

    @property
    def x(self) -> Floats:
        """Columns."""
        return self.table[:, 1].astype(float)

    @property
    def y(self) -> Floats:
        """Rows of the strip."""
        return self.table[:, 0].astype(float)

    def reach(self, sigma: float) -> Floats:
        """Return how far each star reaches: where a Moffat profile of slope 3 is a twentieth of the noise."""
        width = np.sqrt(self.table[:, 4] * self.table[:, 5]).astype(float)
        # Peak over value at r, far out: (r / core)^6; saturated cores are wide instead of high.
        reach = 0.98 * width * (20 * self.table[:, 2].astype(float) / sigma) ** (1 / 6)
        return np.asarray(np.minimum(reach, _MOST_COVERED))

    @classmethod
    def of(cls, strip: Strip, sigma: float, limit: float) -> Peaks:
        """Find those of a sky-subtracted strip; ``limit`` is the peak from which on a star is saturated."""
        table = _found(strip, sigma)
        usable = table[:, 2] < limit
        bright = usable & (table[:, 2] > BRIGHT_SIGMA * sigma)
        if not bright.any():
            bright = usable
        if not bright.any():
            return cls(table, usable, 0.0)
        width = np.sqrt(table[:, 4] * table[:, 5])
        guess = max(1.0, float(np.median(width[np.flatnonzero(bright)[:300]])))
        # A broad star's noise makes peaks of its own beside the highest.
        keep = _highest(table, 1.2 * guess)
        return cls(table[keep], usable[keep], guess)


def _found(strip: Strip, sigma: float) -> NDArray[np.float32]:
    room = max(20_000, strip.pixels.size // 200)
    threshold = _PEAK_SIGMA * sigma
    while True:
        found = np.empty((room, 6), np.float32)
        count = find_peaks(strip.pixels, strip.first, strip.last, threshold, _NEIGHBOUR_SHARE, found)
        if count <= room:
            break
        # The brightest of a field this rich are plenty; the first by place would be of one edge.
        threshold *= 2
    found = found[:count]
    order = np.lexsort((found[:, 1], found[:, 0], -found[:, 3]))
    return found[order]


def _highest(table: NDArray[np.float32], radius: float) -> NDArray[np.bool_]:
    """Return which peaks have no brighter one within ``radius``."""
    pairs = cKDTree(table[:, :2].astype(float)).query_pairs(radius, output_type="ndarray")
    keep = np.ones(len(table), bool)
    # Brightest first: of a pair the higher index is the fainter one.
    keep[pairs.max(axis=1, initial=0)] = False
    return keep
