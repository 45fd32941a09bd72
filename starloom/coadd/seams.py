"""What frames' skies differ by where tiles of a mosaic share no more than strips, on the same sky in both.

The samples of `starloom.coadd.sky_match` lie at other places in every frame. Across a strip that is no wider than
their spacing, what a nebula does between them is taken for a difference of the frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.coadd.celestial import sky_pixels, sky_vectors
from starloom.coadd.pixels import FrameSource, open_source
from starloom.coadd.plan import PlanFrame

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_LEAST_PX, _MOST_PX = 12, 64
"""Side of a cell, grid pixels."""
_CELLS = 24
"""Cells of one pair of frames, at most."""
_POINTS = 32
"""Places along a cell's side at which pixels are compared, at most."""
_PAIRS = 3
"""Pairs of one frame with those of any one tile, but for what alone connects: tiles of many frames have as many as
the square of these."""


@dataclass(frozen=True, eq=False)
class Seam:
    """Cells that two frames share: grid pixels, first less second frame there and its error (output units)."""

    first: int
    second: int
    x: Floats
    y: Floats
    difference: Floats
    error: Floats


def outline(wcs: WCS, shape: tuple[int, int], grid: WCS) -> Floats:
    """Return a frame's corners on the grid, pixels, shape ``(4, 2)``, in order around it."""
    ny, nx = shape
    x, y = np.array([-0.5, nx - 0.5, nx - 0.5, -0.5]), np.array([-0.5, -0.5, ny - 0.5, ny - 0.5])
    return np.column_stack(sky_pixels(grid, sky_vectors(wcs, x, y)))


def strips_between(outlines: Sequence[Floats]) -> list[tuple[int, int]]:
    """Return the pairs of frames to compare where only strips tie some of them to the others; else none.

    Parameters
    ----------
    outlines
        From `outline`.
    """
    tile = _tiles(outlines)
    if tile.max(initial=0) < 1:
        return []
    linked, count = list(range(len(outlines))), Counter[tuple[int, int]]()
    chosen = []
    for _, i, j in sorted(_overlaps(outlines), key=lambda pair: (-pair[0], *pair[1:])):
        sides = (i, int(tile[j])), (j, int(tile[i]))
        low, high = sorted((_root(linked, i), _root(linked, j)))
        if low != high or max(count[side] for side in sides) < _PAIRS:
            linked[high] = low
            count.update(sides)
            chosen.append((i, j))
    return sorted(chosen)


def _tiles(outlines: Sequence[Floats]) -> NDArray[np.intp]:
    """Return the number of each frame's tile: those of one have its middle, or it has theirs, and so on."""
    shapes = np.array(outlines).reshape(-1, 4, 2)
    middles = shapes.mean(axis=1)
    tile = np.full(len(shapes), -1, np.intp)
    for number, seed in enumerate(range(len(shapes))):
        if tile[seed] >= 0:
            continue
        tile[seed] = number
        waiting = [seed]
        while waiting:
            i = waiting.pop()
            free = np.flatnonzero(tile < 0)
            near = free[_inside(shapes[i], middles[free]) | _inside(shapes[free], middles[i])]
            tile[near] = number
            waiting += near.tolist()
    return np.unique(tile, return_inverse=True)[1]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _overlaps(outlines: Sequence[Floats]) -> list[tuple[float, int, int]]:
    """Return area (grid pixels, roughly) and numbers of all pairs that overlap."""
    low, high = (np.array([f(o, axis=0) for o in outlines]) for f in (np.min, np.max))
    pairs = []
    for i in range(len(outlines) - 1):
        side = np.minimum(high[i], high[i + 1 :]) - np.maximum(low[i], low[i + 1 :])
        for j in (i + 1 + np.flatnonzero((side > _LEAST_PX).all(axis=1))).tolist():
            a, b = np.maximum(low[i], low[j]), np.minimum(high[i], high[j])
            points = _spread(a, b, 24, 24)
            common = float(np.prod(b - a) * (_inside(outlines[i], points) & _inside(outlines[j], points)).mean())
            if common > _LEAST_PX**2:
                pairs.append((common, i, j))
    return pairs


def _spread(a: Floats, b: Floats, nx: int, ny: int) -> Floats:
    """Return the centres of ``ny`` by ``nx`` equal parts of a rectangle, shape ``(ny * nx, 2)``."""
    x = a[0] + (np.arange(nx) + 0.5) / nx * (b[0] - a[0])
    y = a[1] + (np.arange(ny) + 0.5) / ny * (b[1] - a[1])
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _inside(corners: Floats, points: Floats, rim: float = 0.0) -> Mask:
    """Return which points lie in convex outlines, ``(..., 4, 2)``, at least ``rim`` from their edges."""
    edges = np.roll(corners, -1, axis=-2) - corners
    edges = edges / np.maximum(np.linalg.norm(edges, axis=-1, keepdims=True), 1e-9)
    offset = points[..., None, :] - corners
    side = edges[..., 0] * offset[..., 1] - edges[..., 1] * offset[..., 0]
    return np.asarray((side > rim).all(axis=-1) | (side < -rim).all(axis=-1))


