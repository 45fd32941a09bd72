"""Is this file a frame? Answered before anything is spent on it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.frames.answers import NormalisedHeader
from starloom.frames.normalising import normalise
from starloom.frames.opening import Bounds, opened, refuse
from starloom.frames.pixels import decode, merged_header, pixel_digest
from starloom.frames.structure import BLOCK, Segment, image_of, scan

_CHUNK = BLOCK * 512


@dataclass(frozen=True)
class FrameInfo:
    """What a checked file holds.

    Attributes
    ----------
    path
        The file.
    sha256, nbytes
        Of the file's bytes as they lie on disk.
    shape
        ``(ny, nx)`` of the image, pixels.
    dtype
        numpy's name of the physical pixels' type, e.g. ``uint16``.
    compressed
        Whether the image is tile-compressed (``.fits.fz``); gzip does not count.
    pixel_digest
        Identity of the decoded pixels, see ``starloom.frames.pixel_digest``.
    """

    path: Path
    sha256: str
    nbytes: int
    shape: tuple[int, int]
    dtype: str
    compressed: bool
    pixel_digest: str


def inspect_file(path: Path | str, bounds: Bounds | None = None) -> FrameInfo:
    """Check a file from outside, cheapest checks first, and identify its pixels.

    The header blocks are walked with bounded reads and every declared length is compared with the real one; then
    the checksums are verified, and only then is anything decoded.

    Raises
    ------
    BadInput
        ``file-not-found``, ``file-unreadable``, ``empty-file``, ``not-fits``, ``truncated``, ``too-large``,
        ``too-many-pixels``, ``too-many-axes``, ``too-many-hdus``, ``no-image``, ``header-too-long``,
        ``bad-structure``, ``unsupported-compression``, ``decompression-bomb``, ``bad-checksum``,
        ``corrupt-data``, ``all-nan`` or ``constant-image``.
    """
    path = Path(path)
    bounds = bounds or Bounds()
    with opened(path, bounds) as (stream, size):
        segments = scan(path, stream, size, bounds)
        return _inspect(path, stream, segments, image_of(path, segments), bounds)


@dataclass(frozen=True)
class Examined:
    """All that ingest wants to know of a file: what it holds, and what its header truly tells."""

    info: FrameInfo
    header: NormalisedHeader


def examine(
    path: Path | str, bounds: Bounds | None = None, *, foresee: Callable[[int], None] | None = None
) -> Examined:
    """Check and identify a file as `inspect_file` does, and read its header, all in one pass.

    Parameters
    ----------
    foresee
        Told how many pixels the image claims, within the bounds, before any of them is read.

    Raises
    ------
    BadInput
        With the codes of `inspect_file`.
    """
    path = Path(path)
    bounds = bounds or Bounds()
    with opened(path, bounds) as (stream, size):
        segments = scan(path, stream, size, bounds)
        image = image_of(path, segments)
        if foresee is not None:
            foresee(math.prod(image.axes))
        info = _inspect(path, stream, segments, image, bounds)
    return Examined(info, normalise(merged_header(segments, image)))


def _inspect(path: Path, stream: IO[bytes], segments: list[Segment], image: Segment, bounds: Bounds) -> FrameInfo:
    for segment in segments:
        _verify_sums(path, stream, segment)
    data = decode(path, stream, image)
    _worth_keeping(path, data, bounds)
    height, width = data.shape
    return FrameInfo(
        path=path,
        sha256=sha256_of(path),
        nbytes=path.stat().st_size,
        shape=(height, width),
        dtype=data.dtype.name,
        compressed=image.compressed,
        pixel_digest=pixel_digest(data),
    )


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file's bytes, hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _worth_keeping(path: Path, data: NDArray[Any], bounds: Bounds) -> None:
    values = data
    if data.dtype.kind == "f":
        finite = np.isfinite(data)
        fraction = float(finite.mean())
        if fraction < bounds.min_finite_fraction:
            raise refuse(
                path,
                f"only {fraction:.2%} of the pixels are numbers",
                "all-nan",
                "Check the capture or the calibration that wrote it; a division by an empty flat does this.",
            )
        if fraction < 1:
            values = data[finite]
    low, high = values.min(), values.max()
    if low == high:
        raise refuse(
            path,
            f"every pixel is {low}",
            "constant-image",
            "The camera delivered nothing (or is saturated throughout); check shutter, cable and exposure.",
        )


def _verify_sums(path: Path, stream: IO[bytes], segment: Segment) -> None:
    """Verify DATASUM and CHECKSUM of the bytes as they lie (FITS 4.0, section 4.4.2.7 and appendix J)."""
    datasum, checksum = (segment.values.get(key, "") for key in ("DATASUM", "CHECKSUM"))
    if not datasum and not checksum.strip("0"):
        return  # absent, or blank: the standard's way to say "not computed"
    data = _ones_sum(stream, segment.data_start, segment.data_bytes, 0)
    if datasum and (not datasum.isdigit() or int(datasum) % 0xFFFFFFFF != data % 0xFFFFFFFF):
        raise _bad_checksum(path, segment, "DATASUM")
    if checksum.strip("0"):
        whole = _ones_sum(stream, segment.start, segment.data_start - segment.start, data)
        # All bits set is the zero of one's complement: the sum cancels itself.
        if whole % 0xFFFFFFFF != 0:
            raise _bad_checksum(path, segment, "CHECKSUM")


def _ones_sum(stream: IO[bytes], start: int, length: int, total: int) -> int:
    """Return the 32-bit one's complement sum of a stretch of the file, zero-padded to whole words."""
    stream.seek(start)
    while length > 0:
        chunk = stream.read(min(_CHUNK, length))
        if not chunk:
            break
        length -= len(chunk)
        total += int(np.frombuffer(chunk + b"\0" * (-len(chunk) % 4), ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _bad_checksum(path: Path, segment: Segment, keyword: str) -> BadInput:
    return refuse(
        path,
        f"{keyword} of HDU {segment.index} does not match its bytes",
        "bad-checksum",
        "The file was changed or damaged after it was written; send the original again.",
    )
