"""Weighted sums over frames, in plan order, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled, exact

_RUN = 512
"""Pixels of a row summed at a time: their sums (18 KiB) stay in the first-level cache beside four frames."""
_ZERO = np.float32(0)
_A, _B, _C, _D = offset(0), offset(1), offset(2), offset(3)


@compiled
def _add_four(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    m: int,
    parts: NDArray[np.float32],
    flux: NDArray[np.float64],
    weights: NDArray[np.float64],
    number: NDArray[np.int32],
) -> tuple[int, int, int, int]:
    # Four frames in turn, with the sums in registers; beyond the last frame nothing is there.
    last, start = cube.shape[0] - 1, offset(first)
    f_a, f_b = offset(k), offset(min(k + 1, last))
    f_c, f_d = offset(min(k + 2, last)), offset(min(k + 3, last))
    limit_b = ABSENT if k + 1 <= last else -ABSENT
    limit_c = ABSENT if k + 2 <= last else -ABSENT
    limit_d = ABSENT if k + 3 <= last else -ABSENT
    kept_a, kept_b, kept_c, kept_d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    for j in range(m):
        i = offset(j)
        p = start + i
        a, b, c, d = cube[f_a, p], cube[f_b, p], cube[f_c, p], cube[f_d, p]
        has_a, has_b, has_c, has_d = a < ABSENT, b < limit_b, c < limit_c, d < limit_d
        part_a = np.float64(parts[_A, i] if has_a else _ZERO)
        part_b = np.float64(parts[_B, i] if has_b else _ZERO)
        part_c = np.float64(parts[_C, i] if has_c else _ZERO)
        part_d = np.float64(parts[_D, i] if has_d else _ZERO)
        total = flux[i] + part_a * np.float64(a)
        total += part_b * np.float64(b)
        total += part_c * np.float64(c)
        total += part_d * np.float64(d)
        flux[i] = total
        weights[i] = ((weights[i] + part_a) + part_b) + part_c + part_d
        number[i] += np.int32(has_a) + np.int32(has_b) + np.int32(has_c) + np.int32(has_d)
        kept_a = np.int32(kept_a + np.int32(has_a))
        kept_b = np.int32(kept_b + np.int32(has_b))
        kept_c = np.int32(kept_c + np.int32(has_c))
        kept_d = np.int32(kept_d + np.int32(has_d))
    return int(kept_a), int(kept_b), int(kept_c), int(kept_d)


@exact
def _finish(
    flux: NDArray[np.float64],
    weights: NDArray[np.float64],
    number: NDArray[np.int32],
    hit: NDArray[np.int16],
    first: int,
    m: int,
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.float32]],
    y: int,
    x: int,
) -> None:
    # Exact, for it writes NaN.
    sci, total, coverage, rejected = planes
    row, column, start = offset(y), offset(x), offset(first)
    for j in range(m):
        i = offset(j)
        weight, there = weights[i], number[i]
        mean = flux[i] / (weight if weight > 0.0 else 1.0)
        mean = mean if weight > 0.0 else 0.0
        sci[row, column + i] = np.float32(mean if there > 0 else np.nan)
        total[row, column + i], coverage[row, column + i] = np.float32(weight), np.int16(there)
        gone = np.int32(hit[start + i])
        all_ = there + gone
        rejected[row, column + i] = np.float32(gone) / np.float32(all_ if all_ > 0 else np.int32(1))


@compiled
def sums(
    cube: NDArray[np.float32],
    weight: NDArray[np.float32],
    shares: NDArray[np.float32],
    place: tuple[int, int, int],
    inner: tuple[int, int, int, int],
    hit: NDArray[np.int16],
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.float32]],
    offered: NDArray[np.int64],
) -> None:
    """Average the frames of the inner part of a tile.

    Parameters
    ----------
    cube
        ``(n, npix)``, `ABSENT` where a frame has nothing.
    weight, shares
        Weight of each frame, ``(n,)``, and on the lattice what multiplies it, ``(n, gy, gx)``, or ``(0, 0, 0)``.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    inner
        Rows from, to and columns from, to of the part that is wanted.
    hit
        Number of values that were rejected, ``(npix,)``.
    planes
        Receive weighted mean (NaN where nothing is), summed weight, number of values and share of the rejected
        ones, of the inner shape.
    offered
        Raised by the number of values of each frame, ``(n,)``.
    """
    n = cube.shape[0]
    y0, y1, x0, x1 = inner
    flux, weights, number = np.empty(_RUN), np.empty(_RUN), np.empty(_RUN, np.int32)
    parts = np.empty((4, _RUN), np.float32)
    for y in range(y0, y1):
        for x in range(x0, x1, _RUN):
            m, first = min(_RUN, x1 - x), y * place[2] + x
            flux[:], weights[:], number[:] = 0.0, 0.0, 0
            for k in range(0, n, 4):
                several = min(4, n - k)
                for q in range(several):
                    if shares.shape[0] > 0:
                        spread(shares, k + q, place, first, m, weight[k + q], parts[q])
                    else:
                        parts[q] = weight[k + q]
                kept = _add_four(cube, k, first, m, parts, flux, weights, number)
                for q in range(several):
                    offered[k + q] += kept[q]
            _finish(flux, weights, number, hit, first, m, planes, y - y0, x - x0)
