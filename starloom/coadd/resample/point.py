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
from starloom.coadd.resample.kernels import (
    BILINEAR,
    LANCZOS3,
    LANES,
    NEAREST,
    PHASES,
    STRETCHED,
    lanczos_polynomials,
)
from starloom.coadd.resample.lattice import cell_corners
from starloom.coadd.resample.simd import WIDTH, fetch, lane6, lanes6, tap6, tap8

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

_ONE = 4294967296.0
_FRACTION = 0xFFFFFFFF
_PHASE_SHIFT = 32 - int(np.log2(PHASES))
_PHASE_HALF = 1 << (_PHASE_SHIFT - 1)
# Weights in steps of 2^-16 px: what is a whole pixel but for rounding has no other tap.
_STEP_SHIFT, _STEP_HALF, _STEP = 16, 1 << 15, np.float32(1 / 65536)
_WHOLE = 1 << 32
# How far a step along a row of the output may differ from one along a row of the frame for `lanes6`.
_MOST_SLIP, _MOST_DESCENT = _WHOLE >> 4, _WHOLE // 4

# Frame rows from a pixel's own to those that the second next row of the output will be the first to look at.
_AHEAD = 5

_POLYNOMIALS = lanczos_polynomials()


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
def _runs_along(dx: Any, dy: Any) -> Any:
    """Return whether pixels of this step are made faster many at once; a property of the map, not of the tile."""
    return abs(abs(dx) - _WHOLE) <= _MOST_SLIP and abs(dy) <= _MOST_DESCENT


