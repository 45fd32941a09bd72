"""The life of a frame in the archive, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import Archive, arrivals, claims, dispositions, events, frames, missions
from starloom.archive.engine import database_now
from starloom.archive.models import Frame, Photometry, Solution, StatusEvent
from starloom.archive.positions import (
    cells_of,
    distance_deg,
    frames_covering,
    index_frame,
    is_elsewhere,
    separation_deg,
)
from starloom.errors import BadInput, Conflict

START = datetime(2026, 10, 8, 21, tzinfo=UTC)
STEPS = ("ingest", "calibrate", "solve", "measure")


def land(archive: Archive, *, n: int = 1, obs_req: str | None = "550", kind: str = "light", **changes: Any) -> str:
    """Register an object of the inbox; returns the frame's id."""
    values = {
        "inbox_key": f"inbox/T17/20261008/{n}",
        "etag": "e1",
        "name": f"frame{n}.fits.fz",
        "node_id": "T17",
        "obs_req": obs_req,
        "kind": kind,
        "start_utc": START + timedelta(minutes=n),
    } | changes
    with archive.transaction() as session:
        frame = arrivals.discover(session, **values)
        assert frame is not None
        return frame.id


def ingest(archive: Archive, frame_id: str, digest: str = "a" * 64, mission_id: str | None = None) -> Frame:
    with archive.transaction() as session:
        return arrivals.record_ingest(
            session, frame_id, pixel_digest=digest, mission_id=mission_id, raw_key="raw/x"
        )


def settle(archive: Archive, frame_id: str, step: str, code: str | None = None) -> Frame:
    with archive.transaction() as session:
        return frames.settle_step(session, frame_id, step, code=code)  # type: ignore[arg-type]


def create(archive: Archive, mission_id: str = "550", **values: Any) -> None:
    with archive.transaction() as session:
        missions.create_mission(session, mission_id, **values)


def in_flight(archive: Archive, mission_id: str = "550") -> int:
    with archive.session() as session:
        return arrivals.in_flight(session, mission_id)


def test_an_object_is_registered_once_and_ready_after_four_steps(archive: Archive) -> None:
    create(archive)
    frame_id = land(archive)
    with archive.transaction() as session:
        assert (
            arrivals.discover(
                session,
                inbox_key="inbox/T17/20261008/1",
                etag="e2",
                name="frame1.fits.fz",
                node_id="T17",
                obs_req="550",
                kind="light",
                start_utc=START,
            )
            is None
        )
        assert frames.get(session, frame_id).inbox_etag == "e2"
    assert in_flight(archive) == 1
    assert ingest(archive, frame_id, mission_id="550").ready_at is None
    for step in STEPS[1:]:
        with archive.transaction() as session:
            assert frames.claim_step(session, frame_id, step)  # type: ignore[arg-type]
        frame = settle(archive, frame_id, step)
    assert frame.ready_at is not None
    assert frame.next_attempt_at is None
    assert in_flight(archive) == 0


def test_a_step_waits_for_the_one_before_and_is_settled_once(archive: Archive) -> None:
    frame_id = land(archive)
    with archive.transaction() as session:
        assert not frames.claim_step(session, frame_id, "solve")
    ingest(archive, frame_id)
    settle(archive, frame_id, "calibrate")
    assert settle(archive, frame_id, "solve", "too-few-stars").solve == "failed"
    late_word = settle(archive, frame_id, "solve")
    assert (late_word.solve, late_word.solve_code) == ("failed", "too-few-stars")
    with archive.transaction() as session:
        assert not frames.claim_step(session, frame_id, "measure")


def test_a_step_of_a_frame_that_is_not_there_is_an_error(archive: Archive) -> None:
    with archive.transaction() as session, pytest.raises(BadInput, match="no frame nobody"):
        frames.claim_step(session, "nobody", "ingest")


