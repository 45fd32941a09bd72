"""A server that takes whatever is sent to it and remembers, as a chat's webhook would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Hooks:
    """What came, and what is answered."""

    port: int = 0
    answer: int = 204
    came: list[tuple[str, str, str]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def take(self) -> list[tuple[str, str, str]]:
        """Return method, path and body of what came since the last time."""
        came, self.came = self.came, []
        return came

    def heard(self, path: str, *words: str) -> bool:
        """Tell whether something came for a path that holds all the words."""
        return any(
            where == f"/{path}" and all(word in body for word in words) for _, where, body in list(self.came)
        )


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    made = Hooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            made.came.append((self.command, self.path, body))
            self.send_response(made.answer)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
