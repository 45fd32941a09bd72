"""Frames done again: what they have stays until the new is complete, and stacks are stale where it matters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import Archive, claims, dispositions, frames, giving_back, missions, results, staleness
from starloom.archive.engine import database_now
from starloom.archive.giving_back import Budget
from starloom.archive.models import Calibration, Frame, Instrument, Master, Mission, Node, Photometry, Solution
from starloom.lake import keys

START = datetime(2025, 12, 1, 1, 30, tzinfo=UTC)
SCALE = 2.0 / 3600


def cards(shift_px: float = 0.0, turn: float = 0.0) -> dict[str, Any]:
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 286.04, "CRVAL2": 36.63,
        "CRPIX1": 500.5 + shift_px, "CRPIX2": 400.5,
        "CD1_1": -SCALE, "CD1_2": turn * SCALE, "CD2_1": turn * SCALE, "CD2_2": SCALE,
    }  # fmt: skip


def solution(frame_id: str, **values: Any) -> Solution:
    said: dict[str, Any] = {"wcs": cards(), "matches": 20}
    return Solution(
        frame_id=frame_id, solver="seiza", catalog="Tycho-2", code_version="1", ra_deg=286.04, dec_deg=36.63,
        scale_arcsec=2.0, rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, order=1, **(said | values),
    )  # fmt: skip


def photometry(frame_id: str, under: Solution, zero_point_mag: float | None = 21.0) -> Photometry:
    assert under.id is not None
    return Photometry(
        frame_id=frame_id, solution_id=under.id, fwhm_px=2, fwhm_arcsec=5, sky_adu=1, sky_sigma_adu=1,
        zero_point_mag=zero_point_mag,
    )  # fmt: skip


@pytest.fixture
def frame(archive: Archive) -> Frame:
    """A READY frame in a mission."""
    with archive.transaction() as session:
        session.add(Mission(id="550", ra_deg=286.04, dec_deg=36.63))
        session.flush()
        made = Frame(
            name="f", node_id="T42", obs_req="550", mission_id="550", start_utc=START, pixel_digest="d",
            width=1000, height=800, ingest="ok", calibrate="ok", solve="ok", measure="ok",
        )  # fmt: skip
        session.add(made)
        session.flush()
        found = solution(made.id)
        results.add_solution(session, made, found)
        results.add_photometry(session, made, found, photometry(made.id, found))
        made.ready_at = database_now(session)
        return made


def stacked(archive: Archive, mission: str = "550") -> claims.Claim:
    """Bind and publish the mission's next revision."""
    with archive.transaction() as session:
        missions.set_status(session, mission, "COMPLETE")
    with archive.session() as session:
        from starloom.archive.models import StatusEvent

        event = session.exec(select(StatusEvent.id).order_by(StatusEvent.id.desc())).first()  # type: ignore[union-attr]
    assert event is not None
    claim = claims.claim(archive, mission, event, "test", 60)
    claims.bind(archive, claim, {}, 1)
    claims.publish(archive, claim, [], [], {})
    return claim


def done_again(archive: Archive, frame_id: str, *, zero_point_mag: float | None = 21.0, **values: Any) -> None:
    with archive.transaction() as session:
        assert frames.reprocess(session, frame_id, "solve") is not None
    with archive.transaction() as session:
        assert frames.claim_step(session, frame_id, "solve")
        found = solution(frame_id, **values)
        results.add_solution(session, frames.get(session, frame_id), found)
        frames.settle_step(session, frame_id, "solve")
    with archive.transaction() as session:
        newest = results.newest_solution(session, frame_id)
        assert newest is not None
        results.add_photometry(
            session, frames.get(session, frame_id), newest, photometry(frame_id, newest, zero_point_mag)
        )
        frames.settle_step(session, frame_id, "measure")


def stale(archive: Archive) -> list[str]:
    with archive.transaction() as session:
        return [mission.id for mission in staleness.stale_missions(session, 0.0)]


def test_a_ready_frame_keeps_its_solution_until_the_new_one_is_measured(archive: Archive, frame: Frame) -> None:
    with archive.transaction() as session:
        first = results.current_solution(session, frame.id)
        frames.reprocess(session, frame.id, "solve")
    with archive.transaction() as session:
        results.add_solution(session, frames.get(session, frame.id), solution(frame.id, matches=99))
        frames.settle_step(session, frame.id, "solve", solved_key="solved/new")
    claim_inputs = bind_now(archive)
    assert [item.solution.id for item in claim_inputs] == [first.id]  # type: ignore[union-attr]
    with archive.transaction() as session:
        newest = results.newest_solution(session, frame.id)
        assert newest is not None
        assert newest.matches == 99
        results.add_photometry(session, frames.get(session, frame.id), newest, photometry(frame.id, newest, 21.5))
        frames.settle_step(session, frame.id, "measure")
    with archive.session() as session:
        now = results.current_results(session, frame.id)
        assert (now["solution"]["matches"], now["photometry"]["zero_point_mag"]) == (99, 21.5)
        everything = session.exec(select(Solution).where(Solution.frame_id == frame.id)).all()
        assert sorted(row.current for row in everything) == [False, True]


