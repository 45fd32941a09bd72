"""Frames done again from their raw pixels: nothing is lost on the way, and stacks are stale where it matters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import claims, frames, missions, staleness
from starloom.archive.models import Frame, Photometry, Solution, StatusEvent
from starloom.archive.positions import frames_covering
from starloom.archive.results import current_photometry, current_solution
from starloom.astrometry import choosing
from starloom.cli import main
from starloom.photometry import step as photometry
from starloom.refcat import CatalogStars, StarsRefcat, default_refcat
from tests.steps.conftest import TARGET


@pytest.fixture
def cli(station: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command on the station's hub; returns its JSON, or its text without ``--json``."""
    monkeypatch.setenv("STARLOOM_HOME", str(station.hub.settings.home))

    def call(*words: str) -> Any:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return json.loads(said.out) if "--json" in words else said.out

    return call


@pytest.fixture
def stacked(station: Any, frames: Any) -> list[Frame]:
    """Two READY frames in the published stack of their mission."""
    station.create()
    for n in (1, 2):
        station.send(frames(n))
    done: list[Frame] = station.process()
    publish(station)
    return done


def publish(station: Any) -> list[claims.BoundInput]:
    archive = station.hub.archive
    with archive.transaction() as session:
        missions.set_status(session, "550", "COMPLETE")
    with archive.session() as session:
        event = max(event.id or 0 for event in session.exec(select(StatusEvent)).all())
    claim = claims.claim(archive, "550", event, "test", 60)
    bound = claims.bind(archive, claim, {}, 1)
    claims.publish(archive, claim, [], [], {})
    return bound


def why(station: Any) -> dict[str, list[tuple[str, str]]]:
    with station.hub.archive.session() as session:
        found = staleness.why_stale(session)
    return {mission: sorted((c.frame_id, c.reason) for c in changes) for mission, changes in found.items()}


def rows_of(station: Any, table: Any, frame_id: str) -> list[Any]:
    with station.hub.archive.session() as session:
        return list(session.exec(select(table).where(table.frame_id == frame_id).order_by(table.id)).all())


def shifted(arcsec: float) -> StarsRefcat:
    """Return the field's catalogue moved north: what another catalogue, or another epoch, would say."""
    stars = default_refcat().cone(*TARGET, 1.5)
    moved = CatalogStars(
        stars.ra_deg, stars.dec_deg + arcsec / 3600, stars.mag, stars.band, "Better", stars.epoch, mags=stars.mags
    )
    return StarsRefcat(moved)


def solved_with(monkeypatch: pytest.MonkeyPatch, refcat: StarsRefcat) -> None:
    solve = choosing.solve_pixels
    monkeypatch.setattr(
        choosing, "solve_pixels", lambda *args, **named: solve(*args, **{**named, "refcat": refcat})
    )


def test_the_same_again_is_history_and_no_stack_is_stale(
    station: Any, stacked: list[Frame], cli: Callable[..., Any]
) -> None:
    first = rows_of(station, Solution, stacked[0].id)[0]
    again = cli("frames", "resolve", "--where", "node=T42", "--where", "matches>5", "--json")
    assert sorted(row["id"] for row in again) == sorted(frame.id for frame in stacked)
    assert {row["state"] for row in again} == {"ready"}
    assert sorted(station.due()) == sorted(frame.id for frame in stacked)
    station.process(station.due())
    solutions = rows_of(station, Solution, stacked[0].id)
    assert [row.current for row in solutions] == [False, True]
    assert [row.current for row in rows_of(station, Photometry, stacked[0].id)] == [False, True]
    assert solutions[1].wcs == pytest.approx(first.wcs)
    assert why(station) == {}
    assert "stale" not in cli("mission", "show", "550")
    shown = cli("frames", "show", stacked[0].id, "--json")["history"]
    assert [row["id"] for row in shown] == [solutions[1].id, solutions[0].id]
    assert [row["current"] for row in shown] == [True, False]
    assert "History" in cli("frames", "show", stacked[0].id)


@pytest.mark.parametrize(("arcsec", "matters"), [(0.2, False), (2.0, True)])
def test_a_wcs_that_moves_by_more_than_a_tenth_of_a_pixel_makes_the_stack_stale(
    station: Any,
    stacked: list[Frame],
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arcsec: float,
    matters: bool,
) -> None:
    solved_with(monkeypatch, shifted(arcsec))  # 5″ pixels
    frame = stacked[0]
    cli("frames", "resolve", "--where", f"id={frame.id}", "--json")
    station.process(station.due())
    found = rows_of(station, Solution, frame.id)
    assert [row.catalog for row in found] == ["Tycho-2", "Better"]
    assert why(station) == ({"550": [(frame.id, "wcs-moved")]} if matters else {})
    told = cli("mission", "show", "550")
    assert (re.search(r"stale: 1 frame with a WCS moved by up to 0\.4\d? px\.", told) is not None) is matters
    named = cli("mission", "show", "550", "--json")["stale"]
    assert [(row["frame_id"], row["reason"]) for row in named] == ([(frame.id, "wcs-moved")] if matters else [])
    publish(station)
    assert why(station) == {}
    with station.hub.archive.session() as session:
        assert frame.id in {f.id for f in frames_covering(session, *TARGET)}


