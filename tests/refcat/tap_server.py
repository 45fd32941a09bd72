"""A TAP service of a few columns and one table, that speaks sync TAP over HTTP, well or badly."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import numpy as np
from astropy.io.votable import from_table, writeto
from astropy.io.votable.tree import Info
from astropy.table import Table

_QUERY = re.compile(
    r"SELECT TOP (?P<top>\d+) (?P<columns>.+) FROM (?P<table>\S+) WHERE 1 = CONTAINS\(POINT\('ICRS', (?P<ra>\S+), "
    r"(?P<dec>\S+)\), CIRCLE\('ICRS', (?P<x>\S+), (?P<y>\S+), (?P<r>\S+)\)\) AND (?P<mag>.+) > -5 AND (?P=mag) < "
    r"(?P<faint>[\d.]+)(?: AND (?P<more>.+))? ORDER BY (?P=mag)"
)


@dataclass
class Tap:
    """What the service holds, how it behaves, and what it was asked."""

    table: Table
    url: str = ""
    mode: str = "well"
    queries: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, query: str, maxrec: int) -> bytes:
        asked = _QUERY.fullmatch(query)
        if asked is None:
            return _votable(Table({"a": [1]}), "ERROR", f"cannot parse: {query}")
        ra, dec = (np.radians(np.asarray(self.table[name])) for name in (asked["ra"], asked["dec"]))
        x, y, r = (np.radians(float(asked[name])) for name in ("x", "y", "r"))
        distance = np.arccos(np.clip(np.sin(dec) * np.sin(y) + np.cos(dec) * np.cos(y) * np.cos(ra - x), -1, 1))
        mag = np.asarray(self.table[asked["mag"].strip('"')])
        with np.errstate(invalid="ignore"):
            rows = np.flatnonzero((distance <= r) & (mag > -5) & (mag < float(asked["faint"])))
        rows = rows[np.argsort(mag[rows])][: min(int(asked["top"]), maxrec)]
        pairs = [text.rsplit(" AS ", 1) for text in asked["columns"].split(", ")]
        found = Table({label: self.table[name.strip('"')][rows] for name, label in pairs})
        if self.mode == "missing-column":
            found.remove_column(found.colnames[-1])
        return _votable(found, "OVERFLOW" if len(rows) == maxrec else "OK")


def _votable(table: Table, status: str, text: str = "") -> bytes:
    document = from_table(table)
    document.resources[0].infos.append(Info(name="QUERY_STATUS", value=status))
    document.resources[0].infos[-1].content = text
    buffer = io.BytesIO()
    writeto(document, buffer)
    return buffer.getvalue()


@contextmanager
def tap_server(table: Table) -> Iterator[Tap]:
    """Run the service on a free port until the block ends."""
    tap = Tap(table)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            form = parse_qs(self.rfile.read(length).decode())
            query = form["QUERY"][0]
            tap.queries.append(query)
            body = tap.answer(query, int(form.get("MAXREC", ["1000000"])[0]))
            match tap.mode:
                case "silent":
                    tap.released.wait(30)
                    return
                case "dribble":
                    self._head(200, len(body))
                    # Never silent for long, never done.
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        if tap.released.wait(0.02):
                            return
                    return
                case "503":
                    body = b"down for maintenance"
                    self._head(503, len(body))
                case "html":
                    body = b"<html><body>Please log in to the hotel's network.</body></html>"
                    self._head(200, len(body))
                case "truncated":
                    body = body[: 2 * len(body) // 3]
                    self._head(200, len(body))
                case "cut-off":
                    self._head(200, len(body))
                    body = body[: len(body) // 2]
                case "refusing":
                    body = _votable(Table({"a": [1]}), "ERROR", "no such column")
                    self._head(400, len(body))
                case "empty":
                    body = b""
                    self._head(200, 0)
                case _:
                    self._head(200, len(body))
            self.wfile.write(body)

        def _head(self, status: int, length: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-votable+xml")
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tap.url = f"http://127.0.0.1:{server.server_address[1]}/tap"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield tap
    finally:
        tap.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
