"""What sweep finds: dead epochs, orphans, lost frames, stale and unheard missions; and what it leaves alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import select

from starloom import sweeping
from starloom.archive import claims, dispositions, frames, missions, staleness
from starloom.archive.frames import LOST_AFTER_S
from starloom.archive.models import Frame, Mission, Photometry, Revision, Solution, StatusEvent
from starloom.batches import FramesWait, advance
from starloom.errors import BadInput, Unavailable
from starloom.hub import Hub
from starloom.lake import DiskFull, keys
from starloom.settings import Settings
from starloom.telemetry import begin

START = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)
OLD_S = 7 * 86400


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub.open(Settings(home=tmp_path / "home"))
    made.archive.migrate()
    made.lake.prepare()
    with made.archive.transaction() as session:
        missions.create_mission(session, "550")
    yield made
    made.archive.dispose()


def put(hub: Hub, key: str, *, age_s: float = OLD_S) -> str:
    """Write an object of a given age."""
    hub.lake.put_bytes(b"x", key)
    path = hub.settings.home / "lake" / key
    os.utime(path, (time.time() - age_s,) * 2)
    return key


def is_there(hub: Hub, key: str) -> bool:
    return hub.lake.stat(key) is not None


def add_frame(hub: Hub, name: str = "f", **values: object) -> str:
    with hub.archive.transaction() as session:
        frame = Frame(name=name, node_id="T1", obs_req="550", mission_id="550", start_utc=START, **values)
        session.add(frame)
        session.flush()
        return frame.id


def make_ready(hub: Hub, name: str, *, since_s: float = 0.0) -> str:
    states = dict.fromkeys(("ingest", "calibrate", "solve", "measure"), "ok")
    ready_at = datetime.now(UTC) - timedelta(seconds=since_s)
    frame_id = add_frame(hub, name, pixel_digest=name, ready_at=ready_at, **states)
    with hub.archive.transaction() as session:
        solution = Solution(
            frame_id=frame_id, solver="s", catalog="c", code_version="1", ra_deg=1, dec_deg=2, scale_arcsec=2,
            rotation_deg=0, parity=1, rms_arcsec=0.4, rms_px=0.2, matches=20, order=1,
        )  # fmt: skip
        session.add(solution)
        session.flush()
        session.add(
            Photometry(
                frame_id=frame_id, solution_id=solution.id or 0, fwhm_px=2, fwhm_arcsec=5, sky_adu=1,
                sky_sigma_adu=1,
            )
        )  # fmt: skip
    return frame_id


def set_status(hub: Hub, status: str = "COMPLETE") -> int:
    with hub.archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET status = :s WHERE id = '550'"), {"s": status})
    return open_events(hub)[-1].id or 0


def open_events(hub: Hub) -> list[StatusEvent]:
    with hub.archive.session() as session:
        query = select(StatusEvent).where(StatusEvent.state == "open").order_by(StatusEvent.id)
        return list(session.exec(query).all())


def status_of(hub: Hub) -> str:
    with hub.archive.session() as session:
        return missions.get_mission(session, "550").status


def publish(hub: Hub) -> claims.Claim:
    claim = claims.claim(hub.archive, "550", set_status(hub), "me", 60)
    claims.bind(hub.archive, claim, {}, 1)
    claims.publish(hub.archive, claim, [], [], {})
    return claim


def test_objects_of_dead_epochs_go_past_the_grace_and_living_ones_never(hub: Hub) -> None:
    make_ready(hub, "a")
    dead = claims.claim(hub.archive, "550", set_status(hub), "dead", -1)
    claims.bind(hub.archive, dead, {}, 1)
    orphan = put(hub, keys.stack("550", dead.n, dead.epoch, "V", 1))
    preview = put(hub, keys.preview("550", dead.n, dead.epoch, "V", 1))
    assert sweeping.tidy_lake(hub) == 0  # its lease is overdue, but nobody has taken it yet
    assert sweeping.reconcile_missions(hub) == 1
    young = put(hub, keys.stack("550", dead.n, dead.epoch, "R", 1), age_s=60)
    living = claims.claim(hub.archive, "550", open_events(hub)[-1].id or 0, "me", 60)
    claims.bind(hub.archive, living, {}, 1)
    product = put(hub, keys.stack("550", living.n, living.epoch, "V", 1))
    foreign = put(hub, "stacks/550/readme.txt")
    assert sweeping.tidy_lake(hub) == 2
    assert [is_there(hub, key) for key in (orphan, preview, young, product, foreign)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    claims.publish(hub.archive, living, [], [], {})
    make_ready(hub, "b")
    newer = publish(hub)
    assert newer.n == 2
    assert sweeping.tidy_lake(hub) == 0  # earlier revisions are kept
    assert is_there(hub, product)


def test_objects_of_a_mission_nobody_knows_are_orphans(hub: Hub) -> None:
    gone = put(hub, keys.stack("lost", 1, 1, "V", 1))
    assert sweeping.tidy_lake(hub) == 1
    assert not is_there(hub, gone)


def test_solved_copies_and_source_lists_without_a_row_go(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 2)
    solved, sources = keys.solved("T1", START, "f", 3), keys.sources("T1", START, "f", 3)
    add_frame(hub, id="f", solved_key=solved, sources_key=sources)
    for key in (solved, sources):
        put(hub, key)
    orphans = [put(hub, keys.solved("T1", START, "f", i)) for i in (1, 2, 4, 5, 6)]
    orphans.append(put(hub, keys.sources("T1", START, "f", 1)))
    young = put(hub, keys.solved("T1", START, "f", 7), age_s=60)  # its row is about to be committed
    raw = put(hub, keys.raw("T1", START, "0" * 64, compressed=True))
    assert sweeping.tidy_lake(hub) == len(orphans)
    assert not any(is_there(hub, key) for key in orphans)
    assert all(is_there(hub, key) for key in (solved, sources, young, raw))


def test_pages_masters_and_calibrated_pixels_without_a_row_go(hub: Hub) -> None:
    page = put(hub, keys.quicklook("T1", START, "f", 3))
    calibrated = put(hub, "calibrated/T1/20261008/f/3.fits.fz")
    add_frame(hub, id="f", quicklook_key=page, calibrated_key=calibrated)
    orphans = [
        put(hub, keys.quicklook("T1", START, "f", 2)),
        put(hub, "calibrated/T1/20261008/f/2.fits.fz"),
        put(hub, "masters/T1/dark/1.fits.fz"),
    ]
    assert sweeping.tidy_lake(hub) == len(orphans)
    assert not any(is_there(hub, key) for key in orphans)
    assert is_there(hub, page)
    assert is_there(hub, calibrated)


def test_stale_missions_are_reopened_after_a_quiet_time(hub: Hub) -> None:
    make_ready(hub, "a", since_s=9000)
    publish(hub)
    assert sweeping.reopen_stale_missions(hub) == 0  # nothing is missing
    late = make_ready(hub, "late", since_s=5)
    assert sweeping.reopen_stale_missions(hub) == 0  # more may come
    with hub.archive.transaction() as session:
        frames.get(session, late).ready_at = datetime.now(UTC) - timedelta(seconds=hub.settings.late_quiet_s + 1)
    assert sweeping.reopen_stale_missions(hub) == 1
    assert status_of(hub) == "COMPLETE"
    assert [(e.old_status, e.new_status) for e in open_events(hub)][-1] == ("STACKED", "COMPLETE")
    assert sweeping.reopen_stale_missions(hub) == 0


def test_only_missions_are_looked_at_that_changed_after_their_stack_was_claimed(hub: Hub) -> None:
    """A stack knows what there was when it was claimed; what came while it was made, or since, it does not."""

    def looked_at() -> set[str]:
        with hub.archive.session() as session:
            return staleness.recently_changed(session, 3600.0)

    def measured_when_ready() -> None:
        with hub.archive.transaction() as session:
            for photometry in session.exec(select(Photometry)).all():
                photometry.created_at = frames.get(session, photometry.frame_id).ready_at or photometry.created_at

    make_ready(hub, "a", since_s=1800)
    measured_when_ready()
    publish(hub)
    assert looked_at() == set()
    with hub.archive.transaction() as session:
        (revision,) = session.exec(select(Revision)).all()
        revision.claimed_at -= timedelta(hours=3)  # it took three hours
        session.flush()
    make_ready(hub, "while it was made", since_s=2 * 3600)
    measured_when_ready()
    assert looked_at() == {"550"}
    with hub.archive.session() as session:
        assert [mission.id for mission in staleness.stale_missions(session, 0)] == ["550"]


def test_a_mission_cancelled_meanwhile_is_not_reopened(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready(hub, "a", since_s=9000)
    publish(hub)
    make_ready(hub, "late", since_s=9000)
    with hub.archive.session() as session:
        stale = staleness.stale_missions(session, 0)
    assert [mission.id for mission in stale] == ["550"]
    monkeypatch.setattr(staleness, "stale_missions", lambda *_: stale)
    set_status(hub, "CANCELLED")
    assert sweeping.reopen_stale_missions(hub) == 0
    assert status_of(hub) == "CANCELLED"


def test_due_frames_are_handed_out_once(hub: Hub) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    due = {add_frame(hub, f"f{i}", next_attempt_at=past) for i in range(20)}
    add_frame(hub, "later", next_attempt_at=datetime.now(UTC) + timedelta(hours=1))
    add_frame(hub, "done", disposition="quarantined", next_attempt_at=past)
    (batch,) = sweeping.due_batches(hub)
    assert set(batch.frame_ids) == due
    assert [len(chunk.frame_ids) for chunk in batch.chunks()] == [8, 8, 4]
    assert sweeping.due_batches(hub) == []
    with hub.archive.session() as session:
        again = frames.get(session, batch.frame_ids[0]).next_attempt_at
    assert again is not None
    assert abs((again - datetime.now(UTC)).total_seconds() - LOST_AFTER_S) < 30
    assert [len(b.frame_ids) for b in _batches_of(hub, 130)] == [64, 64, 2]


def _batches_of(hub: Hub, count: int) -> list[sweeping.FrameBatch]:
    past = datetime.now(UTC) - timedelta(seconds=5)
    for i in range(count):
        add_frame(hub, f"g{i}", next_attempt_at=past)
    found = sweeping.due_batches(hub)
    assert len({batch.key for batch in found}) == len(found)
    return found


def test_missions_that_no_event_announced_are_found(hub: Hub) -> None:
    assert sweeping.reconcile_missions(hub) == 0
    event = set_status(hub)
    assert sweeping.reconcile_missions(hub) == 0  # heard
    with hub.archive.transaction() as session:  # a restored backup, a trigger that was not there
        session.connection().execute(text("DELETE FROM status_event"))
    assert sweeping.reconcile_missions(hub) == 1
    (found,) = open_events(hub)
    assert (found.new_status, found.mission_id) == ("COMPLETE", "550")
    assert found.note == "no event had asked for it"
    assert sweeping.reconcile_missions(hub) == 0
    claim = claims.claim(hub.archive, "550", found.id or event, "me", 60)
    assert sweeping.reconcile_missions(hub) == 0  # STACKING, with a holder
    with hub.archive.transaction() as session:
        session.connection().execute(text("UPDATE revision SET status = 'failed'"))
    assert sweeping.reconcile_missions(hub) == 1  # STACKING, and nobody works on it
    assert status_of(hub) == "COMPLETE"
    with pytest.raises(claims.LeaseLost):
        claims.renew(hub.archive, claim, 60)


def test_frames_of_runs_that_wait_for_a_worker_are_not_lost(hub: Hub) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    waits, lost = (add_frame(hub, name, next_attempt_at=past) for name in ("waits", "lost"))
    (batch,) = sweeping.due_batches(hub, waiting={waits})
    assert batch.frame_ids == [lost]
    assert sweeping.due_batches(hub, waiting={waits}) == []  # held, not forgotten
    assert (state_of(hub, waits).next_attempt_at or past) > datetime.now(UTC)


def lose(hub: Hub, frame_id: str) -> None:
    """Begin a step and die in it, as a run that takes its worker with it does; its time runs out."""
    with hub.archive.transaction() as session:
        assert frames.claim_step(session, frame_id, "ingest")
        frames.get(session, frame_id).next_attempt_at = datetime.now(UTC) - timedelta(seconds=1)


def test_a_frame_that_kills_its_worker_goes_alone_and_is_given_up(hub: Hub) -> None:
    poison, neighbour = add_frame(hub, "poison"), add_frame(hub, "neighbour")
    sizes = []
    for _ in range(hub.settings.frame_attempts):
        lose(hub, poison)
        with hub.archive.transaction() as session:  # it only waited in the same batch
            frames.get(session, neighbour).next_attempt_at = datetime.now(UTC) - timedelta(seconds=1)
        sizes.append(sorted(len(batch.frame_ids) for batch in sweeping.due_batches(hub)))
    assert sizes[:3] == [[2], [1, 1], [1, 1]]
    assert sizes[-1] == [1]
    frame = state_of(hub, poison)
    assert (frame.disposition, frame.disposition_code) == ("quarantined", "retries-spent")
    assert state_of(hub, neighbour).attempts == 0
    with hub.archive.session() as session:
        tries = dispositions.attempts_at(session, poison)
    assert len(tries) == hub.settings.frame_attempts
    assert {(one["step"], one["code"]) for one in tries} == {("ingest", "run-lost")}
    assert [one["alert"] for one in tries] == [True] + [False] * (len(tries) - 1)
    receipt = hub.lake.get_bytes(keys.receipt("T1", "poison"), max_bytes=10_000)
    assert b"retries-spent" in receipt


def test_a_step_that_ends_gives_the_next_one_its_whole_budget(hub: Hub) -> None:
    frame_id = add_frame(hub, "f", ingest="ok")
    for _ in range(3):
        with hub.archive.transaction() as session:
            assert frames.claim_step(session, frame_id, "calibrate")
            dispositions.park(session, frame_id, {"code": "x"}, 0.0, budget=12)
    assert state_of(hub, frame_id).attempts == 3
    with hub.archive.transaction() as session:
        assert frames.claim_step(session, frame_id, "calibrate")
        assert frames.get(session, frame_id).in_hand == "calibrate"
        frames.settle_step(session, frame_id, "calibrate")
    assert (state_of(hub, frame_id).attempts, state_of(hub, frame_id).in_hand) == (0, None)


def test_the_history_of_tries_has_a_bound(hub: Hub) -> None:
    frame_id = add_frame(hub, "f")
    for i in range(dispositions.KEPT + 5):
        with hub.archive.transaction() as session:
            frame = frames.get(session, frame_id)
            dispositions.note_attempt(session, frame, "ingest", {"code": f"c{i}"}, 0)
    with hub.archive.session() as session:
        codes = [one["code"] for one in dispositions.attempts_at(session, frame_id)]
    assert codes == [f"c{i}" for i in range(dispositions.KEPT + 4, 4, -1)]


def test_frames_with_steps_to_do_and_no_time_for_them_are_found(hub: Hub) -> None:
    ok = {"ingest": "ok", "calibrate": "ok"}
    forgotten = {add_frame(hub, "a"), add_frame(hub, "b", **ok)}
    add_frame(hub, "dark", kind="dark", ingest="ok")
    add_frame(hub, "mosaic", plane="CFA", **ok)
    add_frame(hub, "unsolved", solve="failed", **ok)
    make_ready(hub, "ready")
    assert sweeping.find_forgotten(hub) == 2
    (batch,) = sweeping.due_batches(hub)
    assert set(batch.frame_ids) == forgotten
    assert sweeping.find_forgotten(hub) == 0


def test_receipts_that_a_dead_run_has_left_out_are_written(hub: Hub) -> None:
    make_ready(hub, "a")
    publish(hub)
    assert sweeping.tell_nodes(hub) == 0  # its run may be about to write them
    assert sweeping.tell_nodes(hub, after_s=-1.0) == 1
    receipt = hub.lake.get_bytes(keys.receipt("T1", "a"), max_bytes=10_000)
    assert b'"revision": 1' in receipt
    assert sweeping.tell_nodes(hub, after_s=-1.0) == 0


# --- batches: what happens to a frame whose step fails


def state_of(hub: Hub, frame_id: str) -> Frame:
    with hub.archive.session() as session:
        return frames.get(session, frame_id)


def test_a_frame_that_fails_never_stops_its_neighbours(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    begin()
    errors: dict[str, Exception | None] = {
        add_frame(hub, "bug"): KeyError("x"),
        add_frame(hub, "bad"): BadInput("no mosaic", code="bad-mosaic", hint="Look at it."),
        add_frame(hub, "full"): DiskFull("no space"),
        add_frame(hub, "good"): None,
    }
    done: list[str] = []

    def step(_: Hub, frame_id: str) -> None:
        done.append(frame_id)
        if (error := errors[frame_id]) is not None:
            raise error

    (batch,) = sweeping.batches(errors, "test", chunk_size=8)
    (chunk,) = batch.chunks()
    with pytest.raises(FramesWait, match="1 of 4 frames wait"):
        advance(hub, chunk, step, last_try=False)
    assert done == list(errors)
    with hub.archive.session() as session:
        (tried,) = dispositions.attempts_at(session, list(errors)[2])
    assert (tried["code"], tried["number"], tried["next_attempt_at"]) == ("disk-full", 0, None)
    bug, bad, full, good = (state_of(hub, frame_id) for frame_id in errors)
    assert (bug.last_error or {})["code"] == "unexpected"
    assert (bad.disposition, bad.disposition_code) == ("quarantined", "bad-mosaic")
    assert (full.attempts, full.last_error) == (0, None)  # the task comes again
    assert good.last_error is None
    assert f"frame={bug.id}" in caplog.text
    assert "parked" in caplog.text
    advance(hub, chunk, step)
    assert (state_of(hub, full.id).last_error or {})["code"] == "disk-full"
    assert state_of(hub, full.id).attempts == 1
    receipt = hub.lake.get_bytes(keys.receipt("T1", "bad"), max_bytes=10_000)
    assert b"bad-mosaic" in receipt


def test_the_wait_of_a_parked_frame_doubles_and_ends_in_quarantine(hub: Hub) -> None:
    frame_id = add_frame(hub, "f")
    (batch,) = sweeping.batches([frame_id], "test", chunk_size=8)

    def silent(_: Hub, __: str) -> None:
        raise Unavailable("silent")

    waits = []
    for _ in range(hub.settings.frame_attempts):
        advance(hub, batch.chunks()[0], silent)
        frame = state_of(hub, frame_id)
        if frame.next_attempt_at is not None:
            waits.append(round((frame.next_attempt_at - datetime.now(UTC)).total_seconds()))
    assert waits[:4] == pytest.approx([30, 60, 120, 240], abs=3)
    assert frame.disposition_code == "retries-spent"


def test_a_task_that_is_cut_off_parks_the_frame_in_hand(hub: Hub) -> None:
    first, second = add_frame(hub, "a"), add_frame(hub, "b")
    (batch,) = sweeping.batches([first, second], "test", chunk_size=8)

    def cut(_: Hub, frame_id: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance(hub, batch.chunks()[0], cut)
    assert (state_of(hub, first).last_error or {})["code"] == "cut-off"
    assert state_of(hub, second).last_error is None
    with hub.archive.session() as session:
        assert session.get(Mission, "550") is not None
