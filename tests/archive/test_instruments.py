"""Lessons of instruments: when there is enough to learn from, and that one model is current."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from starloom.archive import Archive, instruments
from starloom.archive.models import Frame, Instrument, Node, Solution

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)


@pytest.fixture
def two(archive: Archive) -> Archive:
    """An archive with two instruments of one node."""
    with archive.transaction() as session:
        session.add(Node(id="T42"))
        session.flush()
        session.add_all([Instrument(id=1, node_id="T42", camera="a"), Instrument(id=2, node_id="T42", camera="b")])
    return archive


def solve(archive: Archive, instrument_id: int, count: int, *, first: int = 0, **values: Any) -> None:
    """Add frames of an instrument with a current solution each."""
    with archive.transaction() as session:
        for i in range(first, first + count):
            frame = Frame(
                name=f"f{i}", node_id="T42", instrument_id=instrument_id, start_utc=START + timedelta(minutes=i)
            )
            session.add(frame)
            session.flush()
            said: dict[str, Any] = {"distortion": {"n": i}, "offset_ra_deg": 0.1, "offset_dec_deg": -0.2} | values
            session.add(
                Solution(
                    frame_id=frame.id, solver="seiza", catalog="Tycho-2", code_version="1", ra_deg=1, dec_deg=2,
                    scale_arcsec=2.5, rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, matches=20, order=1,
                    **said,
                )
            )  # fmt: skip


def due(archive: Archive) -> list[int]:
    with archive.session() as session:
        return instruments.with_more_to_learn(session)


def lesson(archive: Archive, instrument_id: int, model: dict[str, Any] | None = None, n_frames: int = 5) -> int:
    with archive.transaction() as session:
        newest = max(s.id or 0 for s in instruments.solutions_of(session, instrument_id))
        row = instruments.publish_lesson(
            session, instrument_id, model, newest_solution=newest, n_frames=n_frames, code_version="1"
        )
        assert row.id is not None
        return row.id


def test_a_first_lesson_takes_five_frames_and_later_ones_a_fifth_more(two: Archive) -> None:
    solve(two, 1, 4)
    solve(two, 2, 5)
    assert due(two) == [2]
    solve(two, 1, 1, first=4)
    assert due(two) == [1, 2]
    lesson(two, 1, {"k": 1})
    lesson(two, 2, {"k": 1}, n_frames=100)
    assert due(two) == []
    solve(two, 1, 5, first=5)
    solve(two, 2, 19, first=5)
    assert due(two) == [1]
    solve(two, 2, 1, first=24)
    assert due(two) == [1, 2]


def test_one_model_is_current_and_the_earlier_ones_stay(two: Archive) -> None:
    solve(two, 1, 5)
    first = lesson(two, 1, {"k": 1})
    second = lesson(two, 1, {"k": 2})
    with two.session() as session:
        now = instruments.learnt(session, 1)
        assert now is not None
        assert (now.id, now.model["k"]) == (second, 2)
        assert instruments.learnt(session, 2) is None
        assert instruments.learnt(session, None) is None
    assert first != second


def test_a_lesson_without_a_result_takes_no_model_away_and_is_not_repeated(two: Archive) -> None:
    solve(two, 1, 5)
    lesson(two, 1, None)
    assert due(two) == []
    with two.session() as session:
        assert instruments.learnt(session, 1) is None
    solve(two, 1, 5, first=5)
    model = lesson(two, 1, {"k": 1})
    solve(two, 1, 5, first=10)
    assert due(two) == [1]
    assert lesson(two, 1, None) == model
    assert due(two) == []
    with two.session() as session:
        now = instruments.learnt(session, 1)
        assert now is not None
        assert (now.model["k"], now.n_frames) == (1, 5)


def test_samples_carry_the_mounts_offset_and_the_newest_come(two: Archive) -> None:
    solve(two, 1, 6)
    solve(two, 1, 1, first=6, offset_ra_deg=None)
    solve(two, 1, 1, first=7, distortion=None)  # it tells of the mount only, which is no sample
    with two.session() as session:
        found = instruments.solutions_of(session, 1, limit=4)
        assert instruments.samples_of(found) == [
            {"n": 4, "offset_deg": [0.1, -0.2]},
            {"n": 5, "offset_deg": [0.1, -0.2]},
            {"n": 6, "offset_deg": None},
        ]
