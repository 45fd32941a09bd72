"""Opening a file from outside: what it may cost, and gzip unpacked no further than that."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from starloom.errors import BadInput

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """How large a frame may be; the limits are far above any camera in use.

    Attributes
    ----------
    max_file_bytes
        Bytes of the file, and of what a ``.gz`` unpacks to.
    max_pixels, max_axis
        Pixels of the image, and along one axis.
    max_hdus, max_header_bytes
        HDUs in the file, and bytes of one header.
    max_ratio
        Unpacked over packed bytes. RICE cannot exceed 128 on 16-bit pixels, so more is no picture of the sky.
    min_finite_fraction
        Below this fraction of finite pixels there is nothing to process.
    """

    max_file_bytes: int = 2 << 30
    max_pixels: int = 250_000_000
    max_axis: int = 65_535
    max_hdus: int = 64
    max_header_bytes: int = 1 << 20
    max_ratio: float = 200.0
    min_finite_fraction: float = 0.01


def refuse(path: Path, message: str, code: str, hint: str) -> BadInput:
    """Make the refusal of a file, named in the message."""
    return BadInput(f"{path.name}: {message}", code=code, hint=hint)


@contextmanager
def opened(path: Path, bounds: Bounds) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file for reading, gzip unpacked within bounds; yields the stream and its length in bytes.

    Raises
    ------
    BadInput
        ``file-not-found``, ``file-unreadable``, ``empty-file``, ``too-large``, ``decompression-bomb``,
        ``truncated`` or ``corrupt-data`` (gzip).
    """
    if not path.is_file():
        raise refuse(path, "there is no such file", "file-not-found", f"Check the path {path}.")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise refuse(
            path, f"cannot be read: {error.strerror}", "file-unreadable", "Check its permissions."
        ) from error
    with stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise refuse(path, "the file is empty", "empty-file", "Copy it again; the transfer or disk failed.")
        if size > bounds.max_file_bytes:
            raise _too_large(path, size, bounds)
        gzipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not gzipped:
            yield stream, size
            return
        with tempfile.SpooledTemporaryFile(max_size=64 * _CHUNK) as plain:
            unpacked = _gunzip(path, stream, plain, size, bounds)
            plain.seek(0)
            yield plain, unpacked


def _too_large(path: Path, size: int, bounds: Bounds) -> BadInput:
    return refuse(
        path,
        f"{size / 1e9:.2f} GB, at most {bounds.max_file_bytes / 1e9:.2f} GB are taken",
        "too-large",
        "Send one exposure per file, not a video or a mosaic.",
    )


def _gunzip(path: Path, packed: IO[bytes], plain: IO[bytes], size: int, bounds: Bounds) -> int:
    """Unpack member after member; stops at the first byte beyond what the bounds allow."""
    allowed = int(max(_CHUNK, bounds.max_ratio * size))
    total, member, pending = 0, zlib.decompressobj(31), b""
    try:
        while True:
            pending = pending or packed.read(_CHUNK)
            if member.eof:
                if not pending.startswith(b"\x1f\x8b"):
                    return total  # zero padding behind the last member is common
                member = zlib.decompressobj(31)
            if not pending:
                raise refuse(path, "the gzip stream ends early", "truncated", "Copy or send the file again.")
            out = member.decompress(pending, _CHUNK)
            pending = member.unused_data if member.eof else member.unconsumed_tail
            total += len(out)
            if total > bounds.max_file_bytes:
                raise _too_large(path, total, bounds)
            if total > allowed:
                raise refuse(
                    path,
                    f"unpacks to more than {bounds.max_ratio:.0f} times its size",
                    "decompression-bomb",
                    "Send the frame uncompressed or as .fits.fz.",
                )
            plain.write(out)
    except zlib.error as error:
        raise refuse(path, f"damaged gzip stream ({error})", "corrupt-data", "Copy or send it again.") from error
