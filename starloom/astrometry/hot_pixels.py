"""What no optics can light: single hot pixels, bad columns and rows, most cosmic-ray hits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from starloom.astrometry.background import SkyMesh
from starloom.astrometry.bins import Bools, Image

# A star of FWHM 1.2 px, centred on a pixel, lights the median of the eight around it to 0.15 of its peak, one of
# FWHM 1.5 px to 0.25. Of the eight around a pixel in a column or track one pixel wide, six are dark.
MAX_NEIGHBOURS = 0.1
# Fainter ones are not found as stars: a cell of four dilutes them.
MIN_SIGMA = 8.0
MIN_CELL_SIGMA = 4.5
MAX_CELLS = 400_000


# A stretch of a column this long (cells) is bad where its mean stands out of its neighbours' by this (sigma).
# Values are clipped first, so that a star, which is much shorter, cannot do that.
STRETCH, MIN_EXCESS = 128, 1.0
CLIP_SIGMA = 3.0
EVERY = 4
LINES_ASIDE = 9


class HotPixels(NamedTuple):
    """Places of hot pixels, 0-based, each of shape ``(n,)``."""

    y: NDArray[np.intp]
    x: NDArray[np.intp]


def repair(data: NDArray[Any], mask: Bools | None, cells: Image, mesh: SkyMesh, base: float) -> HotPixels:
    """Take hot pixels out of an image of 2 × 2 cells, in place, and say where they are.

    Parameters
    ----------
    data
        The frame's pixels, shape ``(ny, nx)``.
    mask
        Pixels known to be bad already, same shape.
    cells
        Means of 2 × 2 pixels less the sky, in units of their noise, shape ``(ny // 2, nx // 2)``.
    mesh
        Sky of the pixels above ``base``, in pixels.
    base
        Level the mesh counts from.
    """
    flat = cells.ravel()
    bright = np.flatnonzero(flat > MIN_CELL_SIGMA)
    if len(bright) > MAX_CELLS:
        bright = bright[np.argpartition(-flat[bright], MAX_CELLS)[:MAX_CELLS]]
    j, i = np.divmod(bright, cells.shape[1])
    # Eight neighbours of any of the four pixels lie in a block of 4 × 4.
    inside = (j > 0) & (i > 0) & (2 * j + 2 < data.shape[0]) & (2 * i + 2 < data.shape[1])
    j, i = j[inside], i[inside]
    corner = (2 * j - 1) * data.shape[1] + 2 * i - 1
    offsets = (np.arange(4)[:, None] * data.shape[1] + np.arange(4)).ravel()
    at = corner[:, None] + offsets
    with np.errstate(invalid="ignore", over="ignore"):
        block = (np.take(data, at).astype(np.float64) - base).astype(np.float32)
    if mask is not None:
        block[np.take(mask, at)] = np.nan
    level, noise = mesh.at(2 * j + 0.5, 2 * i + 0.5)
    block -= level.astype(np.float32)[:, None]
    found_y, found_x = [], []
    rest = np.arange(len(j))
    # A track may light two pixels of a cell; each round looks at the brightest that is left.
    for _ in range(3):
        inner = block[np.ix_(rest, INNER)]
        inner[np.isnan(inner)] = -np.inf
        which = inner.argmax(axis=1)
        peak = inner[np.arange(len(rest)), which]
        around = np.sort(np.take_along_axis(block[rest], AROUND[which], axis=1), axis=1)
        dark = 0.5 * (around[:, 3] + around[:, 4])
        hot = (peak > MIN_SIGMA * noise[rest]) & (dark < MAX_NEIGHBOURS * peak)
        rest, which, peak, dark = rest[hot], which[hot], peak[hot], dark[hot]
        if not len(rest):
            break
        block[rest, INNER[which]] = dark
        cells[j[rest], i[rest]] -= ((peak - dark) / (4 * 0.5 * noise[rest])).astype(np.float32)
        found_y.append(2 * j[rest] - 1 + INNER[which] // 4)
        found_x.append(2 * i[rest] - 1 + INNER[which] % 4)
    if not found_y:
        return HotPixels(np.zeros(0, np.intp), np.zeros(0, np.intp))
    return HotPixels(np.concatenate(found_y), np.concatenate(found_x))


# Within the 4 × 4 block, flattened: the cell's own pixels, and the eight around each of them.
INNER = np.array([5, 6, 9, 10])
AROUND = np.array([[p + d for d in (-5, -4, -3, -1, 1, 3, 4, 5)] for p in INNER])


def repair_lines(data: NDArray[Any], cells: Image) -> list[tuple[slice, slice]]:
    """Take bad columns and rows out of an image of 2 × 2 cells, in place, and say where they are.

    Parameters
    ----------
    data
        The frame's pixels, shape ``(ny, nx)``.
    cells
        Means of 2 × 2 pixels less the sky, in units of their noise.

    Returns
    -------
    list of tuple
        Stretches of bad lines, as slices of ``data``.
    """
    found = _bad_columns(data, cells)
    found += [(rows, columns) for columns, rows in _bad_columns(data.T, cells.T)]
    return found


def _bad_columns(data: NDArray[Any], cells: Image) -> list[tuple[slice, slice]]:
    ny, nx = cells.shape
    found: list[tuple[slice, slice]] = []
    if min(ny, nx) < 2 * LINES_ASIDE:
        return found
    for top in range(0, max(ny - STRETCH // 2, 1), STRETCH):
        bottom = top + STRETCH if top + 3 * STRETCH // 2 <= ny else ny
        mean = np.clip(cells[top:bottom:EVERY], -CLIP_SIGMA, CLIP_SIGMA).mean(axis=0)
        excess = np.abs(mean - median_filter(mean, LINES_ASIDE, mode="nearest"))
        stretch = cells[top:bottom]
        for column in np.flatnonzero(excess > MIN_EXCESS):
            # Stars that happen to stand above each other leave the median of a column alone.
            if np.abs(np.median(stretch[:, column])) < MIN_EXCESS:
                continue
            aside = [c for c in (column - 1, column + 1) if 0 <= c < nx and excess[c] <= MIN_EXCESS]
            stretch[:, column] = stretch[:, aside].mean(axis=1) if aside else 0.0
            rows = slice(2 * top, 2 * bottom)
            pair = data[rows, 2 * column : 2 * column + 2].astype(np.float64)
            around = data[rows, max(2 * column - 2, 0) : 2 * column + 4].astype(np.float64)
            off = np.abs(np.nanmedian(pair, axis=0) - np.nanmedian(around))
            # One of the two pixels usually; both where they are alike.
            for k in np.flatnonzero(off > 0.5 * off.max()):
                found.append((rows, slice(2 * column + k, 2 * column + k + 1)))
    return found
