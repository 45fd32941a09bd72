"""Automations as files: read with care, applied in place, and what they do on a real server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from starloom import watching
from starloom.archive import Archive, conditions
from starloom.archive.conditions import Measured
from starloom.dispatch import automations
from starloom.dispatch.automation_files import PREFIX, AutomationFile, read_folder
from starloom.dispatch.automations import Change, apply, default_folder, plan, read
from starloom.dispatch.embedded import worker_command
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import Service, checkout
from starloom.errors import BadInput, StarloomError
from starloom.hub import Hub
from starloom.lake import connect
from starloom.settings import Settings
from tests.dispatch.hooks import Hooks, hooks
from tests.dispatch.server import RunningPrefect
from tests.waiting import until

__all__ = ["hooks"]

slow = pytest.mark.slow
PARAMETERS = {"pool": "p", "missed_heartbeats_s": 75.0, "notification_block": str(uuid4())}
GOOD = """
name: "starloom: one"
description: It does.
trigger:
  posture: Reactive
  expect: a.b
  match: {prefect.resource.id: [z, y]}
  for_each: prefect.resource.id
  within: 5
actions:
  - {type: cancel-flow-run}
"""
NOTIFY = (
    "type: send-notification, subject: s, body: 'b {{ event.id }}', block_document_id: '${notification_block}'"
)


def write(folder: Path, text: str = GOOD, name: str = "one.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


# The files


def test_every_file_of_ours_is_good_and_says_what_it_is_for() -> None:
    files = read_folder(default_folder(), PARAMETERS)
    assert len(files) >= 13
    for file in files:
        assert file.body.enabled is None, "an operator's word counts"
        assert len(file.body.description) > 30
        # What comes back from the server is compared in this form: it must survive the way through JSON.
        assert json.loads(json.dumps(file.body.canonical())) == file.body.canonical()


def test_what_brings_runs_back_needs_nobody_to_be_told() -> None:
    files = {file.path.stem: file for file in read_folder(default_folder(), PARAMETERS)}
    quiet = {name for name, file in files.items() if not file.notifies}
    assert quiet == {"run-crashed", "run-silent", "run-never-began"}
    assert files["run-silent"].body.trigger.within == 75.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("posture: Reactive", "posture: Eager", "one.yaml: trigger.posture: Input should be 'Reactive' or"),
        ("match:", "matches:", "one.yaml: trigger.matches: Extra inputs are not permitted"),
        ("within: 5", "within: soon", "trigger.within"),
        ("within: 5", "within: ${patience}", "trigger.within: there is no parameter ${patience}; there are"),
        ("posture: Reactive", "posture: Proactive", "at least 10 seconds"),
        ("within: 5", "after: a.c", "belongs to a Proactive trigger"),
        ("within: 5", "threshold: 3", "needs `within`"),
        ("expect: a.b", "expect: []", "trigger.expect"),
        ("type: cancel-flow-run", "type: run-shell", "actions.0"),
        ("type: cancel-flow-run", "type: send-notification, subject: s", "actions.0.body: Field required"),
        ("type: cancel-flow-run", "type: cancel-flow-run, force: true", "actions.0.force"),
        ('"starloom: one"', '"one"', "must begin with 'starloom: '"),
        ("description: It does.", "", "description: Field required"),
        ("name:", "  name:", "not YAML"),
        (GOOD, "- a\n- b", "not a mapping"),
        (GOOD, "", "not a mapping"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_folder(write(tmp_path, GOOD.replace(old, new)), PARAMETERS)
    assert caught.value.code == "bad-automation"
    assert "one.yaml: " in caught.value.message
    assert said in caught.value.message


def test_parameters_keep_their_type_alone_and_are_text_among_words(tmp_path: Path) -> None:
    text = GOOD.replace("within: 5", "within: ${missed_heartbeats_s}").replace("does.", "waits ${pool} x ${pool}.")
    (file,) = read_folder(write(tmp_path, text), PARAMETERS)
    assert (file.body.trigger.within, file.body.description) == (75.0, "It waits p x p.")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(BadInput, match=r"one\.yaml and two\.yaml have the same name") as caught:
        read_folder(write(tmp_path, name="two.yaml"), PARAMETERS)
    assert caught.value.code == "duplicate-automation"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadInput) as caught:
            read_folder(folder, PARAMETERS)
        assert caught.value.code == "no-automations"


# What is to be done


def on_server(file: AutomationFile, **changes: Any) -> dict[str, Any]:
    """An automation as the server gives it back: with ids, in an order of its own."""
    said = json.loads(json.dumps(file.body.canonical()))
    said["trigger"] |= {"id": str(uuid4()), "match": {"prefect.resource.id": ["z", "y"]}, "match_related": {}}
    return {"id": "1", "name": file.body.name, "enabled": True, **said, **changes}


@pytest.fixture
def one(tmp_path: Path) -> list[AutomationFile]:
    return read_folder(write(tmp_path), PARAMETERS)


def test_the_same_is_unchanged_whatever_the_order(one: list[AutomationFile]) -> None:
    (change,) = plan(one, [on_server(one[0])], can_notify=True)
    assert (change.verb, change.id) == ("unchanged", "1")


def test_what_an_operator_switched_off_stays_off_unless_the_file_insists(one: list[AutomationFile]) -> None:
    (change,) = plan(one, [on_server(one[0], enabled=False)], can_notify=True)
    assert (change.verb, change.enabled) == ("unchanged", False)
    (change,) = plan(one, [on_server(one[0], enabled=False, description="older")], can_notify=True)
    assert (change.verb, change.enabled) == ("update", False)
    insists = AutomationFile(one[0].path, one[0].body.model_copy(update={"enabled": True}), notifies=False)
    (change,) = plan([insists], [on_server(one[0], enabled=False)], can_notify=True)
    assert (change.verb, change.enabled, change.differences) == ("update", True, ["enabled: False → True"])


def test_what_was_changed_in_the_ui_into_what_no_file_can_say_differs(one: list[AutomationFile]) -> None:
    for changes in ({"actions": [{"type": "pause-work-pool"}]}, {"actions_on_resolve": [{"type": "do-nothing"}]}):
        (change,) = plan(one, [on_server(one[0], **changes)], can_notify=True)
        assert change.verb == "update"
        assert next(iter(changes)) in change.differences[0]


def test_two_on_the_server_are_an_error_that_names_them(one: list[AutomationFile]) -> None:
    with pytest.raises(StarloomError, match="'starloom: one': 1, 2") as caught:
        plan(one, [on_server(one[0]), on_server(one[0], id="2")], can_notify=True)
    assert caught.value.code == "ambiguous-automation"


def test_others_are_nobody_s_leftovers(one: list[AutomationFile]) -> None:
    there = [on_server(one[0]), {"id": "8", "name": "theirs", "enabled": True, "actions": []}]
    there.append({"id": "9", "name": f"{PREFIX}former", "enabled": True, "actions": []})
    assert [change.id for change in automations.leftovers(one, there)] == ["9"]
    assert [automations.owner(a, one) for a in there] == ["one.yaml", "other", "leftover"]


# The real server


@pytest.fixture
def api(prefect_server: RunningPrefect) -> Iterator[PrefectApi]:
    """The server's client; what the test has made is gone after it."""
    yield prefect_server.api
    for there in prefect_server.api.automations():
        if there["name"].startswith(PREFIX):
            prefect_server.api.delete_automation(there["id"])


