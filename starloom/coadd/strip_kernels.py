"""Compiled loops over the sampled rows of a frame: sky of cells, its subtraction, peaks.

A strip holds bands of frame rows one below the other; `ABSENT` marks pixels that are not to be believed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from starloom.coadd.jit import ABSENT, compiled, summed

_SEEDS = 64
"""Pixels whose median and spread start the clipping of a cell."""

_CLIP = 2.5
#: What is left of a Gaussian's standard deviation between -2.5 and 2.5 sigma.
_CLIPPED_SD = 0.954596
_LIMIT = np.float32(1e38)
_BLOCK = 64
"""Pixels of a row whose maximum is looked at first: most hold sky alone."""


@summed
def cell_sky(
    strip: Any, first: Any, last: Any, width: int, row_step: int, least: float, rounds: int, level: Any, sigma: Any
) -> None:
    """Write sky level and noise of cells, by iterated clipping at 2.5 sigma.

    Parameters
    ----------
    strip
        float32, shape ``(n, nx)``.
    first, last
        int64, first strip row and the one past the last of each row of cells, shape ``(r,)``.
    width, row_step
        Columns of a cell, and every how many rows one is used.
    least
        Share of the pixels that must be believable; below it the cell is `ABSENT`.
    rounds
        Of clipping.
    level, sigma
        float32, shape ``(r, c)``; written.
    """
    nx = strip.shape[1]
    most = 0
    for r in range(first.size):
        most = max(most, last[r] - first[r])
    values = np.empty((most // row_step + 1) * width, np.float32)
    seeds = np.empty(_SEEDS, np.float32)
    for r in range(first.size):
        for c in range(level.shape[1]):
            # The last column of cells is set back rather than narrow.
            x0 = max(0, min(c * width, nx - width))
            x1 = min(nx, x0 + width)
            n, offered = 0, 0
            for y in range(first[r], last[r], row_step):
                highest = strip[y, x0]
                for x in range(x0, x1):
                    values[n + x - x0] = strip[y, x]
                    highest = max(highest, strip[y, x])
                offered += x1 - x0
                if highest < _LIMIT:
                    n += x1 - x0
                    continue
                for x in range(x0, x1):
                    v = strip[y, x]
                    if v < _LIMIT:
                        values[n] = v
                        n += 1
            level[r, c] = ABSENT
            sigma[r, c] = ABSENT
            if n < 16 or n < least * offered:
                continue
            m = min(_SEEDS, n)
            for i in range(m):
                v = values[(i * n) // m]
                j = i
                while j > 0 and seeds[j - 1] > v:
                    seeds[j] = seeds[j - 1]
                    j -= 1
                seeds[j] = v
            centre = np.float64(seeds[m // 2])
            # From the lower half only: stars are in the upper one.
            spread: Any = (centre - np.float64(seeds[m // 6])) / 0.97
            if spread <= 0:
                total = 0.0
                for i in range(m):
                    total += abs(np.float64(seeds[i]) - centre)
                spread = 1.25 * total / m
            for _ in range(rounds):
                low, high = np.float32(centre - _CLIP * spread), np.float32(centre + _CLIP * spread)
                base = np.float32(centre)
                k, s, q = 0.0, 0.0, 0.0
                for i in range(n):
                    # Without a branch, so that lanes of a vector share the sum.
                    use = 1.0 if values[i] >= low and values[i] <= high else 0.0
                    d = use * np.float64(values[i] - base)
                    k += use
                    s += d
                    q += d * d
                if k == 0:
                    break
                mean = s / k
                centre = np.float64(base) + mean
                spread = np.sqrt(max(q / k - mean * mean, 0.0)) / _CLIPPED_SD
            level[r, c] = np.float32(centre)
            sigma[r, c] = np.float32(spread)


@compiled
def subtract_sky(strip: Any, rows: Any, mesh: Any, mesh_y: Any, mesh_x: Any) -> None:
    """Subtract a mesh, linear between the centres of its cells and beyond the outer ones, from a strip in place.

    Parameters
    ----------
    strip
        float32, shape ``(n, nx)``; `ABSENT` stays.
    rows
        int64, frame row of each strip row, shape ``(n,)``.
    mesh, mesh_y, mesh_x
        float64 levels, shape ``(r, c)``, and frame coordinates of the cells' centres, shapes ``(r,)``, ``(c,)``.
    """
    nx = strip.shape[1]
    r, c = mesh.shape
    line = np.empty(c, np.float64)
    j = 0
    for y in range(rows.size):
        where = np.float64(rows[y])
        while j < r - 2 and where > mesh_y[j + 1]:
            j += 1
        f = 0.0 if r == 1 else (where - mesh_y[j]) / (mesh_y[j + 1] - mesh_y[j])
        for i in range(c):
            line[i] = mesh[j, i] if r == 1 else mesh[j, i] * (1 - f) + mesh[j + 1, i] * f
        if c == 1:
            for x in range(nx):
                strip[y, x] -= np.float32(line[0])
            continue
        for i in range(c - 1):
            x0 = 0 if i == 0 else int(np.ceil(mesh_x[i]))
            x1 = nx if i == c - 2 else int(np.ceil(mesh_x[i + 1]))
            slope = (line[i + 1] - line[i]) / (mesh_x[i + 1] - mesh_x[i])
            start, step = np.float32(line[i] + slope * (x0 - mesh_x[i])), np.float32(slope)
            for x in range(x1 - x0):
                strip[y, x0 + x] -= start + step * np.float32(x)


@compiled
def cover_stars(strip: Any, x: Any, y: Any, radius: Any, low: Any, high: Any) -> None:
    """Mark the pixels of discs in a strip as `ABSENT`.

    Parameters
    ----------
    strip
        float32, shape ``(n, nx)``; written.
    x, y, radius
        float64, strip pixels, shape ``(m,)``.
    low, high
        int64, first row and the one past the last of the band that each disc belongs to, shape ``(m,)``.
    """
    nx = strip.shape[1]
    for k in range(x.size):
        r = radius[k]
        for j in range(max(low[k], int(y[k] - r)), min(high[k], int(y[k] + r) + 2)):
            half = r * r - (j - y[k]) ** 2
            if half < 0:
                continue
            half = np.sqrt(half)
            for i in range(max(0, int(x[k] - half)), min(nx, int(x[k] + half) + 2)):
                strip[j, i] = ABSENT


@compiled
def _box(strip: Any, y: int, x: int) -> Any:
    total = np.float32(0)
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            total += strip[j, i]
    return total


@compiled
def _half_width(strip: Any, y: int, x: int, dy: int, dx: int, half: Any) -> Any:
    """Walk from a peak until the profile falls below ``half``; linear between the last two pixels."""
    ny, nx = strip.shape
    before = strip[y, x]
    for n in range(1, 60):
        j, i = y + n * dy, x + n * dx
        if j < 0 or i < 0 or j >= ny or i >= nx:
            return np.float32(n)
        v = strip[j, i]
        if v < half:
            return np.float32(n - 1) + (before - half) / max(before - v, np.float32(1e-30))
        before = v
    return np.float32(60)


@compiled
def _is_peak(strip: Any, y: int, x: int, least: Any) -> bool:
    """Whether the box at a pixel is the brightest of nine, and its four neighbours reach ``least``."""
    a = min(min(strip[y, x - 1], strip[y, x + 1]), min(strip[y - 1, x], strip[y + 1, x]))
    if a < least:
        return False
    own = _box(strip, y, x)
    for j in range(-1, 2):
        for i in range(-1, 2):
            if j == 0 and i == 0:
                continue
            other = _box(strip, y + j, x + i)
            # Of equal ones, the first in reading order.
            if other > own or (other == own and (j < 0 or (j == 0 and i < 0))):
                return False
    return True


@summed
def find_peaks(strip: Any, first: Any, last: Any, threshold: float, share: float, found: Any) -> int:
    """Find local maxima that an optical system can have made, and return their number.

    Parameters
    ----------
    strip
        Sky-subtracted, float32, shape ``(n, nx)``, no `ABSENT` in it.
    first, last
        int64, rows of each band, shape ``(bands,)``; maxima keep a row's distance from the bands' edges.
    threshold
        Least value of the peak.
    share
        Of the peak that each of the four neighbours has at least: cosmic rays and hot pixels are sharper.
    found
        float32, shape ``(m, 6)``: strip row, column, peak, sum of the 3 x 3 pixels, full widths at half the peak
        along x and along y; written up to ``m``, counted beyond.
    """
    nx = strip.shape[1]
    limit = np.float32(threshold)
    count = 0
    for b in range(first.size):
        for y in range(first[b] + 2, last[b] - 2):
            for x0 in range(2, nx - 2, _BLOCK):
                x1 = min(x0 + _BLOCK, nx - 2)
                highest = strip[y, x0]
                for x in range(x0 + 1, x1):
                    highest = max(highest, strip[y, x])
                if highest < limit:
                    continue
                for x in range(x0, x1):
                    v = strip[y, x]
                    if v < limit or not _is_peak(strip, y, x, np.float32(share) * v):
                        continue
                    if count < found.shape[0]:
                        half = np.float32(0.5) * v
                        along_x = _half_width(strip, y, x, 0, -1, half) + _half_width(strip, y, x, 0, 1, half)
                        along_y = _half_width(strip, y, x, -1, 0, half) + _half_width(strip, y, x, 1, 0, half)
                        found[count, 0] = y
                        found[count, 1] = x
                        found[count, 2] = v
                        found[count, 3] = _box(strip, y, x)
                        found[count, 4] = along_x
                        found[count, 5] = along_y
                    count += 1
    return count
