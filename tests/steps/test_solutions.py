"""What solving leaves in archive and lake, and what instruments and fields learn from it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.time import Time
from sqlmodel import select

from starloom import sweeping
from starloom.archive import frames as rows
from starloom.archive import instruments, missions
from starloom.archive.models import LearntInstrument, Node, Solution
from starloom.archive.positions import separation_deg
from starloom.archive.results import current_solution
from starloom.astrometry import step as astrometry
from starloom.astrometry.stars_table import read_stars
from starloom.astrometry.wcs import map_from_cards
from starloom.frames import read_header
from starloom.refcat import CatalogStars, Refcats, StarsRefcat, default_refcat
from starloom.sky.field import field_sky
from starloom.sky.night import frame_name, write_compressed
from starloom.sky.render import render
from starloom.sky.telescope import Telescope
from tests.steps.conftest import START, TARGET

#: A lens that bends the corners of its frames by six pixels.
LENS = Telescope(
    node="T42", scale_arcsec=5.0, width=640, height=480, distortion_px=6.0, zero_point_mag=21.0, sky_adu=300.0,
    cosmic_rays=0.0,
)  # fmt: skip


def solution_of(station: Any, frame_id: str) -> Solution:
    with station.hub.archive.session() as session:
        found = current_solution(session, frame_id)
    assert found is not None
    return found


def send(
    station: Any, folder: Path, telescope: Telescope, n: int, sky: Any, pointing: tuple[float, float]
) -> Path:
    start = START + timedelta(minutes=n)
    frame = render(telescope, sky, pointing, seed=n, start=start)
    path = folder / frame_name("550", telescope.node, start)
    write_compressed(path, frame.image, frame.header)
    station.send(path, node=telescope.node)
    return path


def test_all_that_solving_found_out_is_filed(station: Any, frames: Any) -> None:
    station.create()
    path = frames(1)
    station.send(path)
    (frame,) = station.process()
    found = solution_of(station, frame.id)
    assert frame.start_utc is not None
    assert found.epoch == pytest.approx(Time(frame.start_utc).jyear, abs=0.01)
    assert found.hint
    assert found.solver
    assert 0 < (found.held_out_arcsec or 0) < 2
    assert 0 < (found.corner_error_px or 0) < 1
    assert found.offset_ra_deg is not None
    assert found.offset_dec_deg is not None
    assert found.distortion is not None
    assert found.residuals is not None
    assert found.residuals[0]["where"] == "centre"
    assert found.model_id is None
    assert (found.solved_key, found.solved_version) == (frame.solved_key, frame.solved_version)
    with station.hub.lake.local_copy(found.solved_key) as copy:
        stars = read_stars(copy)
    assert stars is not None
    assert len(stars) >= found.matches
    told = station.receipt(path.name)
    assert (told["solution"]["solver"], told["solution"]["hint"]) == (found.solver, found.hint)
    assert {"fwhm_px", "ellipticity", "zero_point_err", "transparency", "limiting_mag"} <= set(told["photometry"])


def test_a_frame_that_does_not_solve_says_what_was_tried_and_what_can_be_done(
    station: Any, frames: Any, no_blind_solver: None
) -> None:
    station.create(target=(TARGET[0] - 140, TARGET[1] - 60))
    path = frames(1)
    image, header = astrometry_free(path)
    lost = path.parent / "lost" / path.name
    lost.parent.mkdir(exist_ok=True)
    write_compressed(lost, image, header)
    station.send(lost)
    (frame,) = station.process()
    assert rows.state_of(frame) == "solve-failed"
    told = station.receipt(path.name)
    assert told["code"] == frame.solve_code
    assert told["message"]
    assert told["hint"] == frame.disposition_hint
    assert told["message"] != told["hint"]


def astrometry_free(path: Path) -> tuple[Any, Any]:
    from astropy.io import fits

    header = fits.getheader(path, 1)
    return fits.getdata(path), fits.Header([(key, header[key]) for key in ("DATE-OBS", "EXPTIME", "FILTER")])


def test_flags_of_the_star_list_come_and_go(station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    station.create()
    path = frames(1)
    station.send(path)
    wanted = {"trailed": True, "defocused": False}
    monkeypatch.setattr(astrometry, "_quality", lambda _: wanted)
    (frame,) = station.process()
    assert "trailed" in frame.flags
    assert "tracking" in station.receipt(path.name)["hint"]
    wanted |= {"trailed": False}
    with station.hub.archive.transaction() as session:
        rows.reprocess(session, frame.id, "solve")
    (frame,) = station.process([frame.id])
    assert "trailed" not in frame.flags
    assert station.receipt(path.name)["hint"] is None


@pytest.fixture(scope="module")
def sky() -> Any:
    return field_sky(*TARGET, 1.6, seed=3)


def test_an_instrument_learns_from_its_frames_and_a_sparse_frame_uses_it(
    station: Any, tmp_path: Path, sky: Any
) -> None:
    station.create()
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42")
    for n in range(7):
        send(station, tmp_path, LENS, n, sky, (TARGET[0] + 0.05 * n, TARGET[1] - 0.03 * n))
    assert {rows.state_of(frame) for frame in station.process()} == {"ready"}
    assert sweeping.learn_instruments(station.hub) == 1
    assert sweeping.learn_instruments(station.hub) == 0  # nothing new since
    with station.hub.archive.session() as session:
        (lesson,) = session.exec(select(LearntInstrument)).all()
        assert instruments.with_more_to_learn(session) == []
    assert lesson.n_frames >= 5
    assert lesson.model["scale_arcsec"] == pytest.approx(5.0, rel=2e-3)

    # Thin clouds: a dozen stars, too few for a distortion of their own.
    cloudy = Telescope(**(vars(LENS) | {"zero_point_mag": 17.0}))
    pointing = (TARGET[0] - 0.1, TARGET[1] + 0.1)
    send(station, tmp_path, cloudy, 30, sky, pointing)
    (frame,) = station.process()
    found = solution_of(station, frame.id)
    assert found.matches < 25
    assert found.model_id == lesson.id
    ny, nx = LENS.height, LENS.width
    x, y = np.array([40.0, nx - 40.0, nx - 40.0, 40.0]), np.array([40.0, 40.0, ny - 40.0, ny - 40.0])
    truth = LENS.wcs(*pointing).all_pix2world(x, y, 0)
    ra, dec = map_from_cards(found.wcs, (ny, nx)).sky(x, y)
    off_px = [
        separation_deg(a, b) * 3600 / 5.0
        for a, b in zip(zip(ra, dec, strict=True), zip(*truth, strict=True), strict=True)
    ]
    assert max(off_px) < 0.6  # a linear map is off by four


def test_a_lesson_from_which_nothing_is_learnt_is_not_repeated_and_takes_nothing_away(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42")
    for n in range(5):
        station.send(frames(n))
    station.process()
    asked: list[int] = []

    def nothing(samples: Any) -> None:
        asked.append(len(samples))

    monkeypatch.setattr(sweeping, "learn", nothing)
    assert (sweeping.learn_instruments(station.hub), sweeping.learn_instruments(station.hub)) == (0, 0)
    assert asked == [5]
    with station.hub.archive.session() as session:
        (lesson,) = session.exec(select(LearntInstrument)).all()
        assert instruments.learnt(session, lesson.instrument_id) is None
    station.send(frames(8))
    (frame,) = station.process()  # and it is no model to be used
    assert solution_of(station, frame.id).model_id is None


def test_a_model_that_cannot_be_read_costs_no_frame(
    station: Any, frames: Any, caplog: pytest.LogCaptureFixture
) -> None:
    station.create()
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42")
    station.send(frames(1))
    (first,) = station.process()
    with station.hub.archive.transaction() as session:
        instruments.publish_lesson(
            session, first.instrument_id, {"version": 99}, newest_solution=1, n_frames=9, code_version="9"
        )
    station.send(frames(2))
    (frame,) = station.process()
    assert rows.state_of(frame) == "ready"
    assert solution_of(station, frame.id).model_id is None
    assert "version 99" in caplog.text


def test_a_field_too_small_for_the_catalogue_is_solved_on_the_networks_own_stars(
    station: Any, tmp_path: Path, sky: Any
) -> None:
    station.create()
    narrow = Telescope(
        node="T7", scale_arcsec=1.2, width=640, height=480, zero_point_mag=22.5, sky_adu=200.0, cosmic_rays=0.0,
        focal_length_mm=800.0,
    )  # fmt: skip
    pointing = (TARGET[0] + 0.02, TARGET[1] - 0.03)
    send(station, tmp_path, narrow, 1, sky, pointing)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.solve_code) == ("solve-failed", "catalogue-too-sparse")
    wide = Telescope(**(vars(LENS) | {"distortion_px": 0.0, "scale_arcsec": 3.0, "zero_point_mag": 22.0}))
    for n in (2, 3, 4):
        send(station, tmp_path, wide, n, sky, (TARGET[0] + 0.01 * n, TARGET[1]))
    assert {rows.state_of(one) for one in station.process()} == {"ready"}
    with station.hub.archive.transaction() as session:
        assert rows.reprocess(session, frame.id, "solve") is not None
    station.process([frame.id])
    found = solution_of(station, frame.id)
    assert found.catalog == "own"
    assert separation_deg((found.ra_deg, found.dec_deg), pointing) * 3600 < 0.6
    # A solution on own stars is not handed on as a source of own stars.
    from starloom.archive.positions import source_lists_near

    with station.hub.archive.session() as session:
        near = source_lists_near(session, *pointing, 0.3, besides="", limit=10)
    assert {row[0].node_id for row in near} == {"T42"}
    assert len(near) == 3


@pytest.mark.parametrize("usable", [True, False])
def test_the_catalogue_that_serves_the_frame_is_taken_and_the_shipped_one_at_last(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch, usable: bool
) -> None:
    shipped = default_refcat()
    stars = shipped.cone(*TARGET, 1.5)
    # Another one has more stars on the frame; the unusable one has them all in the wrong places.
    rng = np.random.default_rng(1)
    wrong = 0.0 if usable else rng.uniform(-0.3, 0.3, len(stars))
    deep = CatalogStars(
        stars.ra_deg + wrong, stars.dec_deg, stars.mag, stars.band, "Imported", stars.epoch, mags=stars.mags
    )

    class Few:
        """The shipped catalogue, but of few stars where it is asked how many it has."""

        def __getattr__(self, name: str) -> Any:
            return getattr(shipped, name)

        def cone(self, *place: float, limit: int | None = None, epoch: float | None = None) -> CatalogStars:
            few = limit is not None and limit > 50_000
            return shipped.cone(*place, limit=3 if few else limit, epoch=epoch)

    monkeypatch.setattr(astrometry, "refcats_of", lambda _: Refcats([StarsRefcat(deep)], shipped=Few()))
    station.create()
    station.send(frames(1))
    (frame,) = station.process()
    assert rows.state_of(frame) == "ready"
    assert solution_of(station, frame.id).catalog == ("Imported" if usable else "Tycho-2")


@pytest.mark.parametrize("agreed", [False, True])
def test_solved_copies_tell_the_site_as_exactly_as_the_owner_agreed(
    station: Any, tmp_path: Path, agreed: bool
) -> None:
    station.create()
    with station.hub.archive.transaction() as session:
        session.merge(Node(id="T42", exact_site=agreed))
    frame = render(LENS, field_sky(*TARGET, radius_deg=1.0, seed=3), TARGET, seed=3, start=START)
    frame.header["SITELAT"], frame.header["SITELONG"] = -31.273361, "149 04 14.0"
    path = tmp_path / frame_name("550", "T42", START)
    write_compressed(path, frame.image, frame.header)
    station.send(path, node="T42")
    (filed,) = station.process()
    with station.hub.lake.local_copy(solution_of(station, filed.id).solved_key) as copy:
        header = read_header(copy)
    wanted = (-31.273361, "149 04 14.0") if agreed else (-31.3, 149.1)
    assert (header["SITELAT"], header["SITELONG"]) == wanted
