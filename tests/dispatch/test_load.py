"""What Prefect says of its queues, asked of a real server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from starloom.dispatch.load import load_of
from starloom.dispatch.relay import Relay
from starloom.telemetry.families import PREFECT
from starloom.telemetry.metrics import prefect_metrics
from tests.dispatch.server import RunningPrefect


def test_runs_that_wait_are_counted_by_queue(prefect_server: RunningPrefect) -> None:
    api, pool = prefect_server.api, prefect_server.settings.work_pool
    before = load_of(api, pool)
    assert {"frames", "stacks", "upkeep"} <= before.queues.keys()
    due = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    body = {
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": due}},
        "parameters": {"mission_id": "x", "event_id": 1},
    }
    deployment = api.deployment_id("stack-mission/stack-mission")
    run = api.call("POST", f"/deployments/{deployment}/create_flow_run", body)
    try:
        after = load_of(api, pool)
        assert after.queues["stacks"] == (before.queues["stacks"][0] + 1, before.queues["stacks"][1])
        assert after.queues["frames"] == before.queues["frames"]
        assert after.lag_s >= 299
        ended = {"state": {"type": "CRASHED"}, "force": True}
        api.call("POST", f"/flow_runs/{run['id']}/set_state", ended)
        assert load_of(api, pool).ended_badly["CRASHED"] == before.ended_badly["CRASHED"] + 1
    finally:
        api.call("DELETE", f"/flow_runs/{run['id']}")


def test_prefect_says_all_that_is_described(prefect_server: RunningPrefect) -> None:
    found = {metric.name for metric in prefect_metrics(prefect_server.settings, prefect_server.api)}
    assert found == PREFECT.keys()


def test_a_relay_counts_what_it_tells(make_relay: Callable[..., Relay], mission: str) -> None:
    from starloom.archive import missions

    relay = make_relay()
    with relay.archive.transaction() as session:
        missions.set_status(session, mission, "COMPLETE")
    assert relay.once() == 1
    assert relay.metrics.told.labels("event")._value.get() == 1
