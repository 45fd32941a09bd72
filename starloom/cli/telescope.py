"""``starloom submit`` and ``receipts``: what runs at the telescope; needs only the lake and a node's key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from starloom.cli.output import JsonOption, console, emit_rows
from starloom.errors import BadInput

COLUMNS = ["name", "state", "saving_fraction", "code", "hint"]


def submit(
    files: Annotated[list[Path], typer.Argument(help="FITS files.")],
    mission: Annotated[str | None, typer.Option(help="ObsReq id, for files not named by the grammar.")] = None,
    node: Annotated[str | None, typer.Option(help="TelID, for files not named by the grammar.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the hub's receipts.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each receipt.")] = 300.0,
    json: JsonOption = False,
) -> None:
    """Check, name, compress and send frames; the same pixels again are a no-op. Exit 1 if any was refused."""
    from starloom.lake import connect
    from starloom.node.submit import Submission, wait_for_receipt
    from starloom.node.submit import submit as send
    from starloom.settings import load_settings

    lake = connect(load_settings())
    rows: list[dict[str, Any]] = []
    sent: list[Submission] = []
    for path in files:
        try:
            submission = send(lake, path, mission=mission, node=node)
        except BadInput as refused:
            rows.append({"file": str(path), "name": path.name, "state": "refused", **refused.as_dict()})
            continue
        sent.append(submission)
        rows.append(submission.as_dict())
    if wait:
        for submission, row in zip(sent, [row for row in rows if row["state"] != "refused"], strict=True):
            with console.status(f"waiting for {submission.name}"):
                found = wait_for_receipt(lake, submission.node, submission.name, timeout)
            row |= {"receipt": found}
            if found is not None:
                row |= {key: found.get(key) for key in ("state", "code", "hint")}
    emit_rows(rows, COLUMNS, as_json=json, title="Submitted")
    if any(row["state"] in ("refused", "quarantined") for row in rows):
        raise typer.Exit(1)


def receipts(
    names: Annotated[list[str], typer.Argument(help="Names the frames travelled under.")],
    json: JsonOption = False,
) -> None:
    """Show the hub's word on frames that were sent. Exit 1 when one has none yet."""
    from starloom.frames import parse_name
    from starloom.lake import connect
    from starloom.node.submit import receipt
    from starloom.settings import load_settings

    lake = connect(load_settings())
    rows: list[dict[str, Any]] = []
    for name in names:
        found = receipt(lake, parse_name(name).node, name)
        rows.append(found or {"name": name, "state": "none", "hint": "The hub has not seen it, or not yet."})
    emit_rows(rows, ["name", "state", "settled", "code", "hint", "flags", "stack"], as_json=json, title="Receipts")
    if any(row["state"] == "none" for row in rows):
        raise typer.Exit(1)
