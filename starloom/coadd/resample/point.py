"""Point kernels: Lanczos-3, bilinear and nearest, along rows of the output between nodes.

Positions are 32.32 fixed-point numbers, ``X0 + i * DX`` from the absolute node left of the pixel: whole-number
arithmetic is exact, so that a pixel's bits do not depend on the tile it is computed in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import ABSENT, compiled
from starloom.coadd.resample.flags import BAD, BLOCK_SHIFT, NEAR, NOT_FINITE, SATURATED, Bytes
from starloom.coadd.resample.kernels import BILINEAR, LANCZOS3, LANES, PHASES, STRETCHED
from starloom.coadd.resample.lattice import cell_corners
from starloom.coadd.resample.simd import tap6, tap8

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

_ONE = 4294967296.0
_FRACTION = 0xFFFFFFFF
_PHASE_SHIFT = 32 - int(np.log2(PHASES))
_PHASE_HALF = 1 << (_PHASE_SHIFT - 1)
# Bilinear weights in steps of 2^-16 px: what is a whole pixel but for rounding has no second tap.
_STEP_SHIFT, _STEP_HALF, _STEP = 16, 1 << 15, np.float32(1 / 65536)


@compiled
def _phase(position: Any) -> Any:
    return ((position & _FRACTION) + _PHASE_HALF) >> _PHASE_SHIFT


@compiled
def _lanczos3(pixels: Plane, stride: int, table: Plane, oy: int, ox: int, x: Any, y: Any) -> Any:
    at = ((y >> 32) - 2 - oy) * stride + (x >> 32) - 2 - ox
    return tap6(pixels, at, stride, table, _phase(x), _phase(y))


@compiled
def _stretched(pixels: Plane, stride: int, table: Plane, oy: int, ox: int, x: Any, y: Any) -> Any:
    at = ((y >> 32) - 3 - oy) * stride + (x >> 32) - 3 - ox
    return tap8(pixels, at, stride, table, _phase(x), _phase(y))


@compiled
def _bilinear(pixels: Plane, stride: int, oy: int, ox: int, x: Any, y: Any) -> Any:
    p, q = x + _STEP_HALF, y + _STEP_HALF
    u = np.float32((p & _FRACTION) >> _STEP_SHIFT) * _STEP
    v = np.float32((q & _FRACTION) >> _STEP_SHIFT) * _STEP
    at = ((q >> 32) - oy) * stride + (p >> 32) - ox
    a, b = pixels[at], pixels[at + 1]
    c, d = pixels[at + stride], pixels[at + stride + 1]
    below, above = a + (b - a) * u, c + (d - c) * u
    return below + (above - below) * v


@compiled
def _nearest(pixels: Plane, stride: int, oy: int, ox: int, x: Any, y: Any) -> Any:
    half = 1 << 31
    return pixels[(((y + half) >> 32) - oy) * stride + ((x + half) >> 32) - ox]


@compiled
def _held(x: Any, y: Any, oy: int, ox: int, height: int, stride: int, before: int) -> Any:
    """Return whether all that is loaded for a position lies within the window."""
    p, q = (x >> 32) - before - ox, (y >> 32) - before - oy
    return p >= 0 and q >= 0 and p + LANES <= stride and q + 2 * before + 2 <= height


@compiled
def _taps(kind: int, position: Any) -> tuple[int, int]:
    """Return the first and last frame pixel, along an axis, that has weight at a position."""
    if kind == LANCZOS3:
        base, phase = position >> 32, _phase(position)
        if phase == 0:
            return base, base
        if phase == PHASES:
            return base + 1, base + 1
        return base - 2, base + 3
    if kind == STRETCHED:
        base = position >> 32
        return base - 3, base + 4
    if kind == BILINEAR:
        place = position + _STEP_HALF
        base = place >> 32
        return base, base + ((place & _FRACTION) >> _STEP_SHIFT != 0)
    base = (position + (1 << 31)) >> 32
    return base, base


@compiled
def _some(blocks: Bytes, ya: Any, yb: Any, xa: Any, xb: Any) -> Any:
    """Return whether a rectangle of the window meets a block with flags."""
    for row in range(ya >> BLOCK_SHIFT, (yb >> BLOCK_SHIFT) + 1):
        for column in range(xa >> BLOCK_SHIFT, (xb >> BLOCK_SHIFT) + 1):
            if blocks[row, column]:
                return True
    return False


@compiled
def _within(kind: int, x: Any, y: Any, ny: int, nx: int) -> Any:
    """Return whether all pixels that have weight at a position are the frame's."""
    xa, xb = _taps(kind, x)
    ya, yb = _taps(kind, y)
    return xa >= 0 and ya >= 0 and xb < nx and yb < ny


@compiled
def _seen(kind: int, flags: Bytes, oy: int, ox: int, x: Any, y: Any) -> Any:
    """Return the flags of all pixels that have weight at a position."""
    xa, xb = _taps(kind, x)
    ya, yb = _taps(kind, y)
    found = 0
    for row in range(ya - oy, yb + 1 - oy):
        for column in range(xa - ox, xb + 1 - ox):
            found |= flags[row, column]
    return found & BAD


