"""Lossless compression of a frame into tile-compressed FITS (``.fits.fz``), verified before it counts."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from starloom.disk import whole_or_absent
from starloom.errors import StarloomError
from starloom.frames.pixels import pixel_digest, read_frame

#: Rows of a gzip tile: single rows of floats are too short to compress well.
_GZIP_ROWS = 16


@dataclass(frozen=True)
class Compression:
    """What compressing a frame brought.

    Attributes
    ----------
    nbytes_in, nbytes_out
        Size of the source and of the target, bytes.
    saving_fraction
        ``1 - nbytes_out / nbytes_in``; negative where the frame grew.
    algorithm
        ``RICE_1`` or ``GZIP_2``.
    """

    nbytes_in: int
    nbytes_out: int
    saving_fraction: float
    algorithm: str


def compress(source: Path | str, target: Path | str) -> Compression:
    """Write a frame's pixels and header without loss, as fpack would.

    Integers of 8, 16 and 32 bits become RICE_1, 64-bit integers and floats GZIP_2 without quantisation. The file
    is written beside the target, read back and compared in every pixel and card, and then renamed: the target is
    complete or absent. Only the image is kept: a frame is one exposure.

    Raises
    ------
    BadInput
        The source is no frame, with the codes of ``read_frame``.
    StarloomError
        ``disk-full`` (retryable), or ``round-trip-failed`` where what was written does not read back the same.
    """
    source, target = Path(source), Path(target)
    data, header = read_frame(source)
    algorithm = "RICE_1" if data.dtype.kind in "ui" and data.dtype.itemsize <= 4 else "GZIP_2"
    with whole_or_absent(target) as partial:
        _write(partial, data, header, algorithm)
        _verify(source, partial, data, header)
    nbytes_in, nbytes_out = source.stat().st_size, target.stat().st_size
    return Compression(nbytes_in, nbytes_out, 1.0 - nbytes_out / nbytes_in, algorithm)


def _write(path: Path, data: NDArray[Any], header: fits.Header, algorithm: str) -> None:
    height, width = data.shape
    tile = (1, width) if algorithm == "RICE_1" else (min(height, _GZIP_ROWS), width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        image = fits.CompImageHDU(
            data, header.copy(), compression_type=algorithm, tile_shape=tile, quantize_level=0.0
        )
        with path.open("wb") as stream:
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(stream, checksum=True)
            stream.flush()
            os.fsync(stream.fileno())


def _verify(source: Path, written: Path, data: NDArray[Any], header: fits.Header) -> None:
    again, cards = read_frame(written)
    same = again.dtype == data.dtype and np.array_equal(again, data, equal_nan=data.dtype.kind == "f")
    if not same or pixel_digest(again) != pixel_digest(data):
        raise _failed(source, "its pixels do not read back the same")
    lost = sorted(set(_comparable(header)) ^ set(_comparable(cards)))
    if lost:
        raise _failed(source, f"header cards do not read back the same: {', '.join(key for key, *_ in lost[:5])}")


def _comparable(header: fits.Header) -> list[tuple[str, str, str]]:
    # astropy puts a comment of its own on EXTNAME.
    return [
        (card.keyword, repr(card.value), "" if card.keyword == "EXTNAME" else card.comment)
        for card in header.cards
    ]


def _failed(source: Path, what: str) -> StarloomError:
    return StarloomError(
        f"{source.name}: compressed, but {what}; nothing was written",
        code="round-trip-failed",
        hint="Send the frame uncompressed and report the file.",
    )
