"""``starloom frames …``: what arrived, what became of it, and a second chance."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_archive, open_hub, tell_nodes
from starloom.cli.output import JsonOption, cell, emit_json, emit_record, emit_rows, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starloom.archive.models import Frame

app = typer.Typer(help="Frames: list, show, requeue, resolve, withdraw.", no_args_is_help=True)

COLUMNS = ["id", "mission", "node", "start", "plane", "band", "exposure_s", "state", "why"]
#: What tells one solution of a frame from another.
HISTORY = [
    "created_at", "current", "catalog", "solver", "matches", "order", "rms_px", "corner_error_px", "model_id",
    "zero_point_mag",
]  # fmt: skip
FrameId = Annotated[
    str, typer.Argument(help="Id of the frame, its first characters, or its file name (the newest of that name).")
]


class Disposition(StrEnum):
    """What has become of a frame apart from its steps."""

    active = "active"
    duplicate = "duplicate"
    quarantined = "quarantined"
    withdrawn = "withdrawn"


def row_of(frame: Frame) -> dict[str, Any]:
    """Return a frame as a row: its columns, its state in one word, and the code that explains it."""
    from starloom.archive import frames

    known = frame.model_dump(exclude={"header"})
    codes = (frame.disposition_code, frame.measure_code, frame.solve_code, frame.calibrate_code, frame.ingest_code)
    return {
        **{name: known[name] for name in type(frame).model_fields if name in known},
        "state": frames.state_of(frame),
        "code": next((code for code in codes if code), None),
    }


def _emit(found: Sequence[Frame], as_json: bool, title: str, *, mission: str | None = None) -> None:
    from starloom.archive.frames import SHORT_ID

    rows = [row_of(frame) for frame in found]
    if as_json:
        emit_json(rows)
        return
    shown = []
    for row in rows:
        reasons = dict.fromkeys([row["code"], *row["flags"], (row["last_error"] or {}).get("code")])
        shown.append(
            {
                **row,
                "id": row["id"][:SHORT_ID],
                "mission": None if mission else row["obs_req"],
                "node": row["node_id"],
                # A name that does not even say when is shown itself.
                "start": cell("start", row["start_utc"]) if row["start_utc"] else row["name"],
                "why": [reason for reason in reasons if reason],
            }
        )
    emit_rows(shown, COLUMNS, as_json=False, title=title, whole=["id", "state"], empty="No such frames.")


@app.command("list")
def list_(
    mission: Annotated[str | None, typer.Option(help="Only this mission's.")] = None,
    node: Annotated[str | None, typer.Option(help="Only this node's.")] = None,
    disposition: Annotated[Disposition | None, typer.Option(help="Only these.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Condition, such as flag=trailed or matches<25; several must all hold."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 200,
    json: JsonOption = False,
) -> None:
    """List frames, newest first. The first characters of an id are enough for `show`, `requeue` and `withdraw`.

    Example: starloom frames list --mission 550 --where "solve_code=catalogue-too-sparse"
    """
    from starloom.archive import selecting

    said = {"mission": mission, "node": node, "disposition": disposition}
    with open_archive().session() as session:
        found = selecting.every_frame_where(session, where or (), limit=limit, **said)
    title = " ".join(["Frames", *([f"of mission {mission}"] if mission else [])])
    _emit(found, json, title, mission=mission)
    if len(found) == limit and not json:
        say(f"At most {limit} are shown; --limit shows more.")


@app.command()
def show(frame: FrameId, json: JsonOption = False) -> None:
    """Show everything the archive holds about one frame, its normalised header included.

    Example: starloom frames show ObsReq-550_TelID-T42_20251201T013000.fits.fz
    """
    from starloom.archive import dispositions, frames, results
    from starloom.receipts import measured, part_in_stack

    with open_archive().session() as session:
        found = frames.find(session, frame)
        told = {**measured(session, found), "stack": part_in_stack(session, found)}
        whole = results.current_results(session, found.id)
        history = results.history(session, found.id)
        tries = dispositions.attempts_at(session, found.id)
    header = found.header or {}
    if json:
        emit_json(
            {**row_of(found), **told, **whole, "history": history, "attempts_at": tries, "header": found.header}
        )
        return
    row = row_of(found)
    first = {key: row.pop(key) for key in ("id", "name", "state", "code", "disposition_hint")}
    emit_record({**first, **row}, title="Frame")
    for name, record in told.items():
        if record:
            emit_record(record, title=name.capitalize())
    if len(history) > 1:
        emit_rows(history, HISTORY, as_json=False, title="History of its solutions", whole=["created_at"])
    columns = ["at", "step", "code", "message", "number", "next_attempt_at"]
    emit_rows(tries, columns, as_json=False, title="Tries that came to nothing", whole=["step"])
    emit_record({name: entry.get("value") for name, entry in header.items()}, title="Header")


@app.command()
def requeue(
    frame: Annotated[
        str | None, typer.Argument(help="Id of the frame, its first characters, or its name.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Instead of one frame: conditions, such as node=T42; several must all hold."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many with --where.")] = 10_000,
    json: JsonOption = False,
) -> None:
    """Try frames again from the step that failed; `sweep` takes them up within a minute.

    With --where those of the frames that are set aside, parked or failed in a step.

    Example: starloom frames requeue --where disposition_code=retries-spent
    """
    from starloom import operating
    from starloom.archive import dispositions, frames

    if (frame is None) == (not where):
        raise typer.BadParameter("give a frame, or conditions with --where")
    hub = open_hub()
    if frame is None:
        wanted = operating.frames_to_requeue(hub, where or (), limit=limit)
        _emit(operating.requeue(hub, wanted), json, "Requeued")
        return
    with hub.archive.transaction() as session:
        found = dispositions.requeue(session, frames.find(session, frame).id)
    tell_nodes(hub, [found])
    _emit([found], json, "Requeued")


class Since(StrEnum):
    """From which step on a frame is done again."""

    calibrate = "calibrate"
    solve = "solve"
    measure = "measure"


@app.command()
def resolve(
    where: Annotated[
        list[str], typer.Option(help="Condition, such as node=T42 or matches<25; several must all hold.")
    ],
    since: Annotated[Since, typer.Option("--from", help="First step to do again.")] = Since.solve,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, oldest first.")] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False,
    json: JsonOption = False,
) -> None:
    """Do frames again from their raw pixels: a better catalogue, new masters, a learnt distortion.

    What they have stays until the new results are complete, and as history after that. A stack becomes stale where
    the WCS moved by more than 0.1 px, the zero point by more than 0.01 mag, or other masters were used.

    Example: starloom frames resolve --where catalog=Tycho-2 --where "matches<25" --dry-run
    """
    from starloom.archive import frames, selecting

    archive = open_archive()
    with archive.session() as session:
        found = selecting.frames_where(session, where, limit=limit)
    if not dry_run:
        again = []
        for frame in found:  # one short transaction a frame: steps of others go on between
            with archive.transaction() as session:
                again.append(frames.reprocess(session, frame.id, since.value))
        left = sum(frame is None for frame in again)
        found = [frame for frame in again if frame is not None]
        if left and not json:
            say(f"{left} were left alone: set aside, still under way, or a mosaic whose planes are done again.")
    _emit(found, json, "To be done again" if dry_run else f"Done again from {since.value}")
    if found and not dry_run and not json:
        say("`sweep` takes them up within a minute, 512 at a time.")


@app.command()
def withdraw(
    frame: FrameId,
    reason: Annotated[str, typer.Option(help="Why; its owner reads it in the receipt.")],
    json: JsonOption = False,
) -> None:
    """Take a frame out: its pixels stay, later revisions do without it.

    Example: starloom frames withdraw 3f0c6a2b --reason "dome closed"
    """
    from starloom.archive import dispositions, frames

    hub = open_hub()
    with hub.archive.transaction() as session:
        found = dispositions.withdraw(session, frames.find(session, frame).id, reason)
    tell_nodes(hub, [found])
    _emit([found], json, "Withdrawn")
    if not json and found.mission_id:
        say(f"`starloom mission restack {found.mission_id}` makes a revision without it.")
