"""``starloom submit`` and ``receipts``: what runs at the telescope; needs only the lake and a node's key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.output import JsonOption, emit_json, emit_rows, named, progress, say, say_error
from starloom.errors import BadInput, Conflict, StarloomError

if TYPE_CHECKING:
    from starloom.lake import Lake
    from starloom.node.submit import Submission

COLUMNS = ["name", "state", "saving_fraction", "sent"]


def submit(
    files: Annotated[list[Path], typer.Argument(help="FITS files: .fits, .fits.fz, .fits.gz.")],
    mission: Annotated[str | None, typer.Option(help="ObsReq id, for files not named by the grammar.")] = None,
    node: Annotated[str | None, typer.Option(help="TelID, for files not named by the grammar.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="The frame corrects an earlier one of the same name.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the hub's receipts.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the receipts.")] = 300.0,
    json: JsonOption = False,
) -> None:
    """Check, name, compress and send frames; the same pixels again are a no-op.

    Exit code 1 if any frame was refused, 3 if the lake did not answer: what was not sent is listed, try again.

    Example: starloom submit *.fits --mission 550 --node T42 --wait
    """
    from starloom.cli.opening import open_lake

    lake = open_lake()
    rows, stopped = _send_all(lake, files, mission, node, replace)
    late = False
    if wait:
        late = _await_receipts(lake, rows, timeout)
    for row in rows:
        row.pop("submission", None)
    if json:
        emit_json(rows)
    else:
        _show(rows)
    if stopped is not None:
        raise typer.Exit(3 if stopped.retryable else 1)
    if any(row["state"] in ("refused", "quarantined") or row["state"].endswith("-failed") for row in rows):
        raise typer.Exit(1)
    if late:
        raise typer.Exit(3)


def _send_all(
    lake: Lake, files: list[Path], mission: str | None, node: str | None, replace: bool
) -> tuple[list[dict[str, Any]], StarloomError | None]:
    """Send file after file; a bad one never stops the others, a lake that is gone does."""
    from starloom.node.submit import submit as send

    rows: list[dict[str, Any]] = []
    digests: dict[str, tuple[str, Path]] = {}
    stopped: StarloomError | None = None
    for number, path in enumerate(files, start=1):
        if stopped is not None:
            hint = "It was not tried; send it again."
            row = {"code": stopped.code, "message": f"{path}: not sent", "hint": hint, "retryable": True}
            rows.append({"file": str(path), "name": path.name, "state": "not-sent", **row})
            continue
        try:
            with progress.status(f"{number}/{len(files)}  {path.name}"):
                _refuse_namesake(path, mission, node, digests, replace)
                submission = send(lake, path, mission=mission, node=node, replace=replace)
        except (BadInput, Conflict) as refused:
            rows.append({"file": str(path), "name": path.name, "state": "refused", **refused.as_dict()})
            continue
        except StarloomError as error:
            stopped = error
            rows.append({"file": str(path), "name": path.name, "state": "not-sent", **error.as_dict()})
            continue
        rows.append({**submission.as_dict(), "submission": submission})
    return rows, stopped


def _refuse_namesake(
    path: Path, mission: str | None, node: str | None, digests: dict[str, tuple[str, Path]], replace: bool
) -> None:
    """Refuse a second file of one call that would travel under the first one's name, if its pixels are others.

    A node may not look into its inbox, so between two calls only the hub can tell; within one call we can.
    """
    from starloom.frames import inspect_file
    from starloom.node.submit import name_for

    try:
        named = name_for(path, mission, node)
    except BadInput:
        return  # `submit` refuses it in the right order: what the file is comes before what it is called
    label = f"{named.kind} {named.mission} {named.node} {named.start_utc.isoformat()}"
    if label not in digests:
        digests[label] = ("", path)
        return
    first = digests[label][1]
    if not replace and inspect_file(first).pixel_digest != inspect_file(path).pixel_digest:
        raise Conflict(
            f"{path}: {first} has the same mission, node and start time, and other pixels",
            code="name-conflict",
            hint="Give each file its own start time, down to the fraction of a second where needed.",
        )


def _await_receipts(lake: Lake, rows: list[dict[str, Any]], timeout_s: float) -> bool:
    """Add the receipts to the rows; returns whether any frame has not been settled in time."""
    import time

    from starloom.node.submit import name_taken, wait_for_receipt

    deadline = time.monotonic() + timeout_s
    late = False
    for row in rows:
        submission: Submission | None = row.get("submission")
        if submission is None:
            continue
        try:
            with progress.status(f"waiting for {submission.name}"):
                found = wait_for_receipt(
                    lake,
                    submission.node,
                    submission.name,
                    deadline - time.monotonic(),
                    earlier_frame_id=submission.earlier_frame_id,
                )
        except StarloomError as error:
            # The frames are sent; that must be told, whatever has become of the lake since.
            row |= {"receipt": None, "hint": f"No word from the hub: {error.message}. {error.hint}"}
            late = True
            continue
        row["receipt"] = found
        digest = None if found is None else found.get("pixel_digest")
        if submission.state == "waiting" and digest not in (None, submission.pixel_digest):
            # What lay in the inbox was not this frame, so this one has not been sent.
            row |= {"state": "refused", **name_taken(row["file"], submission.name, "the hub has").as_dict()}
            continue
        if found is not None:
            row |= {key: found.get(key) for key in ("state", "code", "message", "hint") if found.get(key)}
        if found is None or not found.get("settled"):
            late = True
            row["hint"] = f"No final word from the hub yet; `starloom receipts {submission.name}` asks again."
    return late


def _show(rows: list[dict[str, Any]]) -> None:
    done = [row for row in rows if row["state"] not in ("refused", "not-sent")]
    shown = [
        row
        | {
            "sent": f"{row['nbytes_sent'] / 1e6:.2f} MB" if row["nbytes_sent"] else "",
            "saving_fraction": row["saving_fraction"] or None,
        }
        for row in done
    ]
    emit_rows(shown, COLUMNS, as_json=False, title="Submitted", whole=["state"])
    for row in rows:
        if row.get("code"):
            message = named(row["file"], row.get("message") or row["state"])
            say_error({"code": row["code"], "message": message, "hint": row.get("hint")})
        elif row.get("hint"):
            say(f"{row['name']}: {row['hint']}")


def receipts(
    names: Annotated[list[str], typer.Argument(help="Names the frames travelled under, as `submit` shows them.")],
    json: JsonOption = False,
) -> None:
    """Show the hub's word on frames that were sent. Exit code 1 when one has none yet.

    Example: starloom receipts ObsReq-550_TelID-T42_20251201T013000.fits.fz
    """
    from starloom.cli.opening import open_lake
    from starloom.frames import parse_name
    from starloom.node.submit import receipt

    wanted = [(name, parse_name(name).node) for name in names]
    lake = open_lake()
    lake_rows = [(name, receipt(lake, node, name)) for name, node in wanted]
    nothing = {"state": "none", "settled": False, "hint": "The hub has not read it yet, or it was never sent."}
    rows = [found or {"name": name, **nothing} for name, found in lake_rows]
    if json:
        emit_json(rows)
    else:
        shown = [{**row, "why": _why(row), "stack": _in_stack(row.get("stack"))} for row in rows]
        emit_rows(shown, ["name", "state", "why", "stack"], as_json=False, title="Receipts", whole=["state"])
        for row in rows:
            if row.get("hint"):
                say(f"{row['name']}: {row['hint']}")
    if any(row["state"] == "none" for row in rows):
        raise typer.Exit(1)


def _why(row: dict[str, Any]) -> list[str]:
    return [reason for reason in (row.get("code"), *row.get("flags", [])) if reason]


def _in_stack(part: dict[str, Any] | None) -> str:
    if not part:
        return ""
    share = part.get("reason") or f"weight {part['weight_share']:.1%}"
    return f"r{part['revision']}: {share}"
