"""A lake in a plain folder: for a laptop, for tests, and for whoever wants no server.

It keeps no versions and locks nothing. Objects appear by rename or hard link, so a reader sees all of one or
none of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from starloom.errors import Unavailable
from starloom.lake import keys
from starloom.lake.base import (
    DISK_FULL,
    OCTETS,
    DiskFull,
    Lake,
    LakeDenied,
    ObjectMissing,
    Stored,
    check_file,
    check_metadata,
    key_exists,
    replacing,
    source_changed,
    too_large,
)

#: Holds unfinished files and metadata; no key may begin with it (a key's first part is a word of ours).
PRIVATE = ".lake"


class FolderLake(Lake):
    """Objects are files under `root`, at the path their key says."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._unfinished = self.root / PRIVATE / "unfinished"
        self._metadata = self.root / PRIVATE / "metadata"

    def put_bytes(
        self,
        data: bytes,
        key: str,
        *,
        content_type: str = OCTETS,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """Write an object; see `Lake.put_bytes`."""
        with self._incoming(key, if_absent, check_metadata(metadata)) as stream:
            stream.write(data)
        return self._stored(key)

    def put_file(
        self, path: Path, key: str, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> Stored:
        """Write a file's bytes as an object; see `Lake.put_file`."""
        check_file(path)
        with self._incoming(key, if_absent, check_metadata(metadata)) as stream, path.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 20)
        return self._stored(key)

    def get_bytes(self, key: str, *, max_bytes: int, version: str | None = None) -> bytes:
        """Return a whole object; see `Lake.get_bytes`."""
        with self.open(key, version) as stream, _explained(key):
            data = stream.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise too_large(key, max_bytes)
        return data

    def read_range(self, key: str, start: int, stop: int, *, version: str | None = None) -> bytes:
        """Return bytes ``[start, stop)``; see `Lake.read_range`."""
        if start < 0:
            raise ValueError("start must not be negative")
        with self.open(key, version) as stream, _explained(key):
            stream.seek(start)
            return stream.read(max(0, stop - start))

    def download(self, key: str, path: Path, *, version: str | None = None) -> Stored:
        """Write an object to `path`; see `Lake.download`."""
        stored = self._stored(key)
        with self.open(key, version) as source, replacing(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return stored

    def open(self, key: str, version: str | None = None) -> BinaryIO:
        """Return the object's file; see `Lake.open`."""
        path = self._path(key)
        if version is not None:
            raise ObjectMissing(
                f"{key}: version {version} is asked for, but a folder keeps none",
                hint="The archive speaks of another lake: check STARLOOM_LAKE_URL.",
            )
        with _explained(key):
            if not path.is_file():
                raise _missing(key)
            return path.open("rb")

    def stat(self, key: str, version: str | None = None) -> Stored | None:
        """Return what is known of an object, or None; see `Lake.stat`."""
        path = self._path(key)
        with _explained(key):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            if version is not None or not path.is_file():
                return None
            return self._describe(key, found, self._read_metadata(key))

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every object whose key starts with `prefix`; see `Lake.list`."""
        # Only the folder that the prefix names is walked: `inbox/` costs its backlog, not the whole lake.
        within, _, _ = prefix.rpartition("/")
        top = self._path(within) if within else self.root
        with _explained(prefix):
            for path in _walk(top):
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not key.startswith(f"{PRIVATE}/"):
                    try:
                        yield self._describe(key, path.stat(), {})
                    except FileNotFoundError:
                        continue  # deleted since its folder was read

    def copy(self, source: str, target: str, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        """Copy an object with its metadata; see `Lake.copy`."""
        keys.check(target)
        with self.open(source) as data:
            # A source that is written anew is another file: what is open here stays what it was.
            found = self._describe(source, os.fstat(data.fileno()), {})
            if if_match is not None and found.etag != if_match:
                raise source_changed(source)
            with self._incoming(target, if_absent, self._read_metadata(source)) as stream:
                shutil.copyfileobj(data, stream, 1 << 20)
        return self._stored(target)

    def delete(self, key: str) -> None:
        """Remove an object; see `Lake.delete`."""
        path = self._path(key)
        with _explained(key):
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                return
            except IsADirectoryError:
                return
            (self._metadata / f"{key}.json").unlink(missing_ok=True)

    def presign_get(self, key: str, expires_s: float) -> str:
        """Return the file's URI: whoever can read the folder needs no signature."""
        return self._path(key).as_uri()

    def presign_put(self, key: str, expires_s: float) -> str:
        """Return the file's URI: whoever can write the folder needs no signature."""
        return self._path(key).as_uri()

    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Drop what a killed process left half-written; see `Lake.abort_stale_uploads`."""
        removed = 0
        with _explained(PRIVATE):
            for path in _walk(self._unfinished):
                try:
                    if path.stat().st_mtime < time.time() - older_than_s:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue  # its writer has finished since
        return removed

    def prepare(self) -> None:
        """Create the folder."""
        with _explained(str(self.root)):
            self._unfinished.mkdir(parents=True, exist_ok=True)
            self._metadata.mkdir(parents=True, exist_ok=True)

    def ping(self) -> None:
        """Return if the folder is there and can be written."""
        if not self.root.is_dir():
            raise Unavailable(
                f"the lake's folder {self.root} is not there",
                code="lake-unavailable",
                hint="`starloom up` creates it; if it is a mount, mount it.",
            )
        if not os.access(self.root, os.W_OK):
            raise LakeDenied(f"the lake's folder {self.root} cannot be written", hint="Check its owner and mode.")

    def _path(self, key: str) -> Path:
        """Return the file of a key; a link inside the lake could lead out of it, so none is followed."""
        path = self.root
        for part in keys.check(key).split("/"):
            path = path / part
            if path.is_symlink():
                raise keys.BadKey(f"key {key!r}: {path} is a symbolic link", hint="Remove the link from the lake.")
        if path.relative_to(self.root).parts[0] == PRIVATE:
            raise keys.BadKey(f"key {key!r}: {PRIVATE} is the lake's own")
        return path

    @contextmanager
    def _incoming(self, key: str, if_absent: bool, metadata: dict[str, str]) -> Iterator[BinaryIO]:
        """Lend a file to write; it becomes the object when the block ends without error."""
        target = self._path(key)
        with _explained(key):
            if if_absent and target.exists():
                raise key_exists(key)
            self._unfinished.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._unfinished)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as stream:
                    yield stream
                    stream.flush()
                    # The inbox object is deleted once the raw one is in place: its bytes must be on the disk.
                    os.fsync(stream.fileno())
                temporary.chmod(0o644)
                target.parent.mkdir(parents=True, exist_ok=True)
                self._place(temporary, target, key, if_absent)
                self._write_metadata(key, metadata)
            finally:
                temporary.unlink(missing_ok=True)

    def _place(self, temporary: Path, target: Path, key: str, if_absent: bool) -> None:
        if if_absent:
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise key_exists(key) from None
        else:
            temporary.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _write_metadata(self, key: str, metadata: dict[str, str]) -> None:
        path = self._metadata / f"{key}.json"
        if not metadata:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metadata))

    def _read_metadata(self, key: str) -> dict[str, str]:
        try:
            loaded: dict[str, str] = json.loads((self._metadata / f"{key}.json").read_text())
        except FileNotFoundError:
            return {}
        return loaded

    def _stored(self, key: str) -> Stored:
        found = self.stat(key)
        if found is None:
            raise _missing(key)
        return found

    @staticmethod
    def _describe(key: str, found: os.stat_result, metadata: dict[str, str]) -> Stored:
        etag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
        return Stored(key, found.st_size, etag, modified, None, metadata)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in order; links are passed over, a folder that vanishes is empty."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _missing(key: str) -> ObjectMissing:
    return ObjectMissing(f"{key}: there is no such object in the lake")


@contextmanager
def _explained(key: str) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFull(f"{key}: {error.strerror}") from error
        if isinstance(error, PermissionError):
            raise LakeDenied(f"{key}: {error}", hint="Check the owner and mode of the lake's folder.") from error
        raise Unavailable(f"{key}: {error}", code="lake-unavailable") from error
