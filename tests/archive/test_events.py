"""Status events on both databases: what is due, what is spent, who takes an attempt, what nobody announced."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlmodel import Session, select

from starloom.archive import Archive, claims, events
from starloom.archive.models import Mission, StatusEvent


def add(archive: Archive, mission: str, status: str = "COMPLETE") -> int:
    with archive.transaction() as session:
        session.add(Mission(id=mission, status=status))
    return newest(archive).id or 0


def set_status(archive: Archive, mission: str, status: str) -> int:
    with archive.transaction() as session:
        statement = text("UPDATE mission SET status = :s WHERE id = :i")
        session.connection().execute(statement, {"s": status, "i": mission})
    return newest(archive).id or 0


def newest(archive: Archive) -> StatusEvent:
    with archive.session() as session:
        found = session.exec(select(StatusEvent).order_by(StatusEvent.id.desc())).first()  # type: ignore[union-attr]
    assert found is not None
    return found


def due(archive: Archive, limit: int = 500) -> list[str]:
    with archive.session() as session:
        return [event.mission_id for event in events.due_events(session, limit)]


def test_events_that_wait_hide_no_new_one(archive: Archive) -> None:
    for i in range(3):
        add(archive, f"m{i}")
    with archive.transaction() as session:
        waiting = {event.id or 0: "it waits" for event, m in events.open_events(session) if m.id != "m2"}
        events.postpone(session, waiting, 60.0)
    assert due(archive, limit=1) == ["m2"]
    with archive.transaction() as session:
        session.connection().execute(text("UPDATE status_event SET next_publish_at = created_at"))
    assert set(due(archive)) == {"m0", "m1", "m2"}


def told(session: Session, taken: dict[int, int], wait_s: float = 60.0) -> None:
    events.attempts_told(session, taken, lambda _: wait_s, lambda attempt: f"published, attempt {attempt}")


def test_an_attempt_is_taken_once_and_counts_when_it_was_told(archive: Archive) -> None:
    event = add(archive, "m")
    start = threading.Barrier(4)

    def take(_: int) -> dict[int, int]:
        start.wait()
        with archive.transaction() as session:
            return events.take_attempts(session, [event], 60.0)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(map(len, pool.map(take, range(4)))) == [0, 0, 0, 1]
    assert (newest(archive).publish_attempts, newest(archive).note) == (0, "telling Prefect")
    assert due(archive) == []
    with archive.transaction() as session:
        told(session, {event: 1})
        told(session, {event: 1})  # by a relay that was slow: counted once
    assert (newest(archive).publish_attempts, newest(archive).note) == (1, "published, attempt 1")
    assert newest(archive).published_at is not None
    assert due(archive) == []


def test_an_attempt_whose_relay_died_comes_again_under_its_number(archive: Archive) -> None:
    event = add(archive, "m")
    with archive.transaction() as session:
        assert events.take_attempts(session, [event], 0.0) == {event: 1}
    assert due(archive) == ["m"]
    with archive.transaction() as session:
        assert events.take_attempts(session, [event], 0.0) == {event: 1}
        events.give_attempts_back(session, {event: 1}, 0.0, "Prefect is down")
    assert (newest(archive).publish_attempts, newest(archive).note) == (0, "Prefect is down")
    with archive.transaction() as session:
        told(session, events.take_attempts(session, [event], 60.0), wait_s=0.0)
        events.give_attempts_back(session, {event: 1}, 0.0, "too late: somebody has told it")
        assert events.take_attempts(session, [event], 60.0) == {event: 2}


def test_attempts_of_a_page_are_taken_together_and_those_of_others_left(archive: Archive) -> None:
    ids = [add(archive, f"m{i}") for i in range(4)]
    with archive.transaction() as session:
        assert events.take_attempts(session, ids[:2], 60.0) == dict.fromkeys(ids[:2], 1)
        assert events.take_attempts(session, ids, 60.0) == dict.fromkeys(ids[2:], 1)
        assert events.take_attempts(session, ids, 60.0) == {}
        assert events.take_attempts(session, [], 60.0) == {}


def test_nobody_takes_an_attempt_at_an_event_that_is_claimed(archive: Archive) -> None:
    event = add(archive, "m")
    with archive.transaction() as session:
        taken = events.take_attempts(session, [event], 60.0)
    claims.claim(archive, "m", event, "me", 60)  # its run was quicker than the relay's last word
    with archive.transaction() as session:
        assert events.take_attempts(session, [event], 60.0) == {}
        events.postpone(session, {event: "late"}, 60.0)
        assert events.held_missions(session, ["m", "other"]) == {"m"}
        assert events.holders(session) == {"me"}
        told(session, taken)
        assert events.awaited(session) == set()
    with archive.session() as session:
        claimed = session.get(StatusEvent, event)
    assert claimed is not None
    assert (claimed.state, claimed.publish_attempts) == ("claimed", 1)


def test_only_what_asks_for_work_is_due(archive: Archive) -> None:
    add(archive, "m")
    again = set_status(archive, "m", "OPEN") + 1
    assert set_status(archive, "m", "COMPLETE") == again
    for i, status in enumerate(("STACKING", "STACKED", "FAILED", "CANCELLED")):
        set_status(archive, "m", "OPEN")
        add(archive, f"n{i}", status)
    assert due(archive) == []  # nothing has been closed, and none of these asks for work
    last = set_status(archive, "m", "COMPLETE")
    with archive.session() as session:
        assert [event.id for event in events.due_events(session)] == [last]


@pytest.mark.parametrize("status", ["OPEN", "CANCELLED", "FAILED", "STACKED"])
def test_whatever_a_mission_becomes_its_older_wish_is_spent(archive: Archive, status: str) -> None:
    first = add(archive, "m")
    set_status(archive, "m", status)
    with archive.session() as session:
        assert [event.new_status for event, _ in events.news(session)] == [s for s in [status] if s != "OPEN"]
        told = [event.id or 0 for event, _ in events.news(session)]
    again = set_status(archive, "m", "COMPLETE")
    with archive.transaction() as session:
        # The first, and OPEN: news stay until they have been told.
        assert events.supersede_spent(session) == 2 - len(told)
        events.close_told(session, [*told, first, again], "told")
        assert [event.id for event, _ in events.open_events(session)] == [again]
        assert events.supersede_spent(session) == 0


def test_complete_by_hand_during_stacking_is_not_spent(archive: Archive) -> None:
    claims.claim(archive, "m", add(archive, "m"), "me", 60)
    by_hand = set_status(archive, "m", "COMPLETE")
    with archive.transaction() as session:
        events.supersede_spent(session)
        assert by_hand in {event.id for event, _ in events.open_events(session)}


def test_what_no_event_announced_is_announced_once(archive: Archive) -> None:
    event = add(archive, "m")
    add(archive, "other", "OPEN")
    with archive.transaction() as session:
        assert events.announce_unheard(session) == []
        assert not events.has_unheard(session)
        session.connection().execute(text("UPDATE status_event SET state = 'superseded'"))
        assert events.has_unheard(session)
        assert events.announce_unheard(session) == ["m"]
        assert events.announce_unheard(session) == []
    found = newest(archive)
    assert (found.mission_id, found.new_status, found.state) == ("m", "COMPLETE", "open")
    assert found.id != event
    claims.claim(archive, "m", found.id or 0, "me", 60)
    with archive.transaction() as session:
        assert events.announce_unheard(session) == []
        session.connection().execute(text("UPDATE revision SET status = 'expired'"))
        assert events.announce_unheard(session) == ["m"]
    assert (newest(archive).old_status, newest(archive).new_status) == ("STACKING", "COMPLETE")
