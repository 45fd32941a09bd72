"""The first look at all values, while they are in the cache: the medians, and where outliers may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BLOCK, offset
from starloom.coadd.fused.median import median_run, room
from starloom.coadd.jit import ABSENT, compiled

_ZERO, _ONE = np.float32(0), np.float32(1)
_MEDIAN_VARIANCE = np.float32(np.pi / 2)
_LOWER_OF_TWO = np.float32(0.4)
_ROUNDING = np.float32(1 - 1e-5)
"""Bounds are lowered by it: what `fused.reject.scan` computes in another order must not be missed."""
_A, _B, _C, _D = offset(0), offset(1), offset(2), offset(3)


@compiled
def _reference(
    first: int,
    m: int,
    there: NDArray[np.int32],
    total: NDArray[np.float32],
    square: np.float32,
    centre: NDArray[np.float32],
    base: NDArray[np.float32],
    count: NDArray[np.int32],
    least: NDArray[np.float32],
    own: NDArray[np.float32],
) -> None:
    start = offset(first)
    for j in range(m):
        i = offset(j)
        p = start + i
        k, variance = there[i], total[i]
        two, number = k == 2, np.float32(k if k > 0 else 1)
        known = variance if two else _MEDIAN_VARIANCE * variance / (number * number)
        base[p], count[p] = known, k
        centre[p] += _LOWER_OF_TWO * np.sqrt(variance) if two else _ZERO
        least[i], own[i] = square * known, _ZERO if two else _ONE


@compiled
def _beyond(
    cube: NDArray[np.float32],
    k: int,
    last: int,
    first: int,
    m: int,
    begin: int,
    centre: NDArray[np.float32],
    least: NDArray[np.float32],
    own: NDArray[np.float32],
    variance: NDArray[np.float32],
) -> bool:
    # Any of four frames; where fewer are left, the last one again.
    a, b, c, d = offset(k), offset(min(k + 1, last)), offset(min(k + 2, last)), offset(min(k + 3, last))
    own_a, own_b, own_c, own_d = variance[a], variance[b], variance[c], variance[d]
    hits = np.int32(0)
    start, shift = offset(first), offset(begin)
    for j in range(m):
        i = shift + offset(j)
        p = start + i
        middle, low, factor = centre[p], least[i], own[i]
        v_a, v_b, v_c, v_d = cube[a, p], cube[b, p], cube[c, p], cube[d, p]
        e_a, e_b, e_c, e_d = v_a - middle, v_b - middle, v_c - middle, v_d - middle
        e_a, e_b = e_a if v_a < ABSENT else _ZERO, e_b if v_b < ABSENT else _ZERO
        e_c, e_d = e_c if v_c < ABSENT else _ZERO, e_d if v_d < ABSENT else _ZERO
        beyond = (e_a * e_a > low + own_a * factor) | (e_b * e_b > low + own_b * factor)
        beyond |= (e_c * e_c > low + own_c * factor) | (e_d * e_d > low + own_d * factor)
        hits = np.int32(hits + np.int32(beyond))
    return bool(hits > 0)


@compiled
def candidates(
    cube: NDArray[np.float32],
    network: NDArray[np.int32],
    variance: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    square: np.float32,
    centre: NDArray[np.float32],
    base: NDArray[np.float32],
    count: NDArray[np.int32],
    flags: NDArray[np.bool_],
) -> None:
    """Take the medians, and find the blocks of each frame in which a value is beyond the clip without signal.

    Parameters
    ----------
    cube
        Values, shape ``(n, npix)``, `ABSENT` where a frame has nothing; npix = ny nx of the tile.
    network
        `network.merging` of ``n`` frames.
    variance, spreads
        Variance of each frame, shape ``(n,)``, and on the lattice what multiplies it, shape ``(n, gy, gx)``,
        or ``(0, 0, 0)`` for 1 everywhere.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    square
        Square of the clip.
    centre
        Receives what values are compared with, ``(npix,)``: the median, `ABSENT` where nothing is. Of two values
        it is the lower one, raised by 0.40 of the deviation of their difference: so much is the lesser of two
        normal values low in the mean, for which good pixels must not pay.
    base
        Receives the variance of the centre, ``(npix,)``: of a median of normal values pi / 2 times that of a mean;
        of two values that of their difference, which holds the value's own.
    count
        Receives the number of values, ``(npix,)``.
    flags
        Receives, for each block of `BLOCK` pixels and each frame, whether a value of it exceeds the bound that it
        has where there is no signal (or, with ``spreads``, a lower one), shape ``(blocks, n)``.

    Notes
    -----
    Half of all blocks have signal enough to open the clip, but only one in ten of a frame's has a value that needs
    it. Found here, where a run of all frames is in the second-level cache anyway, that costs 0.1 ns per value; a
    pass over the cube of its own took 0.9.
    """
    n, npix = cube.shape
    rows, lines, there, total = room(n)
    lowest = square * _ROUNDING * variance
    for k in range(spreads.shape[0]):
        lowest[k] *= spreads[k].min()
    least, own = lines[0], lines[1]
    for first in range(0, npix, there.size):
        m = min(there.size, npix - first)
        median_run(cube, first, m, network, variance, spreads, place, True, rows, lines, centre, there, total)
        _reference(first, m, there, total, square * _ROUNDING, centre, base, count, least, own)
        for begin in range(0, m, BLOCK):
            block = (first + begin) // BLOCK
            for k in range(0, n, 4):
                flags[block, k // 4] = _beyond(
                    cube, k, n - 1, first, min(BLOCK, m - begin), begin, centre, least, own, lowest
                )
