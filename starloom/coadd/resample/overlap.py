"""Exact overlap: each output pixel sums the frame pixels, or drizzled drops, that its quadrilateral covers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import ABSENT, compiled
from starloom.coadd.resample.flags import BAD, NOT_FINITE, SATURATED, Bytes
from starloom.coadd.resample.lattice import cell_corners

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

_LEAST = 1e-6
"""Overlaps below this share of an output pixel are rounding, not flux."""


@compiled
def _ramp(y: float, bottom: float, top: float) -> float:
    """Return the integral up to ``y`` of a value held between bottom and top, less bottom."""
    if y <= bottom:
        return 0.0
    if y < top:
        return 0.5 * (y - bottom) * (y - bottom)
    return (top - bottom) * (y - 0.5 * (top + bottom))


@compiled
def _set_edge(edges: Floats, index: int, xa: float, ya: float, xb: float, yb: float) -> None:
    """Keep an edge from left to right: ends, slope, its inverse, and the sign of the direction it had."""
    sign = 1.0
    if xa > xb:
        xa, ya, xb, yb, sign = xb, yb, xa, ya, -1.0
    edges[index, 0], edges[index, 1], edges[index, 2] = xa, ya, xb
    edges[index, 3] = (yb - ya) / (xb - xa) if xb > xa else 0.0
    edges[index, 4] = (xb - xa) / (yb - ya) if yb != ya else 0.0
    edges[index, 5] = sign


@compiled
def set_edges(
    edges: Floats, xa: float, ya: float, xb: float, yb: float, xc: float, yc: float, xd: float, yd: float
) -> None:
    """Prepare the quadrilateral a, b, c, d for `covered`; ``edges`` has shape (4, 6)."""
    _set_edge(edges, 0, xa, ya, xb, yb)
    _set_edge(edges, 1, xb, yb, xc, yc)
    _set_edge(edges, 2, xc, yc, xd, yd)
    _set_edge(edges, 3, xd, yd, xa, ya)


@compiled
def covered(edges: Floats, x: float, y: float, half: float) -> Any:
    """Return the area that a quadrilateral shares with a square around (x, y).

    The sum of the signed areas, within the square, under the edges.
    """
    left, right, bottom, top = x - half, x + half, y - half, y + half
    total = 0.0
    for index in range(4):
        xa = edges[index, 0]
        x1, x2 = max(xa, left), min(edges[index, 2], right)
        if x2 <= x1:
            continue
        ya, slope = edges[index, 1], edges[index, 3]
        y1, y2 = ya + slope * (x1 - xa), ya + slope * (x2 - xa)
        if max(y1, y2) <= bottom:
            continue
        if min(y1, y2) >= top:
            under = (top - bottom) * (x2 - x1)
        elif abs(y2 - y1) < 1e-7:
            # A small difference times a large inverse slope would be noise; so flat an edge is its middle.
            under = (min(max(0.5 * (y1 + y2), bottom), top) - bottom) * (x2 - x1)
        elif min(y1, y2) >= bottom and max(y1, y2) <= top:
            under = (0.5 * (y1 + y2) - bottom) * (x2 - x1)
        else:
            under = (_ramp(y2, bottom, top) - _ramp(y1, bottom, top)) * edges[index, 4]
        total += edges[index, 5] * under
    return abs(total)


@compiled
def sample_overlaps(
    drop: float, pixels: Plane, stride: int, flags: Bytes, found: int, oy: int, ox: int, height: int,
    ny: int, nx: int, x: Floats, y: Floats, gx0: int, gy0: int, node: int, x0: int, y0: int,
    out: Plane, limit: Plane,
) -> None:  # fmt: skip
    """Resample a window onto a tile: the mean of the frame's pixels, weighted with how much of each is covered.

    Parameters
    ----------
    drop
        Side, frame pixels, of the square within which a pixel's flux lies: 1 is the exact area overlap, less is
        drizzle (Fruchter & Hook 2002, PASP 114, 144). Output pixels that no drop meets are `ABSENT`.

    Notes
    -----
    The other parameters are those of `point.sample_points`. Planar: output pixels are quadrilaterals of straight
    edges on the frame, right to the second order of the distortion over one pixel.
    """
    half = 0.5 * drop
    edges = np.empty((4, 6))
    for row in range(out.shape[0]):
        cell_y = (y0 + row) // node
        low = (y0 + row - cell_y * node - 0.5) / node
        high = low + 1.0 / node
        for column in range(out.shape[1]):
            cell_x = (x0 + column) // node
            known, ax, bx, cx, dx, ay, by, cy, dy = cell_corners(x, y, cell_y - gy0, cell_x - gx0)
            out[row, column] = ABSENT
            if not known:
                continue
            start = (x0 + column - cell_x * node - 0.5) / node
            stop = start + 1.0 / node
            lx, rx, ly, ry = ax + low * (cx - ax), bx + low * (dx - bx), ay + low * (cy - ay), by + low * (dy - by)
            xa, xb, ya, yb = (
                lx + start * (rx - lx),
                lx + stop * (rx - lx),
                ly + start * (ry - ly),
                ly + stop * (ry - ly),
            )
            lx, rx = ax + high * (cx - ax), bx + high * (dx - bx)
            ly, ry = ay + high * (cy - ay), by + high * (dy - by)
            xd, xc, yd, yc = (
                lx + start * (rx - lx),
                lx + stop * (rx - lx),
                ly + start * (ry - ly),
                ly + stop * (ry - ly),
            )
            left, right = min(min(xa, xb), min(xc, xd)), max(max(xa, xb), max(xc, xd))
            bottom, top = min(min(ya, yb), min(yc, yd)), max(max(ya, yb), max(yc, yd))
            if right < -0.5 or left > nx - 0.5 or top < -0.5 or bottom > ny - 0.5:
                continue
            whole = 0.5 * abs((xc - xa) * (yd - yb) - (xd - xb) * (yc - ya))
            set_edges(edges, xa, ya, xb, yb, xc, yc, xd, yd)
            total, weight, seen, missing = 0.0, 0.0, 0, False
            for j in range(int(np.floor(bottom + 0.5)), int(np.floor(top + 0.5)) + 1):
                for i in range(int(np.floor(left + 0.5)), int(np.floor(right + 0.5)) + 1):
                    part = covered(edges, float(i), float(j), half)
                    if part < _LEAST * whole:
                        continue
                    p, q = i - ox, j - oy
                    if i < 0 or j < 0 or i >= nx or j >= ny or p < 0 or q < 0 or p >= stride or q >= height:
                        missing = True
                        continue
                    if found:
                        seen |= flags[q, p] & BAD
                        if flags[q, p] & NOT_FINITE:
                            continue
                    total += part * pixels[q * stride + p]
                    weight += part
            if missing or weight == 0.0:
                continue
            if seen == 0:
                out[row, column] = np.float32(total / weight)
            elif seen & SATURATED:
                limit[row, column] = np.float32(total / weight)