def test_identity_is_the_pixels_not_the_file(archive: Archive) -> None:
    create(archive)
    first = land(archive)
    ingest(archive, first, "a" * 64)
    again = ingest(archive, land(archive, n=1, inbox_key="inbox/T17/20261008/again"), "a" * 64)
    assert (again.disposition, again.duplicate_of) == ("duplicate", first)
    other = ingest(archive, land(archive, n=1, inbox_key="inbox/T17/20261008/other"), "b" * 64)
    assert (other.disposition, other.disposition_code) == ("quarantined", "name-conflict")
    elsewhere = land(archive, n=1, inbox_key="inbox/T17/20261008/m", obs_req="551")
    assert ingest(archive, elsewhere, "a" * 64).disposition == "active"


def test_frames_of_an_unknown_mission_are_kept_and_taken_up(archive: Archive) -> None:
    frame_id = land(archive, obs_req="late-mission")
    assert ingest(archive, frame_id).flags == ["unknown-mission"]
    settle(archive, frame_id, "calibrate")
    settle(archive, frame_id, "solve", "no-position-hint")
    create(archive, "late-mission", ra_deg=10.0, dec_deg=20.0)
    with archive.session() as session:
        frame = frames.get(session, frame_id)
        assert (frame.mission_id, frame.flags, frame.solve) == ("late-mission", [], "pending")
        assert [f.id for f in frames.due(session, 10)] == [frame_id]


def test_parked_frames_come_due_and_are_given_up_in_the_end(archive: Archive) -> None:
    frame_id = land(archive)
    error = {"code": "lake-unavailable", "message": "no answer"}
    with archive.transaction() as session:
        dispositions.park(session, frame_id, error, 3600.0, budget=12)
    with archive.session() as session:
        assert frames.due(session, 10) == []
    with archive.transaction() as session:
        dispositions.park(session, frame_id, error, 0.0, budget=12)
        assert [f.id for f in frames.due(session, 10)] == [frame_id]
        frames.hold(session, [frame_id])
        assert frames.due(session, 10) == []
        for _ in range(12):
            frame = dispositions.park(session, frame_id, error, 0.0, budget=12)
    assert (frame.disposition, frame.disposition_code) == ("quarantined", "retries-spent")
    with archive.transaction() as session:
        assert dispositions.requeue(session, frame_id).ingest == "pending"
        assert [f.id for f in frames.due(session, 10)] == [frame_id]


def test_calibration_frames_are_filed_and_hold_nothing_back(archive: Archive) -> None:
    frame = ingest(archive, land(archive, obs_req=None, kind="dark"))
    assert frames.is_settled(frame)
    assert frame.next_attempt_at is None
    with archive.transaction() as session:
        assert not frames.claim_step(session, frame.id, "solve")


def test_an_announced_frame_is_in_flight_until_it_arrives_or_expires(archive: Archive) -> None:
    create(archive)
    said = {"node_id": "T17", "name": "frame1.fits.fz", "obs_req": "550", "size": 1, "sha256": "a" * 64}
    with archive.transaction() as session:
        arrivals.announce(session, **said, expires_at=database_now(session) - timedelta(seconds=1))
    assert in_flight(archive) == 0
    with archive.transaction() as session:
        arrivals.announce(session, **said, expires_at=database_now(session) + timedelta(hours=1))
    assert in_flight(archive) == 1
    frame_id = land(archive)
    assert in_flight(archive) == 1
    with archive.transaction() as session:
        dispositions.quarantine(session, frame_id, "truncated", "Send it again.")
    assert in_flight(archive) == 0


def test_a_withdrawn_frame_is_not_bound(archive: Archive) -> None:
    create(archive)
    frame_id = land(archive)
    ingest(archive, frame_id, mission_id="550")
    for step in STEPS[1:]:
        settle(archive, frame_id, step)
    with archive.transaction() as session:
        assert dispositions.withdraw(session, frame_id, "dome closed").ready_at is None
        assert dispositions.requeue(session, frame_id).ready_at is not None


