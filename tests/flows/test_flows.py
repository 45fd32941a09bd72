"""The flows themselves, run in this process against a real Prefect server, on a hub of a folder and SQLite."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from sqlalchemy import text
from sqlmodel import select

import starloom.frames.step
from starloom.archive import claims
from starloom.archive.frames import state_of
from starloom.archive.models import Frame, Instrument, Mission, Product, Revision, StatusEvent
from starloom.batches import FrameBatch
from starloom.dispatch.services import checkout, python
from starloom.errors import BadInput, StarloomError, Unavailable
from starloom.hub import Hub
from starloom.lake.folder import FolderLake
from tests.dispatch.server import RunningPrefect
from tests.flows.conftest import MISSION, TELESCOPE, send
from tests.telemetry.spans import Spans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Prefect's own, of which it has a few
]

PROCESS = "process-frames/process-frames"


def frames_of(hub: Hub) -> dict[str, Frame]:
    with hub.archive.session() as session:
        return {frame.name: frame for frame in session.exec(select(Frame)).all()}


def complete(hub: Hub) -> int:
    with hub.archive.transaction() as session:
        statement = text("UPDATE mission SET status = 'COMPLETE' WHERE id = :id")
        session.connection().execute(statement, {"id": MISSION})
    with hub.archive.session() as session:
        newest = session.exec(select(StatusEvent).order_by(StatusEvent.id.desc())).first()  # type: ignore[union-attr]
    assert newest is not None
    assert newest.id is not None
    return newest.id


def batches_started(server: RunningPrefect, names: set[str]) -> list[FrameBatch]:
    """Return the batches of the runs that wait for a worker and speak of these frames."""
    batches = [FrameBatch(**run["parameters"]["batch"]) for run in server.api.runs(PROCESS)]
    return [batch for batch in batches if names & set(batch.frame_ids)]


def artifacts_of(server: RunningPrefect, state: Any) -> set[str]:
    return {str(artifact["key"]) for artifact in server.api.artifacts(str(state.state_details.flow_run_id))}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that try again at once."""
    import tasks.batches
    import tasks.frames
    import tasks.operators
    import tasks.sweep

    for module in (tasks.batches, tasks.frames, tasks.operators, tasks.sweep):
        for task in vars(module).values():
            if hasattr(task, "retry_delay_seconds"):
                monkeypatch.setattr(task, "retry_delay_seconds", [0.0, 0.0, 0.0])
                monkeypatch.setattr(task, "retry_jitter_factor", None)


@contextmanager
def outage(word: str) -> Iterator[list[str]]:
    """Make the lake refuse to write keys that hold a word; yields what it was asked."""
    asked: list[str] = []
    put = FolderLake.put_file

    def refuse(self: FolderLake, path: Path, key: str, **options: Any) -> Any:
        if word in key:
            asked.append(key)
            raise Unavailable(f"{key}: the lake is silent", code="lake-unavailable")
        return put(self, path, key, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderLake, "put_file", refuse)
        yield asked


