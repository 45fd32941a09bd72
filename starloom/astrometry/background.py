"""Level and noise of the sky on a mesh, and taking them out of a frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from starloom.astrometry.bins import Bools, Image

Floats = NDArray[np.float64]

# Values looked at in a cell: the sky is then known to 8 % of its noise before neighbouring cells are asked.
SAMPLES = 256
BATCH = 400_000
# A cell needs this share of its samples to speak for itself.
MIN_SHARE = 0.25
CLIP_SIGMA = 3.0
# Spread of a normal distribution clipped at CLIP_SIGMA, and the quantile one sigma below its middle.
CLIPPED_SPREAD = 0.9866
ONE_BELOW = 0.1587
# Of a cell whose clipped mean lies further above its median than this (sigma), the mode is not to be had.
MAX_SKEW = 0.3


@dataclass(frozen=True)
class SkyMesh:
    """Sky level and noise at the nodes of a regular mesh.

    Parameters
    ----------
    y, x
        Places of the nodes, pixels of the image it was measured on, shapes ``(my + 2,)`` and ``(mx + 2,)``: one
        beyond the frame on every side, so that a gradient does not end half a cell before the edge.
    level, noise
        Shape ``(my + 2, mx + 2)``.
    known
        Whether a cell spoke for itself or took its neighbours' values, shape ``(my, mx)``.
    """

    y: Floats
    x: Floats
    level: Floats
    noise: Floats
    known: Bools

    @property
    def typical_level(self) -> float:
        """Median level over the frame."""
        return float(np.median(self.level[1:-1, 1:-1][self.known]))

    @property
    def typical_noise(self) -> float:
        """Median noise over the frame."""
        return float(np.median(self.noise[1:-1, 1:-1][self.known]))

    @property
    def steepness(self) -> float:
        """Largest usual change of level from node to node, in units of the noise (95 % of the nodes have less)."""
        steps = np.abs(np.diff(self.level[1:-1], axis=1)), np.abs(np.diff(self.level[1:-1], axis=0))
        return max((float(np.percentile(s, 95)) for s in steps if s.size), default=0.0) / self.typical_noise

    def corrected(self, rest: SkyMesh) -> SkyMesh:
        """Return the mesh with what was found on the flattened image, where its own noise was the unit."""
        return replace(self, level=self.level + rest.level * self.noise, noise=rest.noise * self.noise)

    def at(self, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Return level and noise at places of the image, each of the shape of ``y``."""
        (j, v), (i, u) = _between(self.y, y), _between(self.x, x)
        found = []
        for grid in (self.level, self.noise):
            low = grid[j, i] * (1 - u) + grid[j, i + 1] * u
            high = grid[j + 1, i] * (1 - u) + grid[j + 1, i + 1] * u
            found.append(low * (1 - v) + high * v)
        return found[0], found[1]

    def on_grid(self, step: float) -> SkyMesh:
        """Return the mesh for cells ``step`` times as large, whose noise is that of a mean of white noise."""
        shift = (step - 1) / 2
        return replace(self, y=(self.y - shift) / step, x=(self.x - shift) / step, noise=self.noise / step)

    def flatten(self, image: Image, unusable: Bools | None) -> None:
        """Take the level out of an image and give it in units of the noise, in place; 0 where unusable."""
        ny, nx = image.shape
        across = np.arange(nx, dtype=float)
        # Along x once for every row of nodes; along y for every row of pixels, while the band is in the cache.
        level = np.array([np.interp(across, self.x, row) for row in self.level], np.float32)
        weight = np.array([np.interp(across, self.x, row) for row in 1.0 / self.noise], np.float32)
        node, share = _between(self.y, np.arange(ny, dtype=float))
        for j in np.unique(node):
            rows = np.flatnonzero(node == j)
            t = share[rows].astype(np.float32)[:, None]
            band = image[rows[0] : rows[-1] + 1]
            band -= level[j] + t * (level[j + 1] - level[j])
            band *= weight[j] + t * (weight[j + 1] - weight[j])
        if unusable is not None:
            image[unusable] = 0.0


