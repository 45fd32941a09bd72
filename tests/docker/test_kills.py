"""Containers and worker killed while a mission is being stacked: it is taken up again, by itself and only once.

The lease is shorter here than an installation's 60 s; ``STARLOOM_TEST_LEASE_S=60`` and
``-o log_cli=true --log-cli-level=INFO`` show how long it truly takes.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from sqlmodel import col, select

from starloom.archive.claims import HELD
from starloom.archive.models import Revision
from starloom.demo import watching
from starloom.dispatch import automations
from starloom.operating import restack
from tests.docker.conftest import Docked, log
from tests.docker.hub import STACK, TRES1, state_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Held:
    """The claim that a container holds."""

    epoch: int
    run: str
    container: str


def revisions(docked: Docked) -> list[Revision]:
    with docked.hub.archive.session() as session:
        found = select(Revision).where(Revision.mission_id == TRES1).order_by(col(Revision.epoch))
        return list(session.exec(found).all())


def claimed_in_a_container(docked: Docked) -> Held:
    """Ask for the mission's next revision, and return as soon as a container has claimed it."""
    # It will find that nothing is new; but that is after the claim and two seconds of loading what stacks.
    restack(docked.hub.archive, TRES1, "to be killed")
    wait_for("the claim", lambda: revisions(docked)[-1].status in HELD, 120)
    held = revisions(docked)[-1]
    assert held.holder is not None
    (container,) = docked.engine.containers(held.holder)
    return Held(held.epoch, held.holder, container)


def taken_up_again(docked: Docked, held: Held, how: str) -> Revision:
    """Wait for the next claim and for the end of the stack; nobody does anything."""
    took = wait_for("the next claim", lambda: revisions(docked)[-1].epoch > held.epoch, 300)
    log.info("%s: claimed again %.1f s after the kill", how, took)
    wait_for("the stack's end", lambda: watching.status_of(docked.hub.archive, TRES1) == "STACKED", 300)
    after = [one for one in revisions(docked) if one.epoch >= held.epoch]
    assert [one.status for one in after] == ["expired", "unchanged"]
    return after[-1]


def kill_worker(docked: Docked) -> None:
    pid = docked.services.service("worker").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for("the worker's end", lambda: docked.services.service("worker").pid is None, 10)


def runs_that_work(docked: Docked) -> list[dict[str, Any]]:
    return docked.api.runs(STACK, states=("SCHEDULED", "PENDING", "RUNNING"))


def test_a_killed_container_is_replaced(docked: Docked) -> None:
    held = claimed_in_a_container(docked)
    docked.engine.run("kill", held.container)
    again = taken_up_again(docked, held, "container killed")
    assert again.holder != held.run
    assert state_of(docked.api, held.run)["state_type"] == "CRASHED"
    assert docked.engine.containers(str(again.holder)) != [held.container]


def test_worker_and_container_killed_together_are_replaced(docked: Docked) -> None:
    held = claimed_in_a_container(docked)
    kill_worker(docked)
    docked.engine.run("kill", held.container)
    docked.services.up()  # as a supervisor would
    again = taken_up_again(docked, held, "worker and container killed")
    assert again.holder != held.run
    wait_for("no run left over", lambda: runs_that_work(docked) == [], 60)


def test_a_run_that_an_automation_puts_back_goes_on_under_its_own_name(docked: Docked) -> None:
    automations.apply(docked.api, docked.hub.settings, automations.default_folder(), without_notifications=True)
    held = claimed_in_a_container(docked)
    docked.engine.run("kill", held.container)
    again = taken_up_again(docked, held, "container killed, automations applied")
    run = state_of(docked.api, held.run)
    log.info("the run was begun %d times", run["run_count"])
    if again.holder == held.run:
        assert run["run_count"] == 2
    else:  # the lease was over first; what was put back found the mission taken or done
        wait_for("its end", lambda: state_of(docked.api, held.run)["state_type"] == "COMPLETED", 120)
