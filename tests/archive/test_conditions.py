"""Conditions, and what measures them, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from starloom import watching
from starloom.archive import Archive, conditions, missions
from starloom.archive.conditions import Measured
from starloom.archive.models import Condition, Frame
from starloom.settings import Settings


def note(archive: Archive, value: float, limit: float = 1.0, clear: float = 1.0) -> None:
    with archive.transaction() as session:
        conditions.note(session, "k", [Measured("k", "s", value, limit, clear, "bad", "good")])


def untold(archive: Archive) -> list[Condition]:
    with archive.session() as session:
        return list(conditions.untold(session))


def test_what_begins_again_before_its_end_was_told_goes_on(archive: Archive) -> None:
    note(archive, 2.0)
    (begun,) = untold(archive)
    with archive.transaction() as session:
        conditions.note_told(session, begun)
    assert untold(archive) == []
    note(archive, 0.0)
    (ended,) = untold(archive)
    assert (ended.message, ended.ended_at is None) == ("good", False)
    note(archive, 3.0)
    assert untold(archive) == []
    with archive.transaction() as session:
        conditions.note_told(session, ended)  # by a sweep that read it before: the row has changed, and stays
    with archive.session() as session:
        assert [row.value for row in conditions.lasting(session)] == [3.0]


def test_between_clear_and_limit_it_stays_as_it_was(archive: Archive) -> None:
    note(archive, 0.95, clear=0.9)
    assert untold(archive) == []
    note(archive, 1.0, clear=0.9)
    note(archive, 0.95, clear=0.9)
    (row,) = untold(archive)
    assert (row.value, row.ended_at) == (0.95, None)


def test_every_measure_is_taken(archive: Archive, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with archive.transaction() as session:
        missions.register_node(session, "T1")
        for n in range(10):
            received = now - timedelta(hours=n)
            session.add(
                Frame(
                    name=str(n),
                    node_id="T1",
                    received_at=received,
                    disposition="quarantined" if n < 4 else "active",
                    next_attempt_at=now,
                )
            )
    settings = Settings(home=tmp_path)
    with archive.session() as session:
        found = {
            (item.kind, item.subject): item.value
            for measure in watching.MEASURES.values()
            for item in measure(session, settings)
        }
    assert abs(found.pop(("node-silent", "T1"))) < 0.1
    assert abs(found.pop(("queue-filling", "oldest-frame")) - 9.0) < 0.1
    assert 0.0 < found.pop(("disk-filling", "home")) < 1.0
    assert found == {
        ("frames-quarantined", "T1"): 0.4,
        ("queue-filling", "frames"): 6.0,
        ("queue-filling", "missions"): 0.0,
    }
