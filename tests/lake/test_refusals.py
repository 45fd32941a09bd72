"""The log of those who were refused, in a process whose log lines know their subject, as in every hub."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starloom.lake.ports import free_ports
from starloom.lake.refusals import MAX_RECORD, RefusalLog
from starloom.telemetry import begin
from tests.waiting import until


@pytest.fixture
def as_in_the_hub() -> Iterator[None]:
    kept = logging.getLogRecordFactory()
    begin()
    yield
    logging.setLogRecordFactory(kept)


def record(status: int, **fields: object) -> bytes:
    return json.dumps(["s3", 1, {"status": status, "bucket": "starloom-raw", **fields}, None]).encode()


def test_refusals_are_lines_and_the_rest_is_passed_over(tmp_path: Path, as_in_the_hub: None) -> None:
    port, path = free_ports(["audit"])["audit"], tmp_path / "logs" / "refused.log"
    log = RefusalLog(port, path)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    with socket.create_connection(("127.0.0.1", port)) as server:
        whole = (
            record(200, key="a")
            + b"\n"
            + record(403, key="b\n\x1b[2J", requester="node-T1")
            + record(401, key="c")
        )
        for cut in (whole[:70], whole[70:171], whole[171:]):
            server.sendall(cut)
        server.sendall(b'["no record"]' + record(403, key="d"))
        until(lambda: len(lines()) == 3)
    assert [(line["key"], line["status"]) for line in lines()] == [("b\n\x1b[2J", 403), ("c", 401), ("d", 403)]
    assert lines()[0]["requester"] == "node-T1"
    assert "\x1b" not in path.read_text()
    # What is no record ends its own connection and no other.
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(b"[" * (MAX_RECORD + 2))
        assert server.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(record(403, key="e"))
        until(lambda: len(lines()) == 4)
    log.close()
