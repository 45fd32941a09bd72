"""From sampled ADU to output units: gain and sky; and the trails that are cut out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import ABSENT, compiled

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]


@compiled
def _apply(line: Plane, first: int, gain: Any, slope: Any, a: Any, b: Any, c: Any) -> None:
    """Multiply by a linear gain and subtract a quadratic sky, pixels counted from ``first``."""
    for k in range(line.size):
        n = np.float32(np.int32(first + k))
        done = line[k] * (gain + slope * n) - (a + n * (b + n * c))
        line[k] = done if line[k] < ABSENT else ABSENT


@compiled
def to_output_units(
    gain: Plane, gx0: int, gy0: int, node: int, x0: int, y0: int, sky: Floats,
    u0: float, du: float, v0: float, dv: float, out: Plane, limit: Plane, saturated: Plane,
) -> None:  # fmt: skip
    """Multiply by the gain, subtract the sky, and raise ``saturated`` where ``limit`` says so.

    Parameters
    ----------
    gain, gx0, gy0, node
        Gain at the tile's nodes, linear between.
    x0, y0
        First pixel of the tile.
    sky
        Terms 1, u, v, u², uv, v² with ``u = u0 + du * X`` and ``v = v0 + dv * Y``. Exact: on a grid of few nodes
        a quadratic is not linear between them.
    out
        ADU in, output units out; `ABSENT` stays.
    limit, saturated
        Same shape as ``out``, or ``limit`` of shape (0, 0): no pixel is saturated.
    """
    rows, columns = out.shape
    values = out.reshape(-1)
    for row in range(rows):
        cell_y = (y0 + row) // node
        fy = np.float32((y0 + row - cell_y * node) / node)
        v = v0 + dv * (y0 + row)
        along = sky[0] + sky[2] * v + sky[5] * v * v
        slope = sky[1] + sky[4] * v
        column = 0
        while column < columns:
            cell_x = (x0 + column) // node
            first = x0 + column - cell_x * node
            count = min(node - first, columns - column)
            j, i = cell_y - gy0, cell_x - gx0
            left = gain[j, i] + fy * (gain[j + 1, i] - gain[j, i])
            right = gain[j, i + 1] + fy * (gain[j + 1, i + 1] - gain[j, i + 1])
            step = (right - left) / np.float32(node)
            u = u0 + du * (cell_x * node)
            a = np.float32(along + slope * u + sky[3] * u * u)
            b = np.float32((slope + 2 * sky[3] * u) * du)
            c = np.float32(sky[3] * du * du)
            # Written out here: a function that is given a line counts its references, 3 times this loop's time.
            at = np.uintp(row * columns + column)
            for k in range(count):
                n = np.float32(np.int32(first + k))
                value = values[at + np.uintp(k)]
                done = value * (left + step * n) - (a + n * (b + n * c))
                values[at + np.uintp(k)] = done if value < ABSENT else ABSENT
            if limit.shape[0]:
                line = limit[row, column : column + count]
                some = np.int32(0)
                for k in range(count):
                    some += np.int32(line[k] > -ABSENT)
                if some:
                    for k in range(count):
                        line[k] = ABSENT if line[k] == -ABSENT else line[k]
                    _apply(line, first, left, step, a, b, c)
                    for k in range(count):
                        if line[k] < ABSENT:
                            saturated[row, column + k] = max(saturated[row, column + k], line[k])
            column += count


@compiled
def cut_streak(xa: float, ya: float, xb: float, yb: float, reach: float, x0: int, y0: int, out: Plane) -> None:
    """Set the pixels within ``reach`` of a segment to `ABSENT`; ends are 0-based pixels of the tile's grid."""
    dx, dy = xb - xa, yb - ya
    square = dx * dx + dy * dy
    first = max(int(np.floor(min(ya, yb) - reach)) - y0, 0)
    last = min(int(np.ceil(max(ya, yb) + reach)) - y0, out.shape[0] - 1)
    for row in range(first, last + 1):
        py = y0 + row - ya
        low, high = min(xa, xb) - reach, max(xa, xb) + reach
        if abs(dy) * out.shape[1] > abs(dx):
            # Steep enough for the band to leave the row.
            centre, half = xa + dx * py / dy, reach * np.sqrt(square) / abs(dy)
            low, high = max(low, centre - half), min(high, centre + half)
        start = max(int(np.floor(max(low, -1e9))) - x0, 0)
        stop = min(int(np.ceil(min(high, 1e9))) - x0, out.shape[1] - 1)
        for column in range(start, stop + 1):
            px = x0 + column - xa
            t = min(max((px * dx + py * dy) / square, 0.0), 1.0) if square > 0 else 0.0
            ox, oy = px - t * dx, py - t * dy
            if ox * ox + oy * oy <= reach * reach:
                out[row, column] = ABSENT
