"""Weighted sums over frames, in plan order, in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.fused.lattice import spread
from starloom.coadd.jit import ABSENT, compiled

_ZERO = np.float32(0)
_A, _B, _C, _D = offset(0), offset(1), offset(2), offset(3)


@compiled
def _add(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    parts: NDArray[np.float32],
    flux: NDArray[np.float64],
    weights: NDArray[np.float64],
    number: NDArray[np.int32],
) -> int:
    frame, start = offset(k), offset(first)
    kept = np.int32(0)
    for j in range(flux.size):
        i = offset(j)
        v = cube[frame, start + i]
        here = v < ABSENT
        part = np.float64(parts[_A, i] if here else _ZERO)
        flux[i] += part * np.float64(v)
        weights[i] += part
        number[i] += np.int32(here)
        kept = np.int32(kept + np.int32(here))
    return int(kept)


@compiled
def _add_four(
    cube: NDArray[np.float32],
    k: int,
    first: int,
    parts: NDArray[np.float32],
    flux: NDArray[np.float64],
    weights: NDArray[np.float64],
    number: NDArray[np.int32],
) -> tuple[int, int, int, int]:
    # As `_add` for four frames in turn, in the same order, with the sums kept in registers: half the time.
    frame, start = offset(k), offset(first)
    kept_a, kept_b, kept_c, kept_d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    for j in range(flux.size):
        i = offset(j)
        p = start + i
        a, b, c, d = cube[frame, p], cube[frame + _B, p], cube[frame + _C, p], cube[frame + _D, p]
        has_a, has_b, has_c, has_d = a < ABSENT, b < ABSENT, c < ABSENT, d < ABSENT
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


@compiled
def sums(
    cube: NDArray[np.float32],
    weight: NDArray[np.float32],
    shares: NDArray[np.float32],
    place: tuple[int, int, int],
    inner: tuple[int, int, int, int],
    sci: NDArray[np.float32],
    total: NDArray[np.float32],
    coverage: NDArray[np.int16],
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
    sci, total, coverage
        Receive weighted mean (0 where nothing is), summed weight and number of values, of the inner shape.
    offered
        Raised by the number of values of each frame, ``(n,)``.
    """
    n = cube.shape[0]
    y0, y1, x0, x1 = inner
    nx, m = place[2], x1 - x0
    flux, weights, number = np.empty(m), np.empty(m), np.empty(m, np.int32)
    parts = np.empty((4, m), np.float32)
    for y in range(y0, y1):
        flux[:], weights[:], number[:] = 0.0, 0.0, 0
        first = y * nx + x0
        for k in range(0, n, 4):
            several = min(4, n - k)
            for q in range(several):
                if shares.shape[0] > 0:
                    spread(shares, k + q, place, first, m, weight[k + q], parts[q])
                else:
                    parts[q] = weight[k + q]
            if several == 4:
                for q, kept in enumerate(_add_four(cube, k, first, parts, flux, weights, number)):
                    offered[k + q] += kept
            else:
                for q in range(several):
                    if q > 0:
                        parts[0] = parts[q]
                    offered[k + q] += _add(cube, k + q, first, parts, flux, weights, number)
        for i in range(m):
            some = weights[i] > 0
            sci[y - y0, i] = flux[i] / weights[i] if some else 0.0
            total[y - y0, i], coverage[y - y0, i] = weights[i], number[i]
