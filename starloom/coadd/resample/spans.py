"""Which pixels of each frame row a tile needs: a rotated frame needs a parallelogram, not its bounding box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import compiled
from starloom.coadd.resample.lattice import cell_corners

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@compiled
def _reach(x: Floats, y: Floats, row: int, column: int, node: float, half: float) -> tuple[float, float]:
    """Return how far, frame pixels, half an output pixel's side extends in x and y within a cell."""
    k = half / node
    across = max(abs(x[row, column + 1] - x[row, column]), abs(x[row + 1, column + 1] - x[row + 1, column]))
    along = max(abs(x[row + 1, column] - x[row, column]), abs(x[row + 1, column + 1] - x[row, column + 1]))
    reach_x = k * (across + along)
    across = max(abs(y[row, column + 1] - y[row, column]), abs(y[row + 1, column + 1] - y[row + 1, column]))
    along = max(abs(y[row + 1, column] - y[row, column]), abs(y[row + 1, column + 1] - y[row, column + 1]))
    return reach_x, k * (across + along)


@compiled
def _edge(
    xa: float, ya: float, xb: float, yb: float, mx: float, my: float, ny: int, nx: int, lo: Ints, hi: Ints
) -> None:
    """Widen the spans by all pixels within ``mx``, ``my`` of a straight edge."""
    first = max(int(np.ceil(min(ya, yb) - my)), 0)
    last = min(int(np.floor(max(ya, yb) + my)), ny - 1)
    dy = yb - ya
    for row in range(first, last + 1):
        s, t = 0.0, 1.0
        if abs(dy) > 1e-9:
            p, q = (row - my - ya) / dy, (row + my - ya) / dy
            s, t = min(max(min(p, q), 0.0), 1.0), min(max(max(p, q), 0.0), 1.0)
        p, q = xa + s * (xb - xa), xa + t * (xb - xa)
        left = int(np.floor(max(min(min(p, q) - mx, float(nx)), 0.0)))
        right = int(np.ceil(max(min(max(p, q) + mx, float(nx - 1)), -1.0))) + 1
        lo[row] = min(lo[row], left)
        hi[row] = max(hi[row], right)


@compiled
def frame_spans(
    x: Floats, y: Floats, gx0: int, gy0: int, node: int,
    x0: int, y0: int, width: int, height: int,
    reach: float, half: float, ny: int, nx: int, lo: Ints, hi: Ints,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Find the frame pixels within ``reach`` (plus ``half`` an output pixel) of a tile's pixels.

    Parameters
    ----------
    x, y, gx0, gy0, node
        The tile's `Nodes`.
    x0, y0, width, height
        The tile, output pixels.
    ny, nx
        Shape of the frame.
    lo, hi
        At least ``ny`` long; pixels ``lo[r]:hi[r]`` of frame row ``r`` are needed. Valid in the rows returned.

    Returns
    -------
    int
        First row, row after the last, first column, column after the last; the same twice when nothing is.
    """
    rows, columns = x.shape[0] - 1, x.shape[1] - 1
    used = np.zeros((rows + 2, columns + 2), np.bool_)
    top, bottom = ny, 0
    for row in range(rows):
        for column in range(columns):
            known, xa, xb, xc, xd, ya, yb, yc, yd = cell_corners(x, y, row, column)
            if not known:
                continue
            mx, my = _reach(x, y, row, column, node, half)
            mx, my = mx + reach, my + reach
            low, high = min(min(ya, yb), min(yc, yd)) - my, max(max(ya, yb), max(yc, yd)) + my
            if low > ny - 1 or high < 0:
                continue
            if min(min(xa, xb), min(xc, xd)) - mx > nx - 1 or max(max(xa, xb), max(xc, xd)) + mx < 0:
                continue
            used[row + 1, column + 1] = True
            top, bottom = min(top, int(max(low, 0.0))), max(bottom, int(min(high, ny - 1.0)) + 1)
    for row in range(top, bottom):
        lo[row], hi[row] = nx, 0
    for row in range(rows):
        for column in range(columns):
            if not used[row + 1, column + 1]:
                continue
            # Only the outline of all cells widens a span.
            beside = used[row + 1, column] and used[row + 1, column + 2]
            if beside and used[row, column + 1] and used[row + 2, column + 1]:
                continue
            _, xa, xb, xc, xd, ya, yb, yc, yd = cell_corners(x, y, row, column)
            mx, my = _reach(x, y, row, column, node, half)
            mx, my = mx + reach, my + reach
            left, below = (gx0 + column) * node, (gy0 + row) * node
            # The part of the cell within the tile: the others are read by their own tiles.
            s0 = (max(x0, left) - left) / node
            s1 = (min(x0 + width - 1, left + node) - left) / node
            t0 = (max(y0, below) - below) / node
            t1 = (min(y0 + height - 1, below + node) - below) / node
            ax, ay = (1 - t0) * xa + t0 * xc, (1 - t0) * ya + t0 * yc
            bx, by = (1 - t0) * xb + t0 * xd, (1 - t0) * yb + t0 * yd
            cx, cy = (1 - t1) * xa + t1 * xc, (1 - t1) * ya + t1 * yc
            dx, dy = (1 - t1) * xb + t1 * xd, (1 - t1) * yb + t1 * yd
            ax, bx, ay, by = ax + s0 * (bx - ax), ax + s1 * (bx - ax), ay + s0 * (by - ay), ay + s1 * (by - ay)
            cx, dx, cy, dy = cx + s0 * (dx - cx), cx + s1 * (dx - cx), cy + s0 * (dy - cy), cy + s1 * (dy - cy)
            _edge(ax, ay, bx, by, mx, my, ny, nx, lo, hi)
            _edge(cx, cy, dx, dy, mx, my, ny, nx, lo, hi)
            _edge(ax, ay, cx, cy, mx, my, ny, nx, lo, hi)
            _edge(bx, by, dx, dy, mx, my, ny, nx, lo, hi)
    left, right = nx, 0
    while top < bottom and lo[top] >= hi[top]:
        top += 1
    while bottom > top and lo[bottom - 1] >= hi[bottom - 1]:
        bottom -= 1
    for row in range(top, bottom):
        if lo[row] < hi[row]:
            left, right = min(left, lo[row]), max(right, hi[row])
    if left >= right:
        return 0, 0, 0, 0
    for row in range(top, bottom):
        if lo[row] >= hi[row]:
            lo[row], hi[row] = left, left
    return top, bottom, left, right
