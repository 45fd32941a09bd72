"""The brightest straight segment of an image, by the fast Radon transform of its parts."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import compiled

Plane = NDArray[np.float32]

LONGEST = 128
"""Rows that are summed at most. Longer trails are followed; sums of a strip of so many rows fit into a cache."""

_FIRST_LEVEL = 4
_LEAST_CELLS = 10.0


class Segment(NamedTuple):
    """A segment between the centres of two cells (0-based columns and rows), and its significance."""

    significance: float
    x0: float
    y0: float
    x1: float
    y1: float


@compiled
def _search(
    values: Plane, counts: Plane, longest: int, first: int, least: np.float32, best: NDArray[np.float64]
) -> None:
    """Sum along all lines that lean right by up to one column a row; keep the most significant segment.

    ``best`` is (significance squared, row, rows, shift, column). Sums of 2^k rows come from those of 2^(k-1), each
    row of a buffer being one (strip, shift).
    """
    ny, nx = values.shape
    a, b = np.empty((longest, nx), np.float32), np.empty((longest, nx), np.float32)
    ca, cb = np.empty((longest, nx), np.float32), np.empty((longest, nx), np.float32)
    for y0 in range(0, ny, longest):
        for y in range(longest):
            for x in range(nx):
                a[y, x] = values[y0 + y, x]
                ca[y, x] = counts[y0 + y, x]
        level, half = 1, 1
        while half < longest:
            full = 2 * half
            for j in range(longest // full):
                for s in range(full):
                    lower, upper, out = j * full + s // 2, j * full + half + s // 2, j * full + s
                    shift = (s + 1) // 2
                    peak = np.float32(0)
                    for x in range(nx - full):
                        b[out, x] = a[lower, x] + a[upper, x + shift]
                        cb[out, x] = ca[lower, x] + ca[upper, x + shift]
                    if level < first:
                        continue
                    for x in range(nx - full):
                        v = b[out, x]
                        peak = max(peak, v * abs(v) / max(cb[out, x], least))
                    if peak > best[0]:
                        for x in range(nx - full):
                            v = b[out, x]
                            # Not `==`: divisions may be rounded otherwise in a vectorised loop.
                            if v * abs(v) / max(cb[out, x], least) > np.float32(0.99999) * peak:
                                best[0], best[1], best[2], best[3], best[4] = peak, y0 + j * full, full, s, x
                                break
            a, b, ca, cb = b, a, cb, ca
            half = full
            level += 1


def brightest_segment(values: Plane, known: NDArray[np.bool_]) -> Segment | None:
    """Find the segment of greatest significance, at any angle and of 16 to 128 cells.

    Parameters
    ----------
    values
        Noise of unit deviation and whatever stands out of it, 0 where not ``known``; shape ``(ny, nx)``.
    known
        Which cells count, same shape.

    Returns
    -------
    Segment or None
        Its ``significance`` is the sum over the square root of the number of cells; None where nothing is above 0.

    References
    ----------
    Brady 1998, SIAM J. Comput. 27, 107; partial sums as in Nir, Zackay & Ofek 2018, AJ 156, 229.
    """
    found: Segment | None = None
    for turned in (False, True):
        for mirrored in (False, True):
            v, k = (values.T, known.T) if turned else (values, known)
            if mirrored:
                v, k = v[:, ::-1], k[:, ::-1]
            ny, nx = v.shape
            shape = (math.ceil(ny / LONGEST) * LONGEST, nx + 2 * LONGEST)
            image, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
            image[:ny, LONGEST : LONGEST + nx] = v
            count[:ny, LONGEST : LONGEST + nx] = k
            best = np.zeros(5)
            _search(image, count, LONGEST, _FIRST_LEVEL, np.float32(_LEAST_CELLS), best)
            if best[0] <= 0 or (found and math.sqrt(best[0]) <= found.significance):
                continue
            y0, y1 = best[1], best[1] + best[2] - 1
            x0, x1 = best[4] - LONGEST, best[4] - LONGEST + best[3]
            if mirrored:
                x0, x1 = nx - 1 - x0, nx - 1 - x1
            if turned:
                x0, y0, x1, y1 = y0, x0, y1, x1
            found = Segment(math.sqrt(best[0]), float(x0), float(y0), float(x1), float(y1))
    return found
