"""S3 slow, busy, cut short; the disk full; the database restarted, in deadlock: retried or parked, never lost."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlmodel import select

from starloom.archive import claims
from starloom.archive.frames import state_of
from starloom.archive.models import Frame, Mission, Product, Revision
from starloom.coadd import step
from starloom.errors import StarloomError, Unavailable
from starloom.holding import claimed
from starloom.hub import Hub
from starloom.settings import Settings
from tests.chaos.faults import Faults, FaultyProxy
from tests.chaos.points import process_frames, seed_frames
from tests.chaos.sky import add_mission, data_sums, stack_here

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

CALM, MISSION = "calm", "550"
#: Tries inside a task, and of the mission: as many as the tasks and the archive grant.
TASK_TRIES, MISSION_TRIES = 4, 10


@pytest.fixture
def proxy(s3_server: dict[str, str]) -> Iterator[FaultyProxy]:
    made = FaultyProxy(s3_server["lake_endpoint"])
    yield made
    made.close()


@pytest.fixture
def database(postgres_url: str) -> str:
    """The URL of a database of the test's own."""
    name = f"t{uuid4().hex}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return postgres_url.removesuffix("postgres") + name


@pytest.fixture
def hub(tmp_path: Path, database: str, s3_server: dict[str, str], proxy: FaultyProxy) -> Iterator[Hub]:
    """A hub that reaches its lake through the proxy, with one mission stacked in calm and one COMPLETE."""
    made = Hub.open(
        Settings(
            home=tmp_path / "home", archive_url=SecretStr(database), lake_url=f"s3://t{uuid4().hex[:12]}",
            lake_endpoint=proxy.endpoint, lake_access_key=s3_server["lake_access_key"],
            lake_secret_key=SecretStr(s3_server["lake_secret_key"]), quicklook="none",
        )
    )  # fmt: skip
    made.archive.migrate()
    made.lake.prepare()
    for n, name in enumerate((CALM, MISSION)):
        add_mission(made, name, 6 * n)
        complete(made, name)
    stack_here(made, CALM, newest_event(made, CALM))
    yield made
    made.archive.dispose()


def complete(hub: Hub, mission: str) -> None:
    with hub.archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET status = 'COMPLETE' WHERE id = :m"), {"m": mission})


def newest_event(hub: Hub, mission: str) -> int:
    query = "SELECT max(id) FROM status_event WHERE mission_id = :m AND new_status = 'COMPLETE'"
    with hub.archive.session() as session:
        return int(session.connection().execute(text(query), {"m": mission}).scalar_one())


def again_and_again(work: Callable[[], Any]) -> Any:
    """Do as a task does: what says that a retry helps is tried again."""
    for n in range(TASK_TRIES):
        try:
            return work()
        except StarloomError as error:
            if not error.retryable or n == TASK_TRIES - 1:
                raise
    return None


def stack_patiently(hub: Hub) -> list[str]:
    """Stack as the flow, its tasks and the relay do together; return the codes of what went wrong."""
    codes = []
    for _ in range(MISSION_TRIES):
        try:
            with claimed(hub, MISSION, newest_event(hub, MISSION), holder="patient") as claim:
                plans = again_and_again(lambda: step.bind_and_plan(hub, claim))
                for batch in [batch for plan in plans for batch in plan.batches()]:
                    step.stack_tiles(batch)
                again_and_again(lambda: step.publish(hub, claim, plans))  # noqa: B023
            return codes
        except StarloomError as error:
            codes.append(error.code)
    raise AssertionError(f"not stacked: {codes}")


def check_one_product(hub: Hub, scratch: Path) -> None:
    """One published revision, the product that the calm mission has, whole in the lake."""
    with hub.archive.session() as session:
        found = session.exec(
            select(Revision.mission_id, Product).join(Product).where(Revision.status == "published")
        ).all()
        mission = session.get(Mission, MISSION)
    assert mission is not None
    assert mission.status == "STACKED"
    sums = {}
    for name, product in found:
        assert name not in sums
        hub.lake.download(product.sci_key, scratch, version=product.sci_version)
        sums[name] = data_sums(scratch)
    assert sums[MISSION] == sums[CALM]


@pytest.mark.parametrize(
    ("faults", "what"),
    [(Faults(delay_s=0.3), "requests"), (Faults(busy=0.3), "busy"), (Faults(cut=0.5), "cut")],
    ids=["slow", "busy", "cut-short"],
)
def test_a_bad_lake_delays_a_stack_and_does_not_change_it(
    hub: Hub, proxy: FaultyProxy, tmp_path: Path, faults: Faults, what: str
) -> None:
    proxy.faults = faults
    codes = stack_patiently(hub)
    proxy.faults = Faults()
    assert faults.counts[what] > 2
    assert set(codes) <= {"lake-unavailable"}
    check_one_product(hub, tmp_path / "product.fits")


