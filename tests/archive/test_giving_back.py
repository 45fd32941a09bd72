"""Leases and failures on both databases: who is taken over, how often a mission is tried, how long it pauses."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlmodel import select

from starloom.archive import Archive, claims, giving_back
from starloom.archive.giving_back import Budget
from starloom.archive.models import Mission, Revision, StatusEvent
from starloom.errors import Unavailable
from tests.archive.test_claims import add_mission, add_ready_frame, events, product, set_status

OUTAGE = {"code": "lake-unavailable", "message": "silent", "retryable": True}
BUG = {"code": "unexpected", "message": "KeyError: 'x'", "retryable": False}


def mission(archive: Archive) -> Mission:
    with archive.session() as session:
        found = session.get(Mission, "550")
    assert found is not None
    return found


def newest(archive: Archive) -> StatusEvent:
    return events(archive)[-1]


def pause(archive: Archive) -> int | None:
    """Return how long the newest event is not to be looked at, seconds."""
    again = newest(archive).next_publish_at
    return None if again is None else round((again - datetime.now(UTC)).total_seconds())


def claim(archive: Archive, lease_s: float = 60) -> claims.Claim:
    return claims.claim(archive, "550", newest(archive).id or 0, "run", lease_s)


def fail(archive: Archive, error: dict[str, object], *, fatal: bool = False) -> None:
    giving_back.fail(archive, claim(archive), error, fatal=fatal, budget=Budget())


def test_an_outage_is_waited_for_longer_each_time_and_for_hours(archive: Archive) -> None:
    add_mission(archive)
    set_status(archive, "550", "COMPLETE")
    pauses = []
    for _ in range(Budget().retries - 1):
        fail(archive, OUTAGE)
        assert mission(archive).status == "COMPLETE"
        pauses.append(pause(archive))
    assert pauses[:4] == pytest.approx([30, 60, 120, 240], abs=3)
    assert pauses[-1] == pytest.approx(3600, abs=3)
    assert newest(archive).note == "attempt 11 of 12 failed: lake-unavailable"
    fail(archive, OUTAGE)
    assert (mission(archive).status, mission(archive).failure_code) == ("FAILED", "lake-unavailable")
    assert "After 12 attempts" in (mission(archive).failure_hint or "")


def test_an_error_nobody_foresaw_is_tried_a_few_times(archive: Archive) -> None:
    add_mission(archive)
    set_status(archive, "550", "COMPLETE")
    fail(archive, BUG)
    fail(archive, OUTAGE)
    fail(archive, BUG)
    assert mission(archive).status == "COMPLETE"
    fail(archive, BUG)
    assert (mission(archive).status, mission(archive).failure_code) == ("FAILED", "unexpected")
    # Mended, and asked for again: the old failures are not held against it.
    set_status(archive, "550", "COMPLETE")
    fail(archive, BUG)
    assert mission(archive).status == "COMPLETE"


def test_a_fatal_error_is_told_at_once(archive: Archive) -> None:
    add_mission(archive)
    set_status(archive, "550", "COMPLETE")
    fail(archive, {"code": "no-usable-frames", "hint": "Send better ones."}, fatal=True)
    assert (mission(archive).status, mission(archive).failure_hint) == ("FAILED", "Send better ones.")


def test_holders_that_die_are_replaced_at_once_then_later_then_no_more(archive: Archive) -> None:
    add_mission(archive)
    set_status(archive, "550", "COMPLETE")
    pauses = []
    for _ in range(5):
        claim(archive, lease_s=-1)
        assert giving_back.expire_leases(archive, Budget(retries=6)) == ["550"]
        assert giving_back.expire_leases(archive, Budget(retries=6)) == []
        pauses.append(pause(archive))
    assert pauses[:2] == [None, None]
    assert pauses[2:] == pytest.approx([30, 60, 120], abs=3)
    claim(archive, lease_s=-1)
    giving_back.expire_leases(archive, Budget(retries=6))
    assert (mission(archive).status, mission(archive).failure_code) == ("FAILED", "lease-expired")
    with archive.session() as session:
        assert {revision.epoch for revision in session.exec(select(Revision)).all()} == set(range(1, 7))


def test_a_claim_asked_for_again_with_its_token_is_the_same(archive: Archive) -> None:
    """The database committed, and its answer was lost on the way."""
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    first = claims.claim(archive, "550", event, "run", 60, token="mine")
    assert claims.claim(archive, "550", event, "run", 60, token="mine") == first
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(archive, "550", event, "another run", 60, token="yours")
    with archive.session() as session:
        assert session.exec(select(StatusEvent.surplus_runs).where(StatusEvent.id == event)).one() == 1


def test_publishing_and_settling_twice_is_no_harm(archive: Archive) -> None:
    add_mission(archive)
    add_ready_frame(archive, "first")
    set_status(archive, "550", "COMPLETE")
    held = claim(archive)
    claims.bind(archive, held, {}, 1)
    for _ in range(2):
        claims.publish(archive, held, [product()], [], {})
    set_status(archive, "550", "COMPLETE")
    again = claim(archive)
    claims.bind(archive, again, {}, 1)
    assert claims.settle_unchanged(archive, again)
    assert claims.settle_unchanged(archive, again)
    assert mission(archive).status == "STACKED"
    with archive.session() as session:
        assert [r.status for r in session.exec(select(Revision).order_by(Revision.epoch)).all()] == [
            "published",
            "unchanged",
        ]


def test_a_row_that_somebody_has_locked_keeps_no_other_mission_waiting(archive: Archive) -> None:
    for name in ("550", "551"):
        add_mission(archive, name, "COMPLETE")
        claims.claim(archive, name, newest(archive).id or 0, "run", -1)
    if archive.is_sqlite:
        return  # one lock for everything: a forgotten transaction there is answered by the busy time-out
    with archive.engine.connect() as forgotten:
        forgotten.execute(text("SELECT * FROM mission WHERE id = '550' FOR UPDATE"))
        assert giving_back.expire_leases(archive, Budget()) == ["551"]
        forgotten.rollback()
    assert giving_back.expire_leases(archive, Budget()) == ["550"]


def test_a_holder_stopped_inside_a_transaction_loses_its_locks(archive: Archive) -> None:
    """SIGSTOP, or a host without power: the server ends the session, and says so as an outage."""
    if archive.is_sqlite:
        return  # one host: whoever holds the lock is a process that can be ended

    def stopped() -> None:
        with archive.transaction() as session:
            session.connection().execute(text("SET idle_in_transaction_session_timeout = '50ms'"))
            session.connection().execute(text("SELECT * FROM mission FOR UPDATE"))
            time.sleep(0.5)
            session.connection().execute(text("SELECT 1"))

    with pytest.raises(Unavailable):
        stopped()
    with archive.session() as session:
        shown = session.connection().execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert shown == "20s"
