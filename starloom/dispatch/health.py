"""The relay over HTTP, for what watches from outside Prefect.

``GET /health`` is JSON, 200 or 503; ``GET /metrics`` is what Prometheus asks for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry

from starloom.errors import StarloomError
from starloom.telemetry.metrics import exposition

log = logging.getLogger(__name__)

#: Rounds follow each other within half a minute at worst, and one may wait as long for a lock or an answer.
STALE_S = 90.0


class Health:
    """What the relay last did, and an HTTP server that says so.

    Parameters
    ----------
    ask
        Returns what the archive says at this moment; called for each request, its failure is told and no error.
    metrics
        What ``/metrics`` shows; there is no such page without it.
    """

    def __init__(self, ask: Callable[[], dict[str, Any]], metrics: CollectorRegistry | None = None) -> None:
        self._ask, self._metrics = ask, metrics
        self._lock = threading.Lock()
        self._begun = datetime.now(UTC)
        self._last: datetime | None = None
        self._good: datetime | None = None
        self._trouble = ""
        self._server: ThreadingHTTPServer | None = None

    def heard(self, trouble: str) -> None:
        """Note that a round has ended, and what troubled it."""
        with self._lock:
            self._last, self._trouble = datetime.now(UTC), trouble
            if not trouble:
                self._good = self._last

    def report(self) -> dict[str, Any]:
        """Return the document; ``ok`` is False when no round has gone well for `STALE_S`."""
        with self._lock:
            last, good, trouble = self._last, self._good, self._trouble
        now = datetime.now(UTC)
        told: dict[str, Any] = {
            "ok": (now - (good or self._begun)).total_seconds() < STALE_S,
            "last_pass": last and last.isoformat(),
            "last_good_pass": good and good.isoformat(),
            "last_pass_s": None if last is None else (now - last).total_seconds(),
            "trouble": trouble,
        }
        try:
            return told | self._ask()
        except StarloomError as error:
            return told | {"trouble": trouble or f"{error.message} ({error.code})"}

    def serve(self, host: str, port: int) -> int:
        """Answer on an address, port 0 for a free one; return the port, or 0 where it is taken.

        A second relay of one machine does without: that its port is taken is no reason to deliver nothing.
        """
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/health":
                        told = health.report()
                        self._answer(200 if told["ok"] else 503, json.dumps(told).encode(), "application/json")
                    case "/metrics" if health._metrics is not None:
                        self._answer(200, *exposition(health._metrics, self.headers.get("Accept", "")))
                    case _:
                        self.send_error(404)

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                with contextlib.suppress(ConnectionError):  # whoever asked has gone, and nobody is left to tell
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds; they are no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            log.warning("relay: no health on %s:%d: %s", host, port, error)
            return 0
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