@pytest.mark.parametrize(("mag", "matters"), [(0.004, False), (0.03, True)])
def test_a_zero_point_that_moves_by_more_than_a_hundredth_makes_the_stack_stale(
    station: Any,
    stacked: list[Frame],
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    mag: float,
    matters: bool,
) -> None:
    measure = photometry.photometer

    def brighter(*args: Any, **named: Any) -> Any:
        found = measure(*args, **named)
        return replace(found, zero_point_mag=found.zero_point_mag + mag)

    monkeypatch.setattr(photometry, "photometer", brighter)
    frame = stacked[1]
    cli("frames", "resolve", "--where", f"id={frame.id}", "--from", "measure", "--json")
    station.process(station.due())
    assert len(rows_of(station, Solution, frame.id)) == 1
    assert len(rows_of(station, Photometry, frame.id)) == 2
    assert why(station) == ({"550": [(frame.id, "zero-point")]} if matters else {})
    assert ("zero point moved by up to 0.03 mag" in cli("mission", "show", "550")) is matters


def test_a_ready_frame_has_its_results_at_every_instant(
    station: Any, stacked: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    solved_with(monkeypatch, shifted(2.0))
    frame = stacked[0]
    before = [rows_of(station, table, frame.id)[0].id for table in (Solution, Photometry)]
    with station.hub.archive.transaction() as session:
        frames.reprocess(session, frame.id, "solve")
    with monkeypatch.context() as killed:
        killed.setattr(photometry, "_record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            station.process([frame.id])
    with station.hub.archive.session() as session:
        now = current_solution(session, frame.id), current_photometry(session, frame.id)
        assert [row.id if row else None for row in now] == before
        bound = {item.frame.id: item for item in publish(station)}
    assert [bound[frame.id].solution.id, bound[frame.id].photometry.id] == before
    assert station.hub.lake.stat(bound[frame.id].solution.solved_key) is not None
    station.process([frame.id])
    with station.hub.archive.session() as session:
        assert current_solution(session, frame.id).catalog == "Better"  # type: ignore[union-attr]
    assert frames.state_of(station.frame(frame.id)) == "ready"
    assert why(station) == {"550": [(frame.id, "wcs-moved")]}


def test_a_frame_that_does_not_solve_again_keeps_what_it_has_and_says_so(
    station: Any, stacked: list[Frame], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = choosing.solve_pixels
    monkeypatch.setattr(
        choosing, "solve_pixels", lambda data, *args, **named: solve(data * 0 + 100, *args, **named)
    )
    frame = stacked[0]
    cli("frames", "resolve", "--where", f"id={frame.id}", "--json")
    (after,) = station.process(station.due())
    assert (frames.state_of(after), after.flags) == (
        "ready", sorted(["uncalibrated", frames.REPROCESSING_FAILED]),
    )  # fmt: skip
    assert after.last_error is not None
    assert after.last_error["message"]
    assert len(rows_of(station, Solution, frame.id)) == 1
    assert why(station) == {}
    failed = cli("frames", "list", "--where", f"flag={frames.REPROCESSING_FAILED}", "--json")
    assert [row["id"] for row in failed] == [frame.id]


def test_a_late_frame_and_a_moved_one_are_both_named(
    station: Any, stacked: list[Frame], frames: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    station.send(frames(3))
    (late,) = station.process()
    solved_with(monkeypatch, shifted(2.0))
    cli("frames", "resolve", "--where", f"id={stacked[0].id}", "--json")
    station.process(station.due())
    assert dict(why(station)["550"]) == {late.id: "late", stacked[0].id: "wcs-moved"}
    seen = cli_status(station)
    assert [row["mission_id"] for row in seen] == ["550"]
    assert re.fullmatch(r"1 frame late; 1 frame with a WCS moved by up to 0\.4\d? px", seen[0]["why"])


def cli_status(station: Any) -> list[dict[str, Any]]:
    """Return what `starloom status` says of stacks, without asking services that a test does not run."""
    from starloom.dispatch.overview import _waiting

    with station.hub.archive.session() as session:
        stale: list[dict[str, Any]] = _waiting(session)["stale"]
    return stale


@pytest.mark.parametrize("since", ["calibrate", "solve"])
def test_planes_of_a_mosaic_are_done_again(
    station: Any, mosaic: Path, cli: Callable[..., Any], since: str
) -> None:
    station.create()
    station.send(mosaic)
    (whole,) = station.process()
    planes = frames.plane_ids(whole)
    again = cli("frames", "resolve", "--where", "mission=550", "--from", since, "--json")
    # From calibration on it is the mosaic that is done again, and its planes follow; from solving on, its planes.
    wanted = {whole.id, *planes} if since == "calibrate" else set(planes)
    assert {row["id"] for row in again} == wanted
    station.process([whole.id] if since == "calibrate" else planes)
    for plane_id in planes:
        assert frames.state_of(station.frame(plane_id)) == "ready"
        assert [row.current for row in rows_of(station, Solution, plane_id)] == [False, True]
    assert frames.state_of(station.frame(whole.id)) == "split"
    assert station.receipt(mosaic.name)["state"] == "ready"
