"""Uncompressed images: big-endian pixels of a mapped file, swapped and scaled row by row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.bits import as_float32, as_float64, exact, load_be16, load_be32, load_be64
from starloom.coadd.pixels.layout import Bytes, Hdu, damaged
from starloom.coadd.pixels.scaling import NO_BLANK


@exact
def _read_row(data, at, count, bitpix, scale, zero, blank, out, place):  # type: ignore[no-untyped-def]
    """Write ``count`` pixels that begin at byte ``at`` to ``out[place:]``; returns how many are not finite."""
    source, target = np.uint64(at), np.uint64(place)
    steps = np.uint64(count)
    bad = np.int64(0)
    if bitpix == 16:
        for k in range(steps):
            stored = np.int16(load_be16(data, source + np.uint64(2) * k))
            hit = np.int64(stored) == blank
            bad += np.int32(hit)
            adu = np.float32(np.float64(stored) * scale + zero)
            out[target + k] = np.float32(np.nan) if hit else adu
    elif bitpix == -32:
        for k in range(steps):
            adu = np.float32(np.float64(as_float32(load_be32(data, source + np.uint64(4) * k))) * scale + zero)
            bad += np.int32(not np.isfinite(adu))
            out[target + k] = adu
    elif bitpix == -64:
        for k in range(steps):
            adu = np.float32(as_float64(load_be64(data, source + np.uint64(8) * k)) * scale + zero)
            bad += np.int32(not np.isfinite(adu))
            out[target + k] = adu
    else:
        for k in range(steps):
            if bitpix == 8:
                whole = np.int64(data[source + k])
            elif bitpix == 32:
                whole = np.int64(np.int32(load_be32(data, source + np.uint64(4) * k)))
            else:
                whole = np.int64(load_be64(data, source + np.uint64(8) * k))
            hit = whole == blank
            bad += np.int32(hit)
            adu = np.float32(np.float64(whole) * scale + zero)
            out[target + k] = np.float32(np.nan) if hit else adu
    return bad


@exact
def _read(data, at, nx, bitpix, scale, zero, blank, y0, lo, hi, x0, out, stride):  # type: ignore[no-untyped-def]
    width = abs(bitpix) // 8
    bad = 0
    for i in range(lo.size):
        if lo[i] < hi[i]:
            first = at + ((y0 + i) * nx + lo[i]) * width
            bad += _read_row(data, first, hi[i] - lo[i], bitpix, scale, zero, blank, out, i * stride + lo[i] - x0)
    return bad


class PlainPlane:
    """An image that is not compressed."""

    def __init__(self, data: Bytes, hdu: Hdu) -> None:
        self._data, self._hdu = data, hdu
        self._ny, self._nx = hdu.image_shape
        self._bitpix = hdu.integer("BITPIX", least=-64, most=64)
        if self._bitpix not in (8, 16, 32, 64, -32, -64):
            raise damaged(hdu.path, f"BITPIX = {self._bitpix}")
        self._scale, self._zero = hdu.number("BSCALE", 1.0), hdu.number("BZERO", 0.0)
        self._blank = NO_BLANK
        if self._bitpix > 0 and "BLANK" in hdu.cards:
            self._blank = hdu.integer("BLANK", least=-(2**63), most=2**63 - 1)

    def read(
        self,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
        stride: int,
    ) -> bool:
        """See `starloom.coadd.pixels.source.Plane`."""
        at = self._hdu.data_at
        scaling = self._scale, self._zero, self._blank
        return bool(_read(self._data, at, self._nx, self._bitpix, *scaling, y0, lo, hi, x0, out, stride) > 0)
