"""``starloom automations …``: what Prefect does by itself, kept as files, and whom it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, emit_json, emit_rows, say

app = typer.Typer(help="Prefect's automations as files: apply, diff, list, notify, test.", no_args_is_help=True)

FolderOption = Annotated[
    Path | None, typer.Option(help="Folder of *.yaml; infra/automations of the checkout by default.")
]
BlockOption = Annotated[str, typer.Option("--block", help="Notification block; STARLOOM_ALERT_BLOCK by default.")]
WithoutOption = Annotated[
    bool, typer.Option("--without-notifications", help="Without the block, leave out what notifies.")
]


@app.command()
def apply(
    folder: FolderOption = None,
    block: BlockOption = "",
    without_notifications: WithoutOption = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete ours whose file is gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Make the server's automations say what the files say: by name, in place; switched off stays off.

    Example: starloom automations apply --dry-run
    """
    rows = _apply(folder, block=block, without_notifications=without_notifications, prune=prune, dry_run=dry_run)
    _show(rows, json, "Would be done" if dry_run else "Automations")


@app.command()
def diff(
    folder: FolderOption = None,
    block: BlockOption = "",
    without_notifications: WithoutOption = False,
    json: JsonOption = False,
) -> None:
    """Say how the server differs from the files. Exit code 1 where it does.

    Example: starloom automations diff
    """
    rows = _apply(folder, block=block, without_notifications=without_notifications, prune=False, dry_run=True)
    differing = [row for row in rows if row["verb"] not in ("unchanged", "skip")]
    if differing or json:
        _show(differing, json, "Differences")
    else:
        say("The server says what the files say.")
    if differing:
        raise typer.Exit(1)


@app.command("list")
def list_(folder: FolderOption = None, json: JsonOption = False) -> None:
    """List the automations on the server, and where each comes from.

    Example: starloom automations list
    """
    from starloom.dispatch import automations
    from starloom.dispatch.rest import PrefectApi

    settings = open_settings()
    files = automations.read(settings, folder or automations.default_folder(), None)
    with PrefectApi.from_settings(settings) as api:
        rows = [
            {
                "name": there["name"],
                "enabled": there["enabled"],
                "from": automations.owner(there, files),
                "id": there["id"],
                "description": there["description"],
            }
            for there in api.automations()
        ]
    emit_rows(
        rows,
        ["name", "enabled", "from"],
        as_json=json,
        title="Automations",
        empty="No automations: `starloom automations apply` makes ours.",
    )


@app.command()
def notify(
    url: Annotated[str, typer.Argument(help="Where alerts are POSTed as JSON: subject, body and text.")],
    block: BlockOption = "",
    json: JsonOption = False,
) -> None:
    """Have alerts sent to a webhook: makes or changes the notification block. Slack, e-mail and others: in the UI.

    Example: starloom automations notify https://chat.example.org/hooks/abc
    """
    from starloom.dispatch import automations
    from starloom.dispatch.rest import PrefectApi

    settings = open_settings()
    name = block or settings.alert_block
    with PrefectApi.from_settings(settings) as api:
        block_id = automations.make_webhook_block(api, name, url)
    if json:
        emit_json({"block": name, "id": block_id})
    else:
        say(f"Block {name} POSTs there. `starloom automations apply`, then `starloom automations test`.")


@app.command("test")
def send_test(
    message: Annotated[str, typer.Option(help="What it says.")] = "This is a test; nothing is wrong.",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the outcome.")] = 30.0,
    json: JsonOption = False,
) -> None:
    """Send a test alert the whole way. Exit code 1 where it was not delivered.

    Example: starloom automations test
    """
    from starloom.dispatch import automations
    from starloom.dispatch.rest import PrefectApi

    with PrefectApi.from_settings(open_settings()) as api:
        outcome, reason = automations.send_test(api, message, timeout)
    if json:
        emit_json({"outcome": outcome, "reason": reason})
    else:
        say(f"{outcome}: {reason}" if reason else outcome)
    if outcome != "delivered":
        raise typer.Exit(1)


def _apply(folder: Path | None, **options: Any) -> list[dict[str, Any]]:
    from starloom.dispatch import automations
    from starloom.dispatch.rest import PrefectApi

    settings = open_settings()
    with PrefectApi.from_settings(settings) as api:
        done = automations.apply(api, settings, folder or automations.default_folder(), **options)
    return [change.row() for change in done]


def _show(rows: list[dict[str, Any]], json: bool, title: str) -> None:
    emit_rows(rows, ["verb", "name", "enabled", "differences"], as_json=json, title=title, whole=["verb"])
    if json:
        return
    if any(row["verb"] == "skip" for row in rows):
        say("→ skip: it notifies, and there is no notification block: `starloom automations notify URL`.")
    if any(row["verb"] == "leftover" for row in rows):
        say("→ leftover: no file says it any more, and it goes on working; `--prune` deletes it.")
