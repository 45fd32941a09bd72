"""A connection to Prefect's REST API: every answer is checked."""

from __future__ import annotations

import base64
import time
from typing import Any, Self

import httpx

from starloom.errors import StarloomError, Unavailable
from starloom.settings import Settings

TIMEOUT_S = 20.0
#: Seconds between tries while the server answers 503: on SQLite its database is locked now and then, and what was
#: asked has not been done.
BUSY_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2)


class Connection:
    """A synchronous client; every answer is checked, so that what is returned has been accepted.

    Parameters
    ----------
    url
        ``http://host:port/api``.
    auth
        ``user:password`` of a protected server, or empty.
    timeout_s
        Seconds that an answer may take.
    """

    def __init__(self, url: str, auth: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        headers = {}
        if auth:
            headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    @classmethod
    def from_settings(cls, settings: Settings, *, timeout_s: float = TIMEOUT_S) -> Self:
        """Open a client for the settings' server.

        Raises
        ------
        StarloomError
            ``no-prefect``: no server is configured.
        """
        if not settings.prefect_api_url:
            raise StarloomError(
                "no Prefect server is configured",
                code="no-prefect",
                hint="Start one with `starloom up`, or set STARLOOM_PREFECT_API_URL.",
            )
        auth = settings.prefect_api_auth_string.get_secret_value()
        return cls(settings.prefect_api_url, auth, timeout_s=timeout_s)

    @property
    def ui_url(self) -> str:
        """Address of the web pages of the same server."""
        return self.url.removesuffix("/api")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server and return what it answered, as JSON says it; None where it said nothing.

        Raises
        ------
        Unavailable
            ``prefect-unavailable``: no answer, none in time, or none of Prefect's.
        StarloomError
            ``prefect-refused``: the server will not do it.
        """
        for pause_s in (*BUSY_PAUSES_S, 0.0):
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise Unavailable(
                    f"Prefect at {self.url} does not answer: {error}", code="prefect-unavailable"
                ) from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(pause_s)
        if answer.status_code >= 500:
            raise Unavailable(f"Prefect at {self.url} answered {answer.status_code}", code="prefect-unavailable")
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise StarloomError(
                f"Prefect refused {method} {path}: 401, not with this password",
                code="prefect-refused",
                hint="Set STARLOOM_PREFECT_API_AUTH_STRING to what the server was started with.",
            )
        if answer.status_code >= 400:
            raise StarloomError(
                f"Prefect refused {method} {path}: {answer.status_code} {answer.text[:300]}",
                code="prefect-refused",
                hint="Were the deployments registered? `starloom up` does so.",
            )
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(
                f"{self.url} does not speak as Prefect does: {answer.text[:80]!r}",
                code="prefect-unavailable",
                hint="Does STARLOOM_PREFECT_API_URL end in /api?",
            ) from error

    def pages(self, path: str, body: dict[str, Any], limit: int = 200) -> list[dict[str, Any]]:
        """Ask for page after page, so that nothing behind the first is overlooked."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("POST", path, {**body, "limit": limit, "offset": len(found)})
            found += page
            if len(page) < limit:
                return found
