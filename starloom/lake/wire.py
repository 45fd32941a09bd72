"""The few S3 requests that minio's public methods cannot make: conditional writes and upload parts.

They go through the client's own request method, so that signing, retries and errors stay minio's. Everything
that leans on minio's inside is in this module.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote_plus
from xml.etree import ElementTree as ET

from starloom.errors import Unavailable

#: Refuses the write (412) where the key is taken, in one step with the write itself.
IF_ABSENT = {"If-None-Match": "*"}


@dataclass(frozen=True)
class Written:
    """What the server says of an object it has just taken."""

    etag: str
    version: str | None
    modified: datetime


def put(client: Any, bucket: str, key: str, data: bytes, headers: dict[str, str]) -> Written:
    """Write an object in one request; the server checks the MD5 of what arrives."""
    response = client._execute(
        "PUT", bucket, key, body=data, headers={**headers, **_md5(data)}, no_body_trace=True
    )
    return _written(response, _etag(response, key))


def put_part(client: Any, bucket: str, key: str, upload_id: str, number: int, data: bytes) -> str:
    """Send one part of an upload; return its etag."""
    response = client._execute(
        "PUT",
        bucket,
        key,
        body=data,
        headers=_md5(data),
        query_params={"partNumber": str(number), "uploadId": upload_id},
        no_body_trace=True,
    )
    return _etag(response, key)


def begin_upload(client: Any, bucket: str, key: str, headers: dict[str, str]) -> str:
    """Announce an upload in parts; return its id."""
    return str(client._create_multipart_upload(bucket, key, dict(headers)))


def complete_upload(
    client: Any, bucket: str, key: str, upload_id: str, etags: list[str], headers: dict[str, str]
) -> Written:
    """Make the parts (in order, from 1) an object."""
    root = ET.Element("CompleteMultipartUpload")
    for number, etag in enumerate(etags, start=1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = f'"{etag}"'
    response = client._execute(
        "POST",
        bucket,
        key,
        body=ET.tostring(root),
        headers={**headers, "Content-Type": "application/xml"},
        query_params={"uploadId": upload_id},
    )
    return _written(response, _field(response.data, "ETag", key))


def abort_upload(client: Any, bucket: str, key: str, upload_id: str) -> None:
    """Drop an unfinished upload and its parts."""
    client._abort_multipart_upload(bucket, key, upload_id)


def list_uploads(client: Any, bucket: str, prefix: str) -> list[tuple[str, str, datetime]]:
    """Return ``(key, upload id, begun)`` of every unfinished upload under a prefix."""
    found: list[tuple[str, str, datetime]] = []
    markers: dict[str, str] = {}
    while True:
        page = _uploads_page(client, bucket, {"uploads": "", "prefix": prefix, **markers})
        for upload in page.iterfind("{*}Upload"):
            begun = datetime.fromisoformat(upload.findtext("{*}Initiated", ""))
            found.append((upload.findtext("{*}Key", ""), upload.findtext("{*}UploadId", ""), begun))
        following = {
            "key-marker": page.findtext("{*}NextKeyMarker", ""),
            "upload-id-marker": page.findtext("{*}NextUploadIdMarker", ""),
        }
        if page.findtext("{*}IsTruncated", "") != "true" or not following["key-marker"] or following == markers:
            return found
        markers = following


def _uploads_page(client: Any, bucket: str, query: dict[str, str]) -> ET.Element:
    """Return one page of the list, its keys plain.

    minio always asks for URL-encoded keys and undoes the encoding; SeaweedFS 4.48 says it has encoded them and
    has not, which turns ``+`` into a space. Plain keys are right everywhere, except that one with control
    characters makes some servers' XML unreadable; then, and only then, encoded ones are asked for.
    """
    response = client._execute("GET", bucket, query_params=dict(query))
    try:
        return ET.fromstring(response.data)  # noqa: S314 - the lake's own answer; minio parses it the same way
    except ET.ParseError:
        response = client._execute("GET", bucket, query_params={**query, "encoding-type": "url"})
        page = ET.fromstring(response.data)  # noqa: S314
        for element in page.iter():
            if element.tag.rsplit("}", 1)[-1] in {"Key", "NextKeyMarker"} and element.text:
                element.text = unquote_plus(element.text)
        return page


def list_parts(client: Any, bucket: str, key: str, upload_id: str) -> dict[int, tuple[str, int]]:
    """Return ``number -> (etag, size in bytes)`` of the parts that have arrived."""
    found: dict[int, tuple[str, int]] = {}
    marker: str | None = None
    while True:
        page = client._list_parts(bucket, key, upload_id, part_number_marker=marker)
        found |= {int(part.part_number): (str(part.etag).strip('"'), int(part.size)) for part in page.parts}
        following = str(page.next_part_number_marker or "")
        if not page.is_truncated or not following or following == marker:
            return found
        marker = following


def copy(client: Any, source: tuple[str, str], target: tuple[str, str], headers: dict[str, str]) -> str | None:
    """Copy an object of at most 5 GiB on the server; return the new version."""
    bucket, key = target
    response = client._execute(
        "PUT",
        bucket,
        key,
        headers={**headers, "x-amz-copy-source": "/" + source[0] + "/" + quote(source[1], safe="/~")},
    )
    _field(response.data, "ETag", key)
    return version_of(response.headers)


def _etag(response: Any, key: str) -> str:
    """Return the etag of what was taken; whatever says 200 to a PUT without one has stored nothing."""
    etag = str(response.headers.get("etag", "")).strip('"')
    if not etag:
        raise Unavailable(
            f"{key}: what answers there is no S3 server: it took an object and gave no etag",
            code="lake-unavailable",
            hint="Check STARLOOM_LAKE_ENDPOINT: it must be the S3 API, not a console or another service.",
        )
    return etag


def _md5(data: bytes) -> dict[str, str]:
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"Content-MD5": base64.b64encode(digest).decode()}


def _field(body: bytes, name: str, key: str) -> str:
    """Return a field of an XML answer. A copy or completion may fail after the server has said 200."""
    root = ET.fromstring(body)  # noqa: S314 - the lake's own answer; minio parses it the same way
    for element in root.iter():
        if element.tag.rsplit("}", 1)[-1] == name and element.text:
            return element.text
    raise Unavailable(f"{key}: the lake began and then failed: {body[:300]!r}", code="lake-unavailable")


def version_of(headers: Mapping[str, str]) -> str | None:
    """Return the version that an answer's headers name; an unversioned bucket says nothing, or ``null``."""
    version = headers.get("x-amz-version-id")
    return None if version in {None, "", "null"} else version


def http_date(text: str | None) -> datetime:
    """Read an HTTP date as an aware time in UTC; now, where the server gives none."""
    return parsedate_to_datetime(text).astimezone(UTC) if text else datetime.now(UTC)


def _written(response: Any, etag: str) -> Written:
    return Written(etag.strip('"'), version_of(response.headers), http_date(response.headers.get("date")))
