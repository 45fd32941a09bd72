"""What ``starloom status`` says is stuck: what, since when, why, and what will happen to it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import Archive, claims, dispositions, frames
from starloom.archive.models import Frame, Mission, RawCheck, StatusEvent
from starloom.dispatch.overview import overview
from starloom.dispatch.stuck import stuck
from starloom.settings import Settings


def rows(archive: Archive, *, relay_alive: bool = True) -> dict[str, dict[str, Any]]:
    with archive.session() as session:
        return {row["what"]: row for row in stuck(session, relay_alive=relay_alive)}


def event_of(archive: Archive, mission: str) -> int:
    with archive.session() as session:
        return session.exec(select(StatusEvent.id).where(StatusEvent.mission_id == mission)).one() or 0


def test_nothing_is_stuck_in_a_hub_at_rest(archive: Archive, mission: str) -> None:
    assert rows(archive) == {}


def test_a_mission_that_waits_says_for_what_and_what_comes_next(archive: Archive) -> None:
    with archive.transaction() as session:
        session.add(Mission(id="m", status="COMPLETE"))
    row = rows(archive)["mission to stack"]
    assert (row["id"], row["why"], row["when"]) == ("m", "nobody has looked at it yet", None)
    assert row["next"] == "attempt 1: its event is published"
    assert "starloom up" in rows(archive, relay_alive=False)["mission to stack"]["next"]
    with archive.transaction() as session:
        event = session.exec(select(StatusEvent)).one()
        event.publish_attempts, event.note = 2, "event published, attempt 2"
    row = rows(archive)["mission to stack"]
    assert (row["why"], row["next"]) == ("event published, attempt 2", "attempt 3: a run is created")


def test_a_mission_in_hand_says_by_whom_and_until_when(archive: Archive) -> None:
    for name, lease_s in (("alive", 60), ("silent", -1)):
        with archive.transaction() as session:
            session.add(Mission(id=name, status="COMPLETE"))
        claims.claim(archive, name, event_of(archive, name), f"run of {name}", lease_s)
    with archive.transaction() as session:
        session.add(Mission(id="ownerless", status="STACKING"))
    with archive.session() as session:
        told = {row["id"]: row for row in stuck(session, relay_alive=True)}
    assert told["alive"]["why"] == "r1 epoch 1, claimed by run of alive works on it"
    assert told["alive"]["when"] is not None
    assert told["silent"]["why"].endswith("fell silent")
    assert told["silent"]["next"] == "the relay gives the mission back"
    assert told["ownerless"]["why"] == "nobody holds it"


def test_what_needs_a_person_says_so(archive: Archive) -> None:
    with archive.transaction() as session:
        session.add(Mission(id="f", status="FAILED", failure_code="object-missing", failure_hint="Make it again."))
        session.add(
            RawCheck(key="raw/x", state="ok", copy_state="mismatch", detail="object: ok; second copy: mismatch")
        )
    told = rows(archive)
    assert told["failed mission"]["why"] == "object-missing: Make it again."
    assert told["failed mission"]["next"] == "nothing by itself: mend it, then `starloom mission restack f`"
    assert told["raw object"]["why"] == "object: ok; second copy: mismatch"


def test_a_mission_without_frames_opens_again_by_itself_and_that_is_said(archive: Archive) -> None:
    with archive.transaction() as session:
        session.add(Mission(id="f", status="FAILED", failure_code="no-usable-frames", failure_hint="Send some."))
    assert (
        rows(archive)["failed mission"]["next"] == "`sweep` opens it again once a frame is READY and all is quiet"
    )


def test_frames_are_counted_by_step_and_reason(archive: Archive, mission: str) -> None:
    silent = {"code": "lake-unavailable", "message": "silent"}
    with archive.transaction() as session:
        some = [Frame(name=f"f{i}", node_id="T1", obs_req=mission) for i in range(4)]
        session.add_all(some)
        session.flush()
        for frame in some[:2]:
            dispositions.park(session, frame.id, silent, 60.0, budget=12)
        dispositions.park(session, some[2].id, silent, 60.0, budget=1)
        assert frames.claim_step(session, some[3].id, "ingest")
    with archive.session() as session:
        told = {row["why"]: row for row in stuck(session, relay_alive=True)}
    assert told["ingest: lake-unavailable"]["id"] == "2 frames"
    assert told["ingest: lake-unavailable"]["when"] is not None
    assert told["ingest: in hand"]["id"] == "1 frame"
    spent = told["retries-spent"]
    assert (spent["what"], spent["id"], spent["when"]) == ("frames set aside", "1 frame", None)
    assert "requeue --where disposition_code=retries-spent" in spent["next"]


def test_the_overview_holds_what_is_stuck_and_how_many_runs_came_for_nothing(
    archive: Archive, settings: Settings
) -> None:
    with archive.transaction() as session:
        session.add(Mission(id="m", status="COMPLETE"))
    event = event_of(archive, "m")
    claims.claim(archive, "m", event, "first", 60)
    for _ in range(2):
        with pytest.raises(claims.AlreadyClaimed, match="held by first"):
            claims.claim(archive, "m", event, "second", 60)
    seen = overview(settings)
    assert [row["what"] for row in seen["stuck"]] == ["stack"]
    assert seen["counts"] == [{"what": "runs of the last day that found their mission taken", "count": 2}]
