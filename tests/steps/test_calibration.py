"""Calibration in the hub: frames that wait for no master, masters built of what arrives, frames done again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlmodel import select

from starloom import mastering, sweeping
from starloom.archive import frames as rows
from starloom.archive import masters as master_rows
from starloom.archive import missions, results
from starloom.archive.models import Calibration, Frame, Instrument, Master, Solution
from starloom.batches import advance
from starloom.calibration import step as calibration
from starloom.calibration.calibrated_file import MaskBit, read_planes
from starloom.errors import BadInput, Unavailable
from starloom.frames import format_name, read_frame
from starloom.frames import step as ingest
from starloom.frames.name import FrameName
from starloom.sky.camera import Camera
from starloom.sky.night import frame_name, write_compressed

START = datetime(2026, 10, 8, 22, tzinfo=UTC)
CAMERA = Camera(shape=(120, 160), dark_e_s=1.0, vignetting=0.3, hot_share=3e-3)
EXPOSURE_S = 60.0


def header(exposure_s: float = EXPOSURE_S, **cards: Any) -> fits.Header:
    said = {
        "INSTRUME": "Test CCD", "EXPTIME": exposure_s, "CCD-TEMP": -10.0, "GAIN": 100, "OFFSET": 30, "FILTER": "V",
        "XBINNING": 1, "YBINNING": 1,
    }  # fmt: skip
    return fits.Header(said | cards)


class Observatory:
    """A node with one camera: sends series, and takes frames through ingest and calibration."""

    def __init__(self, station: Any, folder: Path, camera: Camera = CAMERA) -> None:
        self.station, self.folder, self.camera = station, folder, camera
        with station.hub.archive.transaction() as session:
            missions.register_node(session, "T42", filters={"V": "V"})
        station.create()

    def series(self, kind: str, n: int = 4, *, minutes: float = 0.0, seed: int = 1, **cards: Any) -> list[str]:
        exposure = {"bias": 0.0, "dark": EXPOSURE_S, "flat": 1.0}[kind]
        images = self.camera.series(n, 20_000.0 if kind == "flat" else 0.0, exposure, seed=seed + len(kind))
        names = []
        for k, image in enumerate(images):
            start = START - timedelta(hours=6) + timedelta(minutes=minutes + k)
            name = format_name(FrameName(kind=kind, node="T42", start_utc=start, mission=None, compressed=True))
            write_compressed(self.folder / name, image, header(**({"exposure_s": exposure} | cards)))
            self.station.send(self.folder / name)
            names.append(name)
        self.ingest()
        return names

    def lights(self, n: int = 1, *, first: int = 1, sky_e: float = 900.0, **cards: Any) -> list[str]:
        """Dithered frames of a few stars."""
        for k in range(first, first + n):
            name = frame_name("550", "T42", START + timedelta(minutes=k))
            rng = np.random.default_rng(k)
            light = np.full(self.camera.shape, sky_e)
            for x, y in np.random.default_rng(3).integers(12, 100, (40, 2)):
                light[y : y + 2, x : x + 2] += 5000.0
            light = np.roll(light, rng.integers(-60, 60, 2), axis=(0, 1))
            write_compressed(self.folder / name, self.camera.expose(light, EXPOSURE_S, rng), header(**cards))
            self.station.send(self.folder / name)
        return self.ingest()

    def ingest(self) -> list[str]:
        ids = self.station.discover()
        for frame_id in ids:
            ingest.run(self.station.hub, frame_id)
        return ids

    def calibrated(self, frame_id: str) -> tuple[Frame, Calibration]:
        calibration.run(self.station.hub, frame_id)
        with self.station.hub.archive.session() as session:
            done = results.current_calibration(session, frame_id)
            assert done is not None
            return rows.get(session, frame_id), done

    def instrument(self) -> int:
        with self.station.hub.archive.session() as session:
            (found,) = session.exec(select(Instrument)).all()
            assert found.id is not None
            return found.id

    def build(self, **options: Any) -> list[dict[str, Any]]:
        return mastering.build(self.station.hub, self.instrument(), **({"quiet_s": 0.0} | options))


@pytest.fixture
def observatory(station: Any, tmp_path: Path) -> Observatory:
    folder = tmp_path / "sent"
    folder.mkdir()
    return Observatory(station, folder)


def masters_of(hub: Any) -> list[Master]:
    with hub.archive.session() as session:
        return list(session.exec(select(Master).order_by(Master.id)).all())  # type: ignore[arg-type]


def test_without_masters_no_file_is_written_and_the_frame_is_flagged(observatory: Observatory) -> None:
    (frame_id,) = observatory.lights()
    frame, done = observatory.calibrated(frame_id)
    assert (frame.calibrate, frame.flags, frame.calibrated_key) == ("ok", ["uncalibrated"], None)
    assert (done.key, done.bias_id, done.dark_id, done.flat_id, done.flags) == (
        None,
        None,
        None,
        None,
        ["uncalibrated"],
    )
    hub = observatory.station.hub
    assert list(hub.lake.list("calibrated/")) == []
    with calibration.pixels_of(hub, frame) as path:
        assert read_frame(path)[0].dtype == np.uint16


def test_a_night_with_bias_dark_and_flat_is_calibrated(observatory: Observatory) -> None:
    hub = observatory.station.hub
    for kind in ("flat", "dark", "bias"):
        observatory.series(kind, 6)
    built = observatory.build()
    assert [(row["kind"], row["n_frames"], row["state"]) for row in built] == [
        ("bias", 6, "current"), ("dark", 6, "current"), ("flat", 6, "current"),
    ]  # fmt: skip
    stats = {row["kind"]: row["stats"] for row in built}
    assert stats["bias"]["read_noise_adu"] == pytest.approx(CAMERA.read_noise_adu, rel=0.05)
    assert stats["dark"]["dark_current_adu_s"] == pytest.approx(1 / 1.5, rel=0.05)
    assert stats["flat"]["gain_e_per_adu"] == pytest.approx(1.5, rel=0.05)
    (frame_id,) = observatory.lights()
    frame, done = observatory.calibrated(frame_id)
    ids = {master.kind: master.id for master in masters_of(hub)}
    assert (done.bias_id, done.dark_id, done.flat_id, done.dark_scale) == (None, ids["dark"], ids["flat"], 1.0)
    assert (frame.flags, done.flags) == ([], [])
    assert done.gain_e_per_adu == pytest.approx(1.5, rel=0.05)
    assert done.masked_fraction == pytest.approx(CAMERA.hot.mean(), rel=0.5)
    assert (frame.calibrated_key, frame.calibrated_version) == (done.key, done.lake_version)
    with calibration.pixels_of(hub, frame) as path:
        planes = read_planes(path)
    assert planes.header["CALSTAT"] == "DF"
    assert planes.variance is not None
    assert planes.mask is not None
    good = planes.mask == 0
    assert np.median(planes.data[good]) == pytest.approx(900 / 1.5, rel=0.01)
    corner, middle = np.zeros_like(good), np.zeros_like(good)
    corner[:15, :15], middle[50:70, 70:90] = True, True
    assert np.median(planes.data[corner & good]) == pytest.approx(np.median(planes.data[middle & good]), rel=0.02)
    hot = CAMERA.hot & (CAMERA.dark_current > 30)
    assert ((planes.mask[hot] & MaskBit.HOT) > 0).all()


def test_the_step_is_idempotent_and_survives_its_death(observatory: Observatory, monkeypatch: Any) -> None:
    hub = observatory.station.hub
    observatory.series("dark")
    observatory.build()
    (frame_id,) = observatory.lights()
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            calibration.run(hub, frame_id)
    assert observatory.station.frame(frame_id).calibrate == "pending"
    frame, _ = observatory.calibrated(frame_id)
    observatory.calibrated(frame_id)
    with hub.archive.session() as session:
        done = session.exec(select(Calibration).where(Calibration.frame_id == frame_id)).all()
    assert [row.current for row in done] == [True]
    written = [item.key for item in hub.lake.list("calibrated/")]
    assert len(written) == 2  # one is an orphan, which `sweep` removes past its grace
    object.__setattr__(hub.settings, "orphan_grace_s", -3600.0)
    assert sweeping.tidy_lake(hub) == 1
    assert [item.key for item in hub.lake.list("calibrated/")] == [frame.calibrated_key]
    assert len(list(hub.lake.list("masters/"))) == 1


def test_another_run_that_was_quicker_is_not_contradicted(observatory: Observatory, monkeypatch: Any) -> None:
    observatory.series("dark")
    observatory.build()
    (frame_id,) = observatory.lights()
    record = calibration._record

    def twice(*args: Any) -> None:
        record(*args)
        record(*args)

    monkeypatch.setattr(calibration, "_record", twice)
    observatory.calibrated(frame_id)
    with observatory.station.hub.archive.session() as session:
        assert len(session.exec(select(Calibration)).all()) == 1


def test_no_transaction_is_open_while_pixels_are_worked_on(observatory: Observatory, monkeypatch: Any) -> None:
    observatory.series("dark")
    observatory.build()
    (frame_id,) = observatory.lights()
    apply = calibration.calibrate

    def look(*args: Any, **named: Any) -> Any:
        with observatory.station.hub.archive.transaction() as session:  # SQLite would wait, and time out
            rows.get(session, frame_id).licence = "CC0"
        return apply(*args, **named)

    monkeypatch.setattr(calibration, "calibrate", look)
    assert observatory.calibrated(frame_id)[0].licence == "CC0"


def test_a_lake_that_is_silent_parks_the_frame(observatory: Observatory, monkeypatch: Any) -> None:
    hub = observatory.station.hub
    observatory.series("dark")
    observatory.build()
    (frame_id,) = observatory.lights()
    with monkeypatch.context() as patch:
        put = hub.lake.put_file

        def silent(path: Path, key: str, **options: Any) -> Any:
            if key.startswith("calibrated/"):
                raise Unavailable("the lake is silent", code="lake-unavailable")
            return put(path, key, **options)

        patch.setattr(hub.lake, "put_file", silent)
        (batch,) = ingest.batches([frame_id], "test", chunk_size=8)
        advance(hub, batch.chunks()[0], calibration.run)
    frame = observatory.station.frame(frame_id)
    assert (frame.calibrate, frame.attempts, (frame.last_error or {})["code"]) == (
        "pending",
        1,
        "lake-unavailable",
    )
    assert observatory.calibrated(frame_id)[0].calibrate == "ok"


def test_a_mosaic_nobody_knows_fails_its_calibration_with_the_reason(observatory: Observatory) -> None:
    observatory.series("dark")
    observatory.build()
    (frame_id,) = observatory.lights(BAYERPAT="CMYG")
    calibration.run(observatory.station.hub, frame_id)
    frame = observatory.station.frame(frame_id)
    assert (frame.calibrate, frame.calibrate_code) == ("failed", "bad-mosaic")
    assert rows.state_of(frame) == "calibrate-failed"
    assert observatory.station.receipt(frame.name)["code"] == "bad-mosaic"


def test_calstat_is_honoured(observatory: Observatory) -> None:
    for kind in ("bias", "dark", "flat"):
        observatory.series(kind)
    observatory.build()
    first, second = observatory.lights(1, CALSTAT="BDF") + observatory.lights(1, first=2, CALSTAT="BD")
    frame, done = observatory.calibrated(first)
    assert (frame.flags, done.key) == ([], None)
    _, done = observatory.calibrated(second)
    assert (done.dark_id, done.bias_id) == (None, None)
    assert done.flat_id is not None


def test_sections_that_lie_are_flagged_and_the_frame_goes_on(observatory: Observatory) -> None:
    (frame_id,) = observatory.lights(TRIMSEC="[1:4000,1:3000]")
    frame, _ = observatory.calibrated(frame_id)
    assert frame.flags == ["bad-section", "uncalibrated"]


# --- masters


def test_too_few_frames_wait_and_say_so(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 2)
    assert observatory.build() == []
    with hub.archive.session() as session:
        (waiting,) = mastering.wanted(session, observatory.instrument(), 0.0)
    assert (waiting.kind, waiting.state, waiting.why) == ("dark", "wait", "2 of at least 3 frames")
    observatory.series("dark", 1, minutes=10)
    assert [row["n_frames"] for row in observatory.build()] == [3]
    assert observatory.build() == []


def test_a_series_is_built_once_it_has_gone_quiet(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 4)
    assert mastering.due(hub, every_s=0) == []
    with hub.archive.session() as session:
        (item,) = mastering.wanted(session, observatory.instrument(), 300.0)
    assert item.why == "frames are still coming"
    with hub.archive.transaction() as session:
        for frame in session.exec(select(Frame)).all():
            frame.received_at -= timedelta(hours=1)
    (work,) = mastering.due(hub, every_s=0)
    assert work.instrument_id == observatory.instrument()
    assert mastering.due(hub, every_s=0)[0].key == work.key  # asked twice, it is one run
    assert mastering.due(hub) == []  # not so soon again
    assert [row["kind"] for row in observatory.build(quiet_s=300.0)] == ["dark"]
    assert mastering.due(hub, every_s=0) == []


def test_new_frames_rebuild_the_master_and_the_old_one_is_history(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 3)
    observatory.build()
    observatory.series("dark", 3, minutes=30, seed=9)
    (row,) = observatory.build()
    assert row["n_frames"] == 6
    first, second = masters_of(hub)
    assert (first.current, second.current, first.key != second.key) == (False, True, True)
    assert hub.lake.stat(first.key) is not None
    with hub.archive.session() as session:
        assert [m.id for m in master_rows.current(session, observatory.instrument())] == [second.id]


def test_a_master_of_long_ago_stays_and_what_is_new_makes_another(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 4)
    observatory.build()
    with hub.archive.transaction() as session:
        for row in (*session.exec(select(Frame)).all(), *session.exec(select(Master)).all()):
            for name in ("received_at", "created_at"):
                if hasattr(row, name):
                    setattr(row, name, getattr(row, name) - timedelta(days=mastering.FINISHED_D + 1))
    assert observatory.build() == []
    observatory.series("dark", 3, minutes=30, seed=9)  # of the same night, and two months late
    (made,) = observatory.build()
    assert made["n_frames"] == 3
    assert [(m.n_frames, m.current) for m in masters_of(hub)] == [(4, True), (3, True)]
    assert observatory.build() == []


def test_instruments_with_news_are_those_with_frames_since_their_master(observatory: Observatory) -> None:
    hub = observatory.station.hub

    def news() -> bool:
        with hub.archive.session() as session:
            return bool(master_rows.instruments_with_news(session, lights_needed=10))

    observatory.lights(9)
    assert not news()
    observatory.lights(1, first=10)
    assert news()  # enough lights, and no dark
    observatory.build()
    assert not news()
    observatory.series("dark", 3)
    assert news()
    observatory.build()
    observatory.lights(10, first=20)
    assert not news()  # it has a dark: its lights are asked for no more


def test_two_runs_at_once_leave_one_master(observatory: Observatory, monkeypatch: Any) -> None:
    observatory.series("dark", 4)
    publish = master_rows.publish

    def twice(session: Any, master: Master) -> Master | None:
        copy = Master(**master.model_dump(exclude={"id"}))
        first = publish(session, master)
        assert publish(session, copy) is None
        return first

    monkeypatch.setattr(master_rows, "publish", twice)
    assert len(observatory.build()) == 1
    assert len(masters_of(observatory.station.hub)) == 1


def test_settings_apart_make_masters_apart(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 3)
    observatory.series("dark", 3, minutes=20, **{"CCD-TEMP": -5.0})
    observatory.series("dark", 3, minutes=40, GAIN=0)
    observatory.series("dark", 3, minutes=60, OFFSET=50)
    assert len(observatory.build()) == 4
    (frame_id,) = observatory.lights()
    _, done = observatory.calibrated(frame_id)
    chosen = next(m for m in masters_of(hub) if m.id == done.dark_id)
    assert (chosen.temperature_c, chosen.gain, chosen.offset_adu) == (-10.0, 100.0, 30.0)


def test_what_cannot_be_built_is_told_and_not_tried_again(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 2)
    bright = CAMERA.series(2, 9000.0, EXPOSURE_S, seed=3)
    for k, image in enumerate(bright):
        start = START - timedelta(hours=5) + timedelta(minutes=k)
        name = format_name(FrameName(kind="dark", node="T42", start_utc=start, mission=None, compressed=True))
        write_compressed(observatory.folder / name, image, header())
        observatory.station.send(observatory.folder / name)
    observatory.ingest()
    (row,) = observatory.build()
    assert (row["state"], row["code"]) == ("failed", "too-few-frames")
    assert row["stats"]["hint"]
    assert observatory.build() == []
    observatory.series("dark", 3, minutes=90)
    (row,) = observatory.build()
    assert (row["state"], row["n_frames"]) == ("current", 5)
    assert [m.n_frames for m in masters_of(hub)] == [5]  # the attempt is of no interest any more


def test_flats_wait_for_a_bias(observatory: Observatory) -> None:
    observatory.series("flat", 4)
    (row,) = observatory.build()
    assert (row["kind"], row["state"], row["code"]) == ("flat", "failed", "flat-needs-bias")
    assert observatory.build() == []
    observatory.series("bias", 4)
    assert [(row["kind"], row["state"]) for row in observatory.build()] == [
        ("bias", "current"),
        ("flat", "current"),
    ]


def test_frames_that_were_calibrated_by_their_node_make_no_dark(observatory: Observatory) -> None:
    observatory.series("dark", 4, CALSTAT="B")
    assert observatory.build() == []
    with observatory.station.hub.archive.session() as session:
        (item,) = mastering.wanted(session, observatory.instrument(), 0.0)
    assert item.state == "wait"
    assert "CALSTAT B" in item.why


# --- defects


def test_defects_are_learnt_from_lights_where_there_are_no_darks(observatory: Observatory) -> None:
    hub = observatory.station.hub
    ids = observatory.lights(9)
    assert observatory.build() == []
    ids += observatory.lights(1, first=10)
    (row,) = observatory.build()
    assert (row["kind"], row["n_frames"]) == ("defects", 10)
    (late,) = observatory.lights(1, first=11)
    frame, done = observatory.calibrated(late)
    assert done.defects_id == row["id"]
    assert frame.flags == ["uncalibrated"]  # masked, but neither dark nor flat
    with calibration.pixels_of(hub, frame) as path:
        planes = read_planes(path)
    assert planes.data.dtype == np.uint16
    assert planes.mask is not None
    hot = CAMERA.hot & (CAMERA.dark_current > 20)
    assert ((planes.mask[hot] & MaskBit.HOT) > 0).mean() > 0.95
    assert (planes.mask[~CAMERA.hot] > 0).mean() < 1e-3
    with hub.lake.local_copy(frame.raw_key or "") as raw:
        assert np.array_equal(read_frame(raw)[0], planes.data)
    assert observatory.build() == []
    observatory.lights(9, first=20)
    (row,) = observatory.build()  # ten new ones since
    assert row["n_frames"] == 20
    assert [m.current for m in masters_of(hub)] == [False, True]


def test_a_node_that_sends_darks_needs_no_map(observatory: Observatory) -> None:
    observatory.series("dark")
    observatory.lights(10)
    assert [row["kind"] for row in observatory.build()] == ["dark"]


def test_lights_without_a_sky_teach_no_defects(observatory: Observatory, monkeypatch: Any) -> None:
    monkeypatch.setattr(mastering, "MOST_DEFECTS", 1e-4)
    observatory.lights(10)
    (row,) = observatory.build()
    assert (row["state"], row["code"]) == ("failed", "too-many-defects")
    assert observatory.build() == []


# --- frames done again


def settle(hub: Any, frame_id: str) -> None:
    """Solve and measure, in so far as the archive is concerned."""
    with hub.archive.transaction() as session:
        for step in ("solve", "measure"):
            rows.settle_step(session, frame_id, step)  # type: ignore[arg-type]


def test_masters_that_come_late_are_offered_and_applied_on_demand(observatory: Observatory) -> None:
    hub = observatory.station.hub
    (frame_id,) = observatory.lights()
    observatory.calibrated(frame_id)
    settle(hub, frame_id)
    assert mastering.outdated(hub, observatory.instrument()) == []
    observatory.series("dark")
    observatory.build()
    ((frame, gains),) = mastering.outdated(hub, observatory.instrument())
    assert (frame.id, gains) == (frame_id, ["no dark before"])
    assert mastering.calibrate_again_by_itself(hub, observatory.instrument()) == []
    assert observatory.station.frame(frame_id).calibrate == "ok"
    object.__setattr__(hub.settings, "recalibrate", True)
    (again,) = mastering.calibrate_again_by_itself(hub, observatory.instrument())
    assert again.id == frame_id
    frame, done = observatory.calibrated(frame_id)
    assert frame.flags == ["no-flat"]
    assert frame.ready_at is not None
    assert done.dark_id is not None
    with hub.archive.session() as session:
        history = session.exec(select(Calibration).order_by(Calibration.id)).all()  # type: ignore[arg-type]
    assert [(row.current, row.dark_id is None) for row in history] == [(False, True), (True, False)]
    assert mastering.outdated(hub, observatory.instrument()) == []


def test_a_rebuilt_master_is_offered_but_nothing_is_done_by_itself(observatory: Observatory) -> None:
    hub = observatory.station.hub
    observatory.series("dark", 3)
    observatory.build()
    (frame_id,) = observatory.lights()
    observatory.calibrated(frame_id)
    settle(hub, frame_id)
    observatory.series("dark", 3, minutes=30, seed=9)
    observatory.build()
    ((_, gains),) = mastering.outdated(hub, observatory.instrument())
    assert gains == ["dark rebuilt"]
    object.__setattr__(hub.settings, "recalibrate", True)
    assert mastering.calibrate_again_by_itself(hub, observatory.instrument()) == []
    assert len(mastering.calibrate_again(hub, observatory.instrument())) == 1


def test_a_mosaic_and_its_planes_share_the_calibration(station: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    camera = Camera(shape=(120, 160), bayer="RGGB", dark_e_s=1.0, vignetting=0.3)
    observatory = Observatory(station, folder, camera)
    for kind in ("bias", "dark", "flat"):
        observatory.series(kind, BAYERPAT="RGGB")
    observatory.build()
    (frame_id,) = observatory.lights(BAYERPAT="RGGB")
    frame, done = observatory.calibrated(frame_id)
    assert frame.plane == rows.MOSAIC
    for plane_id in rows.plane_ids(frame):
        plane = station.frame(plane_id)
        assert (plane.calibrated_key, plane.flags, plane.calibrate) == (frame.calibrated_key, [], "ok")
        with station.hub.archive.session() as session:
            own = results.current_calibration(session, plane_id)
        assert own is not None
        assert (own.dark_id, own.gain_e_per_adu) == (done.dark_id, done.gain_e_per_adu)
        with calibration.pixels_of(station.hub, plane) as path:
            planes = read_planes(path)
        assert planes.data.shape == (60, 80)
        assert planes.mask is not None
        share = {"R": 0.6, "G": 1.0, "B": 0.4}[str(plane.plane)[0]]
        assert np.median(planes.data[planes.mask == 0]) == pytest.approx(900 * share / 1.5, rel=0.02)
    with station.hub.archive.transaction() as session:
        for plane_id in rows.plane_ids(frame):
            rows.settle_step(session, plane_id, "solve")
            rows.settle_step(session, plane_id, "measure")
        assert rows.reprocess(session, frame_id, "calibrate") is not None
    frame, _ = observatory.calibrated(frame_id)
    again = station.frame(rows.plane_ids(frame)[0])
    assert (again.solve, again.measure, again.calibrated_key) == ("pending", "pending", frame.calibrated_key)


def test_the_solver_gets_the_calibrated_pixels_and_their_planes_reach_the_solved_copy(
    station: Any, exposure: Any, tmp_path: Path
) -> None:
    """The whole chain on a real field: darks, a light with a hot column, solved and measured."""
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42", filters={"V": "V"})
    station.create()
    rng = np.random.default_rng(1)
    image, said = exposure(1)
    hot = rng.random(image.shape) < 2e-3
    current = np.where(hot, 3000.0, 0.0)
    for k in range(4):
        dark = np.rint(100 + current + rng.normal(0, 3, image.shape)).astype("u2")
        start = START - timedelta(hours=3) + timedelta(minutes=k)
        name = format_name(FrameName(kind="dark", node="T42", start_utc=start, mission=None, compressed=True))
        write_compressed(tmp_path / name, dark, said)
        station.send(tmp_path / name)
    for frame_id in station.discover():
        ingest.run(station.hub, frame_id)
    with station.hub.archive.session() as session:
        (instrument,) = session.exec(select(Instrument.id)).all()
    assert mastering.build(station.hub, instrument, quiet_s=0.0)[0]["state"] == "current"
    name = frame_name("550", "T42", START + timedelta(minutes=1))
    write_compressed(tmp_path / name, (image + current).astype("u2"), said)
    station.send(tmp_path / name)
    (frame,) = station.process()
    assert rows.state_of(frame) == "ready"
    assert frame.flags == ["no-flat"]
    with station.hub.archive.session() as session:
        solution = session.exec(select(Solution).where(Solution.frame_id == frame.id)).one()
        done = results.current_calibration(session, frame.id)
    assert done is not None
    assert solution.rms_px < 0.5
    with station.hub.lake.local_copy(frame.solved_key) as copy:
        planes = read_planes(copy)
    assert planes.data.dtype.kind == "f"
    assert planes.mask is not None
    assert ((planes.mask[hot] & MaskBit.HOT) > 0).all()
    assert planes.variance is not None


def test_an_unknown_master_or_node_is_refused(station: Any) -> None:
    with station.hub.archive.session() as session:
        with pytest.raises(BadInput, match="no master 7"):
            master_rows.get(session, 7)
        with pytest.raises(BadInput, match="no node T99"):
            master_rows.instruments(session, node="T99")
