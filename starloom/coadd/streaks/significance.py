"""What a frame shows in excess of the others, in units of its noise, on coarse cells of the output grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import PlanFrame, StackPlan, Tile
from starloom.coadd.streaks.loops import average, halved, sort_frames, sorting_network, sum_excess

Plane = NDArray[np.float32]
Warp = Callable[[PlanFrame, Tile], Plane | None]

_CLIP = 5.0
"""Excess of one 2 x 2 block, in its deviations: a cosmic ray then adds little to its cell, a trail is a row."""

_PSF_TERM = 1.0
"""Share of the local contrast that unlike seeing may shift: a frame of 2 px has peaks 4 times those of 4 px."""

_BLOCK_NOISE = 0.5
"""Noise of a 2 x 2 mean over that of a pixel; what the interpolation's correlation adds is measured later."""

_LEAST_WEIGHT = 0.15
"""Of a cell's weight were there no stars; below it the cell lies in the core of one, and says nothing."""

_COLUMNS = 128
"""Columns that are sorted together: a hundred frames of them stay in the cache."""


def margin_px(fwhm_px: float) -> int:
    """Return how far beyond a tile its significance depends on pixels, where ``fwhm_px`` is the worst seeing."""
    return 2 * (math.ceil(1.5 * fwhm_px / 2) + math.ceil(3 * _blur_sigma(fwhm_px)))


def _blur_sigma(fwhm_px: float) -> float:
    return fwhm_px / 2.3548 / 2


def contrast_of(middle: Plane, noise: Plane, fwhm_px: float) -> Plane:
    """Return how much of the median image a blur takes away nearby: where unlike seeing leaves residuals.

    Needs no sky level: it is large at a star or a sharp edge, and small in a smooth nebula, however bright.

    Parameters
    ----------
    middle, noise
        Median of the frames on blocks of 2 x 2 pixels and its noise, `ABSENT` where there is none.
    fwhm_px
        The worst seeing, output pixels.
    """
    there = (middle < 1e38).astype(np.float32)
    filled = np.where(there > 0, middle, np.float32(0))
    sigma, reach = _blur_sigma(fwhm_px), math.ceil(1.5 * fwhm_px / 2)

    def blurred(image: Plane) -> Plane:
        return np.asarray(ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3), np.float32)

    sharp = np.abs(filled - blurred(filled) / np.maximum(blurred(there), np.float32(1e-3))) * there
    # The greatest of the noise's own within reach.
    sharp = np.clip(sharp - 3 * noise, 0, None)
    for axis in (0, 1):
        sharp = ndimage.maximum_filter1d(sharp, 2 * reach + 1, axis=axis, mode="nearest")
    return np.asarray(sharp, np.float32)


def tile_significance(
    plan: StackPlan, frames: Sequence[PlanFrame], warp: Warp, tile: Tile, cell_px: int, fwhm_px: float
) -> tuple[Plane | None, list[NDArray[np.float16] | None]]:
    """Compare every frame with the others on one tile.

    Parameters
    ----------
    plan
        Its grid limits what is read.
    frames
        Frames to compare; their ``sigma`` is the noise of a pixel.
    warp
        Returns a frame on a tile, float32 of shape ``(ny, nx)``, NaN or `ABSENT` where it has nothing.
    tile
        Starts at a multiple of ``cell_px``.
    cell_px
        Side of a cell, output pixels; even.
    fwhm_px
        The worst seeing of all frames, output pixels.

    Returns
    -------
    middle : ndarray or None
        Mean of the median of the frames per cell, output units, NaN where there is none; its shape is that of the
        tile in whole cells, rounded up. None where fewer than two frames touch the tile.
    excess : list of ndarray or None
        For each frame None where it does not touch the tile, else its excess per cell in units of the noise that
        the model expects: float16, NaN where nothing is known, of the same shape.

    Notes
    -----
    ``z = sum(d / v) / sqrt(sum(1 / v))`` over blocks of 2 x 2 pixels, with ``d`` the difference to the median of
    the others and ``v = s² + s_ref² + contrast²``. A block does not depend on the tile it is computed in.
    """
    margin, span = margin_px(fwhm_px), cell_px // 2
    ny, nx = plan.shape
    cells = math.ceil(tile.ny / cell_px), math.ceil(tile.nx / cell_px)
    x0, y0 = max(0, tile.x0 - margin), max(0, tile.y0 - margin)
    x1, y1 = min(nx, tile.x0 + tile.nx + margin), min(ny, tile.y0 + tile.ny + margin)
    # Whole blocks, and all of those that the last cells are made of.
    height = max(y1, tile.y0 + cells[0] * cell_px) - y0
    width = max(x1, tile.x0 + cells[1] * cell_px) - x0
    padded = Tile(x0=x0, y0=y0, nx=x1 - x0, ny=y1 - y0)
    height, width = height + height % 2, width + width % 2
    # Memory that no frame comes to fill is never touched.
    cube = np.empty((len(frames), height // 2, width // 2), np.float32)
    index: list[int] = []
    for i, frame in enumerate(frames):
        pixels = warp(frame, padded)
        if pixels is None:
            continue
        if pixels.shape != (height, width):
            pixels = np.pad(
                pixels, ((0, height - padded.ny), (0, width - padded.nx)), constant_values=np.float32(ABSENT)
            )
        cube[len(index)] = halved(pixels)
        index.append(i)
    result: list[NDArray[np.float16] | None] = [None] * len(frames)
    if len(index) < 2:
        return None, result
    cube = cube[: len(index)]
    shape = cube.shape[1:]
    variances = np.array([(_BLOCK_NOISE * frames[i].sigma) ** 2 for i in index], np.float32)
    middle, around = np.empty(shape, np.float32), np.zeros((4, *shape), np.float32)
    count, total = np.empty(shape, np.int32), np.empty(shape, np.float32)
    sort_frames(cube, variances, sorting_network(len(cube)), _COLUMNS, middle, around, count, total)
    noise = np.sqrt(total * np.float32(math.pi / 2)) / np.maximum(count, 1)
    contrast = contrast_of(middle, noise.astype(np.float32), fwhm_px)
    left, top = (tile.x0 - x0) // 2, (tile.y0 - y0) // 2
    inner = np.s_[top : top + cells[0] * span, left : left + cells[1] * span]
    around = np.ascontiguousarray(around[:, *inner])
    count, total = np.ascontiguousarray(count[inner]), np.ascontiguousarray(total[inner])
    contrast = np.ascontiguousarray(contrast[inner])
    for plane, variance, i in zip(cube, variances, index, strict=True):
        z = np.empty(cells, np.float32)
        terms = np.float32(_CLIP), np.float32(_PSF_TERM), np.float32(_LEAST_WEIGHT)
        sum_excess(np.ascontiguousarray(plane[inner]), variance, around, count, total, contrast, span, *terms, z)
        known = z < 1e38
        if known.any():
            # Bounded, so that it fits: a trail of 100 deviations is no better found than one of 50.
            result[i] = np.where(known, np.clip(z, -100, 100), np.float32(np.nan)).astype(np.float16)
    means = np.empty(cells, np.float32)
    average(np.ascontiguousarray(middle[inner]), span, means)
    return np.where(means < 1e38, means, np.float32(np.nan)), result
