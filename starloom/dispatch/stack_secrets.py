"""Secrets of the production stack: random, in one file that only its owner reads, written once."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from starloom.errors import Conflict


def stack_variables(hub_host: str, lake_host: str, tls: str, docker_gid: int) -> dict[str, str]:
    """Return what ``infra/compose.yaml`` refuses to start without; every secret has 160 bits or more.

    Parameters
    ----------
    hub_host, lake_host
        DNS names under which operators reach Prefect, and nodes and browsers the lake.
    tls
        The proxy's certificates: ``internal``, an e-mail address (ACME), or two files ``/tls/… /tls/…``.
    docker_gid
        Group that owns the Docker engine's socket.
    """
    return {
        "HUB_HOST": hub_host,
        "LAKE_HOST": lake_host,
        "PROXY_TLS": tls,
        "DOCKER_GID": str(docker_gid),
        "ARCHIVE_PASSWORD": secrets.token_urlsafe(24),
        "PREFECT_DATABASE_PASSWORD": secrets.token_urlsafe(24),
        "REDIS_PASSWORD": secrets.token_urlsafe(24),
        "LAKE_ACCESS_KEY": "SL" + secrets.token_hex(9).upper(),
        "LAKE_SECRET_KEY": secrets.token_hex(20),
        "PREFECT_AUTH_STRING": f"operator:{secrets.token_urlsafe(24)}",
        # A key of Fernet: 32 bytes in URL-safe base64.
        "PREFECT_ENCRYPTION_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


def write_once(path: Path, variables: dict[str, str]) -> None:
    """Write an environment file of mode 0600.

    Raises
    ------
    Conflict
        ``secrets-exist``: the file is there. Other passwords would not open the databases that these ones made.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise Conflict(
            f"{path} is there already and stays as it is",
            code="secrets-exist",
            hint="Change a secret by hand in that file and in the service that knows it (docs/production.md).",
        ) from error
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write("".join(f"{name}={value}\n" for name, value in variables.items()))
