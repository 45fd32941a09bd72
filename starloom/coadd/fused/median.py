"""Medians of all pixels of a tile, and what else is known once a pixel's frames are counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

LANES = 64
"""Pixels sorted side by side: with 100 frames, all their values (25 KiB) stay in the first-level cache."""
_RUN, _LONGEST_RUN = 256, 1024
"""Pixels of a frame read at a time: with 64 from each of 100 frames in turn, memory takes 3 times as long."""
_NEAR, _FAR = 6144, 131072
"""Values of all frames held at a time, twice: 24 KiB in the first-level cache, or 512 KiB in the second."""
_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_A, _B, _C, _D = offset(0), offset(1), offset(2), offset(3)


@compiled
def _load_four(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    variance: NDArray[np.float32],
    rows: NDArray[np.float32],
    fill: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float32],
) -> None:
    # Four frames in turn, sorted while they are in registers; beyond the last frame all are absent.
    last, row, start = cube.shape[0] - 1, offset(k), offset(first)
    f_b, f_c, f_d = offset(min(k + 1, last)), offset(min(k + 2, last)), offset(min(k + 3, last))
    limit_b = ABSENT if k + 1 <= last else -ABSENT
    limit_c = ABSENT if k + 2 <= last else -ABSENT
    limit_d = ABSENT if k + 3 <= last else -ABSENT
    for j in range(m):
        i = offset(j)
        p = start + i
        a, b, c, d = cube[row, p], cube[f_b, p], cube[f_c, p], cube[f_d, p]
        has_a, has_b, has_c, has_d = a < ABSENT, b < limit_b, c < limit_c, d < limit_d
        other = fill[i]
        a, other = a if has_a else other, other if has_a else -other
        b, other = b if has_b else other, other if has_b else -other
        c, other = c if has_c else other, other if has_c else -other
        d, other = d if has_d else other, other if has_d else -other
        fill[i] = other
        count[i] += np.int32(has_a) + np.int32(has_b) + np.int32(has_c) + np.int32(has_d)
        summed = total[i] + (variance[_A, i] if has_a else _ZERO)
        summed += variance[_B, i] if has_b else _ZERO
        summed += variance[_C, i] if has_c else _ZERO
        summed += variance[_D, i] if has_d else _ZERO
        total[i] = summed
        a, b = a if a < b else b, b if a < b else a
        c, d = c if c < d else d, d if c < d else c
        a, c = a if a < c else c, c if a < c else a
        b, d = b if b < d else d, d if b < d else b
        b, c = b if b < c else c, c if b < c else b
        rows[row, i], rows[row + _B, i], rows[row + _C, i], rows[row + _D, i] = a, b, c, d


@compiled
def _exchange(rows: NDArray[np.float32], low: int, high: int, first: int) -> None:
    # Here a constant length pays: unrolled, the one test that the rows do not overlap costs least.
    a, b, start = offset(low), offset(high), offset(first)
    for j in range(LANES):
        i = start + offset(j)
        u, v = rows[a, i], rows[b, i]
        rows[a, i] = u if u < v else v
        rows[b, i] = v if u < v else u


@compiled
def _outer(
    rows: NDArray[np.float32],
    low: int,
    high: int,
    first: int,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
) -> None:
    # If the first part is four longer, its rows without a partner in the other: nothing there is negative.
    a, b, start = offset(max(low, 0)), offset(high), offset(first)
    for j in range(LANES):
        i = start + offset(j)
        lower[i] = rows[a, i] if low >= 0 else -ABSENT
        upper[i] = rows[b, i] if low >= 0 else ABSENT


@compiled
def _middle(
    rows: NDArray[np.float32],
    low: int,
    high: int,
    first: int,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
) -> None:
    # Of two sorted halves a and b, min(a[i], b[-1 - i]) are the lesser half of all, in some order. Four at a time.
    p, q, start = offset(low), offset(high), offset(first)
    for j in range(LANES):
        i = start + offset(j)
        a, b, c, d = rows[p, i], rows[p + _B, i], rows[p + _C, i], rows[p + _D, i]
        e, f, g, h = rows[q, i], rows[q - _B, i], rows[q - _C, i], rows[q - _D, i]
        a, e = a if a < e else e, e if a < e else a
        b, f = b if b < f else f, f if b < f else b
        c, g = c if c < g else g, g if c < g else c
        d, h = d if d < h else h, h if d < h else d
        a, e = a if a > b else b, e if e < f else f
        c, g = c if c > d else d, g if g < h else h
        a, e = a if a > c else c, e if e < g else g
        lower[i], upper[i] = a if a > lower[i] else lower[i], e if e < upper[i] else upper[i]


@compiled
def _choose(
    count: NDArray[np.int32],
    lower_of_two: bool,
    m: int,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
    first: int,
    centre: NDArray[np.float32],
) -> None:
    start = offset(first)
    single = np.int32(2 if lower_of_two else -1)
    for j in range(m):
        i = offset(j)
        there, a, b = count[i], lower[i], upper[i]
        # With one more absent at the bottom than at the top, the median is the upper of the middle.
        odd = (there & np.int32(1)) != 0
        middle = b if odd else _HALF * a + _HALF * b
        middle = a if there == single else middle
        centre[start + i] = middle if there > 0 else ABSENT


@compiled
def median_run(
    cube: NDArray[np.float32],
    first: int,
    m: int,
    network: NDArray[np.int32],
    variance: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    lower_of_two: bool,
    rows: NDArray[np.float32],
    lines: NDArray[np.float32],
    centre: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float32],
) -> None:
    """Take the medians of ``m`` pixels from ``first`` on.

    Parameters
    ----------
    cube, network, variance, spreads, place, lower_of_two, centre
        As for `medians`.
    rows, lines
        Scratch of `room`.
    count, total
        Receive the number of values and the sum of their variances, each in its first ``m`` elements.
    """
    n = cube.shape[0]
    own, fill, lower, upper = lines[:4], lines[4], lines[5], lines[6]
    count[:], total[:], fill[:] = 0, _ZERO, -ABSENT
    for k in range(0, n, 4):
        for q in range(min(4, n - k)):
            if spreads.shape[0] > 0:
                spread(spreads, k + q, place, first, m, variance[k + q], own[q])
            else:
                own[q] = variance[k + q]
        _load_four(cube, k, first, m, own, rows, fill, count, total)
    half, second = rows.shape[0] // 2, 4 * (rows.shape[0] // 8)
    for start in range(0, m, LANES):
        for q in range(network.shape[0]):
            _exchange(rows, network[q, 0], network[q, 1], start)
        _outer(rows, half - second - 1, half, start, lower, upper)
        for r in range(0, second, 4):
            _middle(rows, half - second + r, rows.shape[0] - 1 - r, start, lower, upper)
    _choose(count, lower_of_two, m, lower, upper, first, centre)


@compiled
def room(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Return scratch for the medians of ``n`` frames: rows, lines, counts and sums of a run of pixels."""
    run = _RUN
    if run * n > _NEAR:
        while run > LANES and run * n > _FAR:
            run //= 2
        while run < _LONGEST_RUN and 2 * run * n <= _FAR:
            run *= 2
    # A block more than a run: with rows a power of two apart, all would fall into the same few lines of the cache.
    rows = np.zeros((4 * -(-n // 4), run + LANES), np.float32)
    return rows, np.empty((7, run), np.float32), np.empty(run, np.int32), np.empty(run, np.float32)


@compiled
def medians(
    cube: NDArray[np.float32],
    network: NDArray[np.int32],
    variance: NDArray[np.float32],
    centre: NDArray[np.float32],
) -> None:
    """Take the median of every pixel.

    Parameters
    ----------
    cube
        Values, shape ``(n, npix)``, `ABSENT` where a frame has nothing; npix = ny nx of the tile.
    network
        `network.merging` of ``n`` frames.
    variance
        Of each frame, shape ``(n,)``.
    centre
        Receives the median, `ABSENT` where nothing is, ``(npix,)``.

    Notes
    -----
    The absent are put in turn at the bottom and at the top, so that the median is found in the middle whatever
    their number: the halves are sorted, and one pass over both gives the two middle values. That is 8.6
    comparisons per value for 100 frames, where sorting takes 11. It takes 0.7 ns per value of 12 frames, most
    of it to read them, and 1.4 ns of 100. To merge fours in registers, too, gained nothing.
    """
    n, npix = cube.shape
    rows, lines, count, total = room(n)
    nothing = np.zeros((0, 0, 0), np.float32)
    for first in range(0, npix, count.size):
        m = min(count.size, npix - first)
        median_run(cube, first, m, network, variance, nothing, (0, 0, 0), False, rows, lines, centre, count, total)
