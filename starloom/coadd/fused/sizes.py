"""Which PSF is behind a median: the sizes of those frames that have the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import ALIKE, BLOCK, CONTRAST, MIXED, SHARPER, WIDER, offset
from starloom.coadd.jit import ABSENT, compiled

# Four ranks in the fields of one integer are compared and counted at once: in own arrays they took 5 times
# as long. The highest bit of each keeps a difference from borrowing from the next.
_EACH = np.uint64(0x0001_0001_0001_0001)
_GUARD = np.uint64(0x8000_8000_8000_8000)
_GUARD_BIT = np.uint64(15)
_FIELD = np.uint64(16)
_NONE, _MASK = np.uint64(0), np.uint64(0x7FFF)

UNKNOWN, RANKED, READY = np.uint8(0), np.uint8(1), np.uint8(2)
"""How far a block is: `ranked` has been there, and `unlike` too."""

_ONE = np.float32(1)
_BELOW, _RANKS = offset(0), offset(1)
_FIRST, _LOW, _HIGH, _LAST = offset(0), offset(1), offset(2), offset(3)
_SMOOTHED = np.float32(2.77)
"""Variance of the [1, 2, 1] / 4 smoothing (1/2 px²) over a PSF's (FWHM² / 5.55): what it takes from a peak."""


@compiled
def _whole(count: NDArray[np.int32], first: int, m: int, n: int) -> bool:
    start, all_, less = offset(first), np.int32(n), np.int32(0)
    for j in range(m):
        less = np.int32(less + np.int32(count[start + offset(j)] < all_))
    return bool(less == 0)


@compiled
def _fill(found: NDArray[np.float32], sizes: tuple[np.float32, np.float32, np.float32, np.float32]) -> None:
    a, b, c, d = sizes
    for j in range(found.shape[1]):
        i = offset(j)
        found[_FIRST, i], found[_LOW, i], found[_HIGH, i], found[_LAST, i] = a, b, c, d


@compiled
def _ranks(
    count: NDArray[np.int32], first: int, m: int, fields: NDArray[np.uint64], steps: NDArray[np.uint64]
) -> None:
    start = offset(first)
    for j in range(m):
        i = offset(j)
        there = np.int64(count[start + i])
        last = there - 1 if there > 0 else 0
        inner = (last >> 2) | ((last >> 1) << 16) | ((there >> 1) << 32)
        fields[_RANKS, i] = _GUARD + np.uint64(inner | ((last - (last >> 2)) << 48))
        fields[_BELOW, i], steps[start + i] = _NONE, _NONE


@compiled
def _pass(
    cube: NDArray[np.float32],
    order: NDArray[np.int32],
    step: int,
    first: int,
    m: int,
    fields: NDArray[np.uint64],
    steps: NDArray[np.uint64],
) -> None:
    # Four frames; beyond the last one nothing counts.
    last, start = order.size - 1, offset(first)
    a, b = offset(order[step]), offset(order[min(step + 1, last)])
    c, d = offset(order[min(step + 2, last)]), offset(order[min(step + 3, last)])
    each_b, each_c = _EACH if step + 1 <= last else _NONE, _EACH if step + 2 <= last else _NONE
    each_d = _EACH if step + 3 <= last else _NONE
    for j in range(m):
        i = offset(j)
        p = start + i
        smaller, rank, more = fields[_BELOW, i], fields[_RANKS, i], steps[p]
        more += ((rank - smaller) >> _GUARD_BIT) & _EACH
        smaller += _EACH if cube[a, p] < ABSENT else _NONE
        more += ((rank - smaller) >> _GUARD_BIT) & each_b
        smaller += each_b if cube[b, p] < ABSENT else _NONE
        more += ((rank - smaller) >> _GUARD_BIT) & each_c
        smaller += each_c if cube[c, p] < ABSENT else _NONE
        more += ((rank - smaller) >> _GUARD_BIT) & each_d
        smaller += each_d if cube[d, p] < ABSENT else _NONE
        fields[_BELOW, i], steps[p] = smaller, more


