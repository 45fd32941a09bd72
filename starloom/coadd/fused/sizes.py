"""Which PSF is behind a median: the sizes of those frames that have the pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BLOCK, offset
from starloom.coadd.jit import ABSENT, compiled

# Four ranks in the fields of one integer are compared and counted at once: in own arrays they took 5 times
# as long. The highest bit of each keeps a difference from borrowing from the next.
_EACH = np.uint64(0x0001_0001_0001_0001)
_GUARD = np.uint64(0x8000_8000_8000_8000)
_GUARD_BIT = np.uint64(15)
_FIELD = np.uint64(16)
_NONE, _MASK = np.uint64(0), np.uint64(0x7FFF)

_ONE = np.float32(1)
_FIRST, _LOW, _HIGH, _LAST = offset(0), offset(1), offset(2), offset(3)
_SMOOTHED = np.float32(2.77)
"""Variance of the [1, 2, 1] / 4 smoothing (1/2 px²) over a PSF's (FWHM² / 5.55): what it takes from a peak."""


@compiled
def _rank(there: int, q: int) -> int:
    last = there - 1
    return (last >> 2, last >> 1, there >> 1, last - (last >> 2))[q]


@compiled
def _pass(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    below: NDArray[np.uint64],
    ranks: NDArray[np.uint64],
    steps: NDArray[np.uint64],
) -> None:
    frame, start = offset(k), offset(first)
    for j in range(m):
        i = offset(j)
        smaller = below[i]
        steps[i] += ((ranks[i] - smaller) >> _GUARD_BIT) & _EACH
        below[i] = smaller + (_EACH if cube[frame, start + i] < ABSENT else _NONE)


@compiled
def _terms(
    contrast: NDArray[np.float32],
    first: int,
    m: int,
    sizes: NDArray[np.float32],
    factor: np.float32,
    other: np.float32,
    alike: NDArray[np.float32],
    sharper: NDArray[np.float32],
    wider: NDArray[np.float32],
    mixed: NDArray[np.float32],
) -> None:
    start = offset(first)
    for j in range(m):
        i = offset(j)
        p, size = start + i, sizes[_LOW, i]
        swing = contrast[p] * (_ONE + _SMOOTHED / size)
        alike[p] = factor * swing
        sharper[p] = factor * swing * sizes[_HIGH, i]
        wider[p] = factor * swing * size
        mixed[p] = other * swing * (_ONE - sizes[_FIRST, i] / sizes[_LAST, i])


@compiled
def unlike(
    cube: NDArray[np.float32],
    order: NDArray[np.int32],
    size: NDArray[np.float32],
    count: NDArray[np.int32],
    quiet: NDArray[np.bool_],
    contrast: NDArray[np.float32],
    terms: tuple[float, float],
    alike: NDArray[np.float32],
    sharper: NDArray[np.float32],
    wider: NDArray[np.float32],
    mixed: NDArray[np.float32],
) -> None:
    """Prepare the four terms of what PSFs may differ by, see `fused.reject.scan`.

    They come from the middle and the quartiles of the sizes of those frames that a pixel has: of the frames of a
    tile it may be others, and what is known of a pixel must not hang on its tile.

    Parameters
    ----------
    cube
        ``(n, npix)``, `ABSENT` where a frame has nothing.
    order, size
        Frames by increasing size of their PSF, and that size (squared FWHM), each of shape ``(n,)``.
    count
        Number of values of each pixel, ``(npix,)``.
    quiet
        Blocks of `BLOCK` pixels without contrast: all terms are 0 there, and nothing is written.
    contrast
        Of `fused.signal.signals`, ``(npix,)``, which the smoothing has lowered: for a star by
        1 + 2.77 px² / FWHM².
    terms
        Factors of the first three terms and of the last.
    alike, sharper, wider, mixed
        Receive the contrast, as before the smoothing, times 1, times the higher and times the lower of the two
        middle sizes, and times how far the quartiles differ, 1 - first / last; each times its factor; ``(npix,)``.

    Notes
    -----
    Middle and quartiles of m sizes are those of ranks (m - 1) // 2 and m // 2, (m - 1) // 4 and
    m - 1 - (m - 1) // 4.
    """
    n, npix = cube.shape
    factor, other = np.float32(terms[0]), np.float32(terms[1])
    below, ranks, steps = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    found = np.empty((4, BLOCK), np.float32)
    for b in range(quiet.size):
        if quiet[b]:
            continue
        first = b * BLOCK
        m = min(BLOCK, npix - first)
        if count[first : first + m].min() == n:
            for q in range(4):
                found[q] = size[order[_rank(n, q)]]
        else:
            for i in range(m):
                ranks[i], there = _GUARD, max(count[first + i], 1)
                for q in range(4):
                    ranks[i] += np.uint64(_rank(there, q)) << (_FIELD * np.uint64(q))
            below[:], steps[:] = _NONE, _NONE
            for k in range(n):
                _pass(cube, order[k], first, m, below, ranks, steps)
            for i in range(m):
                for q in range(4):
                    # Steps up to the frame before which as many are smaller as the rank says, itself included.
                    step = np.int64((steps[i] >> (_FIELD * np.uint64(q))) & _MASK)
                    found[q, i] = size[order[step - 1]]
        _terms(contrast, first, m, found, factor, other, alike, sharper, wider, mixed)
