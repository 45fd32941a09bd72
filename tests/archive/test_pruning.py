"""What the archive forgets, and what it never does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import SQLModel, select

from starloom.archive import Archive, arrivals, claims, events, missions
from starloom.archive.engine import database_now
from starloom.archive.models import Announcement, Attempt, Frame, Mission, Revision, StatusEvent
from starloom.archive.pruning import prune

OLD_D = 400


def count(archive: Archive, table: type[SQLModel]) -> int:
    with archive.session() as session:
        return len(session.exec(select(table)).all())


def everything_is_old(archive: Archive) -> None:
    with archive.transaction() as session:
        then = database_now(session) - timedelta(days=OLD_D)
        session.exec(update(Announcement).values(arrived_at=then, expires_at=then))
        session.exec(update(Attempt).values(at=then))
        session.exec(update(StatusEvent).values(created_at=then))
        session.exec(update(Mission).values(status_changed_at=then))


@pytest.fixture
def lived(archive: Archive) -> Archive:
    """A mission that was stacked after some to and fro, with a READY frame that had failed, and one that waits."""
    with archive.transaction() as session:
        missions.create_mission(session, "m")
        now = database_now(session)
        for name, ready_at in (("done", now), ("waits", None)):
            frame = Frame(name=name, node_id="T1", obs_req="m", ready_at=ready_at)
            session.add(frame)
            session.flush()
            session.add(Attempt(frame_id=frame.id, step="solve", code="unexpected"))
            arrivals.announce(
                session, node_id="T1", name=name, obs_req="m", size=1, sha256="0" * 64, expires_at=now
            )
    for status in ("COMPLETE", "OPEN", "COMPLETE"):
        with archive.transaction() as session:
            missions.set_status(session, "m", status)
    with archive.transaction() as session:
        events.supersede_spent(session)
    with archive.session() as session:
        [event] = [event for event, _ in events.open_events(session)]
    assert event.id is not None
    claim = claims.claim(archive, "m", event.id, "run", 60.0)
    claims.bind(archive, claim, {}, 1)
    claims.publish(archive, claim, [], [], {})
    with archive.transaction() as session:
        told = [event.id for event, _ in events.news(session) if event.id is not None]
        events.close_told(session, told, "told")
    return archive


def test_what_is_young_stays(lived: Archive) -> None:
    with lived.transaction() as session:
        assert prune(session, OLD_D - 1) == 0


def test_what_is_old_and_of_no_use_goes_and_nothing_else(lived: Archive) -> None:
    everything_is_old(lived)
    with lived.transaction() as session:
        claimed = [event.id for event in session.exec(select(StatusEvent).where(StatusEvent.state == "claimed"))]
        assert prune(session, OLD_D - 1) > 0
    assert count(lived, Announcement) == 0
    with lived.session() as session:
        [attempt] = session.exec(select(Attempt)).all()
        assert session.get(Frame, attempt.frame_id).name == "waits"  # type: ignore[union-attr]
        kept = session.exec(select(StatusEvent)).all()
    assert [event.id for event in kept if event.state == "claimed"] == claimed, "a revision speaks of it"
    assert [event for event in kept if event.state == "superseded"] == []
    assert (count(lived, Frame), count(lived, Revision)) == (2, 1)
    with lived.transaction() as session:
        assert prune(session, OLD_D - 1) == 0, "twice is as once"


def test_events_of_a_mission_that_lives_stay(lived: Archive) -> None:
    everything_is_old(lived)
    before = count(lived, StatusEvent)
    with lived.transaction() as session:
        missions.set_status(session, "m", "COMPLETE")  # changed now
    with lived.transaction() as session:
        prune(session, OLD_D - 1)
    assert count(lived, StatusEvent) == before + 1
