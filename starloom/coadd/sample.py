"""One look at each frame: bands of rows spread over it, from which planning learns all it needs.

A frame of 26 Mpix is never decoded whole for its plan: eight bands of 64 rows, an eighth of it, hold its sky, its
noise, its seeing and hundreds of stars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from starloom.calibration.neighbours import filled
from starloom.calibration.saturation import saturation_from_histogram
from starloom.coadd.apertures import Stars
from starloom.coadd.inputs import OpenFrame
from starloom.coadd.inside import Mesh, sampled_weights
from starloom.coadd.measure import Measured, measure_strip
from starloom.coadd.pixels import FrameSource, open_source
from starloom.coadd.sky_cells import SkyCells
from starloom.coadd.strip import Strip

_BANDS, _HEIGHT = 8, 64
_WHOLE_BELOW = 3_000_000
"""Pixels up to which a frame is read whole: the saving would be lost in what does not depend on its size."""

_MAX_STARS = 500
"""A strip of bands keeps this many; what is read whole keeps as many for each part of that size."""
_ENOUGH_STARS = 40
_FWHM_IN_HEIGHT = 10


@dataclass(frozen=True, eq=False)
class Sample:
    """What was learnt from one look at a frame; some 30 kB, and no pixels."""

    shape: tuple[int, int]
    share: float
    """Part of the frame's rows that was read."""
    sigma_adu: float
    fwhm_px: float
    saturation_adu: float | None
    sky: SkyCells
    stars: Stars
    growth: float
    growth_error: float
    relative_weight: Mesh | None

    @property
    def whole(self) -> bool:
        """Whether every row was read."""
        return self.share >= 1


def take_sample(
    frame: OpenFrame,
    *,
    saturation_adu: float | None,
    gain_e_per_adu: float | None = None,
    height: int = _HEIGHT,
) -> Sample:
    """Read bands of a frame, and taller ones where they tell too little, up to the whole frame.

    Parameters
    ----------
    saturation_adu
        None: a plateau of equal brightest pixels tells it, if there is one.
    height
        Rows of each of the eight bands to begin with; a frame that they nearly fill is read whole, and so is any
        of less than 3 Mpix.

    Raises
    ------
    BadInput
        ``bad-noise`` for a frame with no finite pixels or no noise at all; ``unreadable``.
    """
    ny, nx = frame.shape
    weights = sampled_weights(frame)
    source = open_source(frame.path)
    while True:
        if ny * nx < _WHOLE_BELOW or _BANDS * height > 0.75 * ny:
            height = ny
        strip = read_strip(frame.path, source, height)
        if saturation_adu is None:
            saturation_adu = saturation_from_histogram(strip.pixels)
        share = len(strip.rows) / ny
        room = round(_MAX_STARS * max(1.0, len(strip.rows) / (_BANDS * _HEIGHT)))
        measured = measure_strip(
            strip, saturation_adu=saturation_adu, gain_e_per_adu=gain_e_per_adu, max_stars=room
        )
        if share >= 1 or _suffices(measured, height):
            return Sample(
                frame.shape,
                share,
                measured.sigma_adu,
                measured.fwhm_px,
                saturation_adu,
                measured.sky,
                measured.stars,
                measured.growth,
                measured.growth_error,
                weights,
            )
        height *= 2


def _suffices(measured: Measured, height: int) -> bool:
    return int(measured.stars.alone.sum()) >= _ENOUGH_STARS and measured.fwhm_px * _FWHM_IN_HEIGHT <= height


def band_rows(ny: int, height: int) -> Iterable[tuple[int, int]]:
    """Return first and past-last row of the bands of a frame of ``ny`` rows: evenly spread, off its edges."""
    if height >= ny:
        return [(0, ny)]
    middles = (np.arange(_BANDS) + 0.5) / _BANDS * ny
    tops = np.floor(middles - height / 2).astype(int)
    return [(int(top), int(top) + height) for top in tops]


def read_strip(path: Path, source: FrameSource, height: int) -> Strip:
    """Read the bands of a frame; lone defects of its mask are mended, patches are marked."""
    ny, nx = source.shape
    bands = list(band_rows(ny, height))
    heights = np.array([b - a for a, b in bands], np.int64)
    last = np.cumsum(heights)
    first = last - heights
    pixels = np.empty((int(last[-1]), nx), np.float32)
    bad, holes = None, False
    for (top, end), row in zip(bands, first, strict=True):
        rows = np.zeros(end - top, np.int32)
        band = pixels[row : row + end - top]
        holes |= source.read(top, rows, rows + nx, 0, band)
        said = source.mask(top, end, 0, nx)
        if said is not None and said.any():
            mask = said != 0
            # A lone defect in a star's wing is guessed from its neighbours rather than costing the star; where
            # whole patches are bad (a saturated core), no guess stands for them.
            unknown = ~np.isfinite(band)
            band[:] = filled(band, mask)
            band[unknown] = np.nan
            if bad is None:
                bad = np.zeros(pixels.shape, bool)
            bad[row : row + end - top] = ndimage.binary_opening(mask, structure=np.ones((2, 2), bool))
    every = np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in bands])
    return Strip(path, source.shape, pixels, every, first, last, holes, bad)
