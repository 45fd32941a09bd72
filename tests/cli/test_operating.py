"""What operators ask for from the command line: frames again, a stack again, what changed, what is stuck."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import claims, dispositions, giving_back
from starloom.archive.models import Frame, Mission, Photometry, Solution, StatusEvent
from starloom.hub import Hub
from starloom.lake import keys
from starloom.settings import load_settings

START = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)


@pytest.fixture
def hub(home: Any) -> Hub:
    home.mkdir()
    made = Hub.open(load_settings(home))
    made.archive.migrate()
    made.lake.prepare()
    with made.archive.transaction() as session:
        session.add(Mission(id="550"))
    return made


def add_ready(hub: Hub, name: str) -> None:
    steps = dict.fromkeys(("ingest", "calibrate", "solve", "measure"), "ok")
    with hub.archive.transaction() as session:
        frame = Frame(
            name=name, node_id="T1", obs_req="550", mission_id="550", start_utc=START, pixel_digest=name,
            ready_at=START, **steps,
        )  # fmt: skip
        session.add(frame)
        session.flush()
        solution = Solution(
            frame_id=frame.id, solver="s", catalog="c", code_version="1", ra_deg=1, dec_deg=2, scale_arcsec=2,
            rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, matches=20, order=1,
        )  # fmt: skip
        session.add(solution)
        session.flush()
        session.add(
            Photometry(
                frame_id=frame.id, solution_id=solution.id or 0, fwhm_px=2, fwhm_arcsec=5, sky_adu=1,
                sky_sigma_adu=1,
            )
        )  # fmt: skip


def newest_event(hub: Hub) -> StatusEvent:
    with hub.archive.session() as session:
        return list(session.exec(select(StatusEvent).order_by(StatusEvent.id)).all())[-1]  # type: ignore[arg-type]


def publish(hub: Hub) -> None:
    claim = claims.claim(hub.archive, "550", newest_event(hub).id or 0, "test", 60)
    bound = claims.bind(hub.archive, claim, {"kernel": "bilinear"}, claim.n)
    key = f"stacks/550/r{claim.n}/e{claim.epoch}/V.fits"
    summary = {"n_used": len(bound), "exposure_s": 60.0 * len(bound)}
    product = claims.NewProduct("V", 1, key, None, "0" * 64, 1, None, summary)
    outcomes = [claims.FrameOutcome(item.frame.id, 1.0, 1.0, 0.0, None) for item in bound]
    claims.publish(hub.archive, claim, [product], outcomes, {})


def test_a_mission_is_stacked_again_with_a_reason_and_compared(run: Any, hub: Hub) -> None:
    add_ready(hub, "first")
    assert run("mission", "complete", "550").code == 0
    publish(hub)
    assert run("mission", "diff", "550", "--json").error["code"] == "no-such-revision"
    add_ready(hub, "second")
    assert run("mission", "restack", "550", "--reason", "new flats").code == 0
    assert (newest_event(hub).new_status, newest_event(hub).reason) == ("COMPLETE", "new flats")
    assert "nothing changed" in run("mission", "restack", "550").out
    publish(hub)
    told = run("mission", "diff", "550", "--json").json
    assert [(row["name"], row["change"]) for row in told["frames"]] == [("second", "added")]
    assert told["parameters"] == [{"name": "COADD_VERSION", "since": 1, "until": 2}]
    shown = run("mission", "diff", "550", "--from", "1", "--to", "2")
    assert "Frames that are the same: 1." in shown.out
    assert "exposure_s" in shown.out
    assert run("mission", "diff", "nobody", "--json").error["code"] == "unknown-mission"


def test_a_failed_attempt_says_what_it_met(run: Any, hub: Hub) -> None:
    add_ready(hub, "a")
    run("mission", "complete", "550")
    claim = claims.claim(hub.archive, "550", newest_event(hub).id or 0, "test", 60)
    met = {"code": "memory-too-small", "message": "2 frames need at least 0.25 GB", "hint": "", "retryable": False}
    giving_back.fail(hub.archive, claim, met, fatal=True, budget=hub.budget)
    told = run("mission", "show", "550").out
    assert "memory-too-small" in told
    assert "at least 0.25 GB" in told


def test_frames_are_requeued_by_condition_and_their_tries_shown(run: Any, hub: Hub) -> None:
    silent = {"code": "lake-unavailable", "message": "the lake is silent", "hint": ""}
    with hub.archive.transaction() as session:
        for name, node in (("a", "T1"), ("b", "T1"), ("c", "T2")):
            frame = Frame(name=name, node_id=node, obs_req="550")
            session.add(frame)
            session.flush()
            dispositions.park(session, frame.id, silent, 60.0, budget=1)
    add_ready(hub, "fine")
    assert run("frames", "requeue").code == 2  # neither a frame nor conditions
    assert run("frames", "requeue", "--where", "colour=blue", "--json").error["code"] == "bad-condition"
    stuck = run("status", "--json").json["stuck"]
    assert [(row["id"], row["why"]) for row in stuck] == [("3 frames", "retries-spent")]
    again = run("frames", "requeue", "--where", "disposition_code=retries-spent", "--where", "node=T1", "--json")
    assert {row["name"] for row in again.json} == {"a", "b"}
    assert {row["state"] for row in again.json} == {"processing"}
    assert b'"processing"' in hub.lake.get_bytes(keys.receipt("T1", "a"), max_bytes=10_000)
    assert run("frames", "requeue", "--where", "node=T1", "--json").json == []  # on their way, or READY
    tries = run("frames", "show", "a", "--json").json["attempts_at"]
    assert [(one["step"], one["code"], one["number"]) for one in tries] == [("ingest", "lake-unavailable", 1)]
    assert "Tries that came to nothing" in run("frames", "show", "a").out
