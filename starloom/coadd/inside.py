"""Weight within a frame: vignetted corners and warm edges know less of the sky than its middle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.calibration.sky_noise import mesh_of
from starloom.coadd.inputs import OpenFrame

#: Cells a side. Weights that follow single pixels would make a star's profile depend on where it fell.
CELLS = 16
#: A mesh flatter than this is none: it would cost time and change nothing.
_LEAST_RANGE = 0.02
#: Variance measured in cells has errors; no cell counts for more than this times the frame's typical one.
_MOST = 4.0
_ROWS_A_CELL = 16

Mesh = tuple[tuple[float, ...], ...]


def relative_weights(variance: NDArray[np.float32] | None) -> Mesh | None:
    """Return the weight of each cell of a frame over that of its typical pixel.

    Parameters
    ----------
    variance
        Of the sky in each pixel, ADU², shape ``(ny, nx)``; not finite or not positive: unknown.

    Returns
    -------
    tuple of tuple or None
        ``CELLS`` rows of as many numbers, ``median(variance) / variance``, at most 4; None where the weight is the
        same everywhere to 2 %, or nothing is known.
    """
    if variance is None:
        return None
    known = np.where(variance > 0, variance, np.nan)
    known[~np.isfinite(known)] = np.nan
    if not np.isfinite(known[::7, ::7]).any():
        return None
    cells = min(CELLS, *known.shape)
    mesh = mesh_of(known, (cells, cells), _median)
    typical = float(np.nanmedian(known[::3, ::3]))
    weights = np.clip(typical / mesh, 0.0, _MOST)
    if np.ptp(weights) < _LEAST_RANGE:
        return None
    return tuple(tuple(round(float(value), 4) for value in row) for row in weights)


def sampled_weights(frame: OpenFrame) -> Mesh | None:
    """Return the `relative_weights` of a frame from a few rows of its ``VAR`` in each row of cells."""
    ny, _ = frame.shape
    if ny <= CELLS * _ROWS_A_CELL:
        return relative_weights(frame.variance())
    tops = ((np.arange(CELLS) + 0.5) / CELLS * ny).astype(int) - _ROWS_A_CELL // 2
    rows = [frame.variance(int(top), int(top) + _ROWS_A_CELL) for top in tops]
    return relative_weights(np.concatenate([r for r in rows if r is not None]) if rows[0] is not None else None)


def _median(cell: NDArray[np.float32]) -> float:
    finite = cell[np.isfinite(cell)]
    return float(np.median(finite[::5])) if finite.size else float("nan")


def weights_at(
    mesh: Mesh, shape: tuple[int, int], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the relative weight at frame pixels, linear between the cells' centres.

    Parameters
    ----------
    mesh, shape
        From `relative_weights`, and ``(ny, nx)`` of the frame.
    x, y
        0-based frame pixels; NaN gives NaN.
    """
    values = np.asarray(mesh, np.float64)
    rows, cols = values.shape
    lost = ~np.isfinite(x + y)
    places = np.stack(
        [
            np.where(lost, 0.0, (y + 0.5) / shape[0] * rows - 0.5),
            np.where(lost, 0.0, (x + 0.5) / shape[1] * cols - 0.5),
        ]
    )
    found = ndimage.map_coordinates(values, places, np.float32, order=1, mode="nearest", prefilter=False)
    found[lost] = np.nan
    return np.asarray(found)
