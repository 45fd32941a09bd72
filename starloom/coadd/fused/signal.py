"""What of a pixel's level is signal: how far stars reach, and how much noise their photons add."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

_ONE, _ZERO, _TWO = np.float32(1), np.float32(0), np.float32(2)
_NEXT, _OVER = offset(1), offset(2)
_NOTHING = np.float32(-1e38)
"""Lower than anything, and finite when added to itself."""
_GATE = np.float32(2.5)
"""Of the median's noise: what the highest less the lowest of the smoothed pixels of a window typically come to."""
_DARK = np.float32(3.0)


@compiled
def _along(
    centre: NDArray[np.float32],
    y: int,
    value: NDArray[np.float32],
    here: NDArray[np.float32],
    sums: NDArray[np.float32],
    parts: NDArray[np.float32],
    new: int,
) -> None:
    # Sums along a row, [1, 2, 1]; value and here have a rim of nothing.
    row, into = offset(y), offset(new)
    for j in range(centre.shape[1]):
        x = offset(j)
        there = centre[row, x] < ABSENT
        value[x + _NEXT], here[x + _NEXT] = centre[row, x] if there else _ZERO, _ONE if there else _ZERO
    for j in range(centre.shape[1]):
        x = offset(j)
        sums[into, x] = value[x] + value[x + _OVER] + _TWO * value[x + _NEXT]
        parts[into, x] = here[x] + here[x + _OVER] + _TWO * here[x + _NEXT]


@compiled
def _smoothed(
    centre: NDArray[np.float32],
    y: int,
    sums: NDArray[np.float32],
    parts: NDArray[np.float32],
    high: NDArray[np.float32],
    low: NDArray[np.float32],
    reach: int,
) -> None:
    # Mean with weights [1, 2, 1] along both axes of those pixels that are there, and its negative.
    row, old, middle, new = offset(y), offset(y % 3), offset((y + 1) % 3), offset((y + 2) % 3)
    line, shift = offset(0), offset(reach)
    for j in range(centre.shape[1]):
        x = offset(j)
        part = parts[old, x] + parts[new, x] + _TWO * parts[middle, x]
        mean = (sums[old, x] + sums[new, x] + _TWO * sums[middle, x]) / (part if part > _ONE else _ONE)
        there = centre[row, x] < ABSENT
        high[line, shift + x], low[line, shift + x] = mean if there else _NOTHING, -mean if there else _NOTHING


@compiled
def _greater(
    lines: NDArray[np.float32], one: int, other: int, shift: int, out: NDArray[np.float32], row: int, n: int
) -> None:
    a, b, c, second = offset(one), offset(other), offset(row), offset(shift)
    for j in range(n):
        i = offset(j)
        u, v = lines[a, i], lines[b, second + i]
        out[c, i] = u if u > v else v


@compiled
def _widest(
    plane: NDArray[np.float32], reach: int, ring: NDArray[np.float32], level: int, y: int, nx: int
) -> None:
    # The highest of 2 reach + 1 pixels along the row, into the ring's first level. Windows double every pass.
    width, span, size, line = 1, nx + 2 * reach, 2 * reach + 1, 0
    while 2 * width < size:
        span -= width
        _greater(plane, line, line, width, plane, 1 - line, span)
        width, line = 2 * width, 1 - line
    _greater(plane, line, line, size - width, ring, level + y, nx)


@compiled
def _bounds(
    base: NDArray[np.float32],
    centre: NDArray[np.float32],
    y: int,
    under: NDArray[np.float32],
    level: NDArray[np.float32],
    contrast: NDArray[np.float32],
) -> None:
    row = offset(y)
    for j in range(base.shape[1]):
        x = offset(j)
        noise = np.sqrt(base[row, x])
        there = centre[row, x] < ABSENT
        swing = level[row, x] + contrast[row, x] - _GATE * noise
        above = level[row, x] - under[x] - _DARK * noise
        contrast[row, x] = swing if there and swing > _ZERO else _ZERO
        level[row, x] = above if there and above > _ZERO else _ZERO


@compiled
def signals(
    centre: NDArray[np.float32],
    base: NDArray[np.float32],
    sky: NDArray[np.float32],
    place: tuple[int, int, int],
    reach: int,
    level: NDArray[np.float32],
    contrast: NDArray[np.float32],
) -> None:
    """Find how much signal a frame of another PSF may bring to each pixel.

    The centre is smoothed, as one noise peak is no star, with weights [1, 2, 1] along both axes; then its highest
    and lowest pixels within a window are found.

    Parameters
    ----------
    centre, base
        Of `fused.gate.candidates`, shape ``(ny, nx)``.
    sky
        Level without stars, on the lattice, ``(1, gy, gx)``.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    reach
        Half side of the window (a square of 2 reach + 1 px), at least 1.
    level
        Receives the highest pixel of the window above the sky, beyond noise: what sets the photon noise.
    contrast
        Receives the highest less the lowest pixel of the window, beyond noise. It owes nothing to the sky: under a
        nebula, or with a wrong sky, it is the same.

    Notes
    -----
    All is done row by row: the windows of past rows, of 1, 2, 4, ... rows each, stay in rings in the second-level
    cache. That takes 5 ns per pixel, where passes over the whole tile took 15.
    """
    ny, nx = centre.shape
    size = 2 * reach + 1
    value, here = np.zeros(nx + 2, np.float32), np.zeros(nx + 2, np.float32)
    sums, parts = np.zeros((3, nx), np.float32), np.zeros((3, nx), np.float32)
    high, low = np.full((2, nx + 2 * reach), _NOTHING), np.full((2, nx + 2 * reach), _NOTHING)
    under = np.empty(nx, np.float32)
    levels = 0
    while 1 << levels < size:
        levels += 1
    highest, lowest = np.full((levels * size, nx), _NOTHING), np.full((levels * size, nx), _NOTHING)
    _along(centre, 0, value, here, sums, parts, 1)
    for y in range(ny + reach):
        now = y % size
        if y < ny:
            if y + 1 < ny:
                _along(centre, y + 1, value, here, sums, parts, (y + 2) % 3)
            else:
                sums[(y + 2) % 3], parts[(y + 2) % 3] = _ZERO, _ZERO
            _smoothed(centre, y, sums, parts, high, low, reach)
            # What passes over a row has spoilt of its rim.
            for plane in (high, low):
                plane[0, :reach], plane[0, reach + nx :] = _NOTHING, _NOTHING
            _widest(high, reach, highest, 0, now, nx)
            _widest(low, reach, lowest, 0, now, nx)
        else:
            highest[now], lowest[now] = _NOTHING, _NOTHING
        for step in range(1, levels):
            past = (y - (1 << (step - 1))) % size
            from_, into = (step - 1) * size, step * size
            _greater(highest, from_ + now, from_ + past, 0, highest, into + now, nx)
            _greater(lowest, from_ + now, from_ + past, 0, lowest, into + now, nx)
        if y >= reach:
            last, past = (levels - 1) * size, (y - (size - (1 << (levels - 1)))) % size
            _greater(highest, last + now, last + past, 0, level, y - reach, nx)
            _greater(lowest, last + now, last + past, 0, contrast, y - reach, nx)
            spread(sky, 0, place, (y - reach) * nx, nx, _ONE, under)
            _bounds(base, centre, y - reach, under, level, contrast)
