"""The relay against a real server and real deployments: delivered once, never lost. Without a worker runs wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import select

from starloom.archive import Archive, claims
from starloom.archive.models import Frame, StatusEvent
from starloom.dispatch import relay as relaying
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.relay import DEPLOYMENT, Relay
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import free_port
from starloom.errors import Unavailable
from starloom.settings import Settings
from tests.dispatch.server import RunningPrefect

slow = pytest.mark.slow
MakeRelay = Callable[..., Relay]


def set_status(archive: Archive, mission: str, status: str = "COMPLETE") -> None:
    """Change the status by plain SQL, as a portal would."""
    with archive.transaction() as session:
        statement = text("UPDATE mission SET status = :s WHERE id = :i")
        session.connection().execute(statement, {"s": status, "i": mission})


def newest_event(archive: Archive) -> StatusEvent:
    with archive.session() as session:
        return session.exec(select(StatusEvent).order_by(StatusEvent.id.desc())).first()  # type: ignore[union-attr]


def runs_of(api: PrefectApi, mission: str) -> list[dict[str, Any]]:
    return [run for run in api.runs(DEPLOYMENT) if run["parameters"].get("mission_id") == mission]


def await_run(api: PrefectApi, mission: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while not (found := runs_of(api, mission)):
        assert time.monotonic() < deadline, "the trigger made no run"
        time.sleep(0.2)
    time.sleep(0.5)  # a second one would come now
    (run,) = runs_of(api, mission) or found
    return run


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again at once."""
    monkeypatch.setattr(relaying, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(relaying, "SETTLE_LOOK_S", 0.0)


@slow
def test_a_status_changed_by_plain_sql_becomes_exactly_one_run(
    archive: Archive, mission: str, make_relay: MakeRelay, prefect_server: RunningPrefect
) -> None:
    relay = make_relay()
    assert relay.once() == 0
    set_status(archive, mission)
    assert relay.once() == 1
    assert relay.once() == 0  # it has time to arrive
    run = await_run(prefect_server.api, mission)
    assert run["parameters"] == {"mission_id": mission, "event_id": newest_event(archive).id}
    assert isinstance(run["parameters"]["event_id"], int)
    assert run["state_type"] == "SCHEDULED"


@slow
@pytest.mark.usefixtures("impatient")
def test_a_run_that_is_scheduled_waits_and_is_not_lost(
    archive: Archive,
    mission: str,
    make_relay: MakeRelay,
    prefect_server: RunningPrefect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay, api = make_relay(), prefect_server.api
    set_status(archive, mission)
    relay.once()
    run = await_run(api, mission)
    assert [relay.once() for _ in range(3)] == [0, 0, 0]
    event = newest_event(archive)
    assert event.publish_attempts == 1
    assert "is scheduled" in (event.note or "")
    # The worker takes it and dies with it: Prefect calls it running for ever.
    api._call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    assert relay.once() == 0
    assert "is running" in (newest_event(archive).note or "")
    monkeypatch.setattr(relaying, "STUCK_AFTER_S", 0.0)
    assert relay.once() == 1


@slow
@pytest.mark.usefixtures("impatient")
def test_events_that_prefect_loses_end_as_one_run_however_many_relays(
    archive: Archive,
    mission: str,
    make_relay: MakeRelay,
    prefect_server: RunningPrefect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relays = [make_relay() for _ in range(3)]
    start = threading.Barrier(len(relays))

    def once(relay: Relay) -> int:
        start.wait()
        return relay.once()

    set_status(archive, mission)
    with prefect_server.deaf(DEPLOYMENT), ThreadPoolExecutor(len(relays)) as pool:
        for attempt in (1, 2):
            while newest_event(archive).publish_attempts < attempt:
                relays[0].once()
        assert runs_of(prefect_server.api, mission) == []
        monkeypatch.setattr(relaying, "FIRST_WAIT_S", 30.0)
        assert sum(pool.map(once, relays)) == 1
    (run,) = runs_of(prefect_server.api, mission)
    assert run["idempotency_key"].startswith(f"{newest_event(archive).id}:3:{mission}:")
    assert newest_event(archive).publish_attempts == 3
    assert newest_event(archive).note == "run created, attempt 3"


@slow
def test_relays_at_the_same_time_publish_an_event_once(
    archive: Archive, mission: str, make_relay: MakeRelay, prefect_server: RunningPrefect
) -> None:
    relays = [make_relay() for _ in range(4)]
    start = threading.Barrier(len(relays))

    def once(relay: Relay) -> int:
        start.wait()
        return relay.once()

    set_status(archive, mission)
    with ThreadPoolExecutor(len(relays)) as pool:
        assert sum(pool.map(once, relays)) == 1
    await_run(prefect_server.api, mission)


@slow
def test_the_back_off_grows_and_has_a_bound(
    archive: Archive, mission: str, make_relay: MakeRelay, prefect_server: RunningPrefect
) -> None:
    relay, waits = make_relay(), []
    set_status(archive, mission)
    with prefect_server.deaf(DEPLOYMENT):
        for _ in range(2):
            assert relay.once() == 1
            event = newest_event(archive)
            assert event.next_publish_at is not None
            assert event.published_at is not None
            waits.append((event.next_publish_at - event.published_at).total_seconds())
            with archive.transaction() as session:
                session.connection().execute(text("UPDATE status_event SET next_publish_at = NULL"))
    assert waits == [relaying.FIRST_WAIT_S, 2 * relaying.FIRST_WAIT_S]


@slow
def test_spent_events_are_closed_and_publish_nothing(
    archive: Archive, mission: str, make_relay: MakeRelay, prefect_server: RunningPrefect
) -> None:
    relay = make_relay()
    set_status(archive, mission)
    set_status(archive, mission, "CANCELLED")
    assert relay.once() == 0
    with archive.session() as session:
        events = session.exec(select(StatusEvent)).all()
    assert {event.state for event in events} == {"superseded"}
    set_status(archive, mission)
    set_status(archive, mission, "OPEN")
    set_status(archive, mission)
    assert relay.once() == 1
    with archive.session() as session:
        assert len(session.exec(select(StatusEvent).where(StatusEvent.state == "open")).all()) == 1
    assert await_run(prefect_server.api, mission)["parameters"]["event_id"] == newest_event(archive).id


class Listener(PrefectApi):
    """Hears what is published, and has no runs."""

    def runs(self, *_: object, **__: object) -> list[dict[str, Any]]:
        return []

    def emit(self, event: str, resource: str, payload: dict[str, Any]) -> None:
        heard.append((event, payload))


heard: list[tuple[str, dict[str, Any]]] = []


def test_the_end_of_a_mission_is_news_told_once(archive: Archive, mission: str, settings: Settings) -> None:
    heard.clear()
    with archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET failure_code = 'no-usable-frames'"))
    set_status(archive, mission, "FAILED")
    event = newest_event(archive).id
    with Listener("http://127.0.0.1:1/api") as api:
        for _ in range(2):
            assert Relay(settings, archive, api).once() == 0
    said = {"mission_id": mission, "event_id": event, "code": "no-usable-frames", "hint": None}
    assert heard == [("starloom.mission.failed", said)]


@slow
@pytest.mark.usefixtures("impatient")
def test_frames_in_flight_hold_a_mission_back_until_the_bound(
    archive: Archive, mission: str, make_relay: MakeRelay
) -> None:
    with archive.transaction() as session:
        session.add(Frame(name="f", node_id="T1", obs_req=mission))
    set_status(archive, mission)
    assert make_relay().once() == 0
    assert newest_event(archive).note == "1 frames in flight"
    assert newest_event(archive).publish_attempts == 0
    assert make_relay(settle_max_s=0.0).once() == 1


@slow
@pytest.mark.usefixtures("impatient")
def test_a_mission_that_is_held_waits_for_its_holder(
    archive: Archive, mission: str, make_relay: MakeRelay
) -> None:
    set_status(archive, mission)
    claims.claim(archive, mission, newest_event(archive).id or 0, "me", 60)
    set_status(archive, mission)  # by hand, while it is stacked
    assert make_relay().once() == 0
    assert newest_event(archive).note == "the mission is being stacked"


@slow
def test_no_more_runs_than_the_cap_wait_at_once(
    archive: Archive, mission: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = make_relay()
    set_status(archive, mission)
    monkeypatch.setattr(relaying, "MAX_OUTSTANDING", 0)
    assert relay.once() == 0
    assert newest_event(archive).publish_attempts == 0
    monkeypatch.setattr(relaying, "MAX_OUTSTANDING", 10_000)
    assert relay.once() == 1


@slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_down_costs_nothing_but_time(
    archive: Archive, mission: str, make_relay: MakeRelay, prefect_server: RunningPrefect
) -> None:
    set_status(archive, mission)
    down = make_relay(f"http://127.0.0.1:{free_port(0)}/api")
    with pytest.raises(Unavailable):
        down.once()
    assert newest_event(archive).state == "open"
    assert newest_event(archive).publish_attempts == 0
    assert make_relay().once() == 1
    await_run(prefect_server.api, mission)


class Speechless(PrefectApi):
    """A server that answers questions and goes down when it is told something."""

    def emit(self, event: str, resource: str, payload: dict[str, Any]) -> None:
        raise Unavailable("gone")


@slow
@pytest.mark.usefixtures("impatient")
def test_an_attempt_that_did_not_reach_prefect_is_given_back(
    archive: Archive, mission: str, settings: Settings, prefect_server: RunningPrefect
) -> None:
    set_status(archive, mission)
    with Speechless(prefect_server.settings.prefect_api_url) as api, pytest.raises(Unavailable):
        Relay(settings, archive, api).once()
    assert newest_event(archive).publish_attempts == 0
    assert newest_event(archive).note == "gone"


class Moody(Relay):
    """A relay whose rounds fail in every way there is, and then go well."""

    def once(self) -> int:
        rounds.append(0)
        if len(rounds) == 1:
            raise Unavailable("the archive sleeps")
        if len(rounds) == 2:
            raise RuntimeError("nobody foresaw this")
        if len(rounds) > 3:
            stop.set()
        return 0


rounds: list[int] = []
stop = threading.Event()


def test_the_loop_outlives_every_error_and_shows_signs_of_life(
    archive: Archive, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    beat = Heartbeat.beat

    def watched(self: Heartbeat, *, trouble: str = "", next_s: float = 0.0) -> None:
        beat(self, trouble=trouble, next_s=next_s)
        said = self.read()
        assert said is not None
        assert said["alive"]
        seen.append(said["trouble"])

    monkeypatch.setattr(Heartbeat, "beat", watched)
    quick = settings.model_copy(update={"relay_poll_s": 0.01})
    with PrefectApi("http://127.0.0.1:1/api") as api:
        Moody(quick, archive, api).run(stop)
    assert seen[:3] == ["the archive sleeps (unavailable)", "RuntimeError: nobody foresaw this", ""]
    assert Heartbeat(settings.home, "relay").read() is None  # it ended on purpose


@pytest.mark.postgres
def test_postgresql_wakes_the_relay_at_once(postgres_url: str, tmp_path: Path) -> None:
    heard.clear()
    archive = Archive(postgres_url)
    archive.migrate()
    add = text("INSERT INTO mission SELECT (jsonb_populate_record(null::mission, :row)).*")
    row = {"id": "pg", "status": "OPEN", "title": "", "parameters": {}, "created_at": "2026-01-01T00:00:00Z"}
    row["status_changed_at"] = row["created_at"]
    with archive.transaction() as session:
        session.connection().execute(add, {"row": json.dumps(row)})
    ended = threading.Event()
    slow_to_look = Settings(home=tmp_path, relay_poll_s=60.0)
    with Listener("http://127.0.0.1:1/api") as api:
        worker = threading.Thread(target=Relay(slow_to_look, archive, api).run, args=(ended,))
        worker.start()
        try:
            time.sleep(2.0)  # it has looked, and sleeps
            began = time.monotonic()
            set_status(archive, "pg")
            while not heard:
                assert time.monotonic() - began < 20
                time.sleep(0.05)
            assert [event for event, _ in heard] == [relaying.EVENT]
        finally:
            ended.set()
            worker.join(10)
    assert not worker.is_alive()
    archive.dispose()
