"""Pages of a run's frames: which are drawn, what they show, and that they cost nobody anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from starloom.archive import frames as rows
from starloom.archive.models import Frame
from starloom.errors import Unavailable
from starloom.quicklook import step as quicklook
from starloom.quicklook.page import HEIGHT, WIDTH


def page_of(station: Any, frame: Frame) -> Image.Image:
    assert frame.quicklook_key is not None
    data = station.hub.lake.get_bytes(frame.quicklook_key, max_bytes=1 << 24)
    return Image.open(io.BytesIO(data))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The summaries that pages were drawn with."""
    summaries: list[Any] = []
    draw = quicklook.page

    def listening(data: Any, overlay: Any, summary: Any, **named: Any) -> bytes:
        summaries.append((overlay, summary))
        return draw(data, overlay, summary, **named)

    monkeypatch.setattr(quicklook, "page", listening)
    return summaries


def text_of(summary: Any) -> dict[str, str]:
    return {label: value for _, lines in summary.sections for label, value in lines}


def test_a_solved_frame_shows_its_stars_and_its_numbers(station: Any, frames: Any, told: list[Any]) -> None:
    station.create()
    path = frames(1)
    station.send(path)
    (frame,) = station.process()
    (shown,) = quicklook.of_batch(station.hub, [frame.id])
    assert (shown.node, shown.name, shown.verdict) == ("T42", path.name, "ready")
    assert shown.url.startswith("file://")
    after = station.frame(frame.id)
    assert page_of(station, after).size == (WIDTH, HEIGHT)
    assert (rows.state_of(after), after.version) == ("ready", frame.version)  # a picture is no change of the frame
    ((overlay, summary),) = told
    assert summary.solved
    assert len(overlay.matched) >= 25
    assert overlay.rms_px < 0.3
    text = text_of(summary)
    assert {"hint", "solver", "centre", "rms", "held out", "FWHM", "zero point", "limiting mag", "flags"} <= set(
        text
    )
    assert text["flags"] == "uncalibrated"
    assert "Tycho-2" in text["catalogue"]


def test_an_unsolved_frame_shows_the_reason_and_what_was_tried(station: Any, frames: Any, told: list[Any]) -> None:
    station.create()
    station.send(frames(1, blank=True))
    (frame,) = station.process()
    (shown,) = quicklook.of_batch(station.hub, [frame.id])
    assert shown.verdict == f"solve-failed ({frame.solve_code})"
    ((overlay, summary),) = told
    assert (summary.solved, summary.verdict) == (False, frame.solve_code)
    assert summary.remarks == (frame.last_error["message"], frame.disposition_hint)
    assert overlay.map is None
    assert page_of(station, station.frame(frame.id)).size == (WIDTH, HEIGHT)


def test_a_plane_of_a_mosaic_has_its_own_page(station: Any, mosaic: Path, told: list[Any]) -> None:
    station.create()
    station.send(mosaic)
    (whole,) = station.process()
    ids = rows.plane_ids(whole)
    assert quicklook.of_batch(station.hub, [whole.id]) == []  # the mosaic itself is never solved
    assert len(quicklook.of_batch(station.hub, ids)) == 1  # a sample: one of the four
    ((overlay, summary),) = told
    assert overlay.shape == (480, 600)
    assert summary.title.endswith("(R)")
    assert len(overlay.matched) >= 15


@pytest.fixture
def batch(station: Any, frames: Any) -> list[str]:
    """Three frames that are READY and two that do not solve, of one telescope within minutes."""
    station.create()
    for n in (1, 2, 3):
        station.send(frames(n))
    for n in (4, 5):
        station.send(frames(n, blank=True))
    return [frame.id for frame in station.process()]


@pytest.mark.parametrize(
    ("setting", "ready", "failed"), [("all", 3, 2), ("failed", 0, 2), ("sample", 1, 1), ("none", 0, 0)]
)
def test_the_setting_bounds_what_is_drawn(
    station: Any, batch: list[str], setting: str, ready: int, failed: int
) -> None:
    with station.hub.archive.session() as session:
        chosen = quicklook.choose(session, batch, setting)
    states = [rows.state_of(station.frame(frame_id)) for frame_id in chosen]
    assert (states.count("ready"), states.count("solve-failed")) == (ready, failed)


def test_a_night_of_one_telescope_makes_one_page_an_hour_and_outcome(
    station: Any, batch: list[str], frames: Callable[..., Path]
) -> None:
    assert len(quicklook.of_batch(station.hub, batch)) == 2
    station.send(frames(6))
    station.send(frames(7, blank=True))
    station.send(frames(150))  # two and a half hours later
    later = {frame.name: frame.id for frame in station.process()}
    with station.hub.archive.session() as session:
        chosen = quicklook.choose(session, list(later.values()), "sample")
    assert chosen == [later[frames(150).name]]


def test_what_is_shown_with_a_run_is_bounded(
    station: Any, batch: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station.hub.settings, "quicklook", "all")
    monkeypatch.setattr(quicklook, "SHOWN", 2)
    assert len(quicklook.of_batch(station.hub, batch)) == 2
    assert all(station.frame(frame_id).quicklook_key for frame_id in batch)


def test_a_page_that_cannot_be_made_costs_nothing(
    station: Any, batch: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(*_: Any) -> Any:
        raise Unavailable("the lake is silent", code="lake-unavailable")

    before = [rows.state_of(station.frame(frame_id)) for frame_id in batch]
    monkeypatch.setattr(quicklook, "run", silent)
    assert quicklook.of_batch(station.hub, batch) == []
    assert [rows.state_of(station.frame(frame_id)) for frame_id in batch] == before
    assert "the lake is silent" in caplog.text
