"""Upload a file in parts, so that an interrupted upload goes on where it stopped.

The server's own list of unfinished uploads is the only memory: an upload of the same key whose parts have our
file's MD5 sums is ours to finish, whichever process or machine began it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

from minio.error import S3Error

from starloom.errors import BadInput
from starloom.lake import wire
from starloom.lake.answers import explained
from starloom.lake.base import LakeDenied

MIB = 1 << 20
MAX_PARTS = 10_000


def part_size_for(size: int, least: int) -> int:
    """Return the part size in bytes: `least`, or whole MiB more where 10,000 parts would not hold the file."""
    return max(least, -(-size // (MAX_PARTS * MIB)) * MIB)


def upload_in_parts(
    client: Any,
    bucket: str,
    key: str,
    path: Path,
    *,
    part_size: int,
    headers: dict[str, str],
    condition: dict[str, str],
) -> wire.Written:
    """Send a file in parts, with those left out that an earlier, interrupted upload has brought already.

    Parameters
    ----------
    client
        A minio client whose timeouts allow for one part over the slowest line.
    part_size
        Bytes, at least 5 MiB (S3's own limit for all parts but the last).
    headers
        Content type and metadata of the object.
    condition
        Headers of the last request, which makes the parts an object.

    Raises
    ------
    BadInput
        ``file-changed``: the file was written to while it was sent.
    """
    with explained(key):
        for attempt in (1, 2):
            try:
                return _upload(client, bucket, key, path, part_size, headers, condition)
            except S3Error as error:
                # Somebody else finished or dropped the upload that we went on with: begin our own, once.
                if error.code != "NoSuchUpload" or attempt == 2:
                    raise
    raise AssertionError("unreachable")


def _upload(
    client: Any,
    bucket: str,
    key: str,
    path: Path,
    part_size: int,
    headers: dict[str, str],
    condition: dict[str, str],
) -> wire.Written:
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        count = max(1, -(-before.st_size // part_size))
        upload_id, etags = _unfinished(client, bucket, key, stream, before.st_size, part_size)
        if upload_id is None:
            upload_id = wire.begin_upload(client, bucket, key, headers)
        for number in range(1, count + 1):
            if number not in etags:
                stream.seek((number - 1) * part_size)
                etags[number] = wire.put_part(client, bucket, key, upload_id, number, stream.read(part_size))
        after = os.stat(path)  # noqa: PTH116 - by path: a replaced file has another inode, not another size
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
            wire.abort_upload(client, bucket, key, upload_id)
            raise BadInput(
                f"{path} was written to while it was sent",
                code="file-changed",
                hint="Send the file once its writer has closed it.",
            )
        ordered = [etags[number] for number in range(1, count + 1)]
        return wire.complete_upload(client, bucket, key, upload_id, ordered, condition)


def _unfinished(
    client: Any, bucket: str, key: str, stream: BinaryIO, size: int, part_size: int
) -> tuple[str | None, dict[int, str]]:
    """Return the id and parts of the fullest unfinished upload of this very file, or ``(None, {})``."""
    best: tuple[str | None, dict[int, str]] = (None, {})
    try:
        with explained(key):
            uploads = wire.list_uploads(client, bucket, key)
    except LakeDenied:
        return best  # a credential that may only write starts from the beginning
    for name, upload_id, _begun in uploads:
        if name != key:
            continue
        parts = wire.list_parts(client, bucket, key, upload_id)
        etags = _verified(parts, stream, size, part_size)
        if etags is not None and (best[0] is None or len(etags) > len(best[1])):
            best = (upload_id, etags)
    return best


def _verified(
    parts: dict[int, tuple[str, int]], stream: BinaryIO, size: int, part_size: int
) -> dict[int, str] | None:
    """Return the etags if every part is the file's own, else None: a mixture of two files must never be made."""
    etags: dict[int, str] = {}
    for number, (etag, length) in parts.items():
        start = (number - 1) * part_size
        if length != min(part_size, size - start):
            return None
        stream.seek(start)
        if hashlib.md5(stream.read(part_size), usedforsecurity=False).hexdigest() != etag:
            return None
        etags[number] = etag
    return etags
