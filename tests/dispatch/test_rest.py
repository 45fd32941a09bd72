"""Prefect's REST API as we speak it, against a real server."""

from __future__ import annotations

import pytest

from starloom.dispatch.deploying import QUEUES, wanted_deployments
from starloom.dispatch.relay import DEPLOYMENT
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.runs import LIVING
from starloom.dispatch.services import checkout, free_port
from starloom.errors import StarloomError, Unavailable
from starloom.settings import Settings
from tests.dispatch.server import RunningPrefect

CLOSED = f"http://127.0.0.1:{free_port(0)}/api"


def test_no_server_is_unavailable_and_worth_another_try() -> None:
    with PrefectApi(CLOSED) as api:
        assert not api.is_healthy()
        with pytest.raises(Unavailable) as caught:
            api.runs(DEPLOYMENT)
    assert caught.value.retryable
    assert caught.value.code == "prefect-unavailable"


def test_settings_without_a_server_say_how_to_get_one(tmp_path: pytest.TempPathFactory) -> None:
    with pytest.raises(StarloomError, match="no Prefect server") as caught:
        PrefectApi.from_settings(Settings(home=tmp_path))  # type: ignore[arg-type]
    assert "starloom up" in caught.value.hint


@pytest.mark.slow
def test_an_address_that_is_not_the_api_is_explained(prefect_server: RunningPrefect) -> None:
    with PrefectApi(prefect_server.api.ui_url) as api, pytest.raises(StarloomError):
        api.automations()


@pytest.mark.slow
def test_up_registers_every_deployment_queue_and_interval(prefect_server: RunningPrefect) -> None:
    api = prefect_server.api
    assert api.is_healthy()
    assert set(api.deployments()) == wanted_deployments(checkout())
    found = api.call("GET", "/deployments/name/ingest/ingest")
    assert [s["schedule"]["interval"] for s in found["schedules"]] == [3600.0]
    queues = api.call("POST", "/work_pools/starloom/queues/filter", {})
    order = [queue["name"] for queue in sorted(queues, key=lambda queue: int(queue["priority"]))]
    assert order[: len(QUEUES)] == list(QUEUES)
    assert len(prefect_server.automation_ids(DEPLOYMENT)) == 1
    with pytest.raises(StarloomError) as caught:
        api.set_interval("ingest/ingest", "elsewhere", 5.0)
    assert caught.value.code == "no-such-schedule"


@pytest.mark.slow
def test_the_same_key_is_the_same_run_and_states_filter(prefect_server: RunningPrefect) -> None:
    api, parameters = prefect_server.api, {"mission_id": "rest", "event_id": 7}
    first = api.create_run(DEPLOYMENT, parameters, idempotency_key="rest:7")
    again = api.create_run(DEPLOYMENT, parameters, idempotency_key="rest:7", name="another name")
    other = api.create_run(DEPLOYMENT, parameters, idempotency_key="rest:8")
    assert first["id"] == again["id"] != other["id"]
    living = {run["id"] for run in api.runs(DEPLOYMENT, states=LIVING, limit=1)}  # a page a run
    assert {first["id"], other["id"]} <= living
    api.call("POST", f"/flow_runs/{other['id']}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    assert other["id"] not in {run["id"] for run in api.runs(DEPLOYMENT, states=LIVING)}
    assert other["id"] in {run["id"] for run in api.runs(DEPLOYMENT)}


@pytest.mark.slow
def test_refused_is_told_from_unavailable(prefect_server: RunningPrefect) -> None:
    with pytest.raises(StarloomError) as caught:
        prefect_server.api.create_run(DEPLOYMENT, {"event_id": "many"}, idempotency_key="refused")
    assert caught.value.code == "prefect-refused"
    assert not caught.value.retryable
    with pytest.raises(StarloomError) as caught:
        prefect_server.api.deployment_id("no/such")
    assert caught.value.code == "prefect-refused"


@pytest.mark.slow
def test_runs_that_died_with_their_worker_are_crashed(prefect_server: RunningPrefect) -> None:
    api = prefect_server.api
    run = api.create_run("sweep/sweep", {}, idempotency_key="orphan")
    waiting = api.create_run("sweep/sweep", {}, idempotency_key="waiting")
    api.call("POST", f"/flow_runs/{run['id']}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    assert api.crash_orphans(prefect_server.settings.work_pool) >= 1
    states = {found["id"]: found["state_type"] for found in api.runs("sweep/sweep")}
    assert (states[run["id"]], states[waiting["id"]]) == ("CRASHED", "SCHEDULED")
