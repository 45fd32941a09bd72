"""A frame made small enough to look at, a band of rows at a time whatever its size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pixels of the frame that are held as floats at a time.
BAND_PX = 4_000_000


def thumbnail(
    data: NDArray[Any], *, max_px: int, mosaic: bool = False, mask: NDArray[Any] | None = None
) -> tuple[NDArray[np.float32], int]:
    """Return the means of square blocks of pixels, at most ``max_px`` a side.

    Parameters
    ----------
    data
        Frame, shape ``(ny, nx)``.
    max_px
        Longest side of the result.
    mosaic
        Whether it is a Bayer mosaic, whose blocks hold whole 2×2 cells.
    mask
        Pixels to be left out, same shape: true or not 0.

    Returns
    -------
    image, block
        Means, shape ``(ny // block, nx // block)``, NaN where a block has no good pixel; and the block's side in
        pixels.
    """
    ny, nx = data.shape
    block = max(1, -(-max(ny, nx) // max_px))
    if mosaic and block % 2:
        block += 1
    rows, columns = max(ny // block, 1), max(nx // block, 1)
    block = min(block, ny, nx)
    image = np.empty((rows, columns), np.float32)
    step = max(1, BAND_PX // (block * nx))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        within = np.s_[first * block : last * block, : columns * block]
        band = np.array(data[within], np.float32)
        if mask is not None:
            band[mask[within] != 0] = np.nan
        cells = band.reshape(last - first, block, columns, block)
        good = np.isfinite(cells)
        total = np.where(good, cells, 0).sum(axis=(1, 3), dtype=np.float64)
        count = good.sum(axis=(1, 3))
        image[first:last] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return image, block
