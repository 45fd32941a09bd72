"""How frames moved on the sky between each other, from their pixels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from starloom.calibration.noise import sampled, spread

_SIDE = 1024
#: The right peak of a correlation of stars is the only one: stars that meet by chance are few.
_MIN_LEAD = 1.6
#: Pixels lit in both pictures at the right shift: three stars at least.
_MIN_SHARED = 15


def star_picture(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the stars in the middle of a frame, hot pixels and background removed, for `shifts`."""
    ny, nx = data.shape
    side = min(_SIDE, ny, nx)
    y0, x0 = (ny - side) // 2, (nx - side) // 2
    cut = ndimage.median_filter(np.nan_to_num(data[y0 : y0 + side, x0 : x0 + side]), size=3)
    cut -= ndimage.median_filter(cut[::4, ::4], size=15).repeat(4, 0).repeat(4, 1)[:side, :side]
    sigma = max(spread(sampled(cut)), 1e-6)
    return np.asarray(np.clip(cut, 4 * sigma, 60 * sigma) - 4 * sigma, np.float32)


def shifts(pictures: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return how far each frame's stars lie from the first one's, ``(dx, dy)`` px, shape ``(n, 2)``.

    Parameters
    ----------
    pictures
        From `star_picture`, all of one shape.

    Returns
    -------
    ndarray
        NaN where no shift stands out: no stars, clouds, or a field that has left the picture.
    """
    first = fft.rfft2(pictures[0])
    out = np.full((len(pictures), 2), np.nan)
    for n, picture in enumerate(pictures):
        correlation = fft.irfft2(fft.rfft2(picture) * np.conj(first), s=picture.shape)
        peak = np.unravel_index(int(np.argmax(correlation)), correlation.shape)
        if correlation[peak] > _MIN_LEAD * _next_peak(correlation, peak) > 0:
            there = np.roll(pictures[0], [int(p) for p in peak], axis=(0, 1))
            if np.count_nonzero((there > 0) & (picture > 0)) < _MIN_SHARED:
                continue  # two peaks of noise meet at some shift, always
            wrapped = [p if p <= side // 2 else p - side for p, side in zip(peak, correlation.shape, strict=True)]
            out[n] = wrapped[1], wrapped[0]
    return out


def _next_peak(correlation: NDArray[np.float32], peak: tuple[np.intp, ...]) -> float:
    """Return the highest value away from a peak, which lies in a periodic picture."""
    centred = np.roll(correlation, [-int(p) + 12 for p in peak], axis=(0, 1))
    centred[:25, :25] = 0.0
    return float(centred.max())


def stars_have_moved(offsets: NDArray[np.float64] | None, reach_px: float = 8.0) -> bool:
    """Tell whether no star stays on a pixel in more than 60 % of the frames.

    Parameters
    ----------
    offsets
        Shifts of the frames, shape ``(n, 2)``, NaN where unknown (counted as standing still); None: unknown.
    reach_px
        How near a star must be to light up a pixel.
    """
    if offsets is None or len(offsets) == 0:
        return False
    known = np.isfinite(offsets).all(axis=1)
    if known.sum() < 2:
        return False
    distance = np.hypot(*(offsets[known, None] - offsets[None, known]).transpose(2, 0, 1))
    together = (distance < reach_px).sum(axis=1).max() + (~known).sum()
    return bool(together <= 0.6 * len(offsets))
