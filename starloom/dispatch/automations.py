"""Automations on the server made to say what the files say: by name, in place, ours only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from starloom.dispatch.automation_files import NO_BLOCK, PREFIX, TAGS, AutomationBody, AutomationFile, read_folder
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.services import checkout
from starloom.dispatch.webhook import check_url
from starloom.errors import StarloomError
from starloom.settings import Settings

TEST_EVENT = "starloom.alert.test"
#: Two and a half beats: one may be late or lost.
MISSED_BEATS = 2.5
Verb = Literal["create", "update", "unchanged", "skip", "leftover", "delete"]


@dataclass(frozen=True)
class Change:
    """What is to be done about one automation.

    Parameters
    ----------
    name, file
        Of the automation; no file: it is ours by its name, and no file says it any more.
    verb
        ``skip``: it notifies, and there is nobody to notify. ``leftover``: it has no file, and goes on working.
    id
        The server's id, None before it was created.
    enabled
        Whether it is, or will be, switched on.
    differences
        ``key: the server's → the file's``, where the verb is ``update``.
    """

    name: str
    file: str
    verb: Verb
    id: str | None = None
    enabled: bool = True
    differences: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return it as one flat record."""
        return asdict(self)


def default_folder() -> Path:
    """Return ``infra/automations`` of the checkout."""
    return checkout() / "infra" / "automations"


def read(settings: Settings, folder: Path, block_id: str | None) -> list[AutomationFile]:
    """Read a folder's files with the parameters that the settings give; see `read_folder`."""
    parameters = {
        "pool": settings.work_pool,
        "missed_heartbeats_s": MISSED_BEATS * settings.run_heartbeat_s,
        "notification_block": block_id or NO_BLOCK,
    }
    return read_folder(folder, parameters)


def notification_block(api: PrefectApi, name: str) -> str | None:
    """Return the id of the one block of a name that can notify, None where there is none.

    Raises
    ------
    StarloomError
        ``ambiguous-block``: several, of different types; ``wrong-block``: the block cannot notify.
    """
    found = api.blocks(name)
    able = [block for block in found if "notify" in block["block_schema"]["capabilities"]]
    if len(able) > 1:
        kinds = ", ".join(sorted(block["block_type"]["slug"] for block in able))
        raise StarloomError(
            f"there are several notification blocks called {name}: {kinds}",
            code="ambiguous-block",
            hint="Rename all but one in the Prefect UI, or name another with STARLOOM_ALERT_BLOCK.",
        )
    if found and not able:
        raise StarloomError(
            f"block {name} is a {found[0]['block_type']['name']}, which sends no notifications",
            code="wrong-block",
            hint="Take a Custom Webhook, Slack, Mattermost, e-mail or another block that notifies.",
        )
    return str(able[0]["id"]) if able else None


def plan(
    files: Sequence[AutomationFile], server: Sequence[Mapping[str, Any]], *, can_notify: bool
) -> list[Change]:
    """Say what each file asks for.

    Raises
    ------
    StarloomError
        ``ambiguous-automation``: the server holds two of one name, so that neither is meant.
    """
    changes = []
    for file in files:
        name = file.body.name
        found = [automation for automation in server if automation["name"] == name]
        if len(found) > 1:
            ids = ", ".join(str(automation["id"]) for automation in found)
            raise StarloomError(
                f"the server holds {len(found)} automations called {name!r}: {ids}",
                code="ambiguous-automation",
                hint="Delete all but one in the Prefect UI (Automations).",
            )
        if file.notifies and not can_notify:
            changes.append(Change(name, file.path.name, "skip", str(found[0]["id"]) if found else None))
        elif not found:
            enabled = file.body.enabled is not False
            changes.append(Change(name, file.path.name, "create", enabled=enabled))
        else:
            changes.append(_compare(file, found[0]))
    return changes


def _compare(file: AutomationFile, there: Mapping[str, Any]) -> Change:
    enabled = there["enabled"] if file.body.enabled is None else file.body.enabled
    differences = list(_differences(_said_by(there), file.body.canonical(), ""))
    if enabled != there["enabled"]:
        differences.append(f"enabled: {there['enabled']} → {enabled}")
    verb: Verb = "update" if differences else "unchanged"
    return Change(file.body.name, file.path.name, verb, str(there["id"]), enabled, differences)


