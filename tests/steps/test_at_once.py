"""Several runs on the same frames at once, on PostgreSQL, where nothing but our own locks keeps them apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import frames as rows
from starloom.archive.models import Photometry, Solution
from starloom.frames import step as ingest

pytestmark = pytest.mark.postgres


def test_runs_that_take_the_same_frames_leave_one_result_of_each(postgres_station: Any, frames: Any) -> None:
    station = postgres_station
    station.create()
    paths = [frames(n) for n in (1, 2)]
    for path in paths:
        station.send(path)
        station.send(path, day="20261010")  # the same pixels twice: one of each pair is a duplicate
    with ThreadPoolExecutor(3) as pool:
        seen = list(pool.map(lambda _: station.discover(), range(3)))
    ids = sorted(frame_id for found in seen for frame_id in found)
    assert len(ids) == len(set(ids)) == 4
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: station.process(ids), range(3)))
    station.process(ids)
    states = sorted(rows.state_of(station.frame(frame_id)) for frame_id in ids)
    assert states == ["duplicate", "duplicate", "ready", "ready"]
    with station.hub.archive.session() as session:
        for table in (Solution, Photometry):
            found = session.exec(select(table.frame_id)).all()  # type: ignore[attr-defined]
            assert len(found) == len(set(found)) == 2
    assert station.inbox() == []
    for path in paths:
        told = station.receipt(path.name)
        assert told["settled"]
        assert "ready" in (told["state"], told.get("original", {}).get("state"))


def test_two_frames_that_want_one_name_at_once_are_told_apart(postgres_station: Any, frames: Any) -> None:
    station = postgres_station
    station.create()
    name = frames(1).name
    for n in range(1, 5):
        station.send(frames(n), name=name, day=f"2026100{n}")
    ids = station.discover()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda frame_id: ingest.run(station.hub, frame_id), ids))
    codes = sorted(station.frame(frame_id).disposition_code or "" for frame_id in ids)
    assert codes == ["", "name-conflict", "name-conflict", "name-conflict"]
