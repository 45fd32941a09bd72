"""Sky level and noise by cells of the rows that were read of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.coadd.jit import ABSENT
from starloom.coadd.peaks import Peaks
from starloom.coadd.strip import Floats, Strip, band_of
from starloom.coadd.strip_kernels import cell_sky, cover_stars

_CELL_PX = 64
_CELL_PIXELS = 1024
"""Pixels a cell's sky is taken from, about: its error is 0.03 sigma, a quarter of an aperture's own."""
_FEW_PIXELS = 3_000_000
"""Read, of which every one is looked at."""


@dataclass(frozen=True, eq=False)
class SkyCells:
    """Sky level (ADU, shape ``(r, c)``, NaN where unknown) of cells centred on frame pixels ``y`` and ``x``."""

    level: Floats
    y: Floats
    x: Floats
    pixels: int
    """Pixels behind one level."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the sky of a strip is told: rows of cells, and the frame coordinates of their centres."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    size: int
    y: Floats
    x: Floats
    whole: bool
    step: int

    @classmethod
    def of(cls, strip: Strip) -> Cells:
        """Divide the bands of a strip."""
        ny, nx = strip.shape
        size = _CELL_PX if min(ny, nx) >= 8 * _CELL_PX else max(16, min(ny, nx) // 10)
        size = min(size, ny, nx)
        edges = [
            np.linspace(a, b, max(1, round((b - a) / size)) + 1).astype(np.int64)
            for a, b in zip(strip.first, strip.last, strict=True)
        ]
        first, last = (np.concatenate(e) for e in ([e[:-1] for e in edges], [e[1:] for e in edges]))
        y = 0.5 * (strip.rows[first] + strip.rows[last - 1]).astype(float)
        # The last column of cells is set back rather than narrow.
        x = np.minimum(np.arange(-(-nx // size)) * size, nx - size) + 0.5 * (size - 1)
        step = 1 if strip.pixels.size < _FEW_PIXELS else max(1, size * size // _CELL_PIXELS)
        return cls(first, last, size, y, x, len(edges) == 1, step)

    @property
    def pixels(self) -> int:
        """Pixels behind one cell's sky."""
        return self.size * self.size // self.step

    def sky(self, pixels: NDArray[np.float32]) -> tuple[Floats, float]:
        """Return a first level of each cell, NaN where less than half is known, and the noise of a pixel."""
        level = np.empty((len(self.first), len(self.x)), np.float32)
        noise = np.empty_like(level)
        cell_sky(pixels, self.first, self.last, self.size, 2 * self.step, 0.5, 4, level, noise)
        known = level < ABSENT / 2
        if not known.any():
            # Cut out around an object, or masked in stripes: take what there is.
            cell_sky(pixels, self.first, self.last, self.size, 1, 0.0, 4, level, noise)
            known = level < ABSENT / 2
        sigma = float(np.median(noise[known])) if known.any() else 0.0
        return np.where(known, level, np.nan).astype(float), sigma

    def sky_between_stars(
        self, strip: Strip, absent: NDArray[np.bool_] | None, peaks: Peaks, sigma: float
    ) -> tuple[Floats, float]:
        """Return level and noise as `sky` does, of pixels that no star reaches."""
        level = np.full((len(self.first), len(self.x)), ABSENT, np.float32)
        noise = np.full_like(level, ABSENT)
        radius, band = peaks.reach(sigma), band_of(strip, peaks.y)
        low, high = strip.first[band], strip.last[band]
        zero = np.zeros(1, np.int64)
        # One row of cells after the other: a copy of all that was read would be paid for in fresh memory.
        for k, (a, b) in enumerate(zip(self.first, self.last, strict=True)):
            rows = strip.pixels[a:b].copy()
            if absent is not None:
                rows[absent[a:b]] = ABSENT
            cover_stars(rows, peaks.x, peaks.y - a, radius, np.maximum(low - a, 0), np.minimum(high - a, b - a))
            cell_sky(rows, zero, zero + (b - a), self.size, self.step, 0.15, 5, level[k : k + 1], noise[k : k + 1])
        known = level < ABSENT / 2
        better = float(np.median(noise[known])) if known.any() else 0.0
        return np.where(known, level, np.nan).astype(float), better

    def calm(self, level: Floats) -> Floats:
        """Take the median with the neighbours, from which cells with a bright star stand out; bands are none."""
        size = (3 if self.whole else 1, 3)
        calm = ndimage.median_filter(filled_cells(level), size=size, mode="nearest")
        return np.where(np.isfinite(level), calm, np.nan)

    def smooth(self, level: Floats) -> Floats:
        """Return the `calm` level of all cells, unknown ones too."""
        return filled_cells(self.calm(level))


def filled_cells(level: Floats) -> Floats:
    """Give cells without a level that of the nearest with one."""
    lost = ~np.isfinite(level)
    if not lost.any():
        return level
    nearest = ndimage.distance_transform_edt(lost, return_distances=False, return_indices=True)
    return np.asarray(level[tuple(nearest)])