def _said_by(there: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the server's automation says in the form of `AutomationBody.canonical`.

    One that somebody has changed in the UI into something that no file can say is returned as it is, and differs.
    """
    said = {key: there[key] for key in ("name", "description", "trigger", "actions")}
    said["trigger"] = {key: value for key, value in said["trigger"].items() if key != "id"}
    tags = sorted(there.get("tags") or [])
    extra = {key: there[key] for key in ("actions_on_trigger", "actions_on_resolve") if there.get(key)}
    try:
        return {**AutomationBody.model_validate(said).canonical(), "tags": tags, **extra}
    except ValidationError:
        return {**said, "tags": tags, **extra}


def _differences(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for part in sorted({*old, *new}, key=str):
            yield from _differences(old.get(part), new.get(part), f"{key}.{part}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{key}.{i}")
    elif old != new:
        yield f"{key}: {old!r} → {new!r}"


def apply(
    api: PrefectApi,
    settings: Settings,
    folder: Path,
    *,
    block: str = "",
    without_notifications: bool = False,
    prune: bool = False,
    dry_run: bool = False,
) -> list[Change]:
    """Create and update what the folder's files say; what is not ours by its name is left alone.

    All files are read and compared before the first change is made: a wrong file changes nothing.

    Parameters
    ----------
    block
        Name of the notification block; that of the settings by default.
    without_notifications
        Leave out what notifies where there is no such block, instead of refusing. What brings runs back must not
        wait for somebody to be told about it.
    prune
        Delete leftovers: automations of ours whose file is gone or got another name.
    dry_run
        Only say what would be done.

    Raises
    ------
    StarloomError
        ``no-notification-block``, and what `read_folder`, `notification_block` and `plan` raise.
    """
    name = block or settings.alert_block
    block_id = notification_block(api, name)
    files = read(settings, folder, block_id)
    if block_id is None and not without_notifications and (named := [f for f in files if f.notifies]):
        raise StarloomError(
            f"there is no notification block {name}, which {named[0].path.name} and {len(named) - 1} more need",
            code="no-notification-block",
            hint="Make one with `starloom automations notify URL` or in the Prefect UI (Blocks); "
            "`--without-notifications` applies the others meanwhile.",
        )
    server = api.automations()
    changes = plan(files, server, can_notify=block_id is not None)
    gone = leftovers(files, server, "delete" if prune else "leftover")
    if not dry_run:
        changes = [_carry_out(api, change, file.body) for change, file in zip(changes, files, strict=True)]
        for change in gone:
            if change.verb == "delete" and change.id is not None:
                api.delete_automation(change.id)
    return changes + gone


def leftovers(
    files: Sequence[AutomationFile], server: Sequence[Mapping[str, Any]], verb: Verb = "leftover"
) -> list[Change]:
    """Return the automations of ours that no file says any more."""
    names = {file.body.name for file in files}
    return [
        Change(there["name"], "", verb, str(there["id"]), there["enabled"])
        for there in server
        if there["name"].startswith(PREFIX) and there["name"] not in names
    ]


def _carry_out(api: PrefectApi, change: Change, body: AutomationBody) -> Change:
    if change.verb not in ("create", "update"):
        return change
    wanted = {**body.model_dump(), "enabled": change.enabled, "tags": list(TAGS)}
    try:
        if change.id is None:
            return Change(**{**change.row(), "id": api.create_automation(wanted)})
        api.update_automation(change.id, wanted)
    except StarloomError as error:
        if error.code == "prefect-refused":  # a template that reaches for what Prefect forbids, for one
            raise StarloomError(
                f"{change.file}: {error.message}",
                code="bad-automation",
                hint="Correct the file, then apply again.",
            ) from error
        raise
    return change


def owner(automation: Mapping[str, Any], files: Sequence[AutomationFile]) -> str:
    """Say where an automation comes from: a file of ours, a deployment's trigger, or elsewhere."""
    file = next((file for file in files if file.body.name == automation["name"]), None)
    if file is not None:
        return file.path.name
    if str(automation["name"]).startswith(PREFIX):
        return "leftover"
    starts = any(action.get("type") == "run-deployment" for action in automation["actions"])
    return "deployment" if starts else "other"


def make_webhook_block(api: PrefectApi, name: str, url: str) -> str:
    """Create or change a block that POSTs ``{subject, body, text}`` as JSON to any URL; return its id.

    ``text`` is what Slack, Mattermost, Rocket.Chat and most others show. The URL is kept as a secret: whoever has
    it can write there.

    Raises
    ------
    BadInput
        ``bad-url``.
    """
    check_url(url)
    said = {"subject": "{{subject}}", "body": "{{body}}", "text": "{{subject}}\n{{body}}"}
    data = {"name": name, "url": "{{url}}", "json_data": said, "secrets": {"url": url}}
    return api.save_block(name, "custom-webhook", data)


def send_test(api: PrefectApi, message: str, timeout_s: float) -> tuple[str, str]:
    """Publish the event of a test alert and wait for what becomes of it.

    Returns
    -------
    outcome, reason
        ``delivered``; ``failed`` with Prefect's reason; or ``unknown``, where nothing was heard in time. Prefect
        says nothing of a Custom Webhook whose server answered with an error: that one is `unknown` too.

    Raises
    ------
    StarloomError
        ``no-test-alert``: the automation is not there, or switched off.
    """
    name = f"{PREFIX}a test alert"
    found = next((a for a in api.automations() if a["name"] == name and a["enabled"]), None)
    if found is None:
        raise StarloomError(
            f"the automation {name!r} is not there or switched off",
            code="no-test-alert",
            hint="`starloom automations apply` makes it; the Prefect UI switches it on.",
        )
    since = datetime.now(UTC)
    api.emit(TEST_EVENT, TEST_EVENT, {"message": message})
    outcomes = {"prefect.automation.action.executed": "delivered", "prefect.automation.action.failed": "failed"}
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for event in api.events(list(outcomes), f"prefect.automation.{found['id']}", since):
            return outcomes[event["event"]], str(event["payload"].get("reason", ""))
        time.sleep(0.5)
    return "unknown", f"nothing was heard within {timeout_s:.0f} s"
