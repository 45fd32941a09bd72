"""``starloom masters …``: what frames are calibrated with, of what it was made, and what waits for it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from starloom.cli.opening import open_archive, open_hub
from starloom.cli.output import JsonOption, emit_json, emit_record, emit_rows, say

app = typer.Typer(help="Master calibration frames: list, show, build, outdated.", no_args_is_help=True)

COLUMNS = [
    *("id", "node", "camera", "kind", "state", "n_frames", "exposure_s", "temperature_c", "gain", "filter"),
    *("valid_from", "valid_to", "why"),
]
NodeOption = Annotated[str | None, typer.Option(help="Only this node's instruments.")]


@app.command("list")
def list_(
    node: NodeOption = None,
    history: Annotated[bool, typer.Option("--all", help="Also those that newer ones have replaced.")] = False,
    json: JsonOption = False,
) -> None:
    """List masters, what was tried in vain, and what still waits for frames.

    Example: starloom masters list --node T42
    """
    from starloom import mastering
    from starloom.archive import masters

    hub = open_hub()
    rows: list[dict[str, Any]] = []
    with hub.archive.session() as session:
        instruments = masters.instruments(session, node=node)
        for master, instrument in masters.every(session, node=node, history=history):
            row = mastering.row_of(master)
            rows.append({**row, "node": instrument.node_id, "camera": instrument.camera, "why": row["code"]})
        for instrument in instruments:
            assert instrument.id is not None
            for item in mastering.wanted(session, instrument.id, hub.settings.masters_quiet_s):
                rows.append(
                    {
                        "id": None,
                        "instrument_id": instrument.id,
                        "node": instrument.node_id,
                        "camera": instrument.camera,
                        "kind": item.kind,
                        "state": "due" if item.state == "build" else "waits",
                        "n_frames": len(item.frame_ids),
                        "why": item.why,
                        "exposure_s": item.facts.exposure_s if item.kind == "dark" else None,
                        "temperature_c": item.facts.temperature_c,
                        "gain": item.facts.gain,
                        "filter": item.facts.filter if item.kind == "flat" else None,
                        "valid_from": item.facts.start,
                    }
                )
    emit_rows(
        rows,
        COLUMNS,
        as_json=json,
        title="Masters",
        whole=["id", "kind", "state"],
        empty="No masters yet; nodes send calibration frames named Cal-bias_, Cal-dark_ and Cal-flat_TelID-….",
    )


@app.command()
def show(
    master: Annotated[int, typer.Argument(help="Id, as `starloom masters list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Show one master: settings, statistics, and the frames it was made of.

    Example: starloom masters show 3
    """
    from starloom import mastering
    from starloom.archive import frames, masters

    with open_archive().session() as session:
        found = masters.get(session, master)
        names = [frames.get(session, frame_id).name for frame_id in found.frame_ids]
    row = {**mastering.row_of(found), "frames": names}
    if json:
        emit_json({**row, "frame_ids": found.frame_ids})
        return
    stats = row.pop("stats")
    emit_record(row, title="Master")
    emit_record(stats, title="Statistics")


@app.command()
def build(
    node: NodeOption = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a series to go quiet.")] = False,
    json: JsonOption = False,
) -> None:
    """Build what is due, in this process. The hub does the same by itself, a few minutes after the last frame.

    Example: starloom masters build --node T42 --now
    """
    from starloom import mastering
    from starloom.archive import masters

    hub = open_hub()
    with hub.archive.session() as session:
        instruments = masters.instruments(session, node=node)
    rows: list[dict[str, Any]] = []
    for instrument in instruments:
        assert instrument.id is not None
        built = mastering.build(hub, instrument.id, quiet_s=0.0 if now else None)
        rows += [
            {**row, "node": instrument.node_id, "camera": instrument.camera, "why": row["code"]} for row in built
        ]
    emit_rows(
        rows,
        COLUMNS,
        as_json=json,
        title="Built",
        whole=["id", "kind", "state"],
        empty="Nothing is due; `starloom masters list` says what waits, and for what.",
    )


@app.command()
def outdated(
    node: NodeOption = None,
    again: Annotated[bool, typer.Option("--again", help="Do them again, from the raw pixels.")] = False,
    json: JsonOption = False,
) -> None:
    """List frames that today's masters would calibrate better, and have them done again if asked.

    What they have stays until the new results are complete. A stack of frames that were calibrated otherwise is
    stale then.

    Example: starloom masters outdated --node T42 --again
    """
    from starloom import mastering
    from starloom.archive import frames, masters

    hub = open_hub()
    with hub.archive.session() as session:
        instruments = masters.instruments(session, node=node)
    rows: list[dict[str, Any]] = []
    for instrument in instruments:
        assert instrument.id is not None
        for frame, gains in mastering.outdated(hub, instrument.id):
            rows.append(
                {
                    "id": frame.id,
                    "mission": frame.obs_req,
                    "node": frame.node_id,
                    "name": frame.name,
                    "state": frames.state_of(frame),
                    "why": gains,
                }
            )
        if again:
            mastering.calibrate_again(hub, instrument.id)
    emit_rows(
        [{**row, "id": row["id"] if json else row["id"][: frames.SHORT_ID]} for row in rows],
        ["id", "mission", "node", "name", "state", "why"],
        as_json=json,
        title="Done again from calibrate" if again else "Could be calibrated better",
        whole=["id", "state"],
        empty="Every frame was calibrated with the best there is.",
    )
    if rows and not json:
        say(
            "`sweep` takes them up within a minute, 512 at a time."
            if again
            else "`starloom masters outdated --again` has them done again."
        )
