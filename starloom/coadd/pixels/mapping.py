"""A file's bytes: mapped into memory without keeping a file descriptor, or inflated where it is gzipped."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from starloom.coadd.pixels.layout import Bytes, damaged
from starloom.errors import BadInput

_MAX_INFLATED = 16 << 30
_GZIP_WINDOW = 31


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer, number, offset = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    libc.mmap.argtypes, libc.mmap.restype = [pointer, size, number, number, number, offset], pointer
    libc.munmap.argtypes, libc.munmap.restype = [pointer, size], number
    return libc


_LIBC = _libc()


def _map(path: Path) -> Bytes:
    """Return a file's bytes, mapped read-only; unmapped when nothing refers to them any more.

    `mmap.mmap` duplicates the file descriptor and keeps it (``trackfd`` came with Python 3.13): a thousand frames
    would be more than a process may open by default.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return np.empty(0, np.uint8)
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
    mapped: Any = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(mapped, _LIBC.munmap, address, size)
    data: Bytes = np.frombuffer(mapped, np.uint8)
    return data


def _inflate(data: Bytes, path: Path) -> Bytes:
    parts: list[bytes] = []
    total = 0
    rest = data.tobytes()
    while rest.startswith(b"\x1f\x8b"):
        stream = zlib.decompressobj(_GZIP_WINDOW)
        while rest and not stream.eof:
            part = stream.decompress(rest, 1 << 24)
            total += len(part)
            if total > _MAX_INFLATED:
                raise damaged(path, f"it inflates to more than {_MAX_INFLATED >> 30} GiB")
            parts.append(part)
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
        if not stream.eof:
            raise damaged(path, "its gzip stream does not end")
    return np.frombuffer(b"".join(parts), np.uint8)


def file_bytes(path: Path) -> Bytes:
    """Return a file's bytes, read-only; gzipped ones are inflated into memory.

    A mapped file must not be shortened while it is read: the operating system ends a process that reads there.

    Raises
    ------
    BadInput
        ``unreadable``, naming the file.
    """
    try:
        data = _map(path)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}",
            code="unreadable",
            hint="Check the path and its permissions.",
        ) from error
    if data[:2].tobytes() == b"\x1f\x8b":
        try:
            data = _inflate(data, path)
        except zlib.error as error:
            raise damaged(path, str(error)) from error
    data.flags.writeable = False
    return data