def measure_seams(
    frames: Sequence[PlanFrame],
    wcs: Sequence[WCS],
    grid: WCS,
    outlines: Sequence[Floats],
    pairs: Sequence[tuple[int, int]],
) -> list[Seam]:
    """Compare frames where they overlap: the median difference of pixels that look at one place, by cells.

    Parameters
    ----------
    frames, wcs
        Of the plan, with their scales; their files are read here.
    grid
        WCS of the output grid.
    outlines, pairs
        From `outline` and `strips_between`.

    Raises
    ------
    BadInput
        ``unreadable``.
    """
    sources = {k: open_source(frames[k].input.path) for k in sorted({k for pair in pairs for k in pair})}
    seams = []
    try:
        for i, j in pairs:
            cells, side = _cells(outlines[i], outlines[j])
            found = []
            for x, y in cells:
                step = max(1.0, side / _POINTS)
                offset = np.arange(-side / 2 + step / 2, side / 2, step)
                vectors = sky_vectors(grid, *(a.ravel() for a in np.meshgrid(x + offset, y + offset)))
                one, other = (_values(frames[k], sources[k], wcs[k], vectors, step) for k in (i, j))
                difference = one.values - other.values
                difference = difference[np.isfinite(difference)]
                if len(difference) < 0.5 * len(one.values):
                    continue
                middle = float(np.median(difference))
                # From the differences themselves: a nebula's structure is in the frames' noise, but not in theirs.
                scatter = 1.4826 * float(np.median(np.abs(difference - middle)))
                independent = len(difference) * min(one.independent, other.independent)
                found.append((x, y, middle, 1.25 * scatter / np.sqrt(independent)))
            if found:
                seams.append(Seam(i, j, *np.array(found).T))
    finally:
        for source in sources.values():
            source.close()
    return seams


def _cells(one: Floats, other: Floats) -> tuple[Floats, float]:
    """Return the middles of cells that lie in both outlines, spread over what they share, and their side.

    The largest of which there are enough: those of a turned strip are far smaller than the rectangle around it.
    """
    low, high = np.maximum(one.min(axis=0), other.min(axis=0)), np.minimum(one.max(axis=0), other.max(axis=0))
    side = float(np.clip(min(high - low) - 4, _LEAST_PX, _MOST_PX))
    while True:
        # Twice as dense as cells may lie: a strip runs anyhow between the lines of their lattice.
        nx, ny = (max(1, int(2 * s / side)) for s in high - low)
        middles = _spread(low, high, nx, ny)
        corners = (middles + 0.5 * side * np.array([a, b]) for a in (-1, 1) for b in (-1, 1))
        good = np.logical_and.reduce([_inside(o, c, 1.0) for c in corners for o in (one, other)])
        chosen = _apart(middles[good], side)
        if len(chosen) >= _CELLS // 2 or side <= _LEAST_PX:
            break
        side = max(0.75 * side, float(_LEAST_PX))
    return chosen[np.unique(np.linspace(0, len(chosen) - 1, _CELLS).round().astype(int))] if len(
        chosen
    ) else chosen, side


def _apart(middles: Floats, side: float) -> Floats:
    """Return those of some cells that do not overlap, the first come first."""
    chosen: list[Floats] = []
    for middle in middles:
        if all(np.abs(middle - other).max() > 0.99 * side for other in chosen):
            chosen.append(middle)
    return np.array(chosen).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class _Values:
    values: Floats
    independent: float
    """Share of them that are pixels of their own."""


def _values(frame: PlanFrame, source: FrameSource, wcs: WCS, vectors: Floats, step: float) -> _Values:
    """Return a frame at some places, bilinear, output units; NaN beyond its edge and where its mask speaks."""
    ny, nx = frame.shape
    x, y = sky_pixels(wcs, vectors)
    n = round(len(x) ** 0.5)
    # Frame pixels a grid pixel covers here, which the resampler multiplies by.
    square = (np.array([x[k], y[k]]) for k in (0, n - 1, (n - 1) * n))
    first, right, up = square
    span = max((n - 1) * step, 1e-9)
    along, across = (right - first) / span, (up - first) / span
    area = abs(float(along[0] * across[1] - along[1] * across[0]))
    values = np.full(len(x), np.nan)
    inside = (x > 0) & (y > 0) & (x < nx - 1) & (y < ny - 1)
    if not inside.any():
        return _Values(values, 1.0)
    column, row = np.floor(x[inside]).astype(np.intp), np.floor(y[inside]).astype(np.intp)
    x0, x1, y0, y1 = int(column.min()), int(column.max()) + 2, int(row.min()), int(row.max()) + 2
    pixels = np.empty((y1 - y0, x1 - x0), np.float32)
    rows = np.ones(y1 - y0, np.int32)
    source.read(y0, rows * x0, rows * x1, x0, pixels)
    mask = source.mask(y0, y1, x0, x1)
    if mask is not None:
        pixels[mask != 0] = np.nan
    # Not the nearest pixels: over a small cell they lie to one side in one frame, and on a nebula that is a step.
    f, g = x[inside] - column, y[inside] - row
    i, j = row - y0, column - x0
    lower = (1 - f) * pixels[i, j] + f * pixels[i, j + 1]
    upper = (1 - f) * pixels[i + 1, j] + f * pixels[i + 1, j + 1]
    values[inside] = frame.scale * area * ((1 - g) * lower + g * upper)
    # Finer than its pixels a frame tells nothing new.
    return _Values(values, min(1.0, area * step**2))