@pytest.mark.usefixtures("impatient")
def test_from_the_inbox_to_a_published_stack(
    hub: Hub,
    night: list[Path],
    prefect_client: RunningPrefect,
    tmp_path: Path,
    spans: Spans,
) -> None:
    from flows.frames import process_frames
    from flows.ingest import ingest
    from flows.stack import stack_mission
    from flows.sweep import sweep

    corrupt = tmp_path / night[0].name.replace("20261008T2030", "20261008T2340")
    corrupt.write_bytes(night[0].read_bytes()[:30_000])
    for path in (*night, corrupt):
        send(hub, path)

    # ingest: every frame registered, one run asked for, with a table of what it did
    state = ingest(return_state=True)
    assert state.result() == 4
    assert "batches" in artifacts_of(prefect_client, state)
    assert ingest() == 0
    ids = {frame.id for frame in frames_of(hub).values()}
    (batch,) = batches_started(prefect_client, ids)
    assert set(batch.frame_ids) == ids

    # process-frames: a corrupt frame and one the lake fails stop none of their neighbours
    victim = frames_of(hub)[night[1].name]
    with outage(f"solved/{victim.node_id}/20261008/{victim.id}") as asked:
        state = process_frames(batch.model_copy(update={"chunk_size": 2}), return_state=True)
    assert state.result() == {"ready": 2, "quarantined": 1, "processing": 1}
    shown = prefect_client.api.artifacts(str(state.state_details.flow_run_id))
    (table,) = [json.loads(a["data"]) for a in shown if a["key"] == "frames"]
    told = {row["frame"]: row for row in table}
    assert (told[corrupt.name]["outcome"], told[corrupt.name]["code"]) == ("quarantined", "truncated")
    assert all(row["seconds"] > 0 for row in table if row["outcome"] == "ready")
    # one page for the instrument, whose picture lies in the lake
    (picture,) = [a for a in shown if a["key"] == "quicklook"]
    assert "ready" in picture["description"]
    (drawn,) = [frame for frame in frames_of(hub).values() if frame.quicklook_key is not None]
    assert hub.lake.presign_get(drawn.quicklook_key, 60) in picture["data"]
    assert len(asked) == 4  # three times more inside the task, then parked
    parked = frames_of(hub)[victim.name]
    assert (parked.attempts, (parked.last_error or {})["code"]) == (1, "lake-unavailable")
    assert parked.next_attempt_at is not None
    assert parked.next_attempt_at > datetime.now(UTC)
    assert frames_of(hub)[corrupt.name].disposition == "quarantined"
    assert list(hub.lake.list("inbox/")) == []

    # sweep: not before its time, not while a run that waits for a worker has it, then once
    assert sweep()["frames_retried"] == 0
    with hub.archive.transaction() as session:
        session.get(Frame, victim.id).next_attempt_at = datetime.now(UTC)  # type: ignore[union-attr]
    assert sweep()["frames_retried"] == 0
    for run in prefect_client.api.runs(PROCESS):
        ended = {"state": {"type": "CANCELLED"}, "force": True}
        prefect_client.api.call("POST", f"/flow_runs/{run['id']}/set_state", ended)
    with hub.archive.transaction() as session:
        session.get(Frame, victim.id).next_attempt_at = datetime.now(UTC)  # type: ignore[union-attr]
    state = sweep(return_state=True)
    assert state.result()["frames_retried"] == 1
    assert "sweep" in artifacts_of(prefect_client, state)
    assert sweep()["frames_retried"] == 0
    (again,) = [b for b in batches_started(prefect_client, {victim.id}) if b.name.startswith("retry")]
    assert process_frames(again) == {"ready": 1}

    # stack-mission: published with its artifacts; the same event again, and the same frames again, are no work
    event = complete(hub)
    state = stack_mission(MISSION, event, return_state=True)
    assert state.result().n == 1
    assert {"stack-progress", "products", "frames-in-stack", "preview"} <= artifacts_of(prefect_client, state)
    # one trace of the stack, linked to those of its frames, which go back to when they were found
    stack = spans.trace_of("stack")
    assert {spans.trace_of(name) for name in ("bind", "plan", "tiles", "publish")} == {stack}
    (bound,) = spans.named("bind")
    found = {span.context.trace_id for span in spans.named("discover")}
    assert len(bound.links) == 3
    assert {link.context.trace_id for link in bound.links} < found
    with hub.archive.session() as session:
        assert session.get(Mission, MISSION).status == "STACKED"  # type: ignore[union-attr]
        (product,) = session.exec(select(Product)).all()
        (revision,) = session.exec(select(Revision)).all()
    assert hub.lake.stat(product.sci_key) is not None
    assert revision.holder == str(state.state_details.flow_run_id)
    state = stack_mission(MISSION, event, return_state=True)
    assert (state.name, state.is_completed()) == ("AlreadyClaimed", True)
    with hub.archive.session() as session:
        assert session.get(StatusEvent, event).surplus_runs == 1  # type: ignore[union-attr]
        assert session.exec(select(Revision.told_at)).one() is not None
    state = stack_mission(MISSION, complete(hub), return_state=True)
    assert (state.name, state.is_completed()) == ("Unchanged", True)
    with hub.archive.session() as session:
        assert session.get(Mission, MISSION).status == "STACKED"  # type: ignore[union-attr]

    # nothing was kept beside archive and lake
    storage = Path(prefect_client.environment["PREFECT_HOME"]) / "storage"
    assert not storage.exists() or not any(storage.iterdir())
    assert not (hub.settings.home / "work" / MISSION).exists() or not any(
        (hub.settings.home / "work" / MISSION).iterdir()
    )


