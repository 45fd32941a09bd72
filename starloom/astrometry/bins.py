"""Reading a frame of any pixel type in bands, as means of small cells, without copies of its full size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Rows of one band: a few hundred kilobytes, so that everything done to it stays in the processor's cache.
BAND_ROWS = 64


def binned(data: NDArray[Any], step: int, base: float, mask: Bools | None) -> tuple[Image, Bools | None]:
    """Return the means of ``step`` × ``step`` cells above a base level.

    Parameters
    ----------
    data
        Pixels of any real type and byte order, shape ``(ny, nx)``.
    step
        Pixels a cell and axis, a power of 2; a remainder at the upper edges is left out.
    base
        Level taken off first, so that a pedestal of millions costs no digits of float32.
    mask
        True marks pixels that are not to be used, shape of ``data``.

    Returns
    -------
    means
        Of the usable pixels, float32, shape ``(ny // step, nx // step)``; 0 where a cell has none.
    unusable
        True where a cell has no usable pixel, None if there is no such cell.
    """
    ny, nx = data.shape[0] // step, data.shape[1] // step
    out = np.empty((ny, nx), np.float32)
    unusable = None
    rows = max(BAND_ROWS // step, 1)
    for top in range(0, ny, rows):
        bottom = min(top + rows, ny)
        raw = data[top * step : bottom * step, : nx * step]
        hidden = None if mask is None else mask[top * step : bottom * step, : nx * step]
        band, bad = usable(raw, base, hidden)
        if bad is None:
            _mean(band, step, out[top:bottom])
            continue
        share = _mean((~bad).astype(np.float32), step)
        empty = share == 0
        _mean(band, step, out[top:bottom])
        out[top:bottom] /= np.where(empty, np.float32(1), share)
        if empty.any():
            unusable = np.zeros((ny, nx), bool) if unusable is None else unusable
            unusable[top:bottom] = empty
    return out, unusable


def usable(raw: NDArray[Any], base: float, mask: Bools | None) -> tuple[Image, Bools | None]:
    """Return pixels above the base level as float32, 0 where not usable, and which those are (None: all are)."""
    kind, size = raw.dtype.kind, raw.dtype.itemsize
    wide = (kind in "iu" and size > 2) or size > 4
    if wide:
        # More digits than float32 has: the base goes first, in float64.
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = (raw.astype(np.float64) - base).astype(np.float32)
    else:
        pixels = raw.astype(np.float32)
        pixels -= np.float32(base)
    bad = mask if mask is not None and mask.any() else None
    if kind == "f":
        finite = np.isfinite(pixels)
        if not finite.all():
            bad = ~finite if bad is None else bad | ~finite
    if bad is not None:
        pixels[bad] = 0.0
    return pixels, bad


def coarser(image: Image, step: int) -> Image:
    """Return the means of ``step`` × ``step`` cells of an image, ``step`` a power of 2."""
    ny, nx = image.shape[0] // step, image.shape[1] // step
    out = np.empty((ny, nx), np.float32)
    rows = max(BAND_ROWS // step, 1)
    for top in range(0, ny, rows):
        bottom = min(top + rows, ny)
        _mean(image[top * step : bottom * step, : nx * step], step, out[top:bottom])
    return out


def _mean(band: Image, step: int, out: Image | None = None) -> Image:
    # Halving by strided sums is several times as fast as a sum over a reshaped axis.
    scale = np.float32(1.0 / step**2)
    while step > 1:
        band = band[0::2] + band[1::2]
        band = band[:, 0::2] + band[:, 1::2]
        step //= 2
    if out is None:
        return np.asarray(band * scale)
    np.multiply(band, scale, out=out)
    return out
