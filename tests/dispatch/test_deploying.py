"""Registration: unset variables are refused, and nothing is registered twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from starloom.dispatch import deploying
from starloom.dispatch.deploying import check_variables, deployment_digest, register, wanted_deployments
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.errors import StarloomError
from starloom.settings import Settings
from tests.dispatch.server import RunningPrefect


def test_a_variable_that_is_not_set_is_an_error(tmp_path: Path) -> None:
    yaml = tmp_path / "prefect.yaml"
    yaml.write_text('name: "{{ $STARLOOM_WORK_POOL }}"\nother: "{{$OTHER}} {{ event.payload.x }}"\n')
    check_variables(yaml, {"STARLOOM_WORK_POOL": "p", "OTHER": "q"})
    with pytest.raises(StarloomError, match="OTHER, STARLOOM_WORK_POOL") as caught:
        check_variables(yaml, {"OTHER": ""})
    assert caught.value.code == "unset-setting"


def test_the_deployments_are_those_of_the_flows() -> None:
    import flows.frames
    import flows.ingest
    import flows.masters
    import flows.operators
    import flows.stack
    import flows.sweep
    import flows.tidy

    known = {
        flow.name
        for flow in (
            flows.frames.process_frames,
            flows.ingest.ingest,
            flows.masters.build_masters,
            flows.operators.requeue_frames,
            flows.operators.restack_mission,
            flows.stack.stack_mission,
            flows.sweep.sweep,
            flows.tidy.tidy,
        )
    }
    assert {name.partition("/")[0] for name in wanted_deployments(checkout())} == known


@pytest.mark.slow
def test_deployed_again_only_when_something_changed(
    prefect_server: RunningPrefect, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def note(*_: object, what: str, **__: object) -> str:
        ran.append(what)
        return ""

    monkeypatch.setattr(deploying, "run_program", note)
    server, root = prefect_server, checkout()

    def again(**changes: object) -> list[str]:
        ran.clear()
        register(server.settings.model_copy(update=changes), server.environment, root, lambda _: None)
        return list(ran)

    before = server.automation_ids("stack-mission/stack-mission")
    assert again(ingest_interval_s=1800.0, queue_limits={"frames": 3}) == []
    limits = {queue["name"]: queue["concurrency_limit"] for queue in server.api.queues(server.settings.work_pool)}
    assert (limits["frames"], limits["stacks"]) == (3, None)
    assert server.automation_ids("stack-mission/stack-mission") == before  # pauses and ids are kept
    found = server.api.call("GET", "/deployments/name/ingest/ingest")
    assert [s["schedule"]["interval"] for s in found["schedules"]] == [1800.0]
    assert again(ingest_interval_s=3600.0, lake_region="elsewhere") == ["registering the blocks"]
    assert again(ingest_interval_s=3600.0) == ["registering the blocks"]
    started = server.api.call("GET", "/deployments/name/sweep/sweep")["job_variables"]
    assert started == {"command": f"{sys.executable} -m prefect.engine"}
    monkeypatch.setattr(PrefectApi, "deployments", lambda _: [])
    assert "registering the deployments" in again(ingest_interval_s=3600.0)  # a server that was emptied


def test_a_changed_flow_or_pool_changes_the_digest(tmp_path: Path) -> None:

    (tmp_path / "flows").mkdir()
    (tmp_path / "prefect.yaml").write_text("name: x\n")
    (tmp_path / "flows" / "a.py").write_text("one")
    settings = Settings(home=tmp_path)
    first = deployment_digest(settings, tmp_path)
    assert first == deployment_digest(settings.model_copy(update={"lease_s": 5.0}), tmp_path)
    assert first != deployment_digest(settings.model_copy(update={"work_pool": "other"}), tmp_path)
    (tmp_path / "flows" / "a.py").write_text("two")
    assert first != deployment_digest(settings, tmp_path)