def test_bad_missions_are_refused(archive: Archive) -> None:
    with pytest.raises(BadInput, match="cannot stand in a file name"):
        create(archive, "../etc")
    with pytest.raises(BadInput, match="no point on the sky"):
        create(archive, "551", ra_deg=400.0, dec_deg=0.0)
    create(archive)
    with pytest.raises(Conflict, match="exists already"):
        create(archive)
    with archive.session() as session, pytest.raises(BadInput, match="no mission 999"):
        missions.get_mission(session, "999")


def test_filters_map_to_bands(archive: Archive) -> None:
    with archive.transaction() as session:
        assert missions.band_of(session, "T9", "Filter 2") == "T9:Filter 2"
        assert missions.band_of(session, "T9", "Johnson V") == "V"
        assert missions.band_of(session, "T9", None) == "T9:none"
        missions.register_node(session, "T9", filters={"Filter 2": "R"}, owner="me")
        missions.register_node(session, "T9", filters={"Filter 3": "I"})
        assert missions.band_of(session, "T9", "Filter 2") == "R"
        assert missions.list_nodes(session)[0]["filters"] == {"Filter 2": "R", "Filter 3": "I"}


def test_spent_events_are_superseded_and_one_stays_open(archive: Archive) -> None:
    create(archive)
    for status in ("COMPLETE", "OPEN", "COMPLETE"):
        with archive.transaction() as session:
            missions.set_status(session, "550", status)
    with archive.transaction() as session:
        assert events.supersede_spent(session) == 2
        ((event, mission),) = events.open_events(session)
        assert (event.new_status, mission.status) == ("COMPLETE", "COMPLETE")
        assert events.take_attempts(session, [event.id or 0], 10.0) == {event.id: 1}
    with archive.transaction() as session:
        missions.set_status(session, "550", "CANCELLED")
    with archive.transaction() as session:
        assert events.supersede_spent(session) == 1
        events.close_told(session, [e.id or 0 for e, _ in events.news(session)], "told")
        assert events.open_events(session) == []
        notes = session.exec(select(StatusEvent.note)).all()
        assert any("CANCELLED" in (note or "") for note in notes)


def solved(archive: Archive, frame_id: str, ra: float, dec: float) -> None:
    half = 0.3
    corners = [[ra - half, dec - half], [ra + half, dec - half], [ra + half, dec + half], [ra - half, dec + half]]
    with archive.transaction() as session:
        row = Solution(
            frame_id=frame_id, solver="test", catalog="none", code_version="0", ra_deg=ra % 360, dec_deg=dec,
            scale_arcsec=1.0, rotation_deg=0.0, parity=1, rms_arcsec=0.1, rms_px=0.1, matches=20, order=1,
            footprint=corners,
        )  # fmt: skip
        session.add(row)
        session.flush()
        session.add(
            Photometry(
                frame_id=frame_id, solution_id=row.id or 0, fwhm_px=3, fwhm_arcsec=3, sky_adu=1, sky_sigma_adu=1
            )
        )
        index_frame(session, frame_id, corners)


def test_frames_are_found_by_position(archive: Archive) -> None:
    ids = [land(archive, n=n) for n in range(1, 4)]
    for frame_id, (ra, dec) in zip(ids, [(0.1, 0.0), (10.0, 60.0), (10.0, -60.0)], strict=True):
        solved(archive, frame_id, ra, dec)

    def covering(*point: float) -> list[str]:
        with archive.session() as session:
            return [frame.id for frame in frames_covering(session, *point)]

    assert covering(359.9, 0.1) == [ids[0]]
    assert covering(359.7, 0.1) == []
    assert covering(359.7, 0.1, 0.2) == [ids[0]]
    assert covering(10.0, 60.2) == [ids[1]]
    assert covering(10.0, 0.0) == []
    assert covering(190.0, -60.0) == []