@pytest.fixture
def here(prefect_server: RunningPrefect) -> Settings:
    """Settings with a block and a work pool of the test's own, and signs of life every four seconds."""
    mark = uuid4().hex[:8]
    changes = {"alert_block": f"alerts-{mark}", "work_pool": f"pool-{mark}"}
    # The least that Prefect takes for a Proactive trigger is ten seconds.
    quick = prefect_server.settings.model_copy(update={**changes, "run_heartbeat_s": 4})
    prefect_server.api.call("POST", "/work_pools/", {"name": quick.work_pool, "type": "process"})
    return quick


def verbs(changes: list[Change]) -> dict[str, str]:
    return {change.name.removeprefix(PREFIX): change.verb for change in changes}


@slow
def test_applied_in_place_by_name_and_nothing_else_touched(
    api: PrefectApi, here: Settings, hooks: Hooks, tmp_path: Path
) -> None:
    others = [there for there in api.automations() if not there["name"].startswith(PREFIX)]
    folder = write(tmp_path / "automations")
    notes = GOOD.replace("one", "two").replace("type: cancel-flow-run", NOTIFY)
    write(folder, notes, "two.yaml")

    with pytest.raises(StarloomError, match=r"no notification block alerts-.*two\.yaml") as caught:
        apply(api, here, folder)
    assert caught.value.code == "no-notification-block"
    assert verbs(apply(api, here, folder, without_notifications=True)) == {"one": "create", "two": "skip"}
    api.save_block(here.alert_block, "webhook", {"url": hooks.url("x")})
    with pytest.raises(StarloomError, match="sends no notifications"):
        apply(api, here, folder)
    automations.make_webhook_block(api, here.alert_block, hooks.url("x"))
    assert verbs(apply(api, here, folder, dry_run=True)) == {"one": "unchanged", "two": "create"}
    assert verbs(apply(api, here, folder)) == {"one": "unchanged", "two": "create"}
    assert verbs(apply(api, here, folder)) == {"one": "unchanged", "two": "unchanged"}
    first = {change.name: change.id for change in apply(api, here, folder)}

    api.enable_automation(first[PREFIX + "one"], enabled=False)
    write(folder, GOOD.replace("within: 5", "within: 7"))
    (changed, _) = apply(api, here, folder)
    assert (changed.verb, changed.id, changed.enabled) == ("update", first[PREFIX + "one"], False)
    assert changed.differences == ["trigger.within: 5.0 → 7.0"]
    ours = {there["name"]: there for there in api.automations() if there["name"].startswith(PREFIX)}
    assert {name: there["id"] for name, there in ours.items()} == first
    assert (ours[PREFIX + "one"]["enabled"], ours[PREFIX + "one"]["trigger"]["within"]) == (False, 7.0)
    write(folder, GOOD.replace("within: 5", "within: 7") + "enabled: true\n")
    assert apply(api, here, folder)[0].differences == ["enabled: False → True"]
    assert verbs(apply(api, here, folder)) == {"one": "unchanged", "two": "unchanged"}

    # A wrong file changes nothing, and neither does a second of one name.
    write(folder, notes.replace("{{ event.id }}", "{{ event.id "), "two.yaml")
    with pytest.raises(StarloomError, match=r"^two\.yaml: actions\.0\.body: .*not a valid template") as caught:
        apply(api, here, folder)
    assert caught.value.code == "bad-automation"
    write(folder, notes, "two.yaml")
    body = {key: ours[PREFIX + "one"][key] for key in ("name", "description", "trigger", "actions")}
    second = api.create_automation(body)
    write(folder, notes.replace("It does.", "It does more."), "two.yaml")
    with pytest.raises(StarloomError, match="the server holds 2 automations"):
        apply(api, here, folder)
    api.delete_automation(second)

    (folder / "one.yaml").unlink()
    assert verbs(apply(api, here, folder)) == {"two": "update", "one": "leftover"}
    assert verbs(apply(api, here, folder, prune=True)) == {"two": "unchanged", "one": "delete"}
    assert verbs(apply(api, here, folder)) == {"two": "unchanged"}
    assert [there for there in api.automations() if not there["name"].startswith(PREFIX)] == others


