"""The watchdog: what it takes for dead, whom it tells and how often; it proves life only where there is."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import Archive, claims, missions
from starloom.archive.models import Revision, StatusEvent
from starloom.dispatch import deadman, watchdog
from starloom.dispatch.deadman import Memory, Voice, judge, look_and_tell
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.services import free_port
from starloom.dispatch.watchdog import CHECKS, Dead, Finding, check_claims, check_relay, look
from starloom.errors import BadInput, StarloomError
from starloom.settings import Settings
from tests.dispatch.hooks import Hooks, hooks
from tests.dispatch.server import RunningPrefect

__all__ = ["hooks"]

T0 = datetime(2026, 10, 8, 20, 0, tzinfo=UTC)
slow = pytest.mark.slow


def relay_is(dead: bool) -> list[Finding]:
    return [Finding("relay", not dead, "…"), Finding("prefect", True, "…")]


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def test_an_alarm_waits_for_the_grace_is_repeated_hourly_and_ends_once() -> None:
    memory: Memory = {}
    heard = {}
    for minute in range(0, 200):
        subject, memory = judge(relay_is(minute < 150), memory, at(60 * minute))
        if subject:
            heard[minute] = subject.partition(": ")[2]
    assert heard == {2: "relay dead", 62: "relay dead", 122: "relay dead", 150: "relay alive again"}
    assert memory == {}


def test_what_is_over_within_the_grace_is_never_told() -> None:
    subject, memory = judge(relay_is(True), {}, at(0))
    assert (subject, list(memory)) == ("", ["relay"])
    assert judge(relay_is(False), memory, at(60)) == ("", {})


def test_a_second_death_is_told_by_itself() -> None:
    both = [Finding("relay", False, ""), Finding("claims", False, "")]
    _, memory = judge(both[:1], {}, at(0))
    _, memory = judge(both, memory, at(120))
    subject, memory = judge(both, memory, at(240))
    assert subject.endswith(": claims dead")


def test_what_was_not_looked_at_is_as_it_was() -> None:
    memory: Memory = {"worker": {"since": at(0).isoformat(), "told": at(120).isoformat()}}
    subject, after = judge([Finding("prefect", False, "")], memory, at(180))
    assert subject == ""
    assert after["worker"] == memory["worker"]


def test_the_relay_is_dead_when_it_is_silent_gone_or_gets_nowhere(settings: Settings) -> None:
    with pytest.raises(Dead, match="no sign of life"):
        check_relay(settings)
    beat = Heartbeat(settings.home, "relay")
    beat.beat(next_s=1.0)
    assert "last seen" in check_relay(settings)
    beat.beat(trouble="Prefect does not answer", next_s=1.0)
    with pytest.raises(Dead, match="Prefect does not answer"):
        check_relay(settings)
    said = json.loads(beat.path.read_text())
    said |= {"at": (datetime.now(UTC) - timedelta(minutes=3)).isoformat(), "trouble": ""}
    beat.path.write_text(json.dumps(said))
    with pytest.raises(Dead, match="last seen"):
        check_relay(settings)


def test_a_mission_that_waits_in_vain(settings: Settings, archive: Archive, mission: str) -> None:
    assert check_claims(settings) == "no mission waits"
    with archive.transaction() as session:
        session.connection().exec_driver_sql("UPDATE mission SET status = 'COMPLETE'")
    assert "waits since" in check_claims(settings)  # it may: frames are in flight
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    with archive.transaction() as session:
        for event in session.exec(select(StatusEvent)):
            event.created_at = long_ago
            session.add(event)
    with pytest.raises(Dead, match=f"mission {mission} waits since .*last claim: never"):
        check_claims(settings)
    # Another mission's claim: things move, it is only this one's turn later.
    with archive.transaction() as session:
        missions.create_mission(session, f"{mission}-b")
        missions.set_status(session, f"{mission}-b", "COMPLETE")
    with archive.session() as session:
        (event_id,) = session.exec(select(StatusEvent.id).where(StatusEvent.mission_id == f"{mission}-b"))
    claims.claim(archive, f"{mission}-b", event_id or 0, "run", 60.0)
    assert "others are being stacked" in check_claims(settings)
    with archive.transaction() as session:
        (revision,) = session.exec(select(Revision))
        revision.claimed_at = long_ago  # claimed long ago and still held: a long stack, no standstill
        session.add(revision)
    assert "others are being stacked" in check_claims(settings)
    with archive.transaction() as session:
        (revision,) = session.exec(select(Revision))
        revision.lease_until = long_ago
        session.add(revision)
    with pytest.raises(Dead, match="nothing is being stacked"):
        check_claims(settings)


def test_no_archive_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(Dead, match="there is no archive"):
        check_claims(Settings(home=tmp_path / "misspelt"))
    assert not (tmp_path / "misspelt").exists()


def test_a_check_that_hangs_or_breaks_is_told_and_hides_nothing() -> None:
    stop = threading.Event()

    def hangs() -> str:
        stop.wait(30)
        return ""

    def breaks() -> str:
        raise ZeroDivisionError("x / 0")

    begun = time.monotonic()
    found = watchdog._all_at_once({"a": hangs, "b": breaks, "c": lambda: "well"}, 0.3)
    stop.set()
    assert time.monotonic() - begun < 5
    assert [(f.check, f.ok) for f in found] == [("a", False), ("b", False), ("c", True)]
    assert "not answered" in found[0].message
    assert "ZeroDivisionError" in found[1].message


def test_one_cause_is_one_message(settings: Settings, archive: Archive) -> None:
    away = settings.model_copy(update={"prefect_api_url": f"http://127.0.0.1:{free_port(0)}/api"})
    found = {finding.check: finding.ok for finding in look(away)}
    assert found == {"prefect": False, "relay": False, "claims": True}
    assert [finding.check for finding in look(away, skip=["prefect", "relay", "worker", "sweep"])] == ["claims"]


def test_a_relay_elsewhere_is_asked(settings: Settings, archive: Archive, hooks: Hooks) -> None:
    others = [name for name in CHECKS if name != "relay"]
    (found,) = look(settings, others, hooks.url("health"))
    assert found.ok
    hooks.answer = 503
    (found,) = look(settings, others, hooks.url("health"))
    assert (found.ok, found.message) == (False, "127.0.0.1 answered 503")


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the checks that find death; the others find life."""
    names: set[str] = set()

    def check(name: str) -> Any:
        def run(_: Settings) -> str:
            if name in names:
                raise Dead(f"{name} is dead; rm -rf $(HOME) `id`")
            return "fine"

        return run

    for name in CHECKS:
        monkeypatch.setitem(CHECKS, name, check(name))
    return names