def test_the_index_holds_every_point_of_a_footprint() -> None:
    import astropy.units as u
    import numpy as np
    from astropy_healpix import HEALPix

    corners = [[30.0, 40.0], [31.0, 40.0], [31.0, 41.0], [30.0, 41.0]]
    ra, dec = np.meshgrid(np.linspace(30, 31, 30), np.linspace(40, 41, 30))
    inside = HEALPix(nside=128, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    assert set(inside.ravel().tolist()) <= set(cells_of(corners))


def test_the_same_inputs_again_are_no_work(archive: Archive) -> None:
    create(archive)
    frame_id = land(archive)
    ingest(archive, frame_id, mission_id="550")
    for step in STEPS[1:]:
        settle(archive, frame_id, step)
    solved(archive, frame_id, 10.0, 20.0)

    def round_trip() -> bool:
        with archive.transaction() as session:
            missions.set_status(session, "550", "COMPLETE")
        with archive.session() as session:
            event = [e for e, _ in events.open_events(session) if e.new_status == "COMPLETE"][-1]
        claim = claims.claim(archive, "550", event.id or 0, "test", 60.0)
        assert len(claims.bind(archive, claim, {"kernel": "bilinear"}, 1)) == 1
        if claims.settle_unchanged(archive, claim):
            return True
        claims.publish(archive, claim, [], [], {})
        return False

    assert round_trip() is False
    assert round_trip() is True
    with archive.transaction() as session:
        frames.get(session, frame_id).filter = "Filter 2"
        session.flush()
        missions.register_node(session, "T17", filters={"Filter 2": "R"})
        assert frames.get(session, frame_id).band == "R"
    assert round_trip() is False
    with archive.session() as session:
        detail = missions.describe(session, "550")
    assert detail["mission"]["status"] == "STACKED"
    assert [r["status"] for r in detail["revisions"]] == ["published", "unchanged", "published"]
    assert detail["frames"] == [{"state": "ready", "count": 1}]


def test_an_object_written_over_one_that_was_read_is_another_frame(archive: Archive) -> None:
    first = land(archive)
    with archive.transaction() as session:
        assert not arrivals.is_left_behind(frames.get(session, first), "e1")
        arrivals.record_ingest(session, first, pixel_digest="a" * 64, raw_key="raw/x", inbox_etag="e1")
        (left,) = arrivals.known_at(session, ["inbox/T17/20261008/1", "inbox/T17/20261008/2"]).values()
        assert left.id == first
        assert arrivals.is_left_behind(left, "e1")
    second = land(archive, etag="e2")
    assert second != first
    with archive.session() as session:
        assert frames.get(session, first).inbox_key is None
        assert not arrivals.is_left_behind(frames.get(session, second), "e2")
        assert arrivals.taken_up(session, ["frame1.fits.fz"]) == {("frame1.fits.fz", "e1")}


def test_a_refusal_changes_nothing_that_another_run_has_settled(archive: Archive) -> None:
    error = {"code": "object-missing", "message": "inbox/x is gone", "hint": "Send it again."}
    settled, open_ = land(archive, n=1), land(archive, n=2)
    ingest(archive, settled)
    with archive.transaction() as session:
        assert dispositions.refuse(session, settled, error).disposition == "active"
        refused = dispositions.refuse(session, open_, error, raw_key="quarantine/x")
        assert (refused.disposition_code, refused.disposition_hint) == ("object-missing", "Send it again.")
        assert refused.last_error == error
        assert frames.still_pending(session, settled, "solve") is not None
        assert frames.still_pending(session, settled, "ingest") is None
        assert frames.still_pending(session, open_, "solve") is None


def test_a_name_in_conflict_or_taken_is_looked_at_again(archive: Archive) -> None:
    first = land(archive)
    ingest(archive, first, "a" * 64)
    other = land(archive, inbox_key="inbox/T17/20261008/other")
    assert ingest(archive, other, "b" * 64).disposition_code == "name-conflict"
    with archive.transaction() as session:
        assert dispositions.requeue(session, other).ingest == "pending"
    assert ingest(archive, other, "b" * 64).disposition_code == "name-conflict"
    with archive.transaction() as session:
        dispositions.withdraw(session, first, "wrong one")
        dispositions.requeue(session, other)
    assert ingest(archive, other, "b" * 64).disposition == "active"
    with archive.transaction() as session, pytest.raises(Conflict, match="taken its place"):
        dispositions.requeue(session, first)


def test_frames_are_found_by_what_people_write(archive: Archive) -> None:
    mosaic = land(archive, name="m.fits.fz")
    ingest(archive, mosaic)
    with archive.transaction() as session:
        row = frames.settle_step(session, mosaic, "calibrate", plane=frames.MOSAIC)
        frames.add_planes(session, row, {"R": "TR", "B": "TB"})
    with archive.session() as session:
        for word in (mosaic, mosaic[:8], "m.fits.fz"):
            assert frames.find(session, word).id == mosaic
        for word in ("none.fits", "0" * 12):
            with pytest.raises(BadInput, match="no frame"):
                frames.find(session, word)


def test_an_announced_correction_is_waited_for(archive: Archive) -> None:
    create(archive)
    first = land(archive)
    with archive.transaction() as session:
        dispositions.refuse(session, first, {"code": "truncated", "hint": "Send it again."}, inbox_key=None)
        arrivals.announce(
            session, node_id="T17", name="frame1.fits.fz", obs_req="550", size=1, sha256="c" * 64,
            expires_at=database_now(session) + timedelta(hours=1),
        )  # fmt: skip
    assert in_flight(archive) == 1


def test_what_people_may_ask_of_a_mission(archive: Archive) -> None:
    create(archive)

    def ask(wish: Any) -> tuple[str, bool]:
        with archive.transaction() as session:
            mission, changed = missions.change(session, "550", wish)
            return mission.status, changed

    with pytest.raises(Conflict, match="is OPEN") as refused:
        ask("restack")
    assert (refused.value.code, "mission complete 550" in refused.value.hint) == ("mission-open", True)
    assert ask("complete") == ("COMPLETE", True)
    assert ask("complete") == ("COMPLETE", False)
    assert ask("cancel") == ("CANCELLED", True)
    with archive.session() as session:
        assert [event.new_status for event, _ in events.open_events(session)] == ["COMPLETE", "CANCELLED"]
    with archive.transaction() as session, pytest.raises(BadInput, match="no mission 551"):
        missions.change(session, "551", "complete")


def test_texts_longer_than_their_column_are_refused(archive: Archive) -> None:
    with pytest.raises(BadInput, match="at most 255"):
        create(archive, "551", title="x" * 256)
    with archive.transaction() as session, pytest.raises(BadInput, match="at most 255"):
        missions.register_node(session, "T9", owner="x" * 256)


def test_a_mission_gives_earlier_frames_its_rights_and_judges_where_they_point(archive: Archive) -> None:
    near, far = land(archive, n=1), land(archive, n=2)
    for n, (frame_id, ra) in enumerate([(near, 10.0), (far, 30.0)]):
        ingest(archive, frame_id, str(n) * 64)
        settle(archive, frame_id, "calibrate")
        settle(archive, frame_id, "solve")
        solved(archive, frame_id, ra, 0.0)
    create(archive, ra_deg=10.2, dec_deg=0.0, licence="CC-BY-4.0")
    with archive.session() as session:
        assert frames.get(session, near).flags == []
        assert frames.get(session, far).flags == ["off-target"]
        assert frames.get(session, near).licence == "CC-BY-4.0"


def test_a_target_is_elsewhere_only_beyond_the_frames_own_size() -> None:
    corners = [[359.5, -0.5], [0.5, -0.5], [0.5, 0.5], [359.5, 0.5]]
    assert separation_deg(corners[0], corners[2]) == pytest.approx(2**0.5, abs=1e-3)
    assert not is_elsewhere(corners, (0.0, 0.0))
    assert not is_elsewhere(corners, (1.8, 0.0))
    assert is_elsewhere(corners, (2.0, 0.0))
    assert is_elsewhere(corners, (180.0, 0.0))
    assert distance_deg((5.0, 0.0), [[4.0, 0.0]] * 3) == pytest.approx(1.0)
