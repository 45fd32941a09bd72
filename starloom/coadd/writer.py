"""A FITS file of several planes that is written tile by tile, from any thread, with its checksums at the end."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.coadd.jit import compiled

_BLOCK = 2880
_DTYPE = {-32: ">f4", 16: ">i2", 8: "u1"}


@dataclass(frozen=True)
class Plane:
    """One image extension: its name and header (with BITPIX, NAXIS1 and NAXIS2)."""

    name: str
    header: fits.Header


class PlanesFile:
    """Image extensions laid out in a file, to be filled in any order.

    The space is reserved at once, so that a full disk is an error here and not a bus error later.

    Parameters
    ----------
    path
        File to write; it must not be read before `finish`.
    primary
        Header of the primary HDU, which holds no data.
    planes
        The extensions, in order.

    Raises
    ------
    OSError
        No space.
    """

    def __init__(self, path: Path, primary: fits.Header, planes: Sequence[Plane]) -> None:
        self._path = path
        self.planes: dict[str, NDArray[Any]] = {}
        headers = [_with_room(primary), *(_with_room(plane.header) for plane in planes)]
        position, pieces = 0, []
        for header in headers:
            text = header.tostring().encode("ascii")
            size = _data_bytes(header)
            pieces.append((position, text, position + len(text), size))
            position += len(text) + -(-size // _BLOCK) * _BLOCK
        with path.open("w+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, position)
            for start, text, _, _ in pieces:
                os.pwrite(stream.fileno(), text, start)
            self._map = mmap.mmap(stream.fileno(), position)
        for plane, (_, _, start, size) in zip(planes, pieces[1:], strict=True):
            bitpix = plane.header["BITPIX"]
            flat = np.frombuffer(self._map, _DTYPE[bitpix], size // (abs(bitpix) // 8), start)
            self.planes[plane.name] = flat.reshape(plane.header["NAXIS2"], plane.header["NAXIS1"])
        self._pieces = pieces[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self.planes = {}
        if not self._map.closed:
            self._map.close()

    def finish(self, extras: Sequence[fits.hdu.base.ExtensionHDU]) -> None:
        """Add further extensions and all checksums; the planes cannot be written afterwards."""
        words = np.frombuffer(self._map, np.uint8)
        sums = [
            ones_complement_sum(words[start : start + -(-size // _BLOCK) * _BLOCK])
            for _, _, start, size in self._pieces
        ]
        del words
        self._release()
        with fits.open(self._path, mode="append", memmap=True) as hdus:
            for extra in extras:
                extra.add_checksum()
                hdus.append(extra)
        with fits.open(self._path, mode="update", memmap=True) as hdus:
            hdus[0].add_checksum()
            for hdu, datasum in zip(hdus[1:], sums, strict=False):
                # astropy's own sum takes 3 s a gigabyte; the header's part is its.
                hdu.header["DATASUM"] = str(datasum)
                hdu.add_checksum(override_datasum=True)


def ones_complement_sum(data: NDArray[np.uint8]) -> int:
    """Return the FITS checksum of data: the 32-bit ones' complement sum of its big-endian words.

    Parameters
    ----------
    data
        Bytes, a multiple of 4 of them (FITS data units are padded to 2880).

    References
    ----------
    FITS standard 4.0, appendix J.
    """
    total = int(_sum_words(data.view(np.uint32)))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


@compiled
def _sum_words(words: NDArray[np.uint32]) -> int:
    total = np.uint64(0)
    for word in words:
        total += np.uint64(
            ((word & np.uint32(0xFF)) << np.uint32(24))
            | ((word & np.uint32(0xFF00)) << np.uint32(8))
            | ((word >> np.uint32(8)) & np.uint32(0xFF00))
            | (word >> np.uint32(24))
        )
    return total  # type: ignore[return-value]


def _data_bytes(header: fits.Header) -> int:
    if not header["NAXIS"]:
        return 0
    return int(header["NAXIS1"] * header["NAXIS2"] * abs(header["BITPIX"]) // 8)


def _with_room(header: fits.Header) -> fits.Header:
    """Return the header with cards for the sums, so that filling them in later does not move the data."""
    room = header.copy()
    room["CHECKSUM"], room["DATASUM"] = "0" * 16, "0"
    return room