@compiled
def _limit(pixels: Plane, stride: int, flags: Bytes, oy: int, ox: int, x: Any, y: Any, ny: int, nx: int) -> Any:
    """Return the bilinear value of what is finite around a position: what a saturated star has at least."""
    p, q = x >> 32, y >> 32
    u, v = np.float32(x & _FRACTION) / np.float32(_ONE), np.float32(y & _FRACTION) / np.float32(_ONE)
    total, weight = np.float32(0), np.float32(0)
    for j in range(2):
        for i in range(2):
            row, column = q + j, p + i
            if row < 0 or column < 0 or row >= ny or column >= nx or flags[row - oy, column - ox] & NOT_FINITE:
                continue
            w = (u if i else 1 - u) * (v if j else 1 - v)
            total += w * pixels[(row - oy) * stride + column - ox]
            weight += w
    return total / weight if weight > 0 else -ABSENT


@compiled
def sample_points(
    kind: int, pixels: Plane, stride: int, flags: Bytes, blocks: Bytes, found: int, oy: int, ox: int, height: int,
    ny: int, nx: int, x: Floats, y: Floats, gx0: int, gy0: int, node: int, x0: int, y0: int,
    table: Plane, out: Plane, limit: Plane,
) -> None:  # fmt: skip
    """Resample a window of a frame onto a tile with a point kernel; values stay in ADU.

    Parameters
    ----------
    kind
        `NEAREST`, `BILINEAR`, `LANCZOS3` or `STRETCHED`.
    pixels, stride, height
        The window, flat, all finite: ``height`` rows of ``stride`` pixels.
    flags, blocks, found
        From `flags.inspect`; ``found`` 0: nothing is wrong.
    oy, ox
        Frame row and column of the window's first pixel.
    ny, nx
        Shape of the frame.
    x, y, gx0, gy0, node
        The tile's `Nodes`.
    x0, y0
        First pixel of the tile.
    table
        `lanczos_table` of the kernel's stretch.
    out
        Overwritten; `ABSENT` where a tap that has weight is bad or outside the frame.
    limit
        Same shape as ``out``; where a saturated pixel is among the taps, the interpolated value. Only looked at
        when ``found`` has `SATURATED`.
    """
    rows, columns = out.shape
    # Every position between these keeps the rows of eight loaded pixels within the window, and the taps within
    # the frame.
    before = 3 if kind == STRETCHED else 2
    low_x, high_x = max(before, ox + before), min(nx - 2 - before, ox + stride - LANES + before)
    low_y, high_y = max(before, oy + before), min(ny - 2 - before, oy + height - 2 - before)
    for row in range(rows):
        cell_y = (y0 + row) // node
        fy = (y0 + row - cell_y * node) / node
        column = 0
        while column < columns:
            cell_x = (x0 + column) // node
            first = x0 + column - cell_x * node
            count = min(node - first, columns - column)
            known, xa, xb, xc, xd, ya, yb, yc, yd = cell_corners(x, y, cell_y - gy0, cell_x - gx0)
            left, right = xa + fy * (xc - xa), xb + fy * (xd - xb)
            below, above = ya + fy * (yc - ya), yb + fy * (yd - yb)
            px, py = np.int64(left * _ONE), np.int64(below * _ONE)
            dx, dy = np.int64((right - left) / node * _ONE), np.int64((above - below) / node * _ONE)
            px, py = px + first * dx, py + first * dy
            ex, ey = px + (count - 1) * dx, py + (count - 1) * dy
            min_x, max_x = min(px, ex) >> 32, max(px, ex) >> 32
            min_y, max_y = min(py, ey) >> 32, max(py, ey) >> 32
            line = out[row, column : column + count]
            column += count
            start, stop = 0, count
            inside = known and min_x >= low_x and max_x <= high_x and min_y >= low_y and max_y <= high_y
            if not inside:
                if not known or max_x < -1 or max_y < -1 or min_x >= nx or min_y >= ny:
                    stop = 0
                while start < stop and not _held(px + start * dx, py + start * dy, oy, ox, height, stride, before):
                    start += 1
                while start < stop and not _held(
                    px + (stop - 1) * dx, py + (stop - 1) * dy, oy, ox, height, stride, before
                ):
                    stop -= 1
                line[:start] = ABSENT
                line[stop:] = ABSENT
            if kind == LANCZOS3:
                for i in range(start, stop):
                    line[i] = _lanczos3(pixels, stride, table, oy, ox, px + i * dx, py + i * dy)
            elif kind == STRETCHED:
                for i in range(start, stop):
                    line[i] = _stretched(pixels, stride, table, oy, ox, px + i * dx, py + i * dy)
            elif kind == BILINEAR:
                for i in range(start, stop):
                    line[i] = _bilinear(pixels, stride, oy, ox, px + i * dx, py + i * dy)
            else:
                for i in range(start, stop):
                    line[i] = _nearest(pixels, stride, oy, ox, px + i * dx, py + i * dy)
            if inside and not (found and _some(blocks, min_y - oy, max_y - oy, min_x - ox, max_x - ox)):
                continue
            for i in range(start, stop):
                qx, qy = px + i * dx, py + i * dy
                if not inside and not _within(kind, qx, qy, ny, nx):
                    line[i] = ABSENT
                elif flags[(qy >> 32) - oy, (qx >> 32) - ox] & NEAR:
                    seen = _seen(kind, flags, oy, ox, qx, qy)
                    if seen:
                        line[i] = ABSENT
                    if seen & SATURATED:
                        limit[row, column - count + i] = _limit(pixels, stride, flags, oy, ox, qx, qy, ny, nx)