def test_life_is_proven_only_where_there_is(settings: Settings, hooks: Hooks, dead: set[str]) -> None:
    voice = Voice(webhook=hooks.url("alarm"), heartbeat_url=hooks.url("beat"))
    assert look_and_tell(settings, voice).well
    assert hooks.take() == [("GET", "/beat", "")]
    dead.add("relay")
    assert not look_and_tell(settings, voice).well
    assert hooks.take() == []  # within the grace: no alarm, and no life either
    told = look_and_tell(settings, voice, grace_s=0.0)
    ((method, path, body),) = hooks.take()
    assert (method, path) == ("POST", "/alarm")
    assert json.loads(body)["dead"] == ["relay"]
    assert told.alarm.endswith(": relay dead")
    assert "DEAD relay: relay is dead" in json.loads(body)["body"]
    look_and_tell(settings, voice, grace_s=0.0)
    assert hooks.take() == []  # another program would not remember; the file does
    dead.clear()
    look_and_tell(settings, voice)
    assert [path for _, path, _ in hooks.take()] == ["/alarm", "/beat"]


def test_an_alarm_that_was_not_heard_is_raised_again(settings: Settings, hooks: Hooks, dead: set[str]) -> None:
    dead.add("worker")
    hooks.answer = 500
    voice = Voice(webhook=hooks.url("alarm"))
    told = look_and_tell(settings, voice, grace_s=0.0)
    assert "answered 500" in told.trouble
    assert hooks.url("alarm") not in told.trouble  # the URL is a secret
    hooks.answer = 204
    hooks.take()
    assert look_and_tell(settings, voice, grace_s=0.0).trouble == ""
    assert look_and_tell(settings, voice, grace_s=0.0).alarm == ""
    assert len(hooks.take()) == 1
    # The end of it, too.
    hooks.answer = 503
    dead.clear()
    assert "answered 503" in look_and_tell(settings, voice).trouble
    hooks.answer = 200
    hooks.take()
    assert look_and_tell(settings, voice).alarm.endswith("worker alive again")
    assert look_and_tell(settings, voice).alarm == ""


