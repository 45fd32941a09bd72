"""The frames' skies on the output grid: samples for the match, terms and common level for the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.coadd.celestial import sky_pixels, sky_vectors
from starloom.coadd.match import sky_basis
from starloom.coadd.plan import PlanFrame
from starloom.coadd.seam_fit import fit_seams
from starloom.coadd.seams import measure_seams, outline, strips_between
from starloom.coadd.sky_cells import SkyCells
from starloom.coadd.sky_match import SkySamples, lattice_shape, match_skies, unit_places

Floats = NDArray[np.float64]
Level = tuple[tuple[float, ...], ...]

_SAMPLES = 400
"""Samples a frame gives at most, about; its cells are averaged down to them."""

_DIGITS = 8
"""Significant digits of what is fitted: the last ones depend on how a library orders its sums."""


def with_sky(
    frames: Sequence[PlanFrame],
    cells: Sequence[SkyCells],
    wcs: Sequence[WCS],
    grid: WCS,
    shape: tuple[int, int],
    *,
    match: bool,
) -> tuple[list[PlanFrame], Level | None]:
    """Fit the sky of the frames that have a weight.

    Parameters
    ----------
    frames, cells, wcs
        The frames of a plan, their skies and their WCS.
    grid, shape
        WCS and ``(ny, nx)`` of the output grid.
    match
        False: the frames keep their skies, terms of 0; for frames whose skies have been matched or removed before.

    Returns
    -------
    frames, level
        With their terms; and the sky they have then in common, output units, on a lattice (None without a frame).
    """
    result = list(frames)
    used = [i for i, frame in enumerate(frames) if frame.weight > 0]
    samples = [_samples(frames[i], _reduced(cells[i]), wcs[i], grid) for i in used]
    if not any(len(s.value) for s in samples):
        return result, None
    side = float(np.median([min(max(frames[i].shape) / np.sqrt(frames[i].area), max(shape)) for i in used]))
    matching = match and len(used) > 1
    told = (
        _told_by_seams([frames[i] for i in used], [wcs[i] for i in used], samples, grid, shape)
        if matching
        else None
    )
    if told is None:
        sky = match_skies(samples, shape, lattice_shape(shape, side), match=matching)
    else:
        left = [_less(s, t, shape) for s, t in zip(samples, told, strict=True)]
        sky = replace(match_skies(left, shape, lattice_shape(shape, side), match=False), terms=told)
    for i, terms in zip(used, sky.terms, strict=True):
        result[i] = frames[i].model_copy(update={"sky": tuple(_rounded(t) for t in terms)})
    return result, tuple(tuple(_rounded(v) for v in row) for row in sky.level)


def _told_by_seams(
    frames: Sequence[PlanFrame],
    wcs: Sequence[WCS],
    samples: Sequence[SkySamples],
    grid: WCS,
    shape: tuple[int, int],
) -> Floats | None:
    """Return the frames' terms where nothing but strips ties the tiles of a mosaic together; else None."""
    outlines = [outline(w, frame.shape, grid) for w, frame in zip(wcs, frames, strict=True)]
    pairs = strips_between(outlines)
    return fit_seams(samples, measure_seams(frames, wcs, grid, outlines, pairs), shape) if pairs else None


def _less(samples: SkySamples, terms: Floats, shape: tuple[int, int]) -> SkySamples:
    u, v = unit_places(samples.x, shape[1]), unit_places(samples.y, shape[0])
    return replace(samples, value=samples.value - terms @ sky_basis(u, v))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}") + 0.0


def _reduced(sky: SkyCells) -> SkyCells:
    """Average neighbouring cells until there are about 400."""
    rows, columns = sky.level.shape
    while rows * columns > 1.5 * _SAMPLES:
        # Where cells lie dense: a band of rows holds one row of them, far from the next.
        by = 2 if rows > 1 and np.median(np.diff(sky.y)) <= 1.5 * np.median(np.diff(sky.x)) else 1
        sky = _binned(sky, by, 2)
        rows, columns = sky.level.shape
    return sky


def _binned(sky: SkyCells, by: int, bx: int) -> SkyCells:
    rows, columns = -(-len(sky.y) // by), -(-len(sky.x) // bx)
    wide = np.full((rows * by, columns * bx), np.nan)
    wide[: len(sky.y), : len(sky.x)] = sky.level
    parts = wide.reshape(rows, by, columns, bx)
    count = np.isfinite(parts).sum(axis=(1, 3))
    total = np.nansum(parts, axis=(1, 3))
    level = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    y = np.array([sky.y[k * by : (k + 1) * by].mean() for k in range(rows)])
    x = np.array([sky.x[k * bx : (k + 1) * bx].mean() for k in range(columns)])
    return SkyCells(level, y, x, sky.pixels * by * bx)


def _samples(frame: PlanFrame, sky: SkyCells, wcs: WCS, grid: WCS) -> SkySamples:
    """Carry a frame's cells to the grid, forward: a frame's WCS needs iterations only the other way."""
    known = np.isfinite(sky.level)
    y, x = (a[known] for a in np.meshgrid(sky.y, sky.x, indexing="ij"))
    ny, nx = frame.shape
    centres = _on_grid(x, y, wcs, grid)
    right, up = (_on_grid(x + dx, y + dy, wcs, grid) for dx, dy in ((1.0, 0.0), (0.0, 1.0)))
    # The resampler multiplies by the local pixel area; over a bright sky its 1 % in the corners is a bowl.
    area = np.abs((right[0] - centres[0]) * (up[1] - centres[1]) - (up[0] - centres[0]) * (right[1] - centres[1]))
    edge = _on_grid(np.array([0.0, nx - 1, nx - 1, 0]), np.array([0.0, 0, ny - 1, ny - 1]), wcs, grid)
    extent = (float(edge[0].min()), float(edge[0].max()), float(edge[1].min()), float(edge[1].max()))
    factor = frame.scale / area
    error = 1.25 * frame.input.sky_sigma_adu / np.sqrt(sky.pixels) * factor
    good = np.isfinite(centres[0] + centres[1] + factor) & (area > 0)
    return SkySamples(centres[0][good], centres[1][good], (sky.level[known] * factor)[good], error[good], extent)


def _on_grid(x: Floats, y: Floats, wcs: WCS, grid: WCS) -> tuple[Floats, Floats]:
    return sky_pixels(grid, sky_vectors(wcs, x, y))
