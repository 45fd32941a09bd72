"""``starloom frames …``: what arrived, what became of it, and a second chance."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from starloom.archive import frames
from starloom.archive.models import Frame
from starloom.cli.output import JsonOption, console, emit_json, emit_rows
from starloom.hub import current_hub

app = typer.Typer(help="Frames: list, show, requeue, withdraw.", no_args_is_help=True)

COLUMNS = ["id", "name", "state", "code", "band", "exposure_s", "flags"]
FrameId = Annotated[str, typer.Argument(help="Id of the frame, or its file name (the newest of that name).")]


def row_of(frame: Frame) -> dict[str, Any]:
    """Return a frame as a row: its columns, its state in one word, and the code that explains it."""
    codes = (frame.disposition_code, frame.measure_code, frame.solve_code, frame.calibrate_code, frame.ingest_code)
    return {
        **frame.model_dump(exclude={"header"}),
        "state": frames.state_of(frame),
        "code": next((code for code in codes if code), None),
    }


@app.command("list")
def list_(
    mission: Annotated[str | None, typer.Option(help="Only this mission's.")] = None,
    node: Annotated[str | None, typer.Option(help="Only this node's.")] = None,
    disposition: Annotated[
        str | None, typer.Option(help="Only active, duplicate, quarantined or withdrawn ones.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 200,
    json: JsonOption = False,
) -> None:
    """List frames, newest first."""
    with current_hub().archive.session() as session:
        found = frames.list_frames(session, mission=mission, node=node, disposition=disposition, limit=limit)
    emit_rows([row_of(frame) for frame in found], COLUMNS, as_json=json, title="Frames")


@app.command()
def show(frame: FrameId, json: JsonOption = False) -> None:
    """Show everything the archive holds about one frame, its normalised header included."""
    with current_hub().archive.session() as session:
        found = frames.find(session, frame)
    row = {**row_of(found), "header": found.header}
    if json:
        emit_json(row)
        return
    pairs = [{"field": key, "value": value} for key, value in row.items() if key != "header"]
    emit_rows(pairs, ["field", "value"], as_json=False, title=found.name)


@app.command()
def requeue(frame: FrameId, json: JsonOption = False) -> None:
    """Try a frame again from the step that failed; `sweep` takes it up within a minute."""
    with current_hub().archive.transaction() as session:
        found = frames.requeue(session, frames.find(session, frame).id)
    emit_rows([row_of(found)], COLUMNS, as_json=json, title="Requeued")


@app.command()
def withdraw(
    frame: FrameId,
    reason: Annotated[str, typer.Option(help="Why; its owner reads it in the receipt.")],
    json: JsonOption = False,
) -> None:
    """Take a frame out: its pixels stay, later revisions do without it."""
    from starloom.receipts import write_receipt

    hub = current_hub()
    with hub.archive.transaction() as session:
        found = frames.withdraw(session, frames.find(session, frame).id, reason)
    write_receipt(hub, found)
    if not json:
        console.print("`starloom mission restack` makes a revision without it.")
    emit_rows([row_of(found)], COLUMNS, as_json=json, title="Withdrawn")