@compiled
def _terms(
    planes: NDArray[np.float32],
    first: int,
    m: int,
    sizes: NDArray[np.float32],
    factor: np.float32,
    other: np.float32,
) -> None:
    start = offset(first)
    for j in range(m):
        i = offset(j)
        p, size = start + i, sizes[_LOW, i]
        swing = planes[CONTRAST, p] * (_ONE + _SMOOTHED / size)
        planes[ALIKE, p] = factor * swing
        planes[SHARPER, p] = factor * swing * sizes[_HIGH, i]
        planes[WIDER, p] = factor * swing * size
        planes[MIXED, p] = other * swing * (_ONE - sizes[_FIRST, i] / sizes[_LAST, i])


@compiled
def ranked(
    cube: NDArray[np.float32],
    order: NDArray[np.int32],
    count: NDArray[np.int32],
    block: int,
    fields: NDArray[np.uint64],
    steps: NDArray[np.uint64],
) -> None:
    """Find the frames of the middle and the quartiles of the sizes of those frames that a pixel has, in one block.

    Parameters
    ----------
    cube
        ``(n, npix)``, `ABSENT` where a frame has nothing.
    order
        Frames by increasing size of their PSF, ``(n,)``.
    count
        Number of values of each pixel, ``(npix,)``.
    block
        Which `BLOCK` pixels.
    fields
        Scratch, ``(2, BLOCK)``.
    steps
        Receives, where not all frames have a value in all of the block, how far in the order the four are, 1 for
        the first, 16 bits each, ``(npix,)``.

    Notes
    -----
    Middle and quartiles of m sizes are those of ranks (m - 1) // 2 and m // 2, (m - 1) // 4 and
    m - 1 - (m - 1) // 4.
    """
    n, npix = cube.shape
    first = block * BLOCK
    m = min(BLOCK, npix - first)
    if not _whole(count, first, m, n):
        _ranks(count, first, m, fields, steps)
        for step in range(0, n, 4):
            _pass(cube, order, step, first, m, fields, steps)


@compiled
def unlike(
    ordered: NDArray[np.float32],
    count: NDArray[np.int32],
    block: int,
    terms: tuple[float, float],
    steps: NDArray[np.uint64],
    found: NDArray[np.float32],
    planes: NDArray[np.float32],
) -> None:
    """Prepare the four terms of what PSFs may differ by, in one block, see `fused.reject.scan`.

    They come from the middle and the quartiles of the sizes of those frames that a pixel has: of the frames of a
    tile it may be others, and what is known of a pixel must not hang on its tile.

    Parameters
    ----------
    ordered
        Sizes (squared FWHM) in increasing order, ``(n,)``.
    count, block, steps
        As for `ranked`, which has been there.
    terms
        Factors of the first three terms and of the last.
    found
        Scratch, ``(4, BLOCK)``.
    planes
        The contrast of `fused.signal.signals` in row `CONTRAST`, which the smoothing has lowered: for a star by
        1 + 2.77 px² / FWHM². Rows `ALIKE`, `SHARPER`, `WIDER` and `MIXED` receive the contrast, as before the
        smoothing, times 1, times the higher and times the lower of the two middle sizes, and times how far the
        quartiles differ, 1 - first / last; each times its factor; shape ``(8, npix)``.
    """
    n = ordered.size
    factor, other = np.float32(terms[0]), np.float32(terms[1])
    first = block * BLOCK
    m = min(BLOCK, count.size - first)
    last = n - 1
    whole = (ordered[last >> 2], ordered[last >> 1], ordered[n >> 1], ordered[last - (last >> 2)])
    _fill(found, whole)
    if not _whole(count, first, m, n):
        for i in range(m):
            if 0 < count[first + i] < n:
                up = steps[first + i]
                for q in range(4):
                    found[q, i] = ordered[np.int64(up & _MASK) - 1]
                    up >>= _FIELD
    _terms(planes, first, m, found, factor, other)


@compiled
def prepare(
    cube: NDArray[np.float32],
    count: NDArray[np.int32],
    psfs: tuple[NDArray[np.int32], NDArray[np.float32], tuple[float, float]],
    block: int,
    steps: NDArray[np.uint64],
    state: NDArray[np.uint8],
    scratch: tuple[NDArray[np.uint64], NDArray[np.float32]],
    planes: NDArray[np.float32],
) -> None:
    """Do what is left of `ranked` and `unlike` in one block; ``psfs`` are their order, ordered and terms."""
    order, ordered, terms = psfs
    fields, found = scratch
    if state[block] == UNKNOWN:
        ranked(cube, order, count, block, fields, steps)
    unlike(ordered, count, block, terms, steps, found, planes)
    state[block] = READY
