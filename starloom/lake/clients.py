"""The clients of an S3 server, with time-outs and retries that say soon when nobody answers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import certifi
import s3fs
import urllib3
from minio import Minio

from starloom.errors import BadInput

CONNECT_S = 5.0
READ_S = 60.0
#: One whole body is sent within the *connect* timeout (urllib3 hands it to the socket in one call): 8 MiB in
#: 5 minutes is a line of 0.22 Mbit/s.
SEND_S = 300.0
RETRIES = 3


@dataclass(frozen=True)
class Access:
    """Where an S3 server is and who we are there.

    Neither client looks at proxies of the environment or at credentials of another cloud account.
    """

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)

    def minio(self, connect_s: float = CONNECT_S) -> Any:
        """Return a minio client; no request is made.

        Raises
        ------
        BadInput
            ``bad-lake-endpoint``: the endpoint is not of the form ``http(s)://host:port``.
        """
        url = urlsplit(self.endpoint)
        if url.scheme not in {"http", "https"} or not url.netloc or url.path not in {"", "/"}:
            raise BadInput(
                f"lake endpoint {self.endpoint!r} is not of the form http(s)://host:port",
                code="bad-lake-endpoint",
                hint="Set STARLOOM_LAKE_ENDPOINT (and STARLOOM_LAKE_PUBLIC_ENDPOINT), without a path.",
            )
        pool = urllib3.PoolManager(
            maxsize=16,
            timeout=urllib3.Timeout(connect=connect_s, read=max(connect_s, READ_S)),
            retries=urllib3.Retry(
                total=RETRIES, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], raise_on_status=False
            ),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        return Minio(
            url.netloc,
            self.access_key or None,
            self.secret_key,
            secure=url.scheme == "https",
            region=self.region,
            http_client=pool,
        )

    def files(self) -> Any:
        """Return an s3fs file system of our own (not one that other users of fsspec share)."""
        files = s3fs.S3FileSystem(
            anon=not self.access_key,
            key=self.access_key,
            secret=self.secret_key,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.region},
            config_kwargs={
                "connect_timeout": CONNECT_S,
                "read_timeout": READ_S,
                "retries": {"max_attempts": 1},
                "s3": {"addressing_style": "path"},
                "proxies": {},
            },
            version_aware=True,  # an open file keeps reading the version it was opened at
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        files.retries = RETRIES
        return files
