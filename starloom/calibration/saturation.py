"""The level at which a frame's pixels clip, from their histogram where the header does not say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.calibration.noise import spread

#: Pixels at the top that make a pile-up: a star's own peak is one pixel, a clipped core a plateau.
MIN_PLATEAU = 4
#: A pile-up below the converter's ceiling must stand out of the slope below it by this factor.
MIN_CONTRAST = 6.0
#: A smeared ceiling (flat-fielded, dark-subtracted) lies within this fraction of the brightest pixels.
SMEAR = 0.06


def saturation_from_histogram(data: NDArray[Any], header_value: float | None = None) -> float | None:
    """Return the level at or above which pixels have lost their meaning, None where nothing clips.

    Parameters
    ----------
    data
        Pixels, ADU, any integer or float type, shape ``(ny, nx)``; NaN is left out.
    header_value
        What the header says; believed where no pile-up lies below it and pixels do not stand above it.

    Returns
    -------
    float or None
        The converter's ceiling (12 and 14 bits stretched by 16 and 4 included), a full well that clips below it,
        or the lower edge of a ceiling smeared by calibration. A pixel is saturated from this level on.

    Notes
    -----
    Pixels without clipping thin out towards the top: of counts per level the highest levels hold one pixel each. A
    pile-up is a level, or a narrow range, that holds many more pixels than the range below it.
    """
    values = np.asarray(data).ravel()
    if values.size == 0:
        return None
    # The sum tells whether there is anything to leave out at a third of the cost of leaving it out.
    if values.dtype.kind == "f" and not np.isfinite(values.sum(dtype=np.float64)):
        values = values[np.isfinite(values)]
        if values.size == 0:
            return None
    said = float(header_value) if header_value is not None and header_value > 0 else None
    top = float(values.max())
    floor = float(np.median(values[:: max(1, values.size // 200_000)]))
    if top <= floor:
        return said
    # Stars alone make the top: sky noise has a plateau of its own in quantised data.
    bright = values[values > floor + 0.25 * (top - floor)].astype(np.float64)
    found = _plateau(bright, top) or _smeared(bright, top, floor)
    if said is not None and (found is None or found >= 0.98 * said) and top <= 1.01 * said:
        return said
    if found is not None and found > _brightest_noise(values, floor):
        return found
    return said if said is not None and top <= 1.01 * said else None


def _brightest_noise(values: NDArray[Any], floor: float) -> float:
    """Return a level that sky noise does not reach: below it no pile-up is a star's."""
    some = values[:: max(1, values.size // 200_000)].astype(np.float64)
    return floor + 12.0 * max(spread(some), 1.0)


def _plateau(bright: NDArray[np.float64], top: float) -> float | None:
    """Return the lowest of the levels at the top that pile up exactly."""
    levels, counts = np.unique(bright[bright >= top - 0.02 * abs(top)], return_counts=True)
    piled = np.flatnonzero(counts >= MIN_PLATEAU)
    if not piled.size:
        return None
    best = piled[np.argmax(counts[piled])]
    # A frame whose levels repeat everywhere (few bits) piles up at the top only if that beats the levels below.
    below = counts[:best]
    usual = float(np.median(below)) if below.size else 1.0
    return float(levels[best]) if counts[best] >= MIN_CONTRAST * max(usual, 1.0) or not below.size else None


def _smeared(bright: NDArray[np.float64], top: float, floor: float) -> float | None:
    """Return the lower edge of a ceiling that calibration, or a soft full well, has spread over a few per cent."""
    if bright.size < 12:
        return None
    # A hot pixel may stand above the ceiling: the range is taken from the crowd.
    counts, edges = np.histogram(bright, bins=np.linspace(floor + 0.25 * (top - floor), top * (1 + 1e-9), 76))
    peak = int(np.argmax(counts[25:])) + 25
    width = max(1, round(SMEAR * top / (edges[1] - edges[0])))
    before = counts[max(0, peak - 4 * width) : max(1, peak - 2 * width)]
    usual = float(np.mean(before)) if before.size else 0.0
    if counts[peak] < max(3 * MIN_PLATEAU, MIN_CONTRAST * max(usual, 1.0)):
        return None
    above = float(counts[min(peak + width, counts.size) :].sum())
    if above > 0.2 * counts[peak]:
        return None  # the slope goes on above: a hump, no ceiling
    first = peak
    while first > 0 and counts[first - 1] > 3 * max(usual, 1.0):
        first -= 1
    return float(edges[first])
