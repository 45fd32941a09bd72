"""What of a pixel's level is signal: how far stars reach, and how much noise their photons add."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BLOCK, offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

_ONE, _ZERO, _TWO = np.float32(1), np.float32(0), np.float32(2)
_NEXT, _OVER = offset(1), offset(2)
_NOTHING = np.float32(-1e38)
"""Lower than anything, and finite when added to itself."""
_GATE = np.float32(2.5)
"""Of the median's noise: what the highest less the lowest of the smoothed pixels of a window typically come to."""
_DARK = np.float32(3.0)
_STRIP_PX = 128
"""Columns whose running maxima stay in the second-level cache for all passes over the rows."""
_MEDIAN_VARIANCE = np.float32(np.pi / 2)
_LOWER_OF_TWO = np.float32(0.4)


@compiled
def reference(
    centre: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float32],
    base: NDArray[np.float32],
    own: NDArray[np.float32],
) -> None:
    """Turn medians into what values are compared with, and give the variance of the difference.

    Parameters
    ----------
    centre, count, total
        Of `fused.median.medians`, with the lower of two. The lower of two is 0.40 of their difference's deviation
        low (the mean of the lesser of two normal values), for which good pixels must not pay: it is raised.
    base, own
        Receive the two terms of the variance of a value about its centre, base + own * (variance of the value):
        of a median of normal values pi / 2 times that of a mean, of two values that of their difference.
    """
    for j in range(centre.size):
        p = offset(j)
        k, variance = count[p], total[p]
        two, number = k == 2, np.float32(k if k > 0 else 1)
        base[p] = variance if two else _MEDIAN_VARIANCE * variance / (number * number)
        own[p] = _ZERO if two else _ONE
        centre[p] += _LOWER_OF_TWO * np.sqrt(variance) if two else _ZERO


@compiled
def smoothed(centre: NDArray[np.float32], high: NDArray[np.float32], low: NDArray[np.float32]) -> None:
    """Smooth an image, as one noise peak is no star.

    Parameters
    ----------
    centre
        Image, ``(ny, nx)``, `ABSENT` where nothing is.
    high, low
        Receive the mean with weights [1, 2, 1] along both axes of those pixels that are there, and its negative;
        lower than anything where nothing is.
    """
    ny, nx = centre.shape
    # A rim of nothing all round; sums along rows first, of three rows at a time.
    value, here = np.zeros(nx + 2, np.float32), np.zeros(nx + 2, np.float32)
    sums, parts = np.zeros((3, nx), np.float32), np.zeros((3, nx), np.float32)
    for y in range(ny + 1):
        new = offset((y + 1) % 3)
        if y < ny:
            row = offset(y)
            for j in range(nx):
                x = offset(j)
                there = centre[row, x] < ABSENT
                value[x + _NEXT], here[x + _NEXT] = (
                    (centre[row, x] if there else _ZERO),
                    (_ONE if there else _ZERO),
                )
            for j in range(nx):
                x = offset(j)
                sums[new, x] = value[x] + value[x + _OVER] + _TWO * value[x + _NEXT]
                parts[new, x] = here[x] + here[x + _OVER] + _TWO * here[x + _NEXT]
        else:
            sums[new], parts[new] = _ZERO, _ZERO
        if y == 0:
            continue
        row, old, middle = offset(y - 1), offset((y - 1) % 3), offset(y % 3)
        for j in range(nx):
            x = offset(j)
            part = parts[old, x] + parts[new, x] + _TWO * parts[middle, x]
            mean = (sums[old, x] + sums[new, x] + _TWO * sums[middle, x]) / (part if part > _ONE else _ONE)
            there = centre[row, x] < ABSENT
            high[row, x], low[row, x] = (mean if there else _NOTHING), (-mean if there else _NOTHING)


@compiled
def _greater(
    source: NDArray[np.float32], y: int, other: int, shift: int, out: NDArray[np.float32], row: int, n: int
) -> None:
    a, b, c, second = offset(y), offset(other), offset(row), offset(shift)
    for j in range(n):
        i = offset(j)
        u, v = source[a, i], source[b, second + i]
        out[c, i] = u if u > v else v


@compiled
def highest(plane: NDArray[np.float32], reach: int) -> None:
    """Replace every pixel by the highest within ``reach`` px along both axes (a square), in place.

    Windows double from pass to pass, so that the cost grows with the logarithm of ``reach``.
    """
    ny, nx = plane.shape
    size = 2 * reach + 1
    lines = np.empty((2, nx + 2 * reach), np.float32)
    for y in range(ny):
        lines[0] = _NOTHING
        lines[0, reach : reach + nx] = plane[y]
        width, span, line = 1, nx + 2 * reach, 0
        while width < size:
            step = min(width, size - width)
            width, span = width + step, span - step
            _greater(lines, line, line, step, lines, 1 - line, span)
            line = 1 - line
        plane[y] = lines[line, :nx]
    rows = np.empty((ny + 2 * reach, min(nx, _STRIP_PX)), np.float32)
    for x in range(0, nx, _STRIP_PX):
        columns = min(_STRIP_PX, nx - x)
        rows[:] = _NOTHING
        rows[reach : reach + ny, :columns] = plane[:, x : x + columns]
        width, span = 1, ny + 2 * reach
        while width < size:
            step = min(width, size - width)
            width, span = width + step, span - step
            for y in range(span):
                _greater(rows, y, y + step, 0, rows, y, columns)
        plane[:, x : x + columns] = rows[:ny, :columns]


@compiled
def signals(
    centre: NDArray[np.float32],
    base: NDArray[np.float32],
    level: NDArray[np.float32],
    contrast: NDArray[np.float32],
    sky: NDArray[np.float32],
    place: tuple[int, int, int],
    quiet: NDArray[np.bool_],
) -> None:
    """Find how much signal a frame of another PSF may bring to each pixel.

    Parameters
    ----------
    centre, base
        Of `reference`, shape ``(ny, nx)``.
    level
        Of `smoothed` and `highest`. Becomes the highest pixel of the window above the sky, beyond noise: what sets
        the photon noise.
    contrast
        The same of the negative. Becomes the highest less the lowest pixel of the window, beyond noise. It owes
        nothing to the sky: under a nebula, or with a wrong sky, it is the same.
    sky
        Level without stars, on the lattice, ``(1, gy, gx)``.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    quiet
        Receives whether a block of `BLOCK` flat pixels has neither level nor contrast.
    """
    ny, nx = centre.shape
    under = np.empty(nx, np.float32)
    quiet[:] = True
    for y in range(ny):
        spread(sky, 0, place, y * nx, nx, _ONE, under)
        row = offset(y)
        for j in range(nx):
            x = offset(j)
            noise = np.sqrt(base[row, x])
            there = centre[row, x] < ABSENT
            swing = level[row, x] + contrast[row, x] - _GATE * noise
            above = level[row, x] - under[x] - _DARK * noise
            contrast[row, x] = swing if there and swing > _ZERO else _ZERO
            level[row, x] = above if there and above > _ZERO else _ZERO
        for column in range(nx):
            if contrast[y, column] + level[y, column] > _ZERO:
                quiet[(y * nx + column) // BLOCK] = False
