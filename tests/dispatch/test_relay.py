"""The relay against a real server and real deployments: delivered once, never lost. Without a worker runs wait."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlmodel import select

from starloom.archive import Archive, claims, dispositions
from starloom.archive.models import Frame, Mission, RawCheck, StatusEvent
from starloom.dispatch import health
from starloom.dispatch import relay as relaying
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.relay import DEPLOYMENT, Relay
from starloom.dispatch.rest import PrefectApi, Said
from starloom.dispatch.services import free_port
from starloom.errors import StarloomError, Unavailable
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
    api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    assert relay.once() == 0
    assert "is running" in (newest_event(archive).note or "")
    monkeypatch.setattr(relaying, "STUCK_AFTER_S", {"RUNNING": 0.0})
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

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1/api")
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.made: list[tuple[str, dict[str, Any]]] = []

    def runs(self, *_: object, **__: object) -> list[dict[str, Any]]:
        return []

    def emit_all(self, events: Sequence[Said]) -> None:
        self.heard += [(said.event, said.payload) for said in events]

    def create_run(
        self, deployment: str, parameters: dict[str, Any], *, idempotency_key: str, name: str | None = None
    ) -> dict[str, Any]:
        self.made.append((idempotency_key, parameters))
        return {}


class Picky(Listener):
    """Refuses what is said of one mission, and everything that is said together with it."""

    def emit_all(self, events: Sequence[Said]) -> None:
        if any(said.payload["mission_id"] == "bad" for said in events):
            raise StarloomError("422: it does not like this", code="prefect-refused")
        super().emit_all(events)


class Dying(Listener):
    """Takes its relay with it when it is told something, as kill -9 does: nothing is given back."""

    def emit_all(self, events: Sequence[Said]) -> None:
        super().emit_all(events)
        raise SystemExit


def add_missions(archive: Archive, *names: str, status: str = "COMPLETE") -> None:
    with archive.transaction() as session:
        session.add_all(Mission(id=name, status=status) for name in names)


def test_the_end_of_a_mission_is_news_told_once(archive: Archive, mission: str, settings: Settings) -> None:
    with archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET failure_code = 'no-usable-frames'"))
    set_status(archive, mission, "FAILED")
    event = newest_event(archive).id
    with Listener() as api:
        for _ in range(2):
            assert Relay(settings, archive, api).once() == 0
    said = {"mission_id": mission, "event_id": event, "code": "no-usable-frames", "hint": None}
    assert api.heard == [("starloom.mission.failed", said)]


def test_news_that_come_while_others_are_told_are_told_too(
    archive: Archive, mission: str, settings: Settings
) -> None:
    class Slow(Listener):
        def emit_all(self, events: Sequence[Said]) -> None:
            super().emit_all(events)
            if len(self.heard) == 1:
                add_missions(archive, "second", status="FAILED")

    set_status(archive, mission, "FAILED")
    with Slow() as api:
        Relay(settings, archive, api).once()
        Relay(settings, archive, api).once()
    assert [said["mission_id"] for _, said in api.heard] == [mission, "second"]


@pytest.mark.parametrize("status", ["COMPLETE", "FAILED"])
def test_what_prefect_refuses_keeps_nothing_else_waiting(
    archive: Archive, settings: Settings, status: str
) -> None:
    add_missions(archive, "a", "bad", "b", status=status)
    with Picky() as api:
        Relay(settings, archive, api).once()
    assert [said["mission_id"] for _, said in api.heard] == ["a", "b"]
    with archive.session() as session:
        refused = session.exec(select(StatusEvent).where(StatusEvent.mission_id == "bad")).one()
    assert "does not like this" in (refused.note or "")
    # An event that asks for work stays open and is tried again; news are not worth that.
    assert refused.state == ("open" if status == "COMPLETE" else "superseded")


def test_an_event_taken_by_a_relay_that_was_killed_comes_again_soon(
    archive: Archive, mission: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_status(archive, mission)
    with Dying() as api, pytest.raises(SystemExit):
        Relay(settings, archive, api).once()
    event = newest_event(archive)
    assert event.next_publish_at is not None
    assert event.publish_attempts == 0
    assert (event.next_publish_at - datetime.now(UTC)).total_seconds() <= relaying.TELL_S
    with Listener() as second:
        assert Relay(settings, archive, second).once() == 0  # not at once: it may only be slow
        with archive.transaction() as session:
            session.connection().execute(text("UPDATE status_event SET next_publish_at = created_at"))
        assert Relay(settings, archive, second).once() == 1
    assert second.heard == api.heard  # the same event again, under the same id


def test_events_of_a_page_are_published_together_up_to_the_cap(archive: Archive, settings: Settings) -> None:
    add_missions(archive, *(f"m{i}" for i in range(7)))
    few = settings.model_copy(update={"max_outstanding_runs": 5})
    with Listener() as api:
        relay = Relay(few, archive, api)
        # Told events count although their runs are not there yet, and so do missions that are held.
        assert [relay.once(), relay.once()] == [5, 0]
        for _, said in api.heard[:2]:
            claims.claim(archive, said["mission_id"], said["event_id"], f"run of {said['mission_id']}", 60)
        assert relay.once() == 0
        with archive.transaction() as session:
            session.connection().execute(text("UPDATE revision SET lease_until = claimed_at"))
        assert relay.once() == 2
    assert len({said["mission_id"] for _, said in api.heard}) == 7


def test_an_event_in_vain_five_times_is_told_to_people(archive: Archive, mission: str, settings: Settings) -> None:
    set_status(archive, mission)
    with Listener() as api:
        for _ in range(relaying.WORRY_AFTER + 1):
            assert Relay(settings, archive, api).once() == 1
            with archive.transaction() as session:
                session.connection().execute(text("UPDATE status_event SET next_publish_at = created_at"))
    assert [event for event, _ in api.heard] == [relaying.EVENT] * 2 + ["starloom.mission.unclaimed"]
    assert len({key for key, _ in api.made}) == len(api.made) == relaying.WORRY_AFTER - 1


def test_a_silent_holder_is_replaced_without_any_run_of_sweep(
    archive: Archive, mission: str, settings: Settings
) -> None:
    set_status(archive, mission)
    claims.claim(archive, mission, newest_event(archive).id or 0, "dead", -1)
    ended = threading.Event()
    quick = settings.model_copy(update={"relay_poll_s": 0.02})
    with Listener() as api:
        worker = threading.Thread(target=Relay(quick, archive, api).run, args=(ended,))
        worker.start()
        deadline = time.monotonic() + 20
        while not api.heard and time.monotonic() < deadline:
            time.sleep(0.02)
        ended.set()
        worker.join(20)
    assert [said["event_id"] for _, said in api.heard] == [newest_event(archive).id]


def test_alarms_are_told_once(archive: Archive, mission: str, settings: Settings) -> None:
    with archive.transaction() as session:
        frame = Frame(name="f", node_id="T1", obs_req=mission)
        session.add(frame)
        session.flush()
        error = {"code": "lake-unavailable", "message": "silent"}
        dispositions.park(session, frame.id, error, 0.0, budget=1)
        session.add(RawCheck(key="raw/a", state="mismatch", alert=True))
    with Listener() as api:
        for _ in range(2):
            Relay(settings, archive, api)._tell_alarms()
    assert [event for event, _ in api.heard] == ["starloom.frame.retries-spent", "starloom.lake.damaged"]
    assert api.heard[0][1]["step"] == "ingest"


def test_health_says_what_the_loop_does_and_how_long_events_wait(
    archive: Archive, mission: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_status(archive, mission)
    with Listener() as api:
        relay = Relay(settings, archive, api)
        watched = health.Health(relay.health)
        port = watched.serve("127.0.0.1", 0)
        other = health.Health(relay.health)
        assert other.serve("127.0.0.1", port) == 0  # a second relay does without
        other.close()
        url = f"http://127.0.0.1:{port}/health"
        watched.heard("")
        said = httpx.get(url, trust_env=False)
        assert (said.status_code, said.json()["trouble"]) == (200, "")
        assert said.json()["oldest_open_event"] == newest_event(archive).id
        assert said.json()["newest_claim_s"] is None
        monkeypatch.setattr(health, "STALE_S", 0.0)
        watched.heard("Prefect is down")
        said = httpx.get(url, trust_env=False)
        assert (said.status_code, said.json()["trouble"]) == (503, "Prefect is down")
        assert httpx.get(url + "y", trust_env=False).status_code == 404
        watched.close()


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
def test_no_more_runs_than_the_cap_wait_at_once(archive: Archive, mission: str, make_relay: MakeRelay) -> None:
    set_status(archive, mission)
    assert make_relay(max_outstanding_runs=0).once() == 0
    assert newest_event(archive).publish_attempts == 0
    assert make_relay(max_outstanding_runs=10_000).once() == 1


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

    def emit_all(self, events: Sequence[Said]) -> None:
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
    archive = Archive(postgres_url)
    archive.migrate()
    add = text("INSERT INTO mission SELECT (jsonb_populate_record(null::mission, :row)).*")
    row = {"id": "pg", "status": "OPEN", "title": "", "parameters": {}, "created_at": "2026-01-01T00:00:00Z"}
    row["status_changed_at"] = row["created_at"]
    with archive.transaction() as session:
        session.connection().execute(add, {"row": json.dumps(row)})
    ended = threading.Event()
    slow_to_look = Settings(home=tmp_path, relay_poll_s=60.0)
    with Listener() as api:
        worker = threading.Thread(target=Relay(slow_to_look, archive, api).run, args=(ended,))
        worker.start()
        try:
            time.sleep(2.0)  # it has looked, and sleeps
            began = time.monotonic()
            set_status(archive, "pg")
            while not api.heard:
                assert time.monotonic() - began < 20
                time.sleep(0.05)
            assert [event for event, _ in api.heard] == [relaying.EVENT]
        finally:
            ended.set()
            worker.join(10)
    assert not worker.is_alive()
    archive.dispose()