@pytest.fixture
def applied(api: PrefectApi, here: Settings, hooks: Hooks, tmp_path: Path) -> dict[str, str]:
    """All our automations on the server, and one more that cannot act; names to ids."""
    automations.make_webhook_block(api, here.alert_block, hooks.url("alert"))
    folder = tmp_path / "all"
    folder.mkdir()
    for path in default_folder().glob("*.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())
    write(
        folder,
        GOOD.replace("a.b", "starloom.test.impossible")
        .replace("  within: 5\n", "")
        .replace("  match: {prefect.resource.id: [z, y]}\n", ""),
    )
    done = apply(api, here, folder)
    assert {change.verb for change in done} == {"create"}
    assert {change.verb for change in apply(api, here, folder)} == {"unchanged"}
    time.sleep(1.0)  # the server's own services hear of new automations a moment later
    return {change.name: str(change.id) for change in done}


def state(api: PrefectApi, run: str) -> tuple[str, int]:
    found = api.call("GET", f"/flow_runs/{run}")
    return found["state_name"], found["run_count"]


def acts(server: RunningPrefect, do: Callable[[], object], done: Callable[[], bool]) -> None:
    """Do something that an automation answers to, and see it answer.

    On SQLite, Prefect's server loses what it was doing when its database is locked. It says so in its log, and it
    happens where the machine has too much to do: then, and only then, it is done again.
    """
    log = Service(server.home, "prefect").log_file

    def losses() -> int:
        return log.read_text(encoding="utf-8", errors="replace").count("database is locked")

    for _ in range(4):
        before = losses()
        do()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if done():
                return
            time.sleep(0.3)
        assert losses() > before, "no automation acted, and Prefect had no trouble"
    raise AssertionError("no automation acted")


def start(api: PrefectApi, here: Settings, folder: Path) -> str:
    """Create a run of a flow called stack-mission that waits for a file; the pool is the test's own."""
    (folder / "waiting.py").write_text(
        "import os, time\nfrom pathlib import Path\nfrom prefect import flow\n\n\n"
        "@flow(name='stack-mission')\ndef waiting(folder: str) -> None:\n"
        "    with open(f'{folder}/pids', 'a') as pids:\n        print(os.getpid(), file=pids)\n"
        "    while not Path(f'{folder}/go').exists():\n        time.sleep(0.1)\n"
    )
    flow = api.call("POST", "/flows/", {"name": "stack-mission"})["id"]
    deployment = {
        "name": here.work_pool,
        "flow_id": flow,
        "work_pool_name": here.work_pool,
        "entrypoint": f"{folder}/waiting.py:waiting",
        "path": str(folder),
        "pull_steps": [],
        "enforce_parameter_schema": False,
    }
    made = api.call("POST", "/deployments/", deployment)["id"]
    body = {"parameters": {"folder": str(folder)}, "state": {"type": "SCHEDULED"}}
    return str(api.call("POST", f"/deployments/{made}/create_flow_run", body)["id"])


def move(api: PrefectApi, run: str, *states: str) -> None:
    for word in states:
        body = {"state": {"type": word, "name": word.capitalize()}, "force": True}
        api.call("POST", f"/flow_runs/{run}/set_state", body)


def beat(api: PrefectApi, run: str) -> None:
    """Show life as Prefect's engine does for a run."""
    body = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.name": "r"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "stack-mission",
            }
        ],
        "id": str(uuid4()),
    }
    api.call("POST", "/events", [body])


