"""`starloom key` and `starloom node revoke`, against the running lake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from starloom.lake import LakeDenied
from starloom.lake.keys import inbox
from starloom.lake.s3 import S3Lake
from tests.cli.conftest import home, own_logging, run

__all__ = ["home", "own_logging", "run"]


@pytest.fixture
def at_the_hub(seaweed: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands work on the running lake."""
    monkeypatch.setenv("STARLOOM_HOME", str(seaweed.home))
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)


def holder(seaweed: Any, made: dict[str, str]) -> S3Lake:
    lake: S3Lake = seaweed.server.lake(made["access_key"], made["secret_key"])
    return lake


def test_a_key_from_first_to_last(seaweed: Any, s3: S3Lake, at_the_hub: None, run: Callable[..., Any]) -> None:
    s3.put_bytes(b"pixels", "stacks/keys/r1/e1/V_p0.fits")
    first = run("key", "create", "survey", "--json").json
    assert (first["name"], first["role"]) == ("survey", "reader")
    listed = run("key", "list", "--json").json
    assert {"role": "reader", "name": "survey"} in listed
    assert first["secret_key"] not in str(listed)
    second = run("key", "create", "survey", "--role", "reader", "--json").json
    old, new = holder(seaweed, first), holder(seaweed, second)
    assert new.get_bytes("stacks/keys/r1/e1/V_p0.fits", max_bytes=9) == b"pixels"
    with pytest.raises(LakeDenied):
        old.get_bytes("stacks/keys/r1/e1/V_p0.fits", max_bytes=9)
    assert "is void" in run("key", "revoke", "survey").out
    with pytest.raises(LakeDenied):
        new.get_bytes("stacks/keys/r1/e1/V_p0.fits", max_bytes=9)
    assert {"role": "reader", "name": "survey"} not in run("key", "list", "--json").json
    assert run("key", "create", "a*", "--json").error["code"] == "bad-name"
    for lake in (old, new):
        lake.close()


def test_a_link_reads_one_object(s3: S3Lake, at_the_hub: None, run: Callable[..., Any]) -> None:
    s3.put_bytes(b"pixels", "stacks/link/r1/e1/V_p0.fits")
    told = run("key", "url", "stacks/link/r1/e1/V_p0.fits", "--hours", "0.5")
    assert httpx.get(told.out.strip()).text == "pixels"
    assert "X-Amz-Expires=1800" in told.out
    assert run("key", "url", "stacks/link/none", "--json").error["code"] == "object-missing"
    assert run("key", "url", "stacks/../raw", "--json").error["code"] == "bad-key"


def test_a_node_is_shut_out(seaweed: Any, at_the_hub: None, run: Callable[..., Any], node: str) -> None:
    made = run("node", "register", node, "--credential", "--json").json
    lake, key = holder(seaweed, made), inbox(node, "20250101", "a.fits")
    lake.put_bytes(b"x", key)
    assert run("node", "revoke", node, "--json").json == {"id": node, "access_key": None}
    with pytest.raises(LakeDenied):
        lake.put_bytes(b"y", key)
    rows = {row["id"]: row["access_key"] for row in run("node", "list", "--json").json}
    assert rows[node] is None
    assert run("node", "revoke", node).code == 0  # again: nothing to take
    assert run("node", "revoke", "a/b", "--json").error["code"] == "bad-node"
    lake.close()
