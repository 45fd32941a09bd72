"""`automations` and `watchdog` as an operator meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starloom.dispatch.automation_files import PREFIX
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.services import free_port
from tests.dispatch.hooks import Hooks, hooks
from tests.dispatch.server import RunningPrefect, prefect_server

__all__ = ["hooks", "prefect_server"]


def test_without_a_server_there_is_a_remedy(run: Any, home: Path) -> None:
    for words in (["apply"], ["diff"], ["list"], ["test"], ["notify", "http://x/y"]):
        assert run("automations", *words, "--json").error["code"] == "no-prefect"


def test_a_watchdog_of_nothing_finds_nothing_alive(run: Any, home: Path) -> None:
    answer = run("watchdog", "--once", "--json")
    assert (answer.code, answer.json["well"], answer.json["alarm"]) == (3, False, "")
    assert {check["check"]: check["ok"] for check in answer.json["checks"]} == {
        "prefect": False,
        "relay": False,
        "claims": False,
    }
    out = run("watchdog", "--once").out
    assert "DEAD relay: the relay has left no sign of life" in out
    assert not (home / "archive.sqlite").exists()


def test_the_watchdog_remembers_from_start_to_start(run: Any, hub: Any, hooks: Hooks) -> None:
    words = ["watchdog", "--once", "--skip", "prefect", "--skip", "worker", "--skip", "sweep", "--grace", "0"]
    words += ["--webhook", hooks.url("alarm"), "--heartbeat-url", hooks.url("beat"), "--json"]
    first, second = run(*words), run(*words)
    assert (first.code, second.code) == (3, 3)
    assert first.json["alarm"].endswith(": relay dead")
    assert second.json["alarm"] == ""
    Heartbeat(hub.settings.home, "relay").beat(next_s=60)
    third = run(*words)
    assert (third.code, third.json["well"]) == (0, True)
    came = hooks.take()
    assert [path for _, path, _ in came] == ["/alarm", "/alarm", "/beat"]
    assert [json.loads(body)["subject"].partition(": ")[2] for _, _, body in came[:2]] == [
        "relay dead",
        "relay alive again",
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--skip", "everything"], "no-such-check"),
        (["--webhook", "chat.example.org/x"], "bad-url"),
        (["--heartbeat-url", "file:///etc/passwd"], "bad-url"),
        (["--relay-url", "localhost:1"], "bad-url"),
        (["--exec", "echo"], "bad-program"),
        (["--every", "0"], "wrong-usage"),
    ],
)
def test_what_could_not_work_is_refused_before_it_is_needed(
    run: Any, home: Path, words: list[str], code: str
) -> None:
    assert run("watchdog", "--once", *words, "--json").error["code"] == code


def test_whom_to_tell_comes_from_the_environment_too(
    run: Any, hub: Any, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLOOM_WATCHDOG_WEBHOOK", f"http://127.0.0.1:{free_port(0)}/secret")
    answer = run("watchdog", "--once", "--skip", "prefect", "--grace", "0", "--json")
    assert answer.code == 3
    assert "127.0.0.1 does not answer" in answer.json["trouble"]
    assert "secret" not in answer.out + answer.err


@pytest.mark.slow
def test_from_no_automation_to_a_delivered_alert(
    run: Any, prefect_server: RunningPrefect, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARLOOM_PREFECT_API_URL", prefect_server.settings.prefect_api_url)
    monkeypatch.setenv("STARLOOM_ALERT_BLOCK", "cli-alerts")
    api = prefect_server.api
    try:
        assert run("automations", "apply", "--json").error["code"] == "no-notification-block"
        assert run("automations", "notify", "nowhere", "--json").error["code"] == "bad-url"
        assert run("automations", "notify", hooks.url("chat")).code == 0
        planned = run("automations", "apply", "--dry-run", "--json").json
        assert {row["verb"] for row in planned} == {"create"}
        assert run("automations", "diff").code == 1
        assert {row["id"] is None for row in run("automations", "apply", "--json").json} == {False}
        assert run("automations", "diff").code == 0
        assert run("automations", "diff", "--json").json == []
        listed = {row["name"]: row["from"] for row in run("automations", "list", "--json").json}
        assert listed["mission COMPLETE starts its stack"] == "deployment"
        assert listed[f"{PREFIX}a crashed run is put back"] == "run-crashed.yaml"
        assert "run-crashed.yaml" in run("automations", "list").out
        for _ in range(4):  # an alert may be lost where the server's SQLite was locked, and then it says so
            answer = run("automations", "test", "--message", "hear, hear", "--json")
            assert (answer.code == 0) == (answer.json["outcome"] == "delivered")
            if answer.code == 0:
                break
        assert hooks.heard("chat", "hear, hear")
        hooks.answer = 500  # Prefect says nothing of it; we do not say that it was delivered
        assert run("automations", "test", "--timeout", "5").code == 1
    finally:
        for there in api.automations():
            if there["name"].startswith(PREFIX):
                api.delete_automation(there["id"])
