"""Slowly varying quantities: bilinear between nodes at absolute multiples of 32 output pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import offset
from starloom.coadd.jit import compiled

_SHIFT = 5
_STEP = np.float32(1 / 32)


@compiled
def spread(
    nodes: NDArray[np.float32],
    k: int,
    place: tuple[int, int, int],
    first: int,
    count: int,
    factor: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Evaluate a lattice at consecutive pixels of a tile.

    Parameters
    ----------
    nodes
        Values, shape ``(n, gy, gx)``, from node ``(tile.y0 // 32, tile.x0 // 32)`` on.
    k
        Which of the lattices.
    place
        ``(tile.y0, tile.x0, tile.nx)``.
    first, count
        Flat index in the tile of the first pixel, and how many; they may run over ends of rows.
    factor
        Multiplies every value.
    out
        Receives the values in its first ``count`` elements.
    """
    y0, x0, nx = place
    i = 0
    while i < count:
        y, x = divmod(first + i, nx)
        gy, gx = ((y + y0) >> _SHIFT) - (y0 >> _SHIFT), ((x + x0) >> _SHIFT) - (x0 >> _SHIFT)
        down, part = np.float32((y + y0) & 31) * _STEP, (x + x0) & 31
        run = min(32 - part, nx - x, count - i)
        left = factor * (nodes[k, gy, gx] + down * (nodes[k, gy + 1, gx] - nodes[k, gy, gx]))
        right = factor * (nodes[k, gy, gx + 1] + down * (nodes[k, gy + 1, gx + 1] - nodes[k, gy, gx + 1]))
        slope = (right - left) * _STEP
        for j in range(run):
            out[offset(i) + offset(j)] = left + slope * np.float32(np.int32(part + j))
        i += run
