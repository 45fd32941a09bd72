"""The lake on any S3 server: minio for administration, whole objects and conditions, s3fs for ranges."""

from __future__ import annotations

import functools
import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from minio.commonconfig import GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention

from starloom.errors import BadInput, Conflict, Unavailable
from starloom.lake import buckets, keys, wire
from starloom.lake.answers import MISSING, error_code, explained
from starloom.lake.base import (
    OCTETS,
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
from starloom.lake.clients import SEND_S, Access
from starloom.lake.uploads import MIB, part_size_for, upload_in_parts

#: A presigned URL lives at most 7 days (AWS signature version 4).
MAX_PRESIGNED_S = 7 * 86400
_META = "x-amz-meta-"
_TYPES = {".fits": "application/fits", ".parquet": "application/vnd.apache.parquet"}


class S3Lake(Lake):
    """One key namespace over the buckets ``PREFIX-inbox``, ``PREFIX-raw`` and ``PREFIX-products``.

    Parameters
    ----------
    prefix
        What the names of the buckets begin with.
    endpoint, public_endpoint
        ``http(s)://host:port`` as this process, and as nodes and browsers, reach the server.
    raw_lock_days
        Retention of raw frames; 0 means no object lock.
    cold_after_days, cold_class
        When raw frames move to another storage class, and to which; 0 days: never.
    multipart_threshold, part_size
        Bytes: a file larger than the first is sent in parts of the second, resumably.
    """

    def __init__(
        self,
        prefix: str,
        *,
        endpoint: str,
        public_endpoint: str = "",
        region: str = "us-east-1",
        access_key: str,
        secret_key: str,
        raw_lock_days: int = 0,
        cold_after_days: int = 0,
        cold_class: str = "",
        multipart_threshold: int = 16 * MIB,
        part_size: int = 8 * MIB,
    ) -> None:
        self.prefix = prefix
        self.endpoint = endpoint
        self.region = region
        self.raw_lock_days = raw_lock_days
        self.cold = buckets.Cold(cold_after_days, cold_class) if cold_after_days else None
        self.multipart_threshold = multipart_threshold
        self.part_size = part_size
        self._access = Access(endpoint, region, access_key, secret_key)
        self._client = self._access.minio()
        self._sender = self._access.minio(SEND_S)
        self._signer = replace(self._access, endpoint=public_endpoint or endpoint).minio()

    @functools.cached_property
    def _files(self) -> Any:
        return self._access.files()

    def bucket(self, key: str) -> str:
        """Return the bucket that holds a key."""
        return f"{self.prefix}-{buckets.kind_of(keys.check(key))}"

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
        clean = check_metadata(metadata)
        headers = self._headers(content_type, clean) | (wire.IF_ABSENT if if_absent else {})
        client = self._sender if len(data) > MIB else self._client
        with explained(key):
            written = wire.put(client, self.bucket(key), key, data, headers)
        return Stored(key, len(data), written.etag, written.modified, written.version, clean)

    def put_file(
        self, path: Path, key: str, *, metadata: Mapping[str, str] | None = None, if_absent: bool = False
    ) -> Stored:
        """Write a file's bytes as an object; see `Lake.put_file`.

        A file above the threshold goes in parts; what an interrupted upload of the same file and key has brought
        is not sent again.
        """
        check_file(path)
        content_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or OCTETS
        size = path.stat().st_size
        if size <= self.multipart_threshold:
            return self.put_bytes(
                path.read_bytes(), key, content_type=content_type, if_absent=if_absent, metadata=metadata
            )
        clean = check_metadata(metadata)
        bucket = self.bucket(key)
        if if_absent and self._is_there(key):
            raise key_exists(key)
        written = upload_in_parts(
            self._sender,
            bucket,
            key,
            path,
            part_size=part_size_for(size, self.part_size),
            headers=self._headers(content_type, clean),
            condition=wire.IF_ABSENT if if_absent else {},
        )
        return Stored(key, size, written.etag, written.modified, written.version, clean)

    def get_bytes(self, key: str, *, max_bytes: int, version: str | None = None) -> bytes:
        """Return a whole object; see `Lake.get_bytes`."""
        with explained(key):
            response = self._client.get_object(self.bucket(key), key, version_id=version)
            try:
                data = cast(bytes, response.read(max_bytes + 1))
            finally:
                response.close()
                response.release_conn()
        if len(data) > max_bytes:
            raise too_large(key, max_bytes)
        return data

    def read_range(self, key: str, start: int, stop: int, *, version: str | None = None) -> bytes:
        """Return bytes ``[start, stop)``; see `Lake.read_range`."""
        if start < 0:
            raise ValueError("start must not be negative")
        if stop <= start:
            self._require(key, version)
            return b""
        path = f"{self.bucket(key)}/{key}"
        with explained(key):
            try:
                return cast(bytes, self._files.cat_file(path, version_id=version, start=start, end=stop))
            except OSError as error:
                if error_code(error) == "InvalidRange":  # the object ends before `start`
                    return b""
                raise

    def download(self, key: str, path: Path, *, version: str | None = None) -> Stored:
        """Write an object to `path`; see `Lake.download`."""
        with explained(key):
            response = self._client.get_object(self.bucket(key), key, version_id=version)
        try:
            stored = _from_headers(key, response.headers)
            with replacing(path) as target:
                for block in _blocks(response, key):
                    target.write(block)
                if target.tell() != stored.size:
                    raise Unavailable(
                        f"{key}: {target.tell()} bytes of {stored.size} arrived", code="lake-unavailable"
                    )
        finally:
            response.close()
            response.release_conn()
        return stored

    def open(self, key: str, version: str | None = None) -> BinaryIO:
        """Return a seekable file over the object; see `Lake.open`.

        What goes wrong while it is read comes as s3fs's OSError.
        """
        with explained(key):
            path = f"{self.bucket(key)}/{key}"
            return cast(BinaryIO, self._files.open(path, "rb", version_id=version, block_size=MIB))

    def stat(self, key: str, version: str | None = None) -> Stored | None:
        """Return what is known of an object, or None; see `Lake.stat`."""
        bucket = self.bucket(key)
        with explained(key):
            try:
                found = self._client.stat_object(bucket, key, version_id=version)
            except S3Error as error:
                if error.code in MISSING:
                    return None
                raise
        return _from_headers(key, found.metadata)

    def list(self, prefix: str) -> Iterator[Stored]:
        """Yield every object whose key starts with `prefix`; see `Lake.list`."""
        for kind in buckets.kinds_under(prefix):
            with explained(prefix):
                for found in self._client.list_objects(f"{self.prefix}-{kind}", prefix=prefix, recursive=True):
                    if not found.is_dir:
                        yield Stored(
                            found.object_name, found.size, found.etag.strip('"'), found.last_modified, None, {}
                        )

    def copy(self, source: str, target: str, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        """Copy within the server; see `Lake.copy`.

        With `if_absent` the target is looked up first, for servers that pass over ``If-None-Match`` on a copy
        (SeaweedFS 4.48 and AWS honour it); on those, two copies at the same instant both succeed, which under a
        key named by its content changes nothing.
        """
        to = self.bucket(target)
        there = self.stat(target) if if_absent else None
        if there is None:
            try:
                stored = self._copy(source, target, if_absent, if_match)
            except Conflict:
                there = self.stat(target) if if_absent else None
                if there is None:
                    raise source_changed(source) from None
        locked = to.endswith("-raw") and self.raw_lock_days > 0
        if there is not None:
            if locked:
                self._lock(to, there)  # whoever copied it may have died before this
            raise key_exists(target)
        if locked:
            self._lock(to, stored)
        return stored

    def _copy(self, source: str, target: str, if_absent: bool, if_match: str | None) -> Stored:
        condition = dict(wire.IF_ABSENT) if if_absent else {}
        if if_match is not None:
            condition["x-amz-copy-source-if-match"] = f'"{if_match}"'
        from_, to = (self.bucket(source), source), (self.bucket(target), target)
        with explained(target):
            try:
                version = wire.copy(self._client, from_, to, condition)
            except S3Error as error:
                if error.code in MISSING:
                    raise ObjectMissing(f"{source}: there is no such object in the lake") from error
                raise
        return self._require(target, version)

    def _lock(self, bucket: str, stored: Stored) -> None:
        """Set a copied object's retention: SeaweedFS 4.48 gives the bucket's default to puts, not to copies."""
        with explained(stored.key):
            try:
                if self._client.get_object_retention(bucket, stored.key, version_id=stored.version) is not None:
                    return
            except S3Error as error:
                if error.code not in {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}:
                    raise
            until = stored.modified + timedelta(days=self.raw_lock_days)
            self._client.set_object_retention(
                bucket, stored.key, Retention(GOVERNANCE, until), version_id=stored.version
            )

    def delete(self, key: str) -> None:
        """Remove an object; see `Lake.delete`."""
        bucket = self.bucket(key)
        with explained(key):
            try:
                self._client.remove_object(bucket, key)
            except S3Error as error:
                if error.code not in MISSING:
                    raise

    def presign_get(self, key: str, expires_s: float) -> str:
        """Return a URL that reads the object; see `Lake.presign_get`."""
        with explained(key):
            url: str = self._signer.presigned_get_object(self.bucket(key), key, expires=_lifetime(expires_s))
        return url

    def presign_put(self, key: str, expires_s: float) -> str:
        """Return a URL that writes the object; see `Lake.presign_put`."""
        with explained(key):
            url: str = self._signer.presigned_put_object(self.bucket(key), key, expires=_lifetime(expires_s))
        return url

    def abort_stale_uploads(self, older_than_s: float) -> int:
        """Drop unfinished uploads; see `Lake.abort_stale_uploads`."""
        horizon = datetime.now(UTC) - timedelta(seconds=older_than_s)
        aborted = 0
        for kind in buckets.KINDS:
            bucket = f"{self.prefix}-{kind}"
            with explained(bucket):
                for key, upload_id, begun in wire.list_uploads(self._client, bucket, ""):
                    if begun > horizon:
                        continue
                    try:
                        wire.abort_upload(self._client, bucket, key, upload_id)
                        aborted += 1
                    except S3Error as error:
                        if error.code != "NoSuchUpload":  # finished since the list was made
                            raise
        return aborted

    def prepare(self) -> None:
        """Create the buckets with versions, object lock and lifecycle; see `Lake.prepare`."""
        for kind in buckets.KINDS:
            name = f"{self.prefix}-{kind}"
            with explained(name):
                buckets.make_bucket(self._client, name, kind, self.region, self.raw_lock_days, self.cold)

    def shortcomings(self) -> Iterator[str]:
        """Yield what the buckets lack of what `prepare` gives them, a sentence each."""
        for kind in buckets.KINDS:
            name = f"{self.prefix}-{kind}"
            with explained(name):
                yield from buckets.shortcomings(self._client, name, kind, self.raw_lock_days)

    def ping(self) -> None:
        """Return if the server answers, takes our key and holds the inbox bucket."""
        name = f"{self.prefix}-inbox"
        with explained(name):
            there = self._client.bucket_exists(name)
        if not there:
            raise Unavailable(
                f"the lake answers, but bucket {name} is not there",
                code="lake-not-prepared",
                hint="`starloom up` creates the buckets; check STARLOOM_LAKE_URL if they should be there.",
            )

    def close(self) -> None:
        """Drop pooled connections."""
        for client in (self._client, self._sender, self._signer):
            client._http.clear()
        self.__dict__.pop("_files", None)  # its own finaliser closes the session

    def _is_there(self, key: str) -> bool:
        try:
            return self.stat(key) is not None
        except LakeDenied:
            return False  # a node may write without reading; the condition on the write itself still holds

    def _require(self, key: str, version: str | None = None) -> Stored:
        found = self.stat(key, version)
        if found is None:
            raise ObjectMissing(f"{key}: there is no such object{f' (version {version})' if version else ''}")
        return found

    @staticmethod
    def _headers(content_type: str, metadata: dict[str, str]) -> dict[str, str]:
        return {"Content-Type": content_type} | {f"{_META}{name}": value for name, value in metadata.items()}


def _blocks(response: Any, key: str) -> Iterator[bytes]:
    with explained(key):
        yield from response.stream(MIB)


def _from_headers(key: str, headers: Mapping[str, str]) -> Stored:
    """Read what a GET or HEAD says of an object."""
    low = {name.lower(): value for name, value in headers.items()}
    return Stored(
        key,
        int(low.get("content-length", 0)),
        low.get("etag", "").strip('"'),
        wire.http_date(low.get("last-modified")),
        wire.version_of(low),
        {name.removeprefix(_META): value for name, value in low.items() if name.startswith(_META)},
    )


def _lifetime(expires_s: float) -> timedelta:
    if not 1 <= expires_s <= MAX_PRESIGNED_S:
        raise BadInput(
            f"a presigned URL lives 1 to {MAX_PRESIGNED_S} s, not {expires_s:g}", code="bad-presign-lifetime"
        )
    return timedelta(seconds=int(expires_s))
