"""Loops over the pixels of a tile: means of blocks, medians of the frames, sums over cells."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.jit import ABSENT, compiled

Plane = NDArray[np.float32]
Bits = NDArray[np.int32]


def sorting_network(n: int) -> NDArray[np.int32]:
    """Return Batcher's odd-even merge sort of ``n`` values: pairs to put in order, shape ``(pairs, 2)``.

    References
    ----------
    Knuth, The Art of Computer Programming 3, algorithm 5.2.2 M.
    """
    pairs: list[tuple[int, int]] = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return np.asarray(pairs, np.int32).reshape(-1, 2)


@compiled
def _halve(bits: Bits, clean: Bits, pixels: Plane, out: Plane) -> None:
    """Mean of the present pixels of each 2 x 2 block, ABSENT where there are fewer than two."""
    ny, nx = out.shape
    absent = np.float32(3e38)
    absent_bits = clean[2, 0]
    for y in range(ny):
        for k in range(2):
            for x in range(2 * nx):
                b = bits[2 * y + k, x]
                # NaN, infinity and ABSENT all have an exponent that no real pixel has.
                clean[k, x] = b if (b & np.int32(0x7FFFFFFF)) < np.int32(0x7F000000) else absent_bits
        for x in range(nx):
            total = np.float32(0)
            count = np.float32(0)
            for k in range(2):
                for i in range(2):
                    v = pixels[k, 2 * x + i]
                    there = v < np.float32(1e38)
                    total += v if there else np.float32(0)
                    count += np.float32(1) if there else np.float32(0)
            # No division: vectors of floats are divided by an estimate, the last few by the book.
            share = np.float32(0.25)
            share = np.float32(1 / 3) if count < np.float32(3.5) else share
            share = np.float32(0.5) if count < np.float32(2.5) else share
            out[y, x] = total * share if count > np.float32(1.5) else absent


def halved(pixels: Plane) -> Plane:
    """Return the means of 2 x 2 blocks of a resampled frame.

    Parameters
    ----------
    pixels
        Shape ``(2 ny, 2 nx)``; NaN or `ABSENT` where there is nothing.

    Returns
    -------
    ndarray
        Shape ``(ny, nx)``, float32, `ABSENT` where fewer than two of the four pixels are there.
    """
    pixels = np.ascontiguousarray(pixels, np.float32)
    clean = np.full((3, pixels.shape[1]), ABSENT, np.float32)
    out = np.empty((pixels.shape[0] // 2, pixels.shape[1] // 2), np.float32)
    _halve(pixels.view(np.int32), clean.view(np.int32), clean, out)
    return out


@compiled
def sort_frames(
    cube: Plane,
    variances: Plane,
    pairs: Bits,
    chunk: int,
    middle: Plane,
    around: Plane,
    count: Bits,
    total: Plane,
) -> None:
    """Sort each pixel's values; keep the median, the four values around it, their number and variance."""
    n, ny, nx = cube.shape
    absent = np.float32(3e38)
    buffer = np.empty((n, chunk), np.float32)
    for y in range(ny):
        for x0 in range(0, nx, chunk):
            width = min(chunk, nx - x0)
            for x in range(x0, x0 + width):
                count[y, x] = 0
                total[y, x] = 0
            for i in range(n):
                for x in range(width):
                    v = cube[i, y, x0 + x]
                    buffer[i, x] = v
                    there = v < np.float32(1e38)
                    count[y, x0 + x] += np.int32(1) if there else np.int32(0)
                    total[y, x0 + x] += variances[i] if there else np.float32(0)
            for p in range(len(pairs)):
                i, j = pairs[p, 0], pairs[p, 1]
                for x in range(width):
                    a, b = buffer[i, x], buffer[j, x]
                    buffer[i, x] = min(a, b)
                    buffer[j, x] = max(a, b)
            for x in range(width):
                c = count[y, x0 + x]
                if c < 2:
                    middle[y, x0 + x] = buffer[0, x] if c else absent
                    continue
                # Of two values the lower: the higher may be the trail that is looked for.
                low, high = (c - 1) // 2, (c // 2 if c > 2 else 0)
                middle[y, x0 + x] = np.float32(0.5) * (buffer[low, x] + buffer[high, x])
                first, second = (c - 2) // 2, (c - 1) // 2
                around[0, y, x0 + x] = buffer[first, x]
                around[1, y, x0 + x] = buffer[first + 1, x]
                around[2, y, x0 + x] = buffer[second, x]
                around[3, y, x0 + x] = buffer[second + 1, x]


@compiled
def sum_excess(
    plane: Plane,
    variance: np.float32,
    around: Plane,
    count: Bits,
    total: Plane,
    contrast: Plane,
    span: int,
    clip: np.float32,
    psf: np.float32,
    least: np.float32,
    out: Plane,
) -> None:
    """Sum a frame's excess over the median of the others into cells of ``span`` x ``span`` blocks."""
    ny, nx = out.shape
    width = nx * span
    part, weight, clear = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for cy in range(ny):
        for x in range(width):
            part[x] = 0
            weight[x] = 0
            clear[x] = 0
        for y in range(cy * span, cy * span + span):
            for x in range(width):
                v, c = plane[y, x], count[y, x]
                there = (v < np.float32(1e38)) & (c > 1)
                # The median of the others from the sorted values of all: taking out one at or below the k-th
                # moves its successor there.
                a = around[1, y, x] if v <= around[0, y, x] else around[0, y, x]
                b = around[3, y, x] if v <= around[2, y, x] else around[2, y, x]
                # In double, for the bits of a quotient of floats depend on the column's place in a vector.
                others = np.float64(max(c - 1, 1))
                # Efficiency of the median: 1 for two values, 0.74 for three, 0.64 for many.
                loss = 1.4 if c > 3 else 1.0
                unlike = np.float64(psf * contrast[y, x])
                empty = variance + loss * np.float64(total[y, x] - variance) / (others * others)
                var = empty + unlike * unlike
                limit = np.float32(clip * math.sqrt(var))
                d = min(max(v - np.float32(0.5) * (a + b), -limit), limit)
                w = np.float32(1.0 / var) if there else np.float32(0)
                e = np.float32(1.0 / empty) if there else np.float32(0)
                part[x] += d * w
                weight[x] += w
                clear[x] += e
        for cx in range(nx):
            s = np.float32(0)
            w = np.float32(0)
            e = np.float32(0)
            for x in range(cx * span, cx * span + span):
                s += part[x]
                w += weight[x]
                e += clear[x]
            # Where no more is left than a core of a star lets through, the cell says nothing.
            known = (w > least * e) & (e > 0)
            out[cy, cx] = np.float64(s) / math.sqrt(np.float64(w)) if known else np.float32(3e38)


@compiled
def average(plane: Plane, span: int, out: Plane) -> None:
    """Mean of the present blocks of each cell, ABSENT where there is none."""
    for cy in range(out.shape[0]):
        for cx in range(out.shape[1]):
            total, count = 0.0, 0
            for y in range(cy * span, cy * span + span):
                for x in range(cx * span, cx * span + span):
                    if plane[y, x] < np.float32(1e38):
                        total += plane[y, x]
                        count += 1
            out[cy, cx] = total / count if count else np.float32(3e38)