def bind_now(archive: Archive) -> list[claims.BoundInput]:
    with archive.transaction() as session:
        missions.set_status(session, "550", "COMPLETE")
    with archive.session() as session:
        from starloom.archive.models import StatusEvent

        event = max(e.id or 0 for e in session.exec(select(StatusEvent)).all())
    claim = claims.claim(archive, "550", event, "test", 60)
    bound = claims.bind(archive, claim, {}, 1)
    giving_back.fail(archive, claim, {"code": "test"}, fatal=False, budget=Budget())
    return bound


def test_a_frame_that_cannot_be_done_again_keeps_what_it_has(archive: Archive, frame: Frame) -> None:
    with archive.transaction() as session:
        frames.reprocess(session, frame.id, "solve")
    with archive.transaction() as session:
        after = frames.settle_step(session, frame.id, "solve", code="no-match", hint="look")
    assert (frames.state_of(after), after.solve, after.measure) == ("ready", "ok", "ok")
    assert after.flags == [frames.REPROCESSING_FAILED]
    assert after.last_error == {"code": "no-match", "hint": "look", "step": "solve"}
    assert after.next_attempt_at is None
    with archive.transaction() as session:
        frames.reprocess(session, frame.id, "solve")
        again = dispositions.quarantine(session, frame.id, "bad-fits", "")
    assert (again.disposition, again.ready_at) == ("active", frame.ready_at)


def test_frames_under_way_and_set_aside_are_left_alone(archive: Archive, frame: Frame) -> None:
    with archive.transaction() as session:
        assert frames.reprocess(session, frame.id, "measure") is not None
        session.add(Frame(id="f" * 32, name="new", node_id="T42", start_utc=START))
        dispositions.withdraw(session, frame.id, "dome closed")
    with archive.transaction() as session:
        assert frames.reprocess(session, frame.id, "solve") is None
        assert frames.reprocess(session, "f" * 32, "solve") is None


@pytest.mark.parametrize(
    ("change", "matters"),
    [
        ({}, False),
        ({"wcs": cards(0.05)}, False),
        ({"wcs": cards(0.2)}, True),
        ({"wcs": cards(0.0, 2e-4)}, True),  # 0.13 px in the corners, nothing in the centre
        ({"zero_point_mag": 21.005}, False),
        ({"zero_point_mag": 21.02}, True),
        ({"zero_point_mag": None}, True),
    ],
)
def test_a_stack_is_stale_where_it_matters(
    archive: Archive, frame: Frame, change: dict[str, Any], matters: bool
) -> None:
    stacked(archive)
    assert stale(archive) == []
    done_again(archive, frame.id, **change)
    assert stale(archive) == (["550"] if matters else [])
    assert stale(archive) == (["550"] if matters else [])  # asked again, the same


def test_other_masters_make_a_stack_stale(archive: Archive, frame: Frame) -> None:
    stacked(archive)
    with archive.transaction() as session:
        session.add(Node(id="T42"))
        session.flush()
        session.add(Instrument(id=1, node_id="T42"))
        session.flush()
        session.add(
            Master(
                id=1,
                instrument_id=1,
                kind="dark",
                code_version="1",
                width=1000,
                height=800,
                n_frames=5,
                key="masters/1",
                sha256="0" * 64,
            )
        )
        session.flush()
        done = Calibration(frame_id=frame.id, code_version="1", dark_id=1)
        session.add(done)
        session.flush()
        calibration_id = done.id
    done_again(archive, frame.id, calibration_id=calibration_id)
    assert stale(archive) == ["550"]
    stacked(archive)
    assert stale(archive) == []


def test_what_only_history_speaks_of_may_go(archive: Archive, frame: Frame) -> None:
    with archive.transaction() as session:
        first = results.current_solution(session, frame.id)
        assert first is not None
        first.solved_key = keys.solved("T42", START, frame.id, "first")
    second = keys.solved("T42", START, frame.id, "second")
    done_again(archive, frame.id, solved_key=second)
    with archive.session() as session:
        assert results.unreferenced(session, [second, first.solved_key]) == [first.solved_key]


def test_moved_px_is_what_was_moved() -> None:
    assert staleness.moved_px(cards(), cards(), (800, 1000)) == 0.0
    assert staleness.moved_px(cards(), cards(0.3), (800, 1000)) == pytest.approx(0.3, abs=1e-3)
    sip = cards() | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 4e-6}
    assert staleness.moved_px(cards(), sip, (800, 1000)) == pytest.approx(4e-6 * 500**2, rel=0.02)
