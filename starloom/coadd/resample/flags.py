"""Finding the pixels that no kernel may touch, in one look at what was read; most windows hold few or none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import compiled
from starloom.coadd.pixels.source import SATURATED_PIXEL

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Plane = NDArray[np.float32]

NOT_FINITE, SATURATED, MASKED, HOT, NEAR = 1, 2, 4, 8, 16
"""Bits of a window's flags; `NEAR`: a kernel based here may touch a bad pixel."""

BAD = NOT_FINITE | SATURATED | MASKED | HOT

BLOCK_SHIFT = 4
"""Flags are also summed up by blocks of 16 x 16: most segments of a tile's rows are seen clean at a glance."""

HOT_REACH = 2
"""Whether a pixel is hot depends on pixels this far away."""

NO_SATURATION = np.int32(0x7F800000)
"""`order_key` of infinity: no finite value reaches it."""

_LOWEST = np.int32(-0x7F800000)
# The largest share of a hot pixel's height that a neighbour may have is 1 in 5, so its excess over them is at
# least 4/5 of the 8 sigma by which it stands out.
_CANDIDATE_SIGMA = 6.4


def order_key(value: float) -> np.int32:
    """Return the integer that orders float32 values as they are ordered, infinities and NaN outermost."""
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled
def _level(window: Plane, flags: Bytes, row: int, column: int, y0: int, y1: int, x0: int, x1: int) -> Any:
    """Return the lower median of the outer ring of 5 x 5 pixels: the local sky, whatever was read around."""
    ring = np.empty(16, np.float32)
    count = 0
    for y in range(max(row - 2, y0), min(row + 3, y1)):
        for x in range(max(column - 2, x0), min(column + 3, x1)):
            if max(abs(y - row), abs(x - column)) < 2 or flags[y, x] & (NOT_FINITE | MASKED):
                continue
            value = window[y, x]
            place = count
            while place > 0 and ring[place - 1] > value:
                ring[place] = ring[place - 1]
                place -= 1
            ring[place] = value
            count += 1
    return ring[(count - 1) // 2] if count else np.float32(0)


@compiled
def _is_hot(
    window: Plane, flags: Bytes, row: int, column: int, y0: int, y1: int, x0: int, x1: int, sigma: float
) -> Any:
    """Judge what stands out: a star of FWHM 1.5 px puts 0.29 of its peak into a neighbour, a hot pixel none."""
    level = _level(window, flags, row, column, y0, y1, x0, x1)
    above = window[row, column] - level
    high, low = np.float32(1.5 * sigma), np.float32(-1.5 * sigma)
    for y in range(max(row - 1, y0), min(row + 2, y1)):
        for x in range(max(column - 1, x0), min(column + 2, x1)):
            if (y == row and x == column) or flags[y, x] & (NOT_FINITE | MASKED):
                continue
            high, low = max(high, window[y, x] - level), min(low, window[y, x] - level)
    return (above > 8 * sigma and above > 5 * high) or (above < -8 * sigma and above < 5 * low)


@compiled
def _grow(flags: Bytes, blocks: Bytes, places: NDArray[np.int64]) -> None:
    """Set `NEAR`, and its blocks, where the taps, -3 to 4, of the widest point kernel meet a bad pixel."""
    rows, columns = flags.shape
    for place in places:
        row, column = divmod(place, columns)
        for y in range(max(row - 4, 0), min(row + 4, rows)):
            for x in range(max(column - 4, 0), min(column + 4, columns)):
                flags[y, x] |= NEAR
                blocks[y >> BLOCK_SHIFT, x >> BLOCK_SHIFT] = 1


@compiled
def _noted(places: NDArray[np.int64], used: int, place: int) -> NDArray[np.int64]:
    """Write down a place, in a larger array if need be."""
    if used == places.size:
        places = np.concatenate((places, np.empty_like(places)))
    places[used] = place
    return places


_RUN_PX = 64
"""Pixels tested at once; where they hold something, each by itself (some 15 ns a pixel, against 0.3)."""
_NEXT, _OVER = np.uintp(1), np.uintp(2)
_SIGN, _ALL_BUT_SIGN = np.int32(31), np.int32(0x7FFFFFFF)


@compiled
def inspect(
    window: Plane, bits: Ints, flags: Bytes, blocks: Bytes, oy: int, ox: int,
    y0: int, y1: int, lo: Ints, hi: Ints, ny: int, nx: int, saturation: Any, sigma: float,
    masked: Bytes, masked_x0: int,
) -> int:  # fmt: skip
    """Flag what was read: not finite, saturated, masked, hot; pixels that are not finite become 0.

    Parameters
    ----------
    window, bits
        Pixels, float32, and the same memory as int32; frame pixel (y, x) lies at ``(y - oy, x - ox)``.
    flags
        Same shape; overwritten.
    blocks
        At least a 2^`BLOCK_SHIFT`-th of that shape; overwritten: 1 where a block of flags holds `NEAR`.
    y0, y1, lo, hi
        Rows ``y0:y1`` were read, of row ``y0 + r`` the frame pixels ``lo[r]:hi[r]``.
    ny, nx
        Shape of the frame.
    saturation
        `order_key` of the first saturated value, or `NO_SATURATION`.
    sigma
        Sky noise, ADU; 0: hot pixels are not looked for.
    masked, masked_x0
        The frame's own mask, as of `FrameSource.mask`: rows ``y0:y1`` from column ``masked_x0``; of shape (0, 0):
        none.

    Returns
    -------
    int
        All bits that occur; 0: nothing is wrong.
    """
    found = 0
    flags[:] = 0
    blocks[:] = 0
    step = np.float32(_CANDIDATE_SIGMA * sigma)
    width = flags.shape[1]
    pixels, keys = window.reshape(-1), bits.reshape(-1)
    # Flat places of bad pixels, and of those that may be hot. Most rows hold a star, so that
    # they are looked through run by run.
    bad, n_bad = np.empty(1024, np.int64), 0
    peaks, n_peaks = np.empty(1024, np.int64), 0
    for y in range(y0, y1):
        row, a, b = y - oy, lo[y - y0] - ox, hi[y - y0] - ox
        if a >= b:
            continue
        for first in range(a, b, _RUN_PX):
            last = min(first + _RUN_PX, b)
            # As integers: NaN has no place in float comparisons. Written out here, as is the next, and with
            # unsigned places, which need no test for negative ones: functions that are given arrays count their
            # references at every call, which takes longer than the run.
            at, odd = np.uintp(row * width + first), np.int32(0)
            for k in range(last - first):
                value = keys[at + np.uintp(k)]
                key = np.int32(value ^ np.int32((value >> _SIGN) & _ALL_BUT_SIGN))
                odd += np.int32((key >= saturation) | (key < _LOWEST))
            if not odd:
                continue
            for x in range(first, last):
                key = np.int32(bits[row, x] ^ ((bits[row, x] >> 31) & 0x7FFFFFFF))
                if key >= NO_SATURATION or key < _LOWEST:
                    flags[row, x] = NOT_FINITE
                    window[row, x] = np.float32(0)
                elif key >= saturation:
                    flags[row, x] = SATURATED
                else:
                    continue
                found |= flags[row, x]
                bad = _noted(bad, n_bad, row * width + x)
                n_bad += 1
        if masked.shape[0]:
            for x in range(a, b):
                said = masked[y - y0, x + ox - masked_x0]
                if said:
                    flags[row, x] |= SATURATED if said == SATURATED_PIXEL else MASKED
                    found |= flags[row, x]
                    bad = _noted(bad, n_bad, row * width + x)
                    n_bad += 1
        if sigma > 0 and b - a > 1:
            # The ends of a span are judged only where the frame ends too: elsewhere they are margin.
            if lo[y - y0] == 0 and abs(window[row, a] - window[row, a + 1]) > step:
                peaks = _noted(peaks, n_peaks, row * width + a)
                n_peaks += 1
            if hi[y - y0] == nx and abs(window[row, b - 1] - window[row, b - 2]) > step:
                peaks = _noted(peaks, n_peaks, row * width + b - 1)
                n_peaks += 1
            for first in range(a + 1, b - 1, _RUN_PX):
                last = min(first + _RUN_PX, b - 1)
                at, odd = np.uintp(row * width + first - 1), np.int32(0)
                for k in range(last - first):
                    before = at + np.uintp(k)
                    left, here, right = pixels[before], pixels[before + _NEXT], pixels[before + _OVER]
                    odd += np.int32(max(here - max(left, right), min(left, right) - here) > step)
                if not odd:
                    continue
                for x in range(first, last):
                    left, here, right = window[row, x - 1], window[row, x], window[row, x + 1]
                    if here - max(left, right) > step or min(left, right) - here > step:
                        peaks = _noted(peaks, n_peaks, row * width + x)
                        n_peaks += 1
    for place in peaks[:n_peaks]:
        row, x = divmod(place, width)
        judged = not flags[row, x] & BAD
        if judged and _is_hot(window, flags, row, x, y0 - oy, y1 - oy, max(-ox, 0), nx - ox, sigma):
            flags[row, x] |= HOT
            found |= HOT
            bad = _noted(bad, n_bad, place)
            n_bad += 1
    _grow(flags, blocks, bad[:n_bad])
    return found