def test_a_program_gets_the_words_as_they_are(settings: Settings, dead: set[str], tmp_path: Path) -> None:
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/subject\ncat > {tmp_path}/body\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    voice = Voice(program=program)
    voice.check()
    dead.add("sweep")
    assert look_and_tell(settings, voice, grace_s=0.0).trouble == ""
    assert (tmp_path / "subject").read_text().endswith(": sweep dead")
    assert "rm -rf $(HOME) `id`" in (tmp_path / "body").read_text()
    program.write_text("#!/bin/sh\ncat > /dev/null; echo no paper >&2; exit 7\n")
    dead.add("relay")
    assert "tell ended with 7: no paper" in look_and_tell(settings, voice, grace_s=0.0).trouble


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "https://x y/z", "http://x/\n", "http://x:99999/"])
def test_bad_urls_are_refused_at_once(url: str) -> None:
    for voice in (Voice(webhook=url), Voice(heartbeat_url=url)):
        with pytest.raises(BadInput) as caught:
            voice.check()
        assert caught.value.code == "bad-url"


def test_what_is_no_program_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not executable")
    for program in (Path("tell"), tmp_path / "missing", tmp_path / "text", tmp_path):
        with pytest.raises(BadInput) as caught:
            Voice(program=program).check()
        assert caught.value.code == "bad-program"


def test_memory_that_is_torn_or_cannot_be_kept_costs_only_patience(
    settings: Settings, hooks: Hooks, dead: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = Voice(webhook=hooks.url("alarm"))
    dead.add("relay")
    for text in ("{", "[1]", '{"relay": {}}', '{"relay": {"since": "x", "told": null}}', '{"relay": null}'):
        path = settings.home / "run" / "watchdog.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert look_and_tell(settings, voice, grace_s=0.0).alarm
    hooks.take()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deadman, "_remember", full)
    path.unlink()
    told = [look_and_tell(settings, voice, grace_s=0.0) for _ in range(2)]
    assert len(hooks.take()) == 2
    assert all("No space left" in each.trouble for each in told)


def test_whoever_tells_also_tells_the_others(hooks: Hooks, tmp_path: Path) -> None:
    program = tmp_path / "tell"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/told\n")
    program.chmod(0o700)
    hooks.answer = 500
    with pytest.raises(StarloomError, match="answered 500"):
        Voice(webhook=hooks.url("x"), program=program).tell("s", [Finding("relay", False, "m")])
    assert (tmp_path / "told").exists()


@slow
def test_worker_and_sweep_as_the_real_server_knows_them(
    prefect_server: RunningPrefect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = prefect_server.api
    here = settings.model_copy(update={"prefect_api_url": prefect_server.settings.prefect_api_url})
    empty = here.model_copy(update={"work_pool": f"pool{os.getpid()}"})
    api.call("POST", "/work_pools/", {"name": empty.work_pool, "type": "process"})
    with pytest.raises(Dead, match="has ever been heard of"):
        watchdog.check_worker(empty)
    api.call("POST", f"/work_pools/{empty.work_pool}/workers/heartbeat", {"name": "w"})
    assert "w 0 s ago" in watchdog.check_worker(empty).replace("1 s", "0 s")
    monkeypatch.setattr(watchdog, "WORKER_SILENT_S", -1.0)
    with pytest.raises(Dead, match="no worker of pool"):
        watchdog.check_worker(empty)
    assert "http" in watchdog.check_prefect(here)

    run = api.create_run("sweep/sweep", {}, idempotency_key=f"watchdog-{os.getpid()}")
    for state in ("RUNNING", "COMPLETED"):
        api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})
    assert "s ago" in watchdog.check_sweep(here)
    monkeypatch.setattr(watchdog, "SWEEP_SILENT_S", -1.0)
    with pytest.raises(Dead, match="sweep last ended well"):
        watchdog.check_sweep(here.model_copy(update={"sweep_interval_s": 0.0}))
