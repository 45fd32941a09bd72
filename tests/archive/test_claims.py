"""Status events, claims, leases, epochs, bind and publish, on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlmodel import SQLModel, select

from starloom.archive import Archive, claims, giving_back, staleness
from starloom.archive.engine import database_now
from starloom.archive.giving_back import Budget
from starloom.archive.models import (
    Frame,
    Mission,
    Photometry,
    Product,
    Revision,
    RevisionInput,
    Solution,
    StatusEvent,
)
from starloom.errors import Unavailable

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)


def events(archive: Archive) -> list[StatusEvent]:
    with archive.session() as session:
        return list(session.exec(select(StatusEvent).order_by(StatusEvent.id)).all())


def set_status(archive: Archive, mission: str, status: str) -> int:
    """Change the status by plain SQL, as a portal would, and return the newest event's id."""
    with archive.transaction() as session:
        session.connection().execute(
            text("UPDATE mission SET status = :s WHERE id = :i"), {"s": status, "i": mission}
        )
    newest = events(archive)[-1].id
    assert newest is not None
    return newest


def add_mission(archive: Archive, mission: str = "550", status: str = "OPEN") -> None:
    with archive.transaction() as session:
        session.add(Mission(id=mission, status=status, ra_deg=286.04, dec_deg=36.63))


def add_ready_frame(archive: Archive, name: str, mission: str = "550", *, ready: bool = True) -> str:
    with archive.transaction() as session:
        frame = Frame(
            name=name, node_id="T42", obs_req=mission, mission_id=mission, start_utc=START, pixel_digest=name
        )
        frame.ready_at = database_now(session) if ready else None
        session.add(frame)
        session.flush()
        solution = Solution(
            frame_id=frame.id, solver="seiza", catalog="tycho2", code_version="1", ra_deg=1, dec_deg=2,
            scale_arcsec=2.5, rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, matches=20, order=1,
        )  # fmt: skip
        session.add(solution)
        session.flush()
        assert solution.id is not None
        session.add(
            Photometry(
                frame_id=frame.id, solution_id=solution.id, fwhm_px=2, fwhm_arcsec=5, sky_adu=1, sky_sigma_adu=1
            )
        )
        return frame.id


def product(band: str = "R") -> claims.NewProduct:
    return claims.NewProduct(band, 1, f"stacks/550/{band}.fits", None, "0" * 64, 10, None, {})


def test_schema_is_what_the_models_say(archive: Archive) -> None:
    with archive.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def test_sqlite_writes_ahead_and_keeps_foreign_keys(tmp_path: Path) -> None:
    archive = Archive(f"sqlite:///{tmp_path}/a/b.sqlite")
    with archive.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
    archive.dispose()


def test_a_database_that_is_down_is_unavailable_and_keeps_its_password() -> None:
    archive = Archive("postgresql+psycopg://me:hush@127.0.0.1:1/none")
    with pytest.raises(Unavailable) as caught:
        archive.ping()
    assert caught.value.retryable
    assert "hush" not in str(caught.value)


def test_a_real_change_writes_one_event_and_no_change_none(archive: Archive) -> None:
    add_mission(archive)
    assert events(archive) == []
    set_status(archive, "550", "COMPLETE")
    set_status(archive, "550", "COMPLETE")
    assert [(e.old_status, e.new_status, e.state) for e in events(archive)] == [("OPEN", "COMPLETE", "open")]
    add_mission(archive, "551", "COMPLETE")
    newest = events(archive)[-1]
    assert (newest.mission_id, newest.old_status) == ("551", None)
    assert abs(datetime.now(UTC) - newest.created_at) < timedelta(minutes=5)


def test_a_change_rolled_back_leaves_no_event(archive: Archive) -> None:
    add_mission(archive)

    def cut_off() -> None:
        with archive.transaction() as session:
            session.connection().execute(text("UPDATE mission SET status = 'COMPLETE'"))
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert events(archive) == []


def test_the_trigger_survives_being_applied_again(archive: Archive) -> None:
    archive.migrate()
    archive.apply_trigger()
    add_mission(archive)
    set_status(archive, "550", "COMPLETE")
    assert len(events(archive)) == 1


def test_checks_refuse_what_is_no_state_and_no_aware_time(archive: Archive) -> None:
    with pytest.raises(IntegrityError), archive.transaction() as session:
        session.add(Mission(id="1", status="DONE"))
    with pytest.raises(StatementError, match="naive"), archive.transaction() as session:
        session.add(Mission(id="1", embargo_until=datetime(2026, 1, 1)))  # noqa: DTZ001


def test_a_run_that_begins_again_takes_over_from_its_dead_self_at_once(archive: Archive) -> None:
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    dead = claims.claim(archive, "550", event, "run-1", 60)
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(archive, "550", event, "run-2", 60)
    again = claims.claim(archive, "550", event, "run-1", 60)
    assert (again.n, again.epoch) == (dead.n, dead.epoch + 1)
    with pytest.raises(claims.LeaseLost):
        claims.publish(archive, dead, [], [], {})
    claims.publish(archive, again, [product()], [], {})
    with archive.session() as session:
        states = session.exec(select(Revision.status).order_by(Revision.epoch)).all()
        assert states == ["expired", "published"]
        mission = session.get(Mission, "550")
        assert mission is not None
        assert mission.status == "STACKED"


@pytest.mark.parametrize("status", ["CANCELLED", "OPEN", "COMPLETE"])
def test_a_run_that_begins_again_takes_nothing_once_somebody_has_changed_the_mission(
    archive: Archive, status: str
) -> None:
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    claims.claim(archive, "550", event, "run-1", 60)
    set_status(archive, "550", status)
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(archive, "550", event, "run-1", 60)