@compiled
def _lanczos3_along(
    window: int, size: int, stride: int, x: Any, y: Any, dx: Any, dy: Any, line: int, count: int
) -> None:
    """Fill ``count`` pixels from address ``line`` on, the first of which lies at ``x``, ``y`` of the window."""
    backward = dx < 0
    if backward:
        x, y, dx, dy = x + (count - 1) * dx, y + (count - 1) * dy, -dx, -dy
    lanes = (count + WIDTH - 1) // WIDTH * WIDTH
    left, right = (x + _STEP_HALF) >> 32, (x + _STEP_HALF + (lanes - 1) * dx) >> 32
    first, last = (y + _STEP_HALF) >> 32, (y + _STEP_HALF + (lanes - 1) * dy) >> 32
    descent = min(abs(last - first), ((WIDTH - 1) * abs(dy) + _WHOLE - 1) >> 32)
    slips = right - left != lanes - 1
    low = (min(first, last) - 2) * stride + left - 3
    high = (max(first, last) + 4 + descent) * stride + right + 5
    if low >= 0 and high < size:
        for k in range(0, count, WIDTH):
            at = line + 4 * (count - WIDTH - k if backward else k)
            keep = min(WIDTH, count - k)
            qx, qy = x + k * dx, y + k * dy
            lanes6(window, stride, qx, qy, dx, dy, _POLYNOMIALS, at, keep, backward, descent, slips)
    else:
        for k in range(count):
            at = line + 4 * (count - 1 - k if backward else k)
            lane6(window, stride, x + k * dx, y + k * dy, dx, dy, _POLYNOMIALS, at, 1, 0, 0, 0)


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
    if kind == STRETCHED:
        base = position >> 32
        return base - 3, base + 4
    if kind == NEAREST:
        base = (position + (1 << 31)) >> 32
        return base, base
    place = position + _STEP_HALF
    base = place >> 32
    if (place & _FRACTION) >> _STEP_SHIFT == 0:
        return base, base
    return (base - 2, base + 3) if kind == LANCZOS3 else (base, base + 1)


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
    values = out.reshape(-1)
    window_at, out_at = pixels.ctypes.data, out.ctypes.data
    # Every position between these keeps the rows of eight loaded pixels within the window, and the taps within
    # the frame.
    before = 3 if kind == STRETCHED else 2
    low_x, high_x = max(before, ox + before), min(nx - 2 - before, ox + stride - LANES + before)
    low_y, high_y = max(before, oy + before), min(ny - 2 - before, oy + height - 2 - before)
    # A power of two: exact.
    part = 1.0 / node
    for row in range(rows):
        cell_y = (y0 + row) // node - gy0
        fy = (y0 + row - (gy0 + cell_y) * node) * part
        for cell_x in range((x0 + columns - 1) // node - gx0 + 1):
            left_edge = (gx0 + cell_x) * node - x0
            first_column = max(left_edge, 0)
            count = min(left_edge + node, columns) - first_column
            known, xa, xb, xc, xd, ya, yb, yc, yd = cell_corners(x, y, cell_y, cell_x)
            left, right = xa + fy * (xc - xa), xb + fy * (xd - xb)
            below, above = ya + fy * (yc - ya), yb + fy * (yd - yb)
            px, py = np.int64(left * _ONE), np.int64(below * _ONE)
            dx, dy = np.int64((right - left) * part * _ONE), np.int64((above - below) * part * _ONE)
            px, py = px + (first_column - left_edge) * dx, py + (first_column - left_edge) * dy
            ex, ey = px + (count - 1) * dx, py + (count - 1) * dy
            min_x, max_x = min(px, ex) >> 32, max(px, ex) >> 32
            min_y, max_y = min(py, ey) >> 32, max(py, ey) >> 32
            # Most windows are larger than the cache that is theirs: unfetched, sampling takes half as long again.
            beyond = _AHEAD if yc > ya else -_AHEAD
            for part_x, part_y in ((px, py), ((px + ex) >> 1, (py + ey) >> 1)):
                fetch(window_at + 4 * (((part_y >> 32) - oy + beyond) * stride + (part_x >> 32) - ox))
            start, stop = 0, count
            inside = known and min_x >= low_x and max_x <= high_x and min_y >= low_y and max_y <= high_y
            at = row * columns + first_column
            if not inside:
                if not known or max_x < -1 or max_y < -1 or min_x >= nx or min_y >= ny:
                    stop = 0
                while start < stop and not _held(px + start * dx, py + start * dy, oy, ox, height, stride, before):
                    start += 1
                while start < stop and not _held(
                    px + (stop - 1) * dx, py + (stop - 1) * dy, oy, ox, height, stride, before
                ):
                    stop -= 1
                for i in range(start):
                    values[at + i] = ABSENT
                for i in range(stop, count):
                    values[at + i] = ABSENT
            if kind == LANCZOS3 and node >= WIDTH and _runs_along(dx, dy):
                if stop > start:
                    qx, qy = px + start * dx - (ox << 32), py + start * dy - (oy << 32)
                    line = out_at + 4 * (at + start)
                    _lanczos3_along(window_at, pixels.size, stride, qx, qy, dx, dy, line, stop - start)
            elif kind == LANCZOS3:
                for i in range(start, stop):
                    values[at + i] = _lanczos3(pixels, stride, table, oy, ox, px + i * dx, py + i * dy)
            elif kind == STRETCHED:
                for i in range(start, stop):
                    values[at + i] = _stretched(pixels, stride, table, oy, ox, px + i * dx, py + i * dy)
            elif kind == BILINEAR:
                for i in range(start, stop):
                    values[at + i] = _bilinear(pixels, stride, oy, ox, px + i * dx, py + i * dy)
            else:
                for i in range(start, stop):
                    values[at + i] = _nearest(pixels, stride, oy, ox, px + i * dx, py + i * dy)
            if inside and not (found and _some(blocks, min_y - oy, max_y - oy, min_x - ox, max_x - ox)):
                continue
            for i in range(start, stop):
                qx, qy = px + i * dx, py + i * dy
                if not inside and not _within(kind, qx, qy, ny, nx):
                    values[at + i] = ABSENT
                elif flags[(qy >> 32) - oy, (qx >> 32) - ox] & NEAR:
                    seen = _seen(kind, flags, oy, ox, qx, qy)
                    if seen:
                        values[at + i] = ABSENT
                    if seen & SATURATED:
                        limit[row, first_column + i] = _limit(pixels, stride, flags, oy, ox, qx, qy, ny, nx)
