"""The first look at all values, while they are in the cache: the medians, and where outliers may be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BLOCK, offset
from starloom.coadd.fused.median import median_run, room
from starloom.coadd.fused.sizes import RANKED, UNKNOWN, ranked
from starloom.coadd.jit import ABSENT, compiled

_ZERO, _ONE = np.float32(0), np.float32(1)
_MEDIAN_VARIANCE = np.float32(np.pi / 2)
_LOWER_OF_TWO = np.float32(0.4)
_ROUNDING = np.float32(1 - 1e-5)
"""Bounds are lowered by it: what `fused.reject.scan` computes in another order must not be missed."""
_FEW = 8
"""Values of a block that are listed: of more, fetching the block again costs less, and the list stays short."""
_ROOM = 65536
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
def _marked(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    begin: int,
    centre: NDArray[np.float32],
    least: NDArray[np.float32],
    own: NDArray[np.float32],
    variance: np.float32,
    marks: NDArray[np.int32],
) -> int:
    # As `_beyond` for one frame, marking which.
    frame, start, shift, hits = offset(k), offset(first), offset(begin), np.int32(0)
    for j in range(m):
        i = shift + offset(j)
        v = cube[frame, start + i]
        e = v - centre[start + i]
        e = e if v < ABSENT else _ZERO
        marks[offset(j)] = np.int32(e * e > least[i] + variance * own[i])
        hits = np.int32(hits + marks[offset(j)])
    return int(hits)


@compiled
def _listed(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    marks: NDArray[np.int32],
    frames: NDArray[np.int32],
    places: NDArray[np.int32],
    values: NDArray[np.float32],
    found: int,
) -> int:
    # Apart from where the arrays grow: there, each would be counted as a reference for every block.
    for j in range(m):
        if marks[j]:
            frames[found], places[found], values[found] = k, first + j, cube[k, first + j]
            found += 1
    return found


@compiled
def candidates(
    cube: NDArray[np.float32],
    network: NDArray[np.int32],
    variance: NDArray[np.float32],
    spreads: NDArray[np.float32],
    place: tuple[int, int, int],
    square: np.float32,
    order: NDArray[np.int32],
    centre: NDArray[np.float32],
    base: NDArray[np.float32],
    count: NDArray[np.int32],
    steps: NDArray[np.uint64],
    state: NDArray[np.uint8],
    crowded: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], int]:
    """Take the medians, and find the values of each frame that would be beyond the clip if there were no signal.

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
    order, steps
        Of `fused.sizes.ranked`, which is called for the blocks in which something is found.
    state
        Becomes `RANKED` for these blocks.
    crowded
        Becomes true for blocks of a frame in which more than `_FEW` values are found, shape ``(blocks, n)``.

    Returns
    -------
    tuple
        Frame, flat position and value of each that is not in a crowded block, and their number; the arrays may be
        longer. With ``spreads`` there may be some within the clip too.

    Notes
    -----
    Half of all blocks have signal enough to open the clip, but only one in ten of a frame's has a value that needs
    it. Found here, where a run of all frames is in the cache anyway, that costs 0.3 ns per value; a pass of its
    own over the cube took 0.9, and to fetch only these blocks again, from here and there, 0.7.
    """
    n, npix = cube.shape
    rows, lines, there, total = room(n)
    lowest = square * _ROUNDING * variance
    for k in range(spreads.shape[0]):
        lowest[k] *= spreads[k].min()
    least, own = lines[0], lines[1]
    fields, marks = np.empty((2, BLOCK), np.uint64), np.empty(BLOCK, np.int32)
    frames, places, values = np.empty(_ROOM, np.int32), np.empty(_ROOM, np.int32), np.empty(_ROOM, np.float32)
    found = 0
    for first in range(0, npix, there.size):
        m = min(there.size, npix - first)
        median_run(cube, first, m, network, variance, spreads, place, True, rows, lines, centre, there, total)
        _reference(first, m, there, total, square * _ROUNDING, centre, base, count, least, own)
        most = n * _FEW * (there.size // BLOCK)
        if found + most > frames.size:
            more = max(frames.size, most)
            frames = np.concatenate((frames, np.empty(more, np.int32)))
            places = np.concatenate((places, np.empty(more, np.int32)))
            values = np.concatenate((values, np.empty(more, np.float32)))
        for begin in range(0, m, BLOCK):
            block, size = (first + begin) // BLOCK, min(BLOCK, m - begin)
            for group in range(0, n, 4):
                if not _beyond(cube, group, n - 1, first, size, begin, centre, least, own, lowest):
                    continue
                if state[block] == UNKNOWN:
                    ranked(cube, order, count, block, fields, steps)
                    state[block] = RANKED
                for k in range(group, min(group + 4, n)):
                    hits = _marked(cube, k, first, size, begin, centre, least, own, lowest[k], marks)
                    if hits > _FEW:
                        crowded[block, k] = True
                    elif hits > 0:
                        found = _listed(cube, k, first + begin, size, marks, frames, places, values, found)
    return frames, places, values, found
