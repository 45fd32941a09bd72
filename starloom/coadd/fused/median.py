"""Medians of all pixels of a tile, and what else is known once a pixel's frames are counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

_LANES = 64
"""Pixels sorted side by side: with 100 frames, all their values (25 KiB) stay in the first-level cache."""
_LONGEST_RUN = 1024
"""Pixels of a frame read at a time: with 64 from each of 100 frames in turn, memory takes 3 times as long."""
_CACHED = 131072
"""Values of all frames held at a time: half a mebibyte, of a second-level cache of one or two."""
_HALF = np.float32(0.5)
_ZERO = np.float32(0)


@compiled
def _load(
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
    frame, start = offset(k), offset(first)
    for j in range(m):
        i = offset(j)
        v, other = cube[frame, start + i], fill[i]
        here = v < ABSENT
        rows[frame, i] = v if here else other
        fill[i] = other if here else -other
        count[i] += np.int32(here)
        total[i] += variance[i] if here else _ZERO


@compiled
def _exchange(rows: NDArray[np.float32], low: int, high: int, first: int) -> None:
    # Here a constant length pays: unrolled, the one test that the rows do not overlap costs least.
    a, b, start = offset(low), offset(high), offset(first)
    for j in range(_LANES):
        i = start + offset(j)
        u, v = rows[a, i], rows[b, i]
        rows[a, i] = u if u < v else v
        rows[b, i] = v if u < v else u


@compiled
def _middle(
    rows: NDArray[np.float32],
    low: int,
    high: int,
    first: int,
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
) -> None:
    # Of two sorted halves a and b, min(a[i], b[-1 - i]) are the lesser half of all, in some order.
    a, b, start = offset(low), offset(high), offset(first)
    for j in range(_LANES):
        i = start + offset(j)
        u, v = rows[a, i], rows[b, i]
        small, large = u if u < v else v, v if u < v else u
        lower[i] = small if small > lower[i] else lower[i]
        upper[i] = large if large < upper[i] else upper[i]


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
def medians(
    cube: NDArray[np.float32],
    network: NDArray[np.int32],
    variance: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    lower_of_two: bool,
    centre: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float32],
) -> None:
    """Take the median of every pixel.

    Parameters
    ----------
    cube
        Values, shape ``(n, npix)``, `ABSENT` where a frame has nothing; npix = ny nx of the tile.
    network
        `comparators` of ``(n + 1) // 2`` rows.
    variance, spreads
        Variance of each frame, shape ``(n,)``, and on the lattice what multiplies it, shape ``(n, gy, gx)``,
        or ``(0, 0, 0)`` for 1 everywhere.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    lower_of_two
        Take of two values the lower one, not their mean.
    centre, count, total
        Receive the median (`ABSENT` where nothing is), the number of values and the sum of their variances,
        each ``(npix,)``.

    Notes
    -----
    The absent are put in turn at the bottom and at the top, so that the median is found in the middle whatever
    their number: the halves are sorted, and one pass over both gives the two middle values. That is 8.6
    comparisons per value for 100 frames, where sorting takes 11.
    """
    n, npix = cube.shape
    half = (n + 1) // 2
    run = _LANES
    while run < _LONGEST_RUN and 2 * run * n <= _CACHED:
        run *= 2
    # A block more than a run: with rows a power of two apart, all would fall into the same few lines of the cache.
    rows = np.zeros((2 * half, run + _LANES), np.float32)
    fill, own, summed = np.empty(run, np.float32), np.empty(run, np.float32), np.empty(run, np.float32)
    lower, upper = np.empty(run, np.float32), np.empty(run, np.float32)
    there = np.empty(run, np.int32)
    for first in range(0, npix, run):
        m = min(run, npix - first)
        there[:], summed[:], fill[:], lower[:], upper[:] = 0, _ZERO, -ABSENT, -ABSENT, ABSENT
        if n & 1:
            rows[n], fill[:] = -ABSENT, ABSENT
        for k in range(n):
            if spreads.shape[0] > 0:
                spread(spreads, k, place, first, m, variance[k], own)
            else:
                own[:] = variance[k]
            _load(cube, k, first, m, own, rows, fill, there, summed)
        for start in range(0, m, _LANES):
            for q in range(network.shape[0]):
                a, b = network[q, 0], network[q, 1]
                _exchange(rows, a, b, start)
                _exchange(rows, half + a, half + b, start)
            for r in range(half):
                _middle(rows, r, 2 * half - 1 - r, start, lower, upper)
        _choose(there, lower_of_two, m, lower, upper, first, centre)
        count[first : first + m], total[first : first + m] = there[:m], summed[:m]
