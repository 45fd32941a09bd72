"""Status events on both databases: what is due, what is spent, who takes an attempt, what nobody announced."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlmodel import select

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
        return [mission.id for _, mission in events.due_events(session, limit)]


def test_events_that_wait_hide_no_new_one(archive: Archive) -> None:
    for i in range(3):
        add(archive, f"m{i}")
    with archive.transaction() as session:
        for event, mission in events.open_events(session):
            if mission.id != "m2":
                events.postpone(session, event.id or 0, 60.0, "it waits")
    assert due(archive, limit=1) == ["m2"]
    with archive.transaction() as session:
        session.connection().execute(text("UPDATE status_event SET next_publish_at = created_at"))
    assert set(due(archive)) == {"m0", "m1", "m2"}


def test_an_attempt_is_taken_once(archive: Archive) -> None:
    event = add(archive, "m")
    start = threading.Barrier(4)

    def take(_: int) -> bool:
        start.wait()
        with archive.transaction() as session:
            return events.take_attempt(session, event, 1, 60.0, "published")

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4))) == [False, False, False, True]
    assert newest(archive).publish_attempts == 1
    assert due(archive) == []
    with archive.transaction() as session:
        events.give_attempt_back(session, event, 1, 0.0, "Prefect is down")
        events.give_attempt_back(session, event, 1, 0.0, "a second time changes nothing")
    assert (newest(archive).publish_attempts, newest(archive).note) == (0, "Prefect is down")
    with archive.transaction() as session:
        assert not events.take_attempt(session, event, 2, 60.0, "out of turn")
        assert events.take_attempt(session, event, 1, 60.0, "published")


def test_nobody_takes_an_attempt_at_an_event_that_is_claimed(archive: Archive) -> None:
    event = add(archive, "m")
    claims.claim(archive, "m", event, "me", 60)
    with archive.transaction() as session:
        assert not events.take_attempt(session, event, 1, 60.0, "late")
        events.postpone(session, event, 60.0, "late")
        assert events.is_held(session, "m")
    with archive.session() as session:
        claimed = session.get(StatusEvent, event)
    assert claimed is not None
    assert (claimed.state, claimed.note) == ("claimed", None)


@pytest.mark.parametrize("status", ["OPEN", "CANCELLED", "FAILED", "STACKED"])
def test_whatever_a_mission_becomes_its_older_wish_is_spent(archive: Archive, status: str) -> None:
    first = add(archive, "m")
    set_status(archive, "m", status)
    with archive.session() as session:
        assert set(events.spent_events(session)) == {first, newest(archive).id}
        assert [event.new_status for event, _ in events.news(session)] == [s for s in [status] if s != "OPEN"]
    again = set_status(archive, "m", "COMPLETE")
    with archive.transaction() as session:
        assert events.supersede_spent(session) == 2
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
        session.connection().execute(text("UPDATE status_event SET state = 'superseded'"))
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