@slow
def test_alerts_reach_the_webhook(
    prefect_server: RunningPrefect,
    api: PrefectApi,
    applied: dict[str, str],
    hooks: Hooks,
    archive: Archive,
    settings: Settings,
) -> None:
    outcomes: list[str] = []
    acts(
        prefect_server,
        lambda: outcomes.append(automations.send_test(api, "is anybody there?", 30.0)[0]),
        lambda: outcomes[-1] == "delivered",
    )
    assert json.loads(hooks.take()[-1][2]) == {
        "subject": "starloom: a test alert",
        "body": "is anybody there?",
        "text": "starloom: a test alert\nis anybody there?",
    }

    # What sweep watches; words from outside are no templates.
    def fall_silent() -> None:
        with archive.transaction() as session:
            node = f"T{uuid4().hex[:6]}"
            conditions.note(
                session, "node-silent", [Measured("node-silent", node, 80, 72, 72, "80 h {{ x }}", "")]
            )
        assert watching.tell(Hub(settings, connect(settings), archive), api) >= 1

    acts(prefect_server, fall_silent, lambda: hooks.heard("alert", "is silent", "80 h {{ x }}"))
    failed = {"mission_id": "550", "code": "c", "hint": "Mend."}
    acts(
        prefect_server,
        lambda: api.emit("starloom.mission.failed", "starloom.mission.550", failed),
        lambda: hooks.heard("alert", "mission 550 has failed: c", "Mend."),
    )
    # An action that fails is told: there is no run to cancel.
    acts(
        prefect_server,
        lambda: api.emit("starloom.test.impossible", "starloom.test.impossible", {}),
        lambda: hooks.heard("alert", "'starloom: one' could not act", "No flow run could be inferred"),
    )
    # A switched-off test alert is not taken for a delivered one.
    api.enable_automation(applied[PREFIX + "a test alert"], enabled=False)
    with pytest.raises(StarloomError, match="switched off"):
        automations.send_test(api, "", 1.0)


