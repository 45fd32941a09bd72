"""POST to a URL that an operator gave: alerts out, signs of life out. Nothing that comes back is believed."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from starloom.errors import BadInput, Unavailable

TIMEOUT_S = 15.0


def check_url(url: str) -> str:
    """Return the URL unchanged if it can be called.

    Raises
    ------
    BadInput
        ``bad-url``; the message leaves the URL out, which is a secret.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or any(character.isspace() or not character.isprintable() for character in url):
        raise BadInput(
            "that is no URL of a webhook",
            code="bad-url",
            hint="Write it whole: https://host/path, without spaces.",
        )
    return url


def call(url: str, body: dict[str, Any] | None = None) -> None:
    """POST a JSON body, or GET where there is none, and see it accepted (2xx).

    Raises
    ------
    BadInput
        ``bad-url``.
    Unavailable
        ``webhook-failed``, naming the host only: the rest of the URL is a secret.
    """
    host = urlsplit(check_url(url)).hostname
    try:
        answer = httpx.request("GET" if body is None else "POST", url, json=body, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise Unavailable(f"{host} does not answer: {type(error).__name__}", code="webhook-failed") from None
    if not answer.is_success:
        raise Unavailable(f"{host} answered {answer.status_code}", code="webhook-failed")
