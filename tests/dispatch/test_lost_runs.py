"""Runs that nobody works on, on a real server: those that never began, and those whose upper run has ended."""

from __future__ import annotations

from typing import Any

import pytest

from starloom.dispatch.lost_runs import end_lost_runs
from starloom.dispatch.rest import PrefectApi
from tests.dispatch.server import RunningPrefect

pytestmark = pytest.mark.slow


def state_of(api: PrefectApi, run_id: str) -> str:
    return str(api.call("GET", f"/flow_runs/{run_id}")["state_type"])


def become(api: PrefectApi, run: dict[str, Any], state: str) -> None:
    api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})


def test_runs_that_never_began_are_ended(prefect_server: RunningPrefect) -> None:
    api = prefect_server.api
    batch = {"batch": {"name": "never", "frame_ids": []}}
    process = "process-frames/process-frames"
    taken = api.create_run(process, batch, idempotency_key="never begun")
    sweep = api.create_run("sweep/sweep", {}, idempotency_key="never begun")
    waiting = api.create_run(process, batch, idempotency_key="not taken")
    at_work = api.create_run(process, batch, idempotency_key="at work")
    for run, state in ((taken, "PENDING"), (sweep, "PENDING"), (at_work, "RUNNING")):
        become(api, run, state)
    end_lost_runs(api, 600.0)
    assert state_of(api, taken["id"]) == "PENDING"
    assert end_lost_runs(api, -5.0) >= 2
    states = [state_of(api, run["id"]) for run in (taken, sweep, waiting, at_work)]
    assert states == ["CRASHED", "CRASHED", "SCHEDULED", "RUNNING"]


def test_runs_under_a_run_that_has_ended_are_ended(prefect_server: RunningPrefect) -> None:
    api = prefect_server.api

    def co_add(name: str, above: dict[str, Any] | None) -> str:
        under = {}
        if above is not None:
            task = {"flow_run_id": above["id"], "task_key": "co_add", "dynamic_key": name, "name": name}
            under = {"parent_task_run_id": api.call("POST", "/task_runs/", task)["id"]}
        flow = api.call("POST", "/flows/", {"name": "co-add"})["id"]
        body = {"flow_id": flow, "name": name, "state": {"type": "RUNNING"}, **under}
        return str(api.call("POST", "/flow_runs/", body)["id"])

    uppers = [
        api.create_run(
            "stack-mission/stack-mission", {"mission_id": "550", "event_id": n}, idempotency_key=f"upper {n}"
        )
        for n in (900001, 900002)
    ]
    for run, state in zip(uppers, ("CRASHED", "RUNNING"), strict=True):
        become(api, run, state)
    under = [co_add(f"under {n}", run) for n, run in enumerate(uppers)]
    alone = co_add("by itself", None)
    assert end_lost_runs(api, 600.0) >= 1
    assert [state_of(api, run) for run in (*under, alone)] == ["CRASHED", "RUNNING", "RUNNING"]
    for run in (under[1], alone, uppers[1]["id"]):
        api.crash(run, "the test is over")
