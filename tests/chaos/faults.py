"""A proxy in front of an S3 server that can be slow, busy (503), or cut answers short."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}
BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>by order of the test</Message></Error>'


@dataclass
class Faults:
    """What goes wrong, as shares of the requests; drawn from a seed.

    Parameters
    ----------
    busy
        Answered with 503, not passed on.
    cut
        Bodies of GETs that end in the middle.
    delay_s
        Every request waits so long.
    """

    busy: float = 0.0
    cut: float = 0.0
    delay_s: float = 0.0
    seed: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def draw(self, share: float, name: str) -> bool:
        with self._lock:
            hit = self._rng.random() < share
            self.counts[name] += hit
            return hit


class FaultyProxy:
    """Pass requests on to an S3 server; the host that a signature names stays the proxy's, so it stays valid."""

    def __init__(self, endpoint: str) -> None:
        self.faults = Faults()
        there = urlsplit(endpoint)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                faults = proxy.faults
                faults.counts["requests"] += 1
                time.sleep(faults.delay_s)
                if faults.draw(faults.busy, "busy"):
                    self._answer(503, [("Content-Type", "application/xml")], BUSY)
                    return
                onward = http.client.HTTPConnection(there.hostname or "", there.port, timeout=60)
                try:
                    onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in HOP_BY_HOP and name.lower() != "expect":
                            onward.putheader(name, value)
                    onward.endheaders(body or None)
                    answer = onward.getresponse()
                    self._answer(answer.status, answer.getheaders(), answer.read())
                finally:
                    onward.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                known = {name.lower() for name, _ in headers}
                for name, value in headers:
                    if name.lower() not in HOP_BY_HOP:
                        self.send_header(name, value)
                if "content-length" not in known:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                faults = proxy.faults
                if self.command == "GET" and status in (200, 206) and body and faults.draw(faults.cut, "cut"):
                    body = body[: len(body) // 2]
                    self.close_connection = True
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