def test_a_lake_that_is_down_gives_the_mission_back_with_the_reason(
    hub: Hub, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.faults = Faults(busy=1.0)
    with pytest.raises(Unavailable):
        stack_here(hub, MISSION, newest_event(hub, MISSION))
    with hub.archive.session() as session:
        mission = session.get(Mission, MISSION)
        (failed,) = session.exec(select(Revision).where(Revision.status == "failed")).all()
    assert mission is not None
    assert mission.status == "COMPLETE"
    assert (failed.error or {})["code"] == "lake-unavailable"
    proxy.faults = Faults()
    assert stack_patiently(hub) == []
    check_one_product(hub, tmp_path / "product.fits")


@pytest.mark.parametrize("faults", [Faults(busy=1.0), Faults(cut=1.0)], ids=["busy", "cut-short"])
def test_a_frame_that_cannot_be_read_is_parked_with_the_reason(
    hub: Hub, proxy: FaultyProxy, faults: Faults, tmp_path: Path
) -> None:
    with hub.archive.transaction() as session:
        for table in ("product", "revision_input", "revision", "status_event", "photometry", "solution", "frame"):
            session.connection().execute(text(f"DELETE FROM {table}"))
        session.connection().execute(text("DELETE FROM mission"))
    seed_frames(hub)
    import starloom.frames.step

    (batch,) = starloom.frames.step.discover(hub)
    (frame_id,) = batch.frame_ids
    make_due(hub, frame_id)
    proxy.faults = faults
    process_again(hub)
    parked = frame(hub, frame_id)
    assert state_of(parked) == "processing"
    assert (parked.last_error or {})["code"] == "lake-unavailable"
    assert parked.next_attempt_at is not None
    assert parked.next_attempt_at > datetime.now(UTC)
    proxy.faults = Faults()
    make_due(hub, frame_id)
    process_again(hub)
    assert state_of(frame(hub, frame_id)) == "ready"


def process_again(hub: Hub) -> None:
    """Take up what is due, if the inbox can be listed or not."""
    import starloom.frames.step
    from starloom import sweeping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starloom.frames.step, "discover", lambda _: [])
        process_frames(hub)
    assert sweeping.due_batches(hub) == []


def make_due(hub: Hub, frame_id: str) -> None:
    with hub.archive.transaction() as session:
        session.get(Frame, frame_id).next_attempt_at = datetime.now(UTC)  # type: ignore[union-attr]


def frame(hub: Hub, frame_id: str) -> Frame:
    with hub.archive.session() as session:
        return session.get(Frame, frame_id)  # type: ignore[return-value]


@contextmanager
def no_room(limit_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond a size: to it the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit_bytes", [4_000, 100_000], ids=["frames", "product"])
def test_a_full_disk_gives_the_mission_back_with_the_reason(hub: Hub, tmp_path: Path, limit_bytes: int) -> None:
    with no_room(limit_bytes), pytest.raises(StarloomError) as refused:
        stack_here(hub, MISSION, newest_event(hub, MISSION))
    assert (refused.value.code, refused.value.retryable) == ("disk-full", True)
    with hub.archive.session() as session:
        (failed,) = session.exec(select(Revision).where(Revision.status == "failed")).all()
        mission = session.get(Mission, MISSION)
    assert mission is not None
    assert mission.status == "COMPLETE"
    assert (failed.error or {})["code"] == "disk-full"
    assert stack_patiently(hub) == []
    check_one_product(hub, tmp_path / "product.fits")


def test_connections_that_the_database_has_ended_are_made_again(
    hub: Hub, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a restarted database does to its clients, before every one of the flow's transactions."""
    dsn = database.replace("+psycopg", "")

    def end_connections() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    for name in ("bind", "publish", "settle_unchanged"):
        call = getattr(claims, name)

        def disturbed(*args: Any, _call: Callable[..., Any] = call, **options: Any) -> Any:
            end_connections()
            return _call(*args, **options)

        monkeypatch.setattr(claims, name, disturbed)
    assert set(stack_patiently(hub)) <= {"archive-unavailable"}
    check_one_product(hub, tmp_path / "product.fits")


def test_a_publication_that_loses_a_deadlock_is_made_again(hub: Hub, database: str, tmp_path: Path) -> None:
    event = newest_event(hub, MISSION)
    dsn = database.replace("+psycopg", "")
    with claimed(hub, MISSION, event, holder="one of two") as claim:
        plans = step.bind_and_plan(hub, claim)
        for batch in [batch for plan in plans for batch in plan.batches()]:
            step.stack_tiles(batch)
        with psycopg.connect(dsn) as other:
            # The other takes the same two rows the other way round, and is the more patient.
            other.execute("SET deadlock_timeout = '60s'")
            other.execute("SELECT 1 FROM revision WHERE id = %s FOR UPDATE", (claim.revision_id,))
            lost: list[str] = []

            def publish() -> None:
                try:
                    step.publish(hub, claim, plans)
                except Unavailable as error:
                    lost.append(error.message)

            thread = threading.Thread(target=publish)
            thread.start()
            await_a_waiting_lock(dsn)
            other.execute("SELECT 1 FROM mission WHERE id = %s FOR UPDATE", (MISSION,))
            thread.join(timeout=60)
            other.rollback()
        assert lost
        assert "deadlock" in lost[0].lower()
        step.publish(hub, claim, plans)
    check_one_product(hub, tmp_path / "product.fits")


def await_a_waiting_lock(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for _ in range(600):
            waiting = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
            if waiting and waiting[0]:
                return
            connection.execute("SELECT pg_sleep(0.05)")
    raise AssertionError("nobody waited for a lock")
