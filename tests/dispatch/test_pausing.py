"""Pauses: told with their reason, lifted again, and kept when everything is registered anew."""

from __future__ import annotations

import pytest

from starloom.dispatch import pausing
from starloom.dispatch.deploying import register
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.errors import BadInput, Unavailable
from tests.dispatch.server import RunningPrefect

pytestmark = pytest.mark.slow


@pytest.fixture
def api(prefect_server: RunningPrefect) -> PrefectApi:
    return prefect_server.api


@pytest.fixture
def pool(prefect_server: RunningPrefect) -> str:
    return prefect_server.settings.work_pool


def parts(api: PrefectApi, pool: str) -> dict[str, str]:
    return {row["part"]: row["why"] for row in pausing.paused(api, pool)}


def test_what_is_paused_is_told_with_its_reason_and_goes_on_again(api: PrefectApi, pool: str) -> None:
    assert parts(api, pool) == {}
    pausing.pause(api, pool, ["stacks", "tidy"], "the lake is being moved")
    assert parts(api, pool) == dict.fromkeys(("stacks", "tidy"), "the lake is being moved")
    api.pause_queue(pool, "frames", paused=True)  # as Prefect's pages do
    assert parts(api, pool)["frames"] == "paused in Prefect's pages"
    pausing.resume(api, pool, ["all"])
    assert parts(api, pool) == {}


def test_a_schedule_switched_off_in_prefects_pages_is_told_and_goes_on_again(api: PrefectApi, pool: str) -> None:
    ingest = api.deployment("ingest/ingest")
    api.update_schedule(ingest["id"], ingest["schedules"][0]["id"], {"active": False})
    assert parts(api, pool) == {"ingest": "paused in Prefect's pages"}
    pausing.resume(api, pool, ["ingest"])
    assert parts(api, pool) == {}
    assert [schedule["active"] for schedule in api.deployment("ingest/ingest")["schedules"]] == [True]


def test_an_unknown_part_is_refused_and_changes_nothing(api: PrefectApi, pool: str) -> None:
    with pytest.raises(BadInput) as caught:
        pausing.pause(api, pool, ["stacks", "stack"], "typing")
    assert caught.value.code == "no-such-part"
    assert parts(api, pool) == {}


def test_a_schedule_that_is_paused_makes_no_runs(api: PrefectApi, pool: str) -> None:
    pausing.pause(api, pool, ["sweep"], "")
    assert [run for run in api.runs("sweep/sweep", states=("SCHEDULED",)) if run["auto_scheduled"]] == []
    pausing.resume(api, pool, ["sweep"])


def test_draining_waits_for_what_is_at_work(api: PrefectApi, pool: str) -> None:
    api.crash_orphans(pool)  # what other tests have left at work: the server is shared
    run = api.create_run("tidy/tidy", {}, idempotency_key="draining")
    at = f"/flow_runs/{run['id']}/set_state"
    api.call("POST", at, {"state": {"type": "RUNNING"}, "force": True})
    with pytest.raises(Unavailable) as caught:
        pausing.wait_for_runs(api, pool, 0.0)
    assert caught.value.code == "still-running"
    assert run["name"] in caught.value.message
    api.call("POST", at, {"state": {"type": "COMPLETED"}, "force": True})
    pausing.wait_for_runs(api, pool, 0.0)


def test_registering_anew_keeps_what_is_off(prefect_server: RunningPrefect, api: PrefectApi, pool: str) -> None:
    pausing.pause(api, pool, ["ingest", "stacks"], "kept")
    api.update_pool(pool, {"is_paused": True, "concurrency_limit": 7})
    sweep = api.deployment("sweep/sweep")
    api.update_schedule(sweep["id"], sweep["schedules"][0]["id"], {"active": False})
    for automation in prefect_server.automation_ids("stack-mission/stack-mission"):
        api.enable_automation(automation, enabled=False)
    (prefect_server.settings.home / "run" / "deployed").unlink()
    register(prefect_server.settings, prefect_server.environment, checkout(), lambda _: None)
    triggers = prefect_server.automation_ids("stack-mission/stack-mission")
    again = api.deployment("sweep/sweep")
    try:
        assert set(parts(api, pool)) == {"ingest", "sweep", "stacks", f"pool {pool}"}
        assert api.deployment("tidy/tidy")["paused"] is False
        assert [schedule["active"] for schedule in again["schedules"]] == [False]
        assert (api.pool(pool) or {})["concurrency_limit"] == 7
        assert [a["enabled"] for a in api.automations() if a["id"] in triggers] == [False]
    finally:
        api.update_pool(pool, {"is_paused": False, "concurrency_limit": None})
        pausing.resume(api, pool, ["all"])
        for automation in triggers:
            api.enable_automation(automation, enabled=True)