def measure_sky(image: Image, unusable: Bools | None, cell_px: int, quantum: float) -> SkyMesh | None:
    """Measure the sky in cells.

    Parameters
    ----------
    image
        Shape ``(ny, nx)``.
    unusable
        Pixels to leave out, same shape.
    cell_px
        Size of a cell, pixels of ``image``.
    quantum
        Step between neighbouring values of the image, 0 for a continuum: a median cannot be finer.

    Returns
    -------
    SkyMesh or None
        None where hardly any pixel is usable or all are alike.

    Notes
    -----
    As in SExtractor a cell's values are clipped around their median, and the mode is 2.5 median - 1.5 mean. The
    noise is the spread *below* the mode, which stars do not touch. Cells without enough pixels take their
    neighbours' values, then a 3 × 3 median removes what a bright star leaves.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393; Da Costa 1992, ASPC 23, 90.
    """
    ny, nx = image.shape
    rows, columns = max(round(ny / cell_px), 1), max(round(nx / cell_px), 1)
    # Cells of one width that may overlap by a pixel, so that they all can be sorted at once.
    width, height = min(-(-nx // columns), nx), min(-(-ny // rows), ny)
    left = np.linspace(0, nx - width, columns).round().astype(int)
    low = np.linspace(0, ny - height, rows).round().astype(int)
    stride = max(width * height // SAMPLES, 1)
    take = (left[:, None] + np.arange(width)).ravel()
    level, noise = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    # A few rows of cells at a time: large enough to outweigh the calls, small enough for the cache.
    batch = max(BATCH // (columns * SAMPLES), 1)
    for first in range(0, rows, batch):
        some = range(first, min(first + batch, rows))
        values = np.concatenate([_samples(image, unusable, low[j], height, stride, take) for j in some])
        cells = values.reshape(len(some), -1, columns, width).swapaxes(1, 2)
        found = _modes(cells.reshape(len(some) * columns, -1), quantum)
        level[first : some.stop], noise[first : some.stop] = (grid.reshape(-1, columns) for grid in found)
    known = np.isfinite(level) & np.isfinite(noise) & (noise > 0)
    if not known.any():
        return None
    level, noise = _filled(level, known), _filled(noise, known)
    level, noise = median_filter(level, 3, mode="nearest"), median_filter(noise, 3, mode="nearest")
    y, x = low + (height - 1) / 2, left + (width - 1) / 2
    extended = np.maximum(_extended(noise), 0.5 * float(noise.min()))
    return SkyMesh(_beyond(y, height), _beyond(x, width), _extended(level), extended, known)


def _samples(
    image: Image, unusable: Bools | None, low: int, height: int, stride: int, take: NDArray[np.intp]
) -> Image:
    """Return the lines that stand for one row of cells, NaN where not usable."""
    lines = slice(low, low + height, stride)
    values = np.take(image[lines], take, axis=1)
    if unusable is not None:
        values[np.take(unusable[lines], take, axis=1)] = np.nan
    return values


def _modes(cells: Image, quantum: float) -> tuple[Floats, Floats]:
    """Return mode and noise of each row of values; NaN where too few are numbers."""
    cells = np.sort(cells, axis=1)
    n = np.count_nonzero(~np.isnan(cells), axis=1) if np.isnan(cells[:, -1]).any() else cells.shape[1]
    n = np.broadcast_to(n, len(cells))
    row = np.arange(len(cells))
    # Values that are all alike are no sky but a border, or a dead part of the sensor.
    enough = (n >= max(MIN_SHARE * cells.shape[1], 8)) & (cells[:, 0] < cells[row, np.maximum(n - 1, 0)])

    def value(index: NDArray[np.intp]) -> Floats:
        return cells[row, np.clip(index, 0, cells.shape[1] - 1)].astype(np.float64)

    # Of sorted values every clipped sum is a difference of two running sums.
    middle = value((n - 1) // 2)
    spread = middle - value((ONE_BELOW * n).astype(np.intp))
    centred = np.nan_to_num(cells - middle[:, None].astype(np.float32))
    sums = np.zeros((2, len(cells), cells.shape[1] + 1))
    np.cumsum(centred, axis=1, out=sums[0, :, 1:])
    np.cumsum(centred * centred, axis=1, out=sums[1, :, 1:])
    mode, origin = middle, middle
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(3):
            reach = CLIP_SIGMA * np.maximum(spread, quantum)
            first, last = _rank(cells, mode - reach, n), _rank(cells, mode + reach, n)
            middle = value((first + last) // 2)
            mean = origin + (sums[0, row, last] - sums[0, row, first]) / (last - first)
            skewed = np.abs(mean - middle) > MAX_SKEW * spread
            mode = np.where(skewed, middle, 2.5 * middle - 1.5 * mean)
            # Of few levels the median is one, and the mean between them; few photons lie unevenly around it.
            coarse = spread < 2 * quantum
            mode = np.where(coarse, mean, mode)
            upper, off = np.where(coarse, last, _rank(cells, mode, n)), mode - origin
            squares = sums[1, row, upper] - sums[1, row, first]
            squares -= 2 * off * (sums[0, row, upper] - sums[0, row, first]) - (upper - first) * off**2
            spread = np.sqrt(np.maximum(squares, 0.0) / (upper - first)) / CLIPPED_SPREAD
    enough = enough & np.isfinite(mode) & (spread > 0)
    return np.where(enough, mode, np.nan), np.where(enough, spread, np.nan)


def _rank(ordered: Image, limit: Floats, n: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return how many values of each sorted row lie at or below its limit, by bisection of all rows at once."""
    row, low, high = np.arange(len(ordered)), np.zeros(len(ordered), np.intp), n.astype(np.intp)
    limit = np.nan_to_num(limit).astype(np.float32)
    for _ in range(int(ordered.shape[1]).bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (ordered[row, np.minimum(middle, ordered.shape[1] - 1)] <= limit)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _filled(grid: Floats, known: Bools) -> Floats:
    """Fill cells nobody knows from their nearest neighbours, ring by ring."""
    grid, known = np.where(known, grid, 0.0), known.copy()
    while not known.all():
        padded, weight = np.pad(np.where(known, grid, 0.0), 1), np.pad(known.astype(float), 1)
        total, count = np.zeros_like(grid), np.zeros_like(grid)
        ny, nx = grid.shape
        for dy in (0, 1, 2):
            for dx in (0, 1, 2):
                total += padded[dy : dy + ny, dx : dx + nx]
                count += weight[dy : dy + ny, dx : dx + nx]
        new = ~known & (count > 0)
        grid[new] = total[new] / count[new]
        known |= new
    return grid


def _beyond(at: Floats, size: int) -> Floats:
    step = float(at[1] - at[0]) if len(at) > 1 else float(size)
    return np.concatenate([[at[0] - step], at, [at[-1] + step]])


def _extended(grid: Floats) -> Floats:
    """Carry a mesh on beyond its edges, along its slope there."""
    padded = np.pad(grid, 1, mode="edge")
    if grid.shape[0] > 1:
        padded[0], padded[-1] = 2 * padded[1] - padded[2], 2 * padded[-2] - padded[-3]
    if grid.shape[1] > 1:
        padded[:, 0], padded[:, -1] = 2 * padded[:, 1] - padded[:, 2], 2 * padded[:, -2] - padded[:, -3]
    return padded


def _between(nodes: Floats, at: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the node before each place and how far it lies towards the next, 0 to 1."""
    index = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    share = (at - nodes[index]) / (nodes[index + 1] - nodes[index])
    return index, np.clip(share, 0.0, 1.0)
