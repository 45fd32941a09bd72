"""The sky's level and variance as smooth planes: a mesh of cells, filtered and interpolated to every pixel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.calibration.noise import sky_sigma

Plane = NDArray[np.float32]

#: Sides of cells: a variance needs more pixels than a median to be known to a few per cent.
_SKY_PX, _VARIANCE_PX = 64, 128


def smooth_sky(data: Plane, step: int = 1) -> Plane:
    """Return the sky's level in each pixel, shape of ``data``.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``.
    step
        Distance to the next pixel of the same colour: 2 in a Bayer mosaic, whose colours have skies of their own.
    """
    return _by_colour(data, step, _SKY_PX, _median)


def smooth_variance(data: Plane, step: int = 1) -> Plane:
    """Return the sky's variance as it is measured around each pixel, shape of ``data``."""
    found = _by_colour(data, step, _VARIANCE_PX, lambda cell: sky_sigma(cell) ** 2)
    # Continued half a cell beyond the last centres, a steep fall could pass zero.
    return np.maximum(found, 0.2 * np.float32(np.median(found[::16, ::16])), out=found)


def mesh_of(data: Plane, cells: tuple[int, int], statistic: Callable[[Plane], float]) -> Plane:
    """Return a statistic of each of ``cells`` (rows, columns) of a plane, cells without a value filled in.

    Where the statistic is not finite, the median of the others stands; lone outliers, such as the cell of a bright
    star, are replaced by the median of their neighbours.
    """
    (ny, nx), (rows, cols) = data.shape, cells
    y, x = (np.linspace(0, size, n + 1).astype(int) for size, n in ((ny, rows), (nx, cols)))
    out = np.empty(cells, np.float32)
    for j in range(rows):
        for i in range(cols):
            out[j, i] = statistic(data[y[j] : y[j + 1], x[i] : x[i + 1]])
    finite = np.isfinite(out)
    out[~finite] = np.median(out[finite]) if finite.any() else 0.0
    # Continued oddly beyond the edges: a gradient stays one, where repeated cells would flatten vignetted corners.
    around = [(1, 1) if size > 1 else (0, 0) for size in cells]
    padded = np.pad(out, around, mode="reflect", reflect_type="odd") if max(cells) > 1 else out
    filtered = ndimage.median_filter(padded, size=3, mode="nearest")
    inner = tuple(slice(before, before + size) for (before, _), size in zip(around, cells, strict=True))
    return np.asarray(filtered[inner])


def _by_colour(data: Plane, step: int, side: int, statistic: Callable[[Plane], float]) -> Plane:
    if step == 1:
        return _smoothed(data, side, statistic)
    out = np.empty(data.shape, np.float32)
    for dy in range(step):
        for dx in range(step):
            out[dy::step, dx::step] = _smoothed(np.ascontiguousarray(data[dy::step, dx::step]), side, statistic)
    return out


def _smoothed(data: Plane, side: int, statistic: Callable[[Plane], float]) -> Plane:
    ny, nx = data.shape
    cells = max(1, round(ny / side)), max(1, round(nx / side))
    return _spread_out(mesh_of(data, cells, statistic), (ny, nx))


def _median(cell: Plane) -> float:
    values = cell[::2, ::2]
    finite = np.isfinite(values)
    if finite.all():
        return float(np.median(values))
    return float(np.median(values[finite])) if finite.any() else float("nan")


def _spread_out(mesh: Plane, shape: tuple[int, int]) -> Plane:
    """Interpolate a mesh of cell centres to every pixel, linearly, and beyond the outermost centres too."""
    y = (np.arange(shape[0]) + 0.5) / shape[0] * mesh.shape[0] - 0.5
    x = (np.arange(shape[1]) + 0.5) / shape[1] * mesh.shape[1] - 0.5
    columns = _along(mesh.T, x).T
    return np.ascontiguousarray(_along(columns, y))


def _along(values: Plane, at: NDArray[np.float64]) -> Plane:
    """Interpolate linearly along the first axis."""
    low = np.clip(np.floor(at).astype(int), 0, max(values.shape[0] - 2, 0))
    high = np.minimum(low + 1, values.shape[0] - 1)
    part = (at - low).astype(np.float32)[:, None]
    return np.asarray(values[low] * (1 - part) + values[high] * part, np.float32)
