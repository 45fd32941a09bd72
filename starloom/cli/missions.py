"""``starloom mission …``: what people ask the network for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from starloom.archive import missions
from starloom.archive.models import Mission
from starloom.cli.output import JsonOption, emit_json, emit_rows
from starloom.hub import current_hub

app = typer.Typer(help="Missions: create, look, complete, cancel, restack.", no_args_is_help=True)

COLUMNS = ["id", "title", "status", "ra_deg", "dec_deg", "status_changed_at", "failure_code"]
MissionId = Annotated[str, typer.Argument(help="Mission id (ObsReq).")]


@app.command()
def create(
    mission: MissionId,
    ra: Annotated[float | None, typer.Option(help="Target right ascension, deg ICRS.")] = None,
    dec: Annotated[float | None, typer.Option(help="Target declination, deg ICRS.")] = None,
    title: Annotated[str, typer.Option(help="For people.")] = "",
    kernel: Annotated[str | None, typer.Option(help="Resampling kernel of its stacks.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of its products.")] = None,
    credit: Annotated[str | None, typer.Option(help="Who is to be credited.")] = None,
    json: JsonOption = False,
) -> None:
    """Create a mission; frames that arrived earlier under its id are taken up."""
    if (ra is None) != (dec is None):
        raise typer.BadParameter("give both --ra and --dec, or neither")
    parameters: dict[str, Any] = {"kernel": kernel} if kernel else {}
    with current_hub().archive.transaction() as session:
        made = missions.create_mission(
            session,
            mission,
            title=title,
            ra_deg=ra,
            dec_deg=dec,
            parameters=parameters,
            licence=licence,
            credit=credit,
        )
        _show([made], json)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List all missions, newest first."""
    with current_hub().archive.session() as session:
        _show(missions.list_missions(session), json)


@app.command()
def show(mission: MissionId, json: JsonOption = False) -> None:
    """Show one mission with its revisions, products and open events."""
    with current_hub().archive.session() as session:
        detail = missions.describe(session, mission)
    if json:
        emit_json(detail)
        return
    emit_rows([detail["mission"]], COLUMNS, as_json=False, title="Mission")
    emit_rows(detail["frames"], ["state", "count"], as_json=False, title="Frames")
    emit_rows(
        detail["revisions"],
        ["n", "epoch", "status", "claimed_at", "published_at"],
        as_json=False,
        title="Revisions",
    )
    emit_rows(
        detail["products"], ["n", "band", "pointing", "sci_key", "preview_key"], as_json=False, title="Products"
    )
    emit_rows(
        detail["events"],
        ["id", "new_status", "state", "publish_attempts", "next_publish_at"],
        as_json=False,
        title="Open events",
    )


def _change(mission: str, status: str, as_json: bool) -> None:
    with current_hub().archive.transaction() as session:
        missions.set_status(session, mission, status)
        _show([missions.get_mission(session, mission)], as_json)


@app.command()
def complete(mission: MissionId, json: JsonOption = False) -> None:
    """Say that the observations are complete: the stack starts when the frames in flight have settled."""
    _change(mission, "COMPLETE", json)


@app.command()
def restack(mission: MissionId, json: JsonOption = False) -> None:
    """Ask for the next revision now, late frames included."""
    _change(mission, "COMPLETE", json)


@app.command()
def cancel(mission: MissionId, json: JsonOption = False) -> None:
    """Cancel a mission: its frames stay, nothing is stacked any more."""
    _change(mission, "CANCELLED", json)


def _show(found: Sequence[Mission], as_json: bool) -> None:
    emit_rows([mission.model_dump() for mission in found], COLUMNS, as_json=as_json, title="Missions")