@pytest.mark.usefixtures("prefect_client")
def test_a_stack_that_cannot_be_made_fails_the_run_and_the_mission(hub: Hub) -> None:
    from flows.stack import stack_mission

    state = stack_mission(MISSION, complete(hub), return_state=True)
    assert state.is_failed()
    with hub.archive.session() as session:
        mission = session.get(Mission, MISSION)
    assert mission is not None
    assert (mission.status, mission.failure_code) == ("FAILED", "no-usable-frames")


@pytest.mark.usefixtures("prefect_client")
def test_a_holder_that_lost_its_lease_says_so_and_does_not_fail(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import starloom.coadd.step
    from flows.stack import stack_mission

    def lost(*_: object) -> None:
        raise claims.LeaseLost("taken over")

    monkeypatch.setattr(starloom.coadd.step, "bind_and_plan", lost)
    state = stack_mission(MISSION, complete(hub), return_state=True)
    assert (state.name, state.is_completed()) == ("LeaseLost", True)


@pytest.mark.usefixtures("prefect_client")
def test_a_mission_cancelled_beneath_its_run_ends_it_in_peace(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import starloom.coadd.step
    from flows.stack import stack_mission

    def cancelled(*_: object) -> None:
        raise claims.MissionCancelled("cancelled")

    monkeypatch.setattr(starloom.coadd.step, "bind_and_plan", cancelled)
    state = stack_mission(MISSION, complete(hub), return_state=True)
    assert (state.name, state.is_completed()) == ("MissionCancelled", True)


def test_a_run_loads_what_stacks_only_when_the_mission_is_its_own() -> None:
    """Two of the four seconds from a run's start to its claim were the loading of numpy, scipy and astropy."""
    heavy = "print([name for name in ('numpy', 'scipy', 'astropy', 'numba') if name in sys.modules])"
    done = subprocess.run(
        [*python()[:1], "-c", f"import sys, flows.stack; {heavy}"],
        cwd=checkout(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("prefect_client", "impatient")
def test_sweep_does_what_it_can_when_a_part_fails(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.sweep import sweep
    from starloom import sweeping

    def silent(_: Hub) -> int:
        raise Unavailable("the lake is silent")

    monkeypatch.setattr(sweeping, "learn_instruments", silent)
    claims.claim(hub.archive, MISSION, complete(hub), "dead", -1)
    state = sweep(return_state=True)
    assert state.is_failed()
    assert "instruments_learnt" in state.message
    with hub.archive.session() as session:
        assert session.get(Mission, MISSION).status == "COMPLETE"  # type: ignore[union-attr]


@pytest.mark.usefixtures("prefect_client", "impatient")
def test_tidy_does_what_it_can_when_a_part_fails(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.tidy import tidy
    from starloom import sweeping

    state = tidy(return_state=True)
    assert state.result() == {
        "frames_found": 0, "missions_reopened": 0, "receipts_written": 0, "objects_removed": 0, "rows_removed": 0,
        "raw_checked": 0, "raw_damaged": 0, "raw_copied": 0,
    }  # fmt: skip

    def silent(_: Hub) -> int:
        raise Unavailable("the lake is silent")

    with hub.archive.transaction() as session:
        session.add(Frame(name="forgotten", node_id="T1"))
    monkeypatch.setattr(sweeping, "tidy_lake", silent)
    state = tidy(return_state=True)
    assert state.is_failed()
    assert "objects_removed" in state.message
    with hub.archive.session() as session:
        assert session.exec(select(Frame.next_attempt_at)).one() is not None


@pytest.mark.usefixtures("impatient")
def test_operators_requeue_and_restack_with_parameters(hub: Hub, prefect_client: RunningPrefect) -> None:
    from flows.operators import requeue_frames, restack_mission

    with hub.archive.transaction() as session:
        mission = session.get(Mission, MISSION)
        assert mission is not None
        mission.status = "FAILED"
        for name, code in (("a", "retries-spent"), ("b", "truncated")):
            session.add(
                Frame(
                    name=name, node_id="T1", obs_req=MISSION, ingest="ok", disposition="quarantined",
                    disposition_code=code,
                )
            )  # fmt: skip
    state = requeue_frames(mission=MISSION, code="retries-spent", return_state=True)
    assert state.result() == 1
    assert "requeued" in artifacts_of(prefect_client, state)
    assert {frame.name: frame.disposition for frame in frames_of(hub).values()} == {
        "a": "active", "b": "quarantined",
    }  # fmt: skip
    assert requeue_frames(return_state=True).is_failed()  # all frames of the archive are never meant
    assert restack_mission(MISSION, "new flats") is True
    assert restack_mission(MISSION, "new flats") is False
    with hub.archive.session() as session:
        newest = session.exec(select(StatusEvent).order_by(StatusEvent.id.desc())).first()  # type: ignore[union-attr]
    assert newest is not None
    assert (newest.new_status, newest.reason) == ("COMPLETE", "new flats")


def test_frames_of_runs_that_wait_are_known(prefect_client: RunningPrefect) -> None:
    import tasks.sweep

    prefect_client.api.create_run(
        PROCESS, {"batch": {"name": "w", "frame_ids": ["waits-1", "waits-2"]}}, idempotency_key="waits"
    )
    assert {"waits-1", "waits-2"} <= tasks.sweep.waiting_frames()


@pytest.mark.usefixtures("prefect_client", "impatient")
def test_pictures_fail_no_run(hub: Hub, night: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import starloom.quicklook.step
    from flows.frames import process_frames

    def broken(*_: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    send(hub, night[0])
    (batch,) = starloom.frames.step.discover(hub)
    monkeypatch.setattr(starloom.quicklook.step, "of_batch", broken)
    assert process_frames(batch) == {"ready": 1}


def test_runs_that_hang_are_cancelled(prefect_client: RunningPrefect, monkeypatch: pytest.MonkeyPatch) -> None:
    import tasks.sweep

    api = prefect_client.api
    batch = {"batch": {"name": "hung", "frame_ids": []}}
    hung = api.create_run(PROCESS, batch, idempotency_key="hung")
    waiting = api.create_run(PROCESS, batch, idempotency_key="not hung")
    api.call("POST", f"/flow_runs/{hung['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    assert tasks.sweep.end_hung_runs.fn() == 0
    monkeypatch.setattr(tasks.sweep, "HUNG_AFTER_S", {"process-frames": -5.0})
    assert tasks.sweep.end_hung_runs.fn() >= 1
    states = {run["id"]: run["state_type"] for run in api.runs(PROCESS)}
    assert states[hung["id"]] == "CANCELLING"
    assert states[waiting["id"]] == "SCHEDULED"


@pytest.mark.usefixtures("prefect_client")
@pytest.mark.parametrize(
    ("error", "calls", "name"),
    [
        (Unavailable("silent"), 4, "Failed"),
        (RuntimeError("unforeseen"), 4, "Failed"),
        (BadInput("hopeless"), 1, "Failed"),
        (claims.LeaseLost("gone"), 1, "Failed"),
        (TimeoutError("a socket's"), 1, "TimedOut"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_only_what_a_retry_can_help_is_tried_again(error: Exception, calls: int, name: str) -> None:
    from prefect import flow, task

    from tasks.retrying import is_last_try, retrying

    made: list[bool] = []

    @task(**(retrying(60.0) | {"retry_delay_seconds": 0, "retry_jitter_factor": None}))
    def fail() -> None:
        made.append(is_last_try())
        raise error

    @flow
    def run() -> Any:
        ended.append(fail(return_state=True).name)

    ended: list[str | None] = []
    run()
    assert made == [False] * min(calls, 3) + [True] * (calls == 4)
    assert ended == [name]


@pytest.mark.usefixtures("prefect_client")
def test_a_chunk_out_of_time_parks_the_frame_it_hung_on(
    hub: Hub, night: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.frames
    from flows.frames import process_frames

    for path in night[:2]:
        send(hub, path)
    (batch,) = starloom.frames.step.discover(hub)
    slow, quick = batch.frame_ids
    seen: list[str] = []

    def hang(_: Hub, frame_id: str) -> None:
        seen.append(frame_id)
        until = time.monotonic() + 30
        while frame_id == slow and time.monotonic() < until:
            time.sleep(0.05)

    monkeypatch.setattr(tasks.frames.ingest, "timeout_seconds", 1.0)
    monkeypatch.setattr(starloom.frames.step, "run", hang)
    began = time.monotonic()
    state = process_frames(batch.model_copy(update={"chunk_size": 1}), return_state=True)
    assert time.monotonic() - began < 20
    assert state.is_failed()
    assert "1 of 2 chunks" in state.message
    assert sorted(seen) == sorted([slow, quick])  # a time-out is not tried again
    parked = {frame.id: frame for frame in frames_of(hub).values()}
    assert (parked[slow].last_error or {})["code"] == "cut-off"
    assert parked[quick].last_error is None


LOGGING = """
import starloom.frames.step, tasks.frames
from flows.frames import process_frames
from starloom.batches import FrameBatch

def broken(hub, frame_id):
    raise ValueError("nobody foresaw this")

starloom.frames.step.run = broken
state = process_frames(FrameBatch(name="logs", frame_ids=["{frame_id}"]), return_state=True)
print(state.state_details.flow_run_id)
"""


def test_a_parked_frame_is_told_in_the_logs_of_its_run(hub: Hub, prefect_server: RunningPrefect) -> None:
    with hub.archive.transaction() as session:
        frame = Frame(name="f", node_id="T1", inbox_key="inbox/T1/20261008/f")
        session.add(frame)
    env = prefect_server.environment | {"STARLOOM_HOME": str(hub.settings.home)}
    done = subprocess.run(
        [*python()[:1], "-c", LOGGING.format(frame_id=frame.id)],
        env=env, cwd=checkout(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    run_id = done.stdout.split()[-1]
    deadline = time.monotonic() + 20
    while not (lines := [x for x in prefect_server.api.logs(run_id) if x["name"] == "starloom.batches"]):
        assert time.monotonic() < deadline, prefect_server.api.logs(run_id)
        time.sleep(0.5)
    (line,) = lines
    assert f"frame={frame.id}" in line["message"]
    assert "parked" in line["message"]
    assert "ValueError: nobody foresaw this" in line["message"]
    assert line["task_run_id"]
    with hub.archive.session() as session:
        kept = session.get(Frame, frame.id)
    assert kept is not None
    assert (state_of(kept), (kept.last_error or {})["code"]) == ("processing", "unexpected")
    assert not any("Timeout of" in entry["message"] for entry in prefect_server.api.logs(run_id))


def test_artifacts_are_decoration() -> None:
    import httpx

    from tasks.showing import decoration

    with decoration("a table"):
        raise httpx.ConnectError("the server restarts")
    with pytest.raises(StarloomError), decoration("a table"):
        raise StarloomError("not Prefect's fault")


@pytest.mark.usefixtures("impatient")
def test_darks_become_a_master_without_anybody_asking(
    hub: Hub, prefect_client: RunningPrefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.ingest import ingest
    from flows.masters import build_masters
    from flows.sweep import sweep
    from starloom.frames import format_name
    from starloom.frames.name import FrameName
    from starloom.sky.camera import Camera
    from starloom.sky.night import write_compressed

    monkeypatch.setattr(hub.settings, "masters_quiet_s", 0.0)
    for k, image in enumerate(Camera(shape=(60, 80)).series(3, 0.0, 60.0, seed=1)):
        start = datetime(2026, 10, 8, 18, k, tzinfo=UTC)
        name = format_name(
            FrameName(kind="dark", mission=None, node=TELESCOPE.node, start_utc=start, compressed=True)
        )
        write_compressed(tmp_path / name, image, fits.Header({"EXPTIME": 60.0, "INSTRUME": "C"}))
        send(hub, tmp_path / name)
    assert ingest() == 3
    for frame_id in [frame.id for frame in frames_of(hub).values()]:
        starloom.frames.step.run(hub, frame_id)
    assert sweep()["masters_due"] == 1
    assert sweep()["masters_due"] == 1  # not built yet, but it is the same run
    runs = prefect_client.api.runs("build-masters/build-masters")
    (run,) = [run for run in runs if run["parameters"]["instrument_id"] == instrument_of(hub)]
    state = build_masters(**run["parameters"], return_state=True)
    assert state.result() == {"built": 1, "failed": 0, "frames_again": 0}
    assert "masters" in artifacts_of(prefect_client, state)
    assert sweep()["masters_due"] == 0


def instrument_of(hub: Hub) -> int:
    with hub.archive.session() as session:
        return session.exec(select(Instrument.id)).one() or 0
