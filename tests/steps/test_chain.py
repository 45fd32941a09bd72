"""The four steps together: what becomes of good frames, odd ones, mosaics and those of missions yet unknown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlmodel import select

from starloom.archive import arrivals, dispositions, missions
from starloom.archive import frames as rows
from starloom.archive.models import Conditions, Photometry, Solution
from starloom.archive.positions import frames_covering, separation_deg
from starloom.astrometry import choosing
from starloom.astrometry import step as astrometry
from starloom.errors import BadInput, Unavailable
from starloom.frames import pixel_digest, read_frame
from starloom.photometry import step as photometry
from starloom.sky.night import frame_name, write_compressed

TARGET = (343.91, 55.85)


def of(station: Any, table: Any, frame_id: str) -> list[Any]:
    with station.hub.archive.session() as session:
        return list(session.exec(select(table).where(table.frame_id == frame_id)).all())


def test_a_good_frame_becomes_ready_with_all_that_is_known_of_it(station: Any, frames: Any) -> None:
    station.create()
    path = frames(1)
    station.send(path)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.flags, frame.band, frame.mission_id) == (
        "ready",
        ["uncalibrated"],
        "V",
        "550",
    )
    (solution,) = of(station, Solution, frame.id)
    assert separation_deg((solution.ra_deg, solution.dec_deg), TARGET) < 2 / 3600
    (measured,) = of(station, Photometry, frame.id)
    # The sky was drawn in the catalogue's VT and the frame is tied in V, for a star like the Sun (BT - VT = 0.73).
    assert measured.zero_point_err is not None
    assert measured.zero_point_err < 0.06
    assert measured.zero_point_mag == pytest.approx(21.0 - 0.090 * 0.73, abs=3 * measured.zero_point_err)
    with station.hub.lake.local_copy(frame.solved_key) as copy:
        assert pixel_digest(read_frame(copy)[0]) == frame.pixel_digest
    assert station.hub.lake.stat(frame.sources_key) is not None
    told = station.receipt(path.name)
    assert (told["state"], told["settled"], told["code"], told["hint"]) == ("ready", True, None, None)
    assert told["solution"]["ra_deg"] == pytest.approx(TARGET[0], abs=0.001)
    assert told["photometry"]["zero_point_mag"] == measured.zero_point_mag
    with station.hub.archive.session() as session:
        assert [f.id for f in frames_covering(session, *TARGET)] == [frame.id]
        assert frames_covering(session, TARGET[0], TARGET[1] - 2.0) == []
    assert of(station, Conditions, frame.id) == []


def test_the_receipt_follows_the_frame_from_step_to_step(station: Any, frames: Any) -> None:
    path = frames(1)
    station.send(path)
    (frame_id,) = station.discover()
    from starloom.frames import step as ingest

    ingest.run(station.hub, frame_id)
    told = station.receipt(path.name)
    assert (told["state"], told["settled"], told["flags"]) == ("processing", False, ["unknown-mission"])
    assert "once the mission has been created" in told["hint"].replace("\n", " ")
    station.process([frame_id])
    told = station.receipt(path.name)
    assert (told["state"], told["settled"]) == ("ready", True)
    assert "unknown-mission" in told["flags"]
    with station.hub.archive.transaction() as session:
        dispositions.withdraw(session, frame_id, "dome closed")
    from starloom.receipts import write_receipt

    write_receipt(station.hub, station.frame(frame_id))
    told = station.receipt(path.name)
    assert (told["state"], told["hint"]) == ("withdrawn", "dome closed")


@pytest.mark.parametrize("step", [astrometry, photometry])
def test_a_step_run_twice_or_killed_before_its_commit_leaves_one_result(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch, step: Any
) -> None:
    station.create()
    station.send(frames(1))
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        patch.setattr(step, "_record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            station.process([frame_id])
    assert station.due() == [frame_id]
    station.process([frame_id])
    (frame,) = station.process([frame_id])
    assert rows.state_of(frame) == "ready"
    assert [solution.current for solution in of(station, Solution, frame_id)] == [True]
    assert [measured.current for measured in of(station, Photometry, frame_id)] == [True]
    assert station.hub.lake.stat(frame.solved_key) is not None


@pytest.mark.parametrize("blank", [False, True])
def test_a_receipt_that_could_not_be_written_is_written_when_the_task_comes_again(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch, blank: bool
) -> None:
    station.create()
    path = frames(1, blank=blank)
    station.send(path)
    (frame_id,) = station.discover()

    def fail(*_: Any) -> None:
        raise Unavailable("no answer", code="lake-unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(astrometry, "write_receipt", fail)
        patch.setattr(photometry, "write_receipt", fail)
        station.process([frame_id])
    assert station.receipt(path.name)["settled"] is False
    (frame,) = station.process([frame_id])
    told = station.receipt(path.name)
    assert (told["settled"], told["state"]) == (True, rows.state_of(frame))


def test_another_run_that_was_quicker_is_not_contradicted(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    station.send(frames(1))
    (frame_id,) = station.discover()
    record = astrometry._record

    def late(hub: Any, frame: Any, *args: Any, **named: Any) -> None:
        record(hub, frame, *args, **named)
        record(hub, frame, *args, **named)

    monkeypatch.setattr(astrometry, "_record", late)
    station.process([frame_id])
    assert len(of(station, Solution, frame_id)) == 1


def test_a_frame_withdrawn_while_it_is_solved_stays_withdrawn(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    station.send(frames(1))
    (frame_id,) = station.discover()
    solve = choosing.solve_pixels

    def withdrawn_meanwhile(*args: Any, **named: Any) -> Any:
        with station.hub.archive.transaction() as session:
            dispositions.withdraw(session, frame_id, "dome closed")
        return solve(*args, **named)

    monkeypatch.setattr(choosing, "solve_pixels", withdrawn_meanwhile)
    (frame,) = station.process([frame_id])
    assert (rows.state_of(frame), frame.solve) == ("withdrawn", "pending")
    assert of(station, Solution, frame_id) == []


def test_what_no_retry_could_change_fails_with_its_reason(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise BadInput("x.fits is no colour mosaic", code="bad-mosaic", hint="Its header has no BAYERPAT.")

    path = frames(1)
    station.send(path)
    monkeypatch.setattr(choosing, "solve_pixels", refuse)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.solve_code) == ("solve-failed", "bad-mosaic")
    assert station.due() == []
    assert station.receipt(path.name)["hint"] == "Its header has no BAYERPAT."


def test_a_frame_without_stars_says_so(station: Any, frames: Any) -> None:
    station.create()
    path = frames(1, blank=True)
    station.send(path)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.next_attempt_at) == ("solve-failed", None)
    told = station.receipt(path.name)
    assert (told["state"], told["settled"], told["code"]) == ("solve-failed", True, frame.solve_code)
    assert told["hint"]
    with station.hub.archive.session() as session:
        assert arrivals.in_flight(session, "550") == 0


def silent(path: Path, folder: Path) -> Path:
    """Return a copy of a frame whose header says neither where it points nor how large its pixels are."""
    image, header = fits.getdata(path), fits.getheader(path, 1)
    kept = fits.Header([(key, header[key]) for key in ("DATE-OBS", "EXPTIME", "FILTER", "IMAGETYP")])
    write_compressed(folder / path.name, image, kept)
    return folder / path.name


def test_frames_of_an_unknown_mission_are_taken_up_when_it_is_created(
    station: Any, frames: Any, tmp_path: Path, no_blind_solver: None
) -> None:
    good, lost = frames(1), silent(frames(2), tmp_path)
    station.send(good)
    station.send(lost)
    solved, unsolved = sorted(station.process(), key=lambda frame: frame.name)
    assert (rows.state_of(solved), rows.state_of(unsolved)) == ("ready", "solve-failed")
    assert unsolved.solve_code == "no-position-hint"
    station.create()
    adopted = station.frame(solved.id)
    assert (adopted.mission_id, adopted.flags) == ("550", ["uncalibrated"])
    assert station.due() == [unsolved.id]
    (again,) = station.process([unsolved.id])
    assert rows.state_of(again) == "ready"


def test_a_frame_that_shows_another_field_is_flagged_before_and_after_its_mission(
    station: Any, frames: Any
) -> None:
    elsewhere = (TARGET[0] + 10.0, TARGET[1])
    station.send(frames(1))
    (early,) = station.process()
    assert "off-target" not in early.flags
    station.create(target=elsewhere)
    assert "off-target" in station.frame(early.id).flags
    path = frames(2)
    station.send(path)
    (late,) = station.process()
    assert (rows.state_of(late), "off-target" in late.flags) == ("ready", True)
    assert "another part of the sky" in station.receipt(path.name)["hint"]


def test_a_mosaic_becomes_four_frames_of_one_colour(station: Any, mosaic: Path) -> None:
    station.create()
    station.send(mosaic)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.plane, frame.next_attempt_at) == ("split", "CFA", None)
    planes = [station.frame(plane_id) for plane_id in rows.plane_ids(frame)]
    assert [(plane.plane, plane.band) for plane in planes] == [
        ("R", "TR"), ("G1", "TG"), ("G2", "TG"), ("B", "TB"),
    ]  # fmt: skip
    assert {rows.state_of(plane) for plane in planes} == {"ready"}
    assert {(plane.width, plane.height) for plane in planes} == {(600, 480)}
    found = {plane.plane: of(station, Solution, plane.id)[0] for plane in planes}
    for solution in found.values():
        assert solution.scale_arcsec == pytest.approx(5.0, rel=1e-3)
    # The red and the blue plane lie one mosaic pixel apart in x and y: their skies are that much apart.
    apart = separation_deg((found["R"].ra_deg, found["R"].dec_deg), (found["B"].ra_deg, found["B"].dec_deg))
    assert apart * 3600 == pytest.approx(2.5 * np.sqrt(2), abs=0.5)
    told = station.receipt(mosaic.name)
    assert (told["state"], told["settled"], told["frame_id"]) == ("ready", True, frame.id)
    assert {name: plane["state"] for name, plane in told["planes"].items()} == dict.fromkeys(
        ("R", "G1", "G2", "B"), "ready"
    )
    assert told["pixel_digest"] == frame.pixel_digest
    with station.hub.archive.session() as session:
        assert arrivals.in_flight(session, "550") == 0
        assert rows.find(session, mosaic.name).id == frame.id
        detail = missions.describe(session, "550")
    assert detail["frames"] == [{"state": "ready", "count": 4}, {"state": "split", "count": 1}]


def test_a_mosaic_half_way_is_in_flight_and_not_settled_for_its_node(
    station: Any, mosaic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    station.send(mosaic)
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "solve_pixels", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            station.process([frame_id])
    told = station.receipt(mosaic.name)
    assert (told["state"], told["settled"]) == ("processing", False)
    with station.hub.archive.session() as session:
        assert arrivals.in_flight(session, "550") == 4
    assert sorted(station.due()) == sorted(rows.plane_ids(station.frame(frame_id)))
    station.process(station.due())
    assert station.receipt(mosaic.name)["state"] == "ready"


def test_a_registered_filter_gives_the_band_and_planes_keep_their_own(
    station: Any, frames: Any, mosaic: Path
) -> None:
    station.create()
    station.send(mosaic)
    station.process()
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42", filters={"none": "Clear", "V": "R"})
        bands = {frame.plane: frame.band for frame in rows.list_frames(session)}
    assert (bands["R"], bands["B"]) == ("TR", "TB")
    station.send(frames(1))
    (frame,) = station.process()
    assert frame.band == "R"
    assert frame.instrument_id is not None


def test_a_frame_beside_its_target_is_no_dither_only_when_it_is_further_off_than_its_size(
    station: Any, frames: Any
) -> None:
    station.create(target=(TARGET[0], TARGET[1] + 0.6))
    station.send(frames(1))
    (frame,) = station.process()
    assert "off-target" not in frame.flags


def test_frames_keep_their_start_to_the_name(station: Any, frames: Any) -> None:
    path = frames(3)
    station.send(path)
    (frame,) = station.process()
    assert frame.start_utc is not None
    assert frame_name("550", "T42", frame.start_utc) == path.name
    assert frame.start_utc.utcoffset() == timedelta(0)
