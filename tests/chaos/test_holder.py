"""A holder that is stopped (SIGSTOP), taken over, and wakes up: whatever it does then, it publishes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlmodel import select

from starloom import sweeping
from starloom.archive.models import Mission, Product, Revision
from starloom.coadd import step
from starloom.dispatch.services import checkout
from starloom.holding import claimed
from starloom.hub import Hub
from starloom.settings import Settings
from tests.chaos.sky import add_mission, stack_here

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

MISSION = "550"
LEASE_S = 2.0
#: A holder that says where it is, and waits for a line at each of its steps.
HOLDER = """
import sys
from tests.chaos.test_holder import hub_at, say_and_stack
say_and_stack(hub_at(*sys.argv[1:]))
"""


def hub_at(home: str, url: str) -> Hub:
    return Hub.open(
        Settings(
            home=Path(home), archive_url=SecretStr(url), lease_s=LEASE_S, lease_renew_s=LEASE_S / 4,
            orphan_grace_s=-5.0, lake_url=(Path(home) / "lake").as_uri(),
        )
    )  # fmt: skip


def newest_event(hub: Hub) -> int:
    with hub.archive.session() as session:
        found = session.connection().execute(
            text("SELECT max(id) FROM status_event WHERE new_status = 'COMPLETE'")
        )
        return int(found.scalar_one())


def say_and_stack(hub: Hub) -> None:
    """Stack as the flow does; before every step say its name and wait for a line."""

    def pause(name: str) -> None:
        print(name, flush=True)  # noqa: T201
        sys.stdin.readline()

    with claimed(hub, MISSION, newest_event(hub), holder="the sleeper") as claim:
        pause("claimed")
        plans = step.bind_and_plan(hub, claim)
        pause("bound")
        for plan in plans:
            for batch in plan.batches():
                step.stack_tiles(batch)
        put = type(hub.lake).put_file

        def put_and_pause(*args: object, **options: object) -> object:
            stored = put(*args, **options)  # type: ignore[arg-type]
            pause("uploaded")
            return stored

        type(hub.lake).put_file = put_and_pause  # type: ignore[method-assign, assignment]
        step.publish(hub, claim, plans)


@pytest.fixture
def hub(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Hub, list[str]]]:
    """A hub with one COMPLETE mission, and the arguments that open it elsewhere."""
    name = f"t{uuid4().hex}"
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    where = [str(tmp_path), postgres_url.removesuffix("postgres") + name]
    made = hub_at(*where)
    made.archive.migrate()
    made.lake.prepare()
    add_mission(made, MISSION, 1)
    with made.archive.transaction() as session:
        session.connection().execute(text("UPDATE mission SET status = 'COMPLETE'"))
    yield made, where
    made.archive.dispose()


@contextmanager
def sleeper(where: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *where],
        cwd=checkout(),
        env=os.environ | {"PYTHONPATH": str(checkout())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def go_on_to(child: subprocess.Popen[str], wanted: str) -> None:
    assert child.stdout is not None
    assert child.stdin is not None
    while (said := child.stdout.readline().strip()) != wanted:
        assert said, child.stderr and child.stderr.read()
        child.stdin.write("\n")
        child.stdin.flush()


@pytest.mark.parametrize("asleep_at", ["claimed", "bound", "uploaded"])
def test_a_holder_that_wakes_after_its_take_over_publishes_nothing(
    hub: tuple[Hub, list[str]], asleep_at: str
) -> None:
    made, where = hub
    with sleeper(where) as child:
        go_on_to(child, asleep_at)
        child.send_signal(signal.SIGSTOP)  # its lease keeper stops with it
        deadline = time.monotonic() + 60
        while not sweeping.reconcile_missions(made):
            assert time.monotonic() < deadline, "the lease never ran out"
            time.sleep(0.2)
        second = stack_here(made, MISSION, newest_event(made), holder="the second")
        assert second is not None
        child.send_signal(signal.SIGCONT)
        _, complaint = child.communicate("\n" * 20, timeout=120)
    assert child.returncode == 1
    assert "LeaseLost" in complaint.splitlines()[-1]
    with made.archive.session() as session:
        mission = session.get(Mission, MISSION)
        revisions = session.exec(select(Revision).order_by(Revision.epoch)).all()  # type: ignore[arg-type]
        products = session.exec(select(Product)).all()
    assert mission is not None
    assert mission.status == "STACKED"
    assert [(r.epoch, r.status, r.holder) for r in revisions] == [
        (1, "expired", "the sleeper"),
        (2, "published", "the second"),
    ]
    # What it had written lies under its dead epoch, and is gone after a sweep; the living one's stays.
    wanted = {key for product in products for key in (product.sci_key, product.preview_key)}
    before = {item.key for item in made.lake.list("stacks/")}
    assert sweeping.tidy_lake(made) == len(before - wanted)
    assert {item.key for item in made.lake.list("stacks/")} == wanted
    # One that had bound its inputs uploads after it woke, for nothing; bind itself turns the other away.
    assert (asleep_at != "claimed") == any("/e1/" in key for key in before)
