"""Calibrated frames and masters on disk: pixels, and with them a mask and the variance of the sky.

One layout for both: the first image is the pixels, image extensions ``MASK`` and ``VAR`` follow if there are any.
Anything that reads FITS shows the pixels; whoever copies all HDUs takes the planes along.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from starloom.disk import whole_or_absent
from starloom.frames import Bounds, read_frame
from starloom.frames.opening import opened
from starloom.frames.pixels import decode
from starloom.frames.structure import scan


class MaskBit(IntFlag):
    """What is wrong with a pixel; 0 is a good one."""

    DEAD = 1
    HOT = 2
    SATURATED = 4
    LOW_RESPONSE = 8
    COSMIC = 16
    NOT_FINITE = 32


def mark(mask: NDArray[np.uint8], where: NDArray[np.bool_], bit: MaskBit) -> None:
    """Set a bit of a mask, in place, wherever ``where`` is True; both of one shape."""
    np.bitwise_or(mask, np.uint8(bit), out=mask, where=where)


#: Steps per sigma of the noise in a tile (fpack's ``-q``): 16 adds 0.03 % to the noise and no bias, for the dither
#: is subtracted again; it halves the file against loss-free GZIP_2.
QUANTIZE_LEVEL = 16.0
#: The variance is smooth: steps of 1 % of its median say all that is known of it.
VARIANCE_STEP = 0.01
#: Of the dither's table of random numbers: fixed, so that the same pixels are the same bytes.
DITHER_SEED = 1
_STORAGE_CARDS = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND", "PCOUNT", "GCOUNT")
_COMMENTS = {
    MaskBit.DEAD: "dead or bad",
    MaskBit.HOT: "hot or warm",
    MaskBit.SATURATED: "saturated",
    MaskBit.LOW_RESPONSE: "no flat, or low response",
    MaskBit.COSMIC: "cosmic ray",
    MaskBit.NOT_FINITE: "not finite",
}


@dataclass(frozen=True)
class Planes:
    """A frame with what is known of its pixels.

    Attributes
    ----------
    data
        Pixels, ADU, shape ``(ny, nx)``.
    header
        As `starloom.frames.read_frame` returns it.
    mask
        `MaskBit` per pixel, uint8, same shape; None: nothing is known, all count as good.
    variance
        Variance of the sky in each pixel (ADU², float32, same shape), without the sources' own photons; None:
        the same everywhere.
    """

    data: NDArray[Any]
    header: fits.Header
    mask: NDArray[np.uint8] | None = None
    variance: NDArray[np.float32] | None = None

    @property
    def unusable(self) -> NDArray[np.bool_] | None:
        """Pixels that detection must not use, None: it may use all.

        Saturated ones are not among them: their stars are seen, and a star list says that they are clipped.
        """
        return None if self.mask is None else np.asarray(self.mask & ~np.uint8(MaskBit.SATURATED) != 0)


def read_planes(path: Path | str, bounds: Bounds | None = None) -> Planes:
    """Read any frame: pixels and header, mask and variance where the file holds them.

    Raises
    ------
    BadInput
        The codes of `starloom.frames.read_frame`.
    """
    path, bounds = Path(path), bounds or Bounds()
    data, header = read_frame(path, bounds)
    found: dict[str, NDArray[Any]] = {}
    with opened(path, bounds) as (stream, size):
        for segment in scan(path, stream, size, bounds)[1:]:
            name = segment.values.get("EXTNAME", "").strip()
            if name in ("MASK", "VAR") and segment.axes == data.shape[::-1]:
                found[name] = decode(path, stream, segment)
    mask, variance = found.get("MASK"), found.get("VAR")
    return Planes(
        data,
        header,
        None if mask is None else mask.astype(np.uint8, copy=False),
        None if variance is None else variance.astype(np.float32, copy=False),
    )


def write_planes(planes: Planes, target: Path | str) -> Path:
    """Write pixels, mask and variance as tile-compressed FITS (``.fits.fz``); the file is complete or absent.

    Parameters
    ----------
    planes
        Integers are kept exactly (RICE_1), floats written as float32; ``header``'s cards are kept.
    target
        File to write.

    Notes
    -----
    Floats are quantised in steps of the noise over `QUANTIZE_LEVEL`, with the subtractive dither of fpack
    (``SUBTRACTIVE_DITHER_2``: zeros stay zero, Pence et al. 2010, PASP 122, 1065); NaN stays NaN. The mask is
    kept exactly, the variance in steps of 1 % of its median; one that is nowhere positive says nothing and is not
    written.
    """
    target = Path(target)
    whole_numbers = planes.data.dtype.kind in "ui"
    data = planes.data if whole_numbers else np.ascontiguousarray(planes.data, np.float32)
    hdus: list[Any] = [fits.PrimaryHDU()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        header = planes.header.copy()
        # What describes the storage is astropy's to write, and in its order.
        for card in (*_STORAGE_CARDS, "EXTNAME", "ZQUANTIZ", "ZDITHER0"):
            header.remove(card, ignore_missing=True, remove_all=True)
        if whole_numbers:
            hdus.append(fits.CompImageHDU(data, header, compression_type="RICE_1"))
        else:
            hdus.append(_dithered(data, header, QUANTIZE_LEVEL))
        if planes.mask is not None:
            note = fits.Header([("EXTNAME", "MASK", "what is wrong with a pixel; 0 is good")])
            for bit, meaning in _COMMENTS.items():
                note[f"BIT{int(bit).bit_length() - 1}"] = (meaning, f"value {int(bit)}")
            hdus.append(fits.CompImageHDU(planes.mask.astype(np.uint8), note, compression_type="RICE_1"))
        variance = None if planes.variance is None else np.ascontiguousarray(planes.variance, np.float32)
        good = np.zeros(0) if variance is None else variance[np.isfinite(variance) & (variance > 0)]
        if variance is not None and good.size:
            note = fits.Header([("EXTNAME", "VAR", "variance of the sky"), ("BUNIT", "adu2", "ADU squared")])
            # Negative: an absolute step. A relative one would follow the variance's own noise, which is none.
            step = VARIANCE_STEP * float(np.median(good[:: max(1, good.size // 100_000)]))
            hdus.append(_dithered(variance, note, -step))
        with whole_or_absent(target) as partial, partial.open("wb") as stream:
            fits.HDUList(hdus).writeto(stream, checksum=True)
            stream.flush()
            os.fsync(stream.fileno())
    return target


def _dithered(data: NDArray[np.float32], header: fits.Header, level: float) -> fits.CompImageHDU:
    return fits.CompImageHDU(
        data,
        header,
        compression_type="RICE_1",
        tile_shape=(1, data.shape[1]),
        quantize_level=level,
        quantize_method=2,
        dither_seed=DITHER_SEED,
    )
