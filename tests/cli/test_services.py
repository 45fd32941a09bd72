"""The command line against real services: a node's own key and a wrong one, and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starloom.frames import step as ingest
from starloom.hub import Hub
from starloom.lake.seaweed import SeaweedFS
from starloom.settings import load_settings
from tests.conftest import fresh_database

Hubbed = tuple[Hub, dict[str, str]]


@pytest.fixture(scope="module")
def served() -> Iterator[Hubbed]:
    """A hub on a real S3 server, and the environment that speaks to it."""
    # A path of pytest's own is too long for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="starloom-cli-", ignore_cleanup_errors=True) as folder:
        server = SeaweedFS(Path(folder))
        environment = {**server.prepare(), "STARLOOM_HOME": folder}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(server.command(), stdout=log, stderr=log)
        old = dict(os.environ)
        os.environ.update(environment)
        try:
            server.wait_ready(60)
            hub = Hub.open(load_settings(Path(folder)))
            hub.archive.migrate()
            hub.lake.prepare()
            yield hub, environment
            hub.archive.dispose()
            hub.lake.close()
        finally:
            os.environ.clear()
            os.environ.update(old)
            process.kill()
            process.wait(10)


@pytest.fixture
def at_hub(served: Hubbed, monkeypatch: pytest.MonkeyPatch, home: Path) -> Hub:
    """Be at the hub."""
    hub, environment = served
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return hub


@pytest.fixture
def at_node(served: Hubbed, monkeypatch: pytest.MonkeyPatch, home: Path) -> Any:
    """Be at a telescope, with whatever key is given."""
    _, environment = served

    def go(access_key: str, secret_key: str) -> None:
        monkeypatch.setenv("STARLOOM_HOME", str(home))
        for name in ("STARLOOM_LAKE_URL", "STARLOOM_LAKE_ENDPOINT"):
            monkeypatch.setenv(name, environment[name])
        monkeypatch.setenv("STARLOOM_LAKE_ACCESS_KEY", access_key)
        monkeypatch.setenv("STARLOOM_LAKE_SECRET_KEY", secret_key)

    return go


def test_a_node_sends_with_its_own_key_and_with_no_other(
    run: Any, at_hub: Hub, at_node: Any, real: list[Path]
) -> None:
    made = run("node", "register", "UMO", "--credential", "--json")
    assert made.code == 0
    key, secret = made.json["access_key"], made.json["secret_key"]
    words = ("submit", real[0], "--mission", "550", "--node", "UMO", "--json")

    at_node("SLWRONGKEY", "wrong")
    wrong = run(*words)
    assert (wrong.code, wrong.json[0]["state"], wrong.json[0]["code"]) == (1, "not-sent", "lake-denied")
    assert "STARLOOM_LAKE_ACCESS_KEY" in wrong.json[0]["hint"]
    at_node(key, "wrong")
    assert run(*words).json[0]["code"] == "lake-denied"
    assert list(at_hub.lake.list("inbox/")) == []

    at_node(key, secret)
    other = run("submit", real[1], "--mission", "550", "--node", "T43", "--json")
    assert (other.code, other.json[0]["code"]) == (1, "lake-denied")
    sent = run(*words)
    assert (sent.code, sent.json[0]["state"]) == (0, "sent")
    again = run(*words)
    assert (again.code, again.json[0]["state"]) == (0, "waiting")
    assert "--replace" in again.json[0]["hint"]
    name = sent.json[0]["name"]
    assert run("receipts", name).code == 1

    (batch,) = ingest.discover(at_hub)
    for frame_id in batch.frame_ids:
        ingest.run(at_hub, frame_id)
    assert list(at_hub.lake.list("inbox/")) == []
    (told,) = run("receipts", name, "--json").json
    assert (told["state"], told["flags"]) == ("processing", ["unknown-mission"])
    known = run(*words)
    assert (known.code, known.json[0]["state"]) == (0, "already-known")


def test_what_waited_and_was_another_frame_is_refused_after_waiting(
    run: Any, at_hub: Hub, at_node: Any, real: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starloom.node import submit

    made = run("node", "register", "T77", "--credential", "--json").json
    at_node(made["access_key"], made["secret_key"])
    paths = []
    for n in (0, 1):
        path = tmp_path / str(n) / "ObsReq-550_TelID-T77_20251201T013000.fits.fz"
        path.parent.mkdir()
        path.write_bytes(real[n].read_bytes())
        paths.append(path)
    assert run("submit", paths[0]).code == 0
    wait = submit.wait_for_receipt

    def meanwhile(*args: Any, **named: Any) -> Any:
        for batch in ingest.discover(at_hub):
            for frame_id in batch.frame_ids:
                ingest.run(at_hub, frame_id)
        return wait(*args, **named)

    monkeypatch.setattr(submit, "wait_for_receipt", meanwhile)
    answer = run("submit", paths[1], "--wait", "--timeout", "1", "--json")
    assert (answer.code, answer.json[0]["state"], answer.json[0]["code"]) == (1, "refused", "name-conflict")


def test_the_hubs_status_is_that_of_its_real_services(run: Any, at_hub: Hub) -> None:
    answer = run("status", "--json")
    states = {row["service"]: row["state"] for row in answer.json["services"]}
    assert (states["lake"], states["archive"], states["prefect"]) == ("up", "up", "silent")
    assert answer.code == 3


@pytest.mark.postgres
def test_a_postgresql_without_tables_is_never_set_up_in_passing(
    run: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A database of its own: another test may have filled the server's first.
    monkeypatch.setenv("STARLOOM_ARCHIVE_URL", fresh_database(postgres_url))
    for words in (["mission", "list"], ["mission", "create", "550"], ["node", "register", "T42"]):
        answer = run(*words, "--json")
        assert (answer.code, answer.error["code"]) == (1, "archive-not-ready")