def test_the_same_pixels_twice_are_refused_while_both_are_active(archive: Archive) -> None:
    add_mission(archive)
    add_ready_frame(archive, "one")
    with pytest.raises(IntegrityError):
        add_ready_frame(archive, "one")


def test_only_one_of_many_claims_at_once(archive: Archive) -> None:
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    won: list[claims.Claim] = []
    lost: list[claims.AlreadyClaimed] = []
    start = threading.Barrier(4)

    def run(i: int) -> None:
        start.wait()
        try:
            won.append(claims.claim(archive, "550", event, f"run-{i}", 60))
        except claims.AlreadyClaimed as error:
            lost.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)
    assert (won[0].n, won[0].epoch) == (1, 1)


def test_bind_publish_and_the_next_revision(archive: Archive) -> None:
    add_mission(archive)
    first = add_ready_frame(archive, "first")
    add_ready_frame(archive, "not ready", ready=False)
    claim = claims.claim(archive, "550", set_status(archive, "550", "COMPLETE"), "a", 60)
    bound = claims.bind(archive, claim, {"kernel": "bilinear"}, 1)
    assert [item.frame.id for item in bound] == [first]
    late = add_ready_frame(archive, "late")
    assert [item.frame.id for item in claims.bind(archive, claim, {}, 2)] == [first]  # bound once, for ever
    outcome = claims.FrameOutcome(first, 1.0, 1.0, 0.0, None)
    claims.publish(archive, claim, [product()], [outcome], {})
    with archive.session() as session:
        mission = session.get(Mission, "550")
        assert mission is not None
        assert mission.status == "STACKED"
        assert len(session.exec(select(Product)).all()) == 1
        assert session.exec(select(RevisionInput)).one().weight == 1.0
        assert [m.id for m in staleness.stale_missions(session, 0.0)] == ["550"]
        assert staleness.stale_missions(session, 3600.0) == []
    again = claims.claim(archive, "550", set_status(archive, "550", "COMPLETE"), "b", 60)
    assert (again.n, again.epoch) == (2, 2)
    assert {item.frame.id for item in claims.bind(archive, again, {}, 1)} == {first, late}


def test_a_silent_holder_is_replaced_and_publishes_nothing(archive: Archive) -> None:
    add_mission(archive)
    add_ready_frame(archive, "first")
    old = claims.claim(archive, "550", set_status(archive, "550", "COMPLETE"), "old", -1)
    claims.bind(archive, old, {}, 1)
    assert giving_back.expire_leases(archive, Budget()) == ["550"]
    event = events(archive)[-1]
    assert (event.old_status, event.new_status, event.state) == ("STACKING", "COMPLETE", "open")
    assert event.id is not None
    new = claims.claim(archive, "550", event.id, "new", 60)
    assert (new.n, new.epoch) == (1, 2)
    with pytest.raises(claims.LeaseLost):
        claims.publish(archive, old, [product()], [], {})
    with pytest.raises(claims.LeaseLost):
        claims.renew(archive, old, 60)
    with archive.session() as session:
        assert session.exec(select(Product)).all() == []
        assert not claims.epoch_is_alive(session, "550", 1, 1)
        assert claims.epoch_is_alive(session, "550", 1, 2)
    claims.bind(archive, new, {}, 1)
    claims.publish(archive, new, [product()], [], {})
    with archive.session() as session:
        published = session.exec(select(Revision).where(Revision.status == "published")).all()
        assert [(r.n, r.epoch) for r in published] == [(1, 2)]


def test_a_renewed_lease_is_not_freed(archive: Archive) -> None:
    add_mission(archive)
    held = claims.claim(archive, "550", set_status(archive, "550", "COMPLETE"), "a", -1)
    claims.renew(archive, held, 60)
    assert giving_back.expire_leases(archive, Budget()) == []


def test_complete_by_hand_during_stacking_asks_for_the_next_revision(archive: Archive) -> None:
    add_mission(archive)
    add_ready_frame(archive, "first")
    claim = claims.claim(archive, "550", set_status(archive, "550", "COMPLETE"), "a", 60)
    claims.bind(archive, claim, {}, 1)
    event = set_status(archive, "550", "COMPLETE")
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(archive, "550", event, "b", 60)
    claims.publish(archive, claim, [product()], [], {})
    assert claims.claim(archive, "550", event, "b", 60).n == 2


def test_failures_are_tried_again_then_told(archive: Archive) -> None:
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    for attempt in range(3):
        claim = claims.claim(archive, "550", event, f"try {attempt}", 60)
        giving_back.fail(archive, claim, {"code": "no-space", "hint": "Free some."}, fatal=False, budget=Budget())
        event = events(archive)[-1].id or 0
    with archive.session() as session:
        mission = session.get(Mission, "550")
        assert mission is not None
        assert (mission.status, mission.failure_code) == ("FAILED", "no-space")
        assert {r.n for r in session.exec(select(Revision)).all()} == {1}


def test_the_same_event_is_claimed_once(archive: Archive) -> None:
    add_mission(archive)
    event = set_status(archive, "550", "COMPLETE")
    claim = claims.claim(archive, "550", event, "a", 60)
    giving_back.fail(archive, claim, {"code": "x"}, fatal=False, budget=Budget())
    with pytest.raises(claims.AlreadyClaimed):
        claims.claim(archive, "550", event, "b", 60)