@slow
def test_silent_runs_crash_and_crashed_runs_come_back_twice(
    prefect_server: RunningPrefect,
    api: PrefectApi,
    here: Settings,
    applied: dict[str, str],
    hooks: Hooks,
    tmp_path: Path,
) -> None:
    silent, ended, spent, unbegun = (start(api, here, tmp_path) for _ in range(4))
    move(api, ended, "RUNNING")
    beat(api, ended)
    move(api, ended, "COMPLETED")
    move(api, spent, "RUNNING", "SCHEDULED", "RUNNING", "SCHEDULED", "RUNNING")
    acts(
        prefect_server,
        lambda: move(api, spent, "SCHEDULED", "CRASHED"),
        lambda: hooks.heard("alert", "after it had begun 3 times"),
    )
    acts(
        prefect_server,
        lambda: move(api, unbegun, "SCHEDULED", "CRASHED"),
        lambda: hooks.heard("alert", "after it had begun 0 times"),
    )
    move(api, silent, "RUNNING")
    acts(prefect_server, lambda: beat(api, silent), lambda: state(api, silent) == ("Crashed", 1))
    acts(
        prefect_server,
        lambda: state(api, silent) == ("Crashed", 1) and move(api, silent, "SCHEDULED", "CRASHED"),
        lambda: state(api, silent) == ("AwaitingRetry", 1),
    )
    # By now these would have come back, too, or been taken for dead.
    assert state(api, ended) == ("Completed", 1)
    assert state(api, spent) == ("Crashed", 3)
    assert state(api, unbegun) == ("Crashed", 0)


@slow
def test_a_run_whose_process_is_killed_is_running_again(
    prefect_server: RunningPrefect,
    api: PrefectApi,
    here: Settings,
    applied: dict[str, str],
    tmp_path: Path,
) -> None:
    run = start(api, here, tmp_path)
    pids = tmp_path / "pids"

    def begun() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.is_file() else []

    def crash() -> None:
        if state(api, run) == ("Running", 1):
            os.kill(begun()[0], signal.SIGKILL)
        else:
            move(api, run, "SCHEDULED", "CRASHED")

    worker = Service(tmp_path, "worker")
    worker.start(worker_command(here), prefect_server.environment, cwd=checkout())
    try:
        until(lambda: len(begun()) == 1 and state(api, run) == ("Running", 1), worker.tail)
        acts(prefect_server, crash, lambda: state(api, run)[0] not in ("Running", "Crashed"))
        until(lambda: len(begun()) == 2, worker.tail)
        (tmp_path / "go").touch()
        until(lambda: state(api, run) == ("Completed", 2), worker.tail)
        assert worker.pid is not None, worker.tail()
    finally:
        worker.stop()


def test_the_shipped_names_are_those_of_the_manual() -> None:
    manual = (checkout() / "docs" / "alerts.md").read_text(encoding="utf-8")
    for path in default_folder().glob("*.yaml"):
        name = yaml.safe_load(path.read_text(encoding="utf-8"))["name"].removeprefix(PREFIX)
        assert name in manual, f"{path.name} is not explained"
    assert {file.path.name for file in read(Settings(), default_folder(), None)}
