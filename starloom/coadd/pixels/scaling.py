"""From stored integers to ADU: BSCALE and BZERO, blank pixels, and floats that were quantised with dither."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.bits import exact

NO_BLANK = (1 << 62) + 1
"""A blank value that no stored integer has."""
DITHERED_ZERO = -2147483646
"""What SUBTRACTIVE_DITHER_2 stores for a pixel that was exactly zero."""
_PERIOD = 10000


class Scaling(NamedTuple):
    """How stored integers become ADU; arrays hold one value, or one a tile."""

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    blank: NDArray[np.int64]
    """Integer that stands for NaN; `NO_BLANK`: none does."""
    bytepix: int
    """Bytes of a stored pixel, to which it wraps: 1 (unsigned), 2 or 4."""
    dither: int
    """0: none; 1 or 2: SUBTRACTIVE_DITHER_1 or _2."""
    seed: int
    """ZDITHER0."""
    exact_zero: float
    """What a pixel that was exactly zero (dither 2) becomes."""
    noise: NDArray[np.float32]
    """`dither_noise`, or one value where nothing is dithered."""


@cache
def dither_noise() -> NDArray[np.float32]:
    """Return the 10,000 pseudo-random numbers in [0, 1) of the FITS Standard 4.0, appendix I."""
    numbers = np.empty(_PERIOD, np.float32)
    seed = 1
    for k in range(_PERIOD):
        seed = seed * 16807 % 2147483647
        numbers[k] = seed / 2147483647
    return numbers


@exact
def of_tile(scaling, tile):  # type: ignore[no-untyped-def]
    """Return scale, zero and blank of a tile."""
    return (
        scaling.scale[tile if scaling.scale.size > 1 else 0],
        scaling.zero[tile if scaling.zero.size > 1 else 0],
        scaling.blank[tile if scaling.blank.size > 1 else 0],
    )


@exact
def _wrapped(value, bytepix):  # type: ignore[no-untyped-def]
    """Return a pixel in its range; with casts, for numba widens masks to 64 bits: half as many in a vector."""
    if bytepix == 2:
        return np.int32(np.int16(value))
    return np.int32(np.uint8(value)) if bytepix == 1 else value


@exact
def linear(values, begin, end, scale, zero, blank, bytepix, out, place):  # type: ignore[no-untyped-def]
    """Write stored pixels ``begin:end`` of ``values`` as ADU to ``out[place + begin:]``; returns how many are NaN.

    Arguments are scalars and whole arrays: slices and tuples of arrays cost 150 ns a call in reference counts.
    """
    source, target = np.uint64(begin), np.uint64(place + begin)
    if blank == NO_BLANK:
        for k in range(np.uint64(end - begin)):
            value = _wrapped(values[source + k], bytepix)
            out[target + k] = np.float32(np.float64(value) * scale + zero)
        return 0
    bad = np.int64(0)
    void = np.int32(blank)
    for k in range(np.uint64(end - begin)):
        value = _wrapped(values[source + k], bytepix)
        hit = value == void
        bad += np.int32(hit)
        adu = np.float32(np.float64(value) * scale + zero)
        out[target + k] = np.float32(np.nan) if hit else adu
    return bad


@exact
def dithered(values, begin, end, scale, zero, blank, scaling, tile, base, out, place):  # type: ignore[no-untyped-def]
    """Write quantised pixels ``begin:end`` of ``values`` to ``out[place + begin:]``; returns how many are NaN.

    ``base`` is the place of ``values[0]`` among the tile's pixels: it tells the dither's phase.
    """
    noise = scaling.noise
    bytepix = scaling.bytepix
    # Every tile starts its walk through the numbers at a place of its own; past their end it goes on at another.
    start = (tile + scaling.seed - 1) % _PERIOD
    phase = np.int64(noise[start] * np.float32(500)) + base + begin
    while phase >= _PERIOD:
        start = (start + 1) % _PERIOD
        phase += np.int64(noise[start] * np.float32(500)) - _PERIOD
    bad = np.int64(0)
    void = np.int32(blank) if blank != NO_BLANK else np.int32(0)
    source, target, last = np.uint64(begin), np.uint64(place + begin), np.uint64(place + end)
    has_blank, has_zero = blank != NO_BLANK, scaling.dither == 2
    exact_zero = np.float32(scaling.exact_zero)
    while target < last:
        # One stretch of consecutive numbers: a loop without a branch.
        steps = min(last - target, np.uint64(_PERIOD - phase))
        number = np.uint64(phase)
        for k in range(steps):
            value = _wrapped(values[source + k], bytepix)
            hit = has_blank & (value == void)
            bad += np.int32(hit)
            shifted = np.float64(value) - np.float64(noise[number + k]) + 0.5
            adu = np.float32(shifted * scale + zero)
            kept = exact_zero if has_zero & (value == np.int32(DITHERED_ZERO)) else adu
            out[target + k] = np.float32(np.nan) if hit else kept
        source += steps
        target += steps
        start = (start + 1) % _PERIOD
        phase = np.int64(noise[start] * np.float32(500))
    return bad
