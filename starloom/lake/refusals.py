"""Whoever was refused at the embedded lake: one line each in ``$STARLOOM_HOME/logs/refused.log``.

SeaweedFS tells of every request to its S3 port in Fluentd's protocol (JSON over a loopback connection); what was
refused is kept, the rest is passed over. Its own log names only unknown keys. Anybody with an account on this
machine could write to that port: the log is for people to read, nothing is decided by it.
"""

from __future__ import annotations

import json
import logging
import socketserver
import threading
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: Of one record; longer ones end the connection.
MAX_RECORD = 1 << 16
#: HTTP status of what was refused for want of a right, a valid signature or time.
REFUSED = frozenset({401, 403})
_TOLD = ("remote_ip", "requester", "operation", "bucket", "key", "error_code", "user_agent")


class RefusalLog:
    """Listens for the lake's records and writes down what was refused.

    Parameters
    ----------
    port
        Loopback port that the lake's records go to (`SeaweedFS.audit_port`).
    path
        The log: one JSON object a line, five files of 5 MB at most.
    """

    def __init__(self, port: int, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lines = RotatingFileHandler(path, maxBytes=5 << 20, backupCount=4, encoding="utf-8")
        self._lines.setFormatter(logging.Formatter("%(message)s"))
        owner = self

        class Receiver(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                owner._listen(self.request)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Receiver)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="refusals", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._lines.close()

    def _listen(self, connection: Any) -> None:
        decoder, pending = json.JSONDecoder(), ""
        while part := connection.recv(MAX_RECORD):
            pending = (pending + part.decode("utf-8", "replace")).lstrip()
            while pending:
                try:
                    record, end = decoder.raw_decode(pending)
                except ValueError:
                    break  # the rest is on its way
                pending = pending[end:].lstrip()
                self._note(record)
            if len(pending) > MAX_RECORD:
                log.warning("the lake's records cannot be read: %.80s…", pending)
                return

    def _note(self, record: Any) -> None:
        """Write a record down if it is of a refusal; ``[tag, time, what, options]``."""
        if not isinstance(record, list) or len(record) < 3 or not isinstance(record[2], dict):
            return
        said = record[2]
        if said.get("status") not in REFUSED:
            return
        kept = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "status": said["status"]}
        kept |= {name: str(said.get(name, ""))[:300] for name in _TOLD}
        # JSON escapes what would break a line or turn a terminal around.
        self._lines.handle(logging.makeLogRecord({"msg": "%s", "args": (json.dumps(kept),)}))
