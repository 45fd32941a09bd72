"""From the settings to the lake they speak of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from starloom.errors import BadInput
from starloom.lake.base import Lake
from starloom.lake.folder import FolderLake

if TYPE_CHECKING:
    from starloom.settings import Settings


def connect(settings: Settings) -> Lake:
    """Return the lake of ``settings.lake_url``; nothing is read, written or contacted.

    ``file:///folder`` is a `FolderLake`; ``s3://PREFIX`` an `S3Lake` over the buckets ``PREFIX-inbox``,
    ``PREFIX-raw`` and ``PREFIX-products``.

    Raises
    ------
    BadInput
        ``bad-lake-url``: the URL, or the endpoint it needs, is of another form.
    """
    url = urlsplit(settings.lake_url)
    if url.scheme == "file" and url.netloc in {"", "localhost"} and url.path:
        return FolderLake(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc and url.path in {"", "/"}:
        # Loading minio and s3fs takes a second that a folder lake need not pay.
        from starloom.lake.s3 import S3Lake

        return S3Lake(
            url.netloc,
            endpoint=settings.lake_endpoint,
            public_endpoint=settings.lake_public_endpoint or settings.lake_endpoint,
            region=settings.lake_region,
            access_key=settings.lake_access_key,
            secret_key=settings.lake_secret_key.get_secret_value(),
            raw_lock_days=settings.lake_raw_lock_days,
            cold_after_days=settings.lake_cold_after_days,
            cold_class=settings.lake_cold_class,
        )
    raise BadInput(
        f"STARLOOM_LAKE_URL {settings.lake_url!r} is neither s3://PREFIX nor file:///folder",
        code="bad-lake-url",
        hint="Set it to s3://PREFIX with STARLOOM_LAKE_ENDPOINT, or to file:///folder.",
    )
