"""What every object store must do, and the errors it may raise."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from starloom.disk import FULL
from starloom.errors import BadInput, Conflict, StarloomError

OCTETS = "application/octet-stream"
MAX_METADATA_BYTES = 2048
DISK_FULL = FULL


@dataclass(frozen=True)
class Stored:
    """One object as it lies in the lake.

    Attributes
    ----------
    key
        Its name in the one namespace of the lake.
    size
        Bytes.
    etag
        Changes whenever the bytes do; opaque otherwise.
    modified
        When it was written, aware, UTC, by the store's clock.
    version
        The version to pin reads to; None where the store or bucket keeps none.
    metadata
        What the writer said about it; names in lower case. Empty in listings.
    """

    key: str
    size: int
    etag: str
    modified: datetime
    version: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class ObjectMissing(StarloomError):
    """No object (or no such version of it) under this key."""

    code = "object-missing"
    hint = "It was moved, deleted or never arrived; `starloom reconcile` has made again what can be."


class LakeDenied(StarloomError):
    """The store refuses this credential or this act; a retry cannot help."""

    code = "lake-denied"
    hint = "Check STARLOOM_LAKE_ACCESS_KEY and STARLOOM_LAKE_SECRET_KEY, and what this key may do."


class DiskFull(StarloomError):
    """The store has no space left."""

    code = "disk-full"
    hint = "Free space on the lake's disk; parked work is taken up by itself."
    retryable = True


def too_large(key: str, max_bytes: int) -> BadInput:
    """Return the error for an object that is larger than its reader is ready to take."""
    return BadInput(
        f"{key} holds more than {max_bytes} bytes",
        code="object-too-large",
        hint="Whatever wrote it is not what we expect there; look at it before you raise the bound.",
    )


def key_exists(key: str) -> Conflict:
    """Return the error for a write that must not overwrite."""
    return Conflict(f"{key} is there already", code="key-exists")


def source_changed(key: str) -> Conflict:
    """Return the error for a source that is no longer what its reader saw."""
    return Conflict(
        f"{key} was written to since it was read",
        code="source-changed",
        hint="Read it again, and copy what is there.",
    )


def check_file(path: Path) -> None:
    """Raise `BadInput` unless the path is a file that we can read."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file", code="no-such-file", hint="Check the path.")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path} cannot be read", code="unreadable-file", hint="Check its owner and mode.")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Lend a file that takes the place of `path` when the block ends without error, and vanishes otherwise."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(f"{path}: {error.strerror}", hint="Free space on this machine's disk.") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the metadata with names in lower case.

    Raises
    ------
    BadInput
        A name or value could not travel in an HTTP header, or all together are longer than S3 takes.
    """
    clean = {name.lower(): value for name, value in (metadata or {}).items()}
    for name, value in clean.items():
        if not name.replace("-", "").isalnum() or not (name + value).isascii() or not value.isprintable():
            raise BadInput(f"metadata {name!r}: names are letters, digits and dashes, values printable ASCII")
    if sum(len(name) + len(value) for name, value in clean.items()) > MAX_METADATA_BYTES:
        raise BadInput(f"more than {MAX_METADATA_BYTES} bytes of metadata")
    return clean


class Lake(ABC):
    """An object store with one key namespace.

    Every method may raise `BadInput` (``bad-key``), `LakeDenied`, `Unavailable` (``lake-unavailable``) and, where
    it writes, `DiskFull`. Writing is atomic: a reader sees the whole object or none. Instances may be shared
    between threads.
    """

    @abstractmethod
    def put_bytes(
        self,
        data: bytes,
        key: str,
        *,
        content_type: str = OCTETS,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """Write an object.

        Raises
        ------
        Conflict
            ``key-exists``: `if_absent` and there is one already.
        """

    @abstractmethod
    def put_file(
        self, path: Path, key: str, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> Stored:
        """Write a file's bytes as an object; an interrupted upload of the same file and key is continued.

        Raises
        ------
        BadInput
            ``no-such-file``, or ``file-changed`` while it was sent.
        Conflict
            ``key-exists``: `if_absent` and there is one already.
        """

    @abstractmethod
    def get_bytes(self, key: str, *, max_bytes: int, version: str | None = None) -> bytes:
        """Return a whole object of at most `max_bytes`.

        Raises
        ------
        ObjectMissing
            There is none.
        BadInput
            ``object-too-large``; no more than `max_bytes` were read.
        """

    @abstractmethod
    def read_range(self, key: str, start: int, stop: int, *, version: str | None = None) -> bytes:
        """Return bytes ``[start, stop)``, fewer (or none) where the object ends before."""

    @abstractmethod
    def download(self, key: str, path: Path, *, version: str | None = None) -> Stored:
        """Write an object to `path`, which is replaced only when every byte has arrived."""

    @abstractmethod
    def open(self, key: str, version: str | None = None) -> BinaryIO:
        """Return a seekable file that fetches what is read, in blocks; the caller closes it."""

    @abstractmethod
    def stat(self, key: str, version: str | None = None) -> Stored | None:
        """Return what is known of an object, or None where there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every object whose key starts with `prefix`, in order of key within each bucket."""

    @abstractmethod
    def copy(self, source: str, target: str, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        """Copy within the store, metadata included; no byte passes through this process.

        Parameters
        ----------
        if_match
            Copy only what has this etag: a node may write to its inbox while we look at what is there.

        Raises
        ------
        ObjectMissing
            There is no source.
        Conflict
            ``key-exists``: `if_absent` and the target is there already; ``source-changed``: the source's etag is
            another than `if_match`.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error. Older versions stay where there are any."""

    @abstractmethod
    def presign_get(self, key: str, expires_s: float) -> str:
        """Return a URL that reads the object without a credential for at most `expires_s` seconds."""

    @abstractmethod
    def presign_put(self, key: str, expires_s: float) -> str:
        """Return a URL to which anybody may PUT this object for at most `expires_s` seconds."""

    @abstractmethod
    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Drop unfinished uploads begun more than `older_than_s` seconds ago; return how many."""

    @abstractmethod
    def prepare(self) -> None:
        """Create what the lake needs (buckets, versions, lock, lifecycle); may be repeated at any time."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the lake is there and takes our credential, else raise."""

    def close(self) -> None:  # noqa: B027 - a folder has nothing to drop
        """Drop pooled connections; the lake may be used again afterwards."""

    @contextmanager
    def local_copy(self, key: str, *, version: str | None = None) -> Iterator[Path]:
        """Lend a private local copy, named like the object, for the length of a ``with`` block."""
        with tempfile.TemporaryDirectory(prefix="starloom-lake-") as folder:
            path = Path(folder) / key.rsplit("/", 1)[-1]
            self.download(key, path, version=version)
            yield path
