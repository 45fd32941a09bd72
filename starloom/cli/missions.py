"""``starloom mission …``: what people ask the network for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_archive, open_hub, open_settings, tell_nodes
from starloom.cli.output import JsonOption, emit_json, emit_rows, say
from starloom.cli.stacking import Combine, Kernel, Weights
from starloom.errors import BadInput, StarloomError

if TYPE_CHECKING:
    from starloom.archive.missions import Wish
    from starloom.archive.models import Mission

app = typer.Typer(help="Missions: create, look, complete, restack, cancel.", no_args_is_help=True)

COLUMNS = ["id", "title", "status", "ra_deg", "dec_deg", "status_changed_at", "failure_code"]
MissionId = Annotated[str, typer.Argument(help="Mission id (ObsReq).")]


@app.command()
def create(
    mission: MissionId,
    ra: Annotated[float | None, typer.Option(help="Target right ascension, deg ICRS.")] = None,
    dec: Annotated[float | None, typer.Option(help="Target declination, deg ICRS.")] = None,
    ephemeris: Annotated[
        Path | None, typer.Option(help="CSV of a target that moves: utc, ra_deg, dec_deg; adds a moving product.")
    ] = None,
    title: Annotated[str, typer.Option(help="For people.")] = "",
    kernel: Annotated[Kernel | None, typer.Option(help="Resampling kernel of its stacks.")] = None,
    combine: Annotated[Combine | None, typer.Option(help="How its frames are combined.")] = None,
    weights: Annotated[Weights | None, typer.Option(help="Weights for surfaces, or for point sources.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of its products.")] = None,
    credit: Annotated[str | None, typer.Option(help="Who is to be credited.")] = None,
    json: JsonOption = False,
) -> None:
    """Create a mission; frames that arrived earlier under its id are taken up.

    Example: starloom mission create 550 --ra 286.0408 --dec 36.6326 --title "TrES-1"
    """
    from starloom.archive import frames, missions

    if (ra is None) != (dec is None):
        raise typer.BadParameter("give both --ra and --dec, or neither")
    path_of_target = None
    if ephemeris is not None:
        from starloom.coadd.moving import Ephemeris  # loads scipy, which few commands need

        path_of_target = Ephemeris.read(ephemeris).model_dump(mode="json")
    chosen = {"kernel": kernel, "combine": combine, "weights": weights}
    parameters: dict[str, Any] = {name: word.value for name, word in chosen.items() if word is not None}
    with open_archive(create=True).transaction() as session:
        made = missions.create_mission(
            session,
            mission,
            title=title,
            ra_deg=ra,
            dec_deg=dec,
            ephemeris=path_of_target,
            parameters=parameters,
            licence=licence,
            credit=credit,
        )
        adopted = frames.list_frames(session, mission=mission, limit=100_000)
    if adopted:
        tell_nodes(open_hub(), adopted)
    _show([made], json)
    if adopted and not json:
        say(f"{len(adopted)} frames that were here already belong to it now.")


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List all missions, newest first.

    Example: starloom mission list --json
    """
    from starloom.archive import missions

    with open_archive().session() as session:
        _show(missions.list_missions(session), json)


@app.command()
def show(mission: MissionId, json: JsonOption = False) -> None:
    """Show one mission with its frames, revisions, products and open events.

    Example: starloom mission show 550
    """
    from starloom.archive import missions

    with open_archive().session() as session:
        detail = missions.describe(session, mission)
    if json:
        emit_json(detail)
        return
    emit_rows([detail["mission"]], COLUMNS, as_json=False, title="Mission", whole=["id", "status"])
    if detail["mission"]["failure_hint"]:
        say(f"→ {detail['mission']['failure_hint']}")
    emit_rows(detail["frames"], ["state", "count"], as_json=False, title="Frames", empty="No frame has come yet.")
    errors = [row["error"] or {} for row in detail["revisions"]]
    revisions = [
        {**row, "reason": error.get("code"), "message": error.get("message")}
        for row, error in zip(detail["revisions"], errors, strict=True)
    ]
    columns = ["n", "epoch", "status", "claimed_at", "published_at", "reason", "message"]
    emit_rows(revisions, columns, as_json=False, title="Revisions")
    products = [{**row, **_pick(row["summary"])} for row in detail["products"]]
    columns = ["n", "band", "pointing", "track", "used", "exposure_s", "sci_key"]
    emit_rows(products, columns, as_json=False, title="Products", whole=["sci_key"])
    if detail["stale_because"]:
        say(f"The stack is stale: {detail['stale_because']}.")
        say(f"→ `sweep` opens the next revision once all is quiet; now: `starloom mission restack {mission}`.")
    columns = ["id", "new_status", "publish_attempts", "next_publish_at", "note"]
    emit_rows(detail["events"], columns, as_json=False, title="Open events")


@app.command()
def diff(
    mission: MissionId,
    since: Annotated[
        int | None, typer.Option("--from", min=1, help="Revision; the one before by default.")
    ] = None,
    until: Annotated[int | None, typer.Option("--to", min=1, help="Revision; the newest by default.")] = None,
    json: JsonOption = False,
) -> None:
    """Say what changed between two revisions: frames and why, parameters, depth of the products.

    Example: starloom mission diff 550 --from 1 --to 2
    """
    from starloom.archive import comparing

    with open_archive().session() as session:
        told = comparing.compare(session, mission, since=since, until=until)
    if json:
        emit_json(told)
        return
    frames = f"Frames, from r{told['since']} to r{told['until']}"
    columns = ["name", "node", "change", "reason", "amount", "weight_since", "weight_until"]
    emit_rows(told["frames"], columns, as_json=False, title=frames, whole=["change"], empty="The same frames.")
    say(f"Frames that are the same: {told['unchanged']}.")
    emit_rows(told["parameters"], ["name", "since", "until"], as_json=False, title="Parameters")
    columns = ["band", "pointing", "track", "name", "since", "until"]
    emit_rows(told["products"], columns, as_json=False, title="Products")


@app.command()
def fetch(
    mission: MissionId,
    out: Annotated[Path, typer.Option(help="Folder for the FITS files and previews.")] = Path(),
    revision: Annotated[int | None, typer.Option(min=1, help="Which revision; the newest by default.")] = None,
    json: JsonOption = False,
) -> None:
    """Bring a mission's products from the lake to files, checked against their hash.

    Example: starloom mission fetch 550 --out stacks
    """
    from starloom.archive import missions
    from starloom.frames import sha256_of

    hub = open_hub()
    with hub.archive.session() as session:
        products = missions.describe(session, mission)["products"]
    wanted = revision or max((row["n"] for row in products), default=0)
    rows = [row for row in products if row["n"] == wanted]
    if not rows:
        raise BadInput(
            f"mission {mission} has no revision {wanted}" if revision else f"mission {mission} has no product yet",
            code="no-product",
            hint=f"`starloom mission show {mission}` says how far it is.",
        )
    out.mkdir(parents=True, exist_ok=True)
    fetched = []
    for row in rows:
        sci = out / f"{mission}_r{wanted}_{Path(row['sci_key']).name}"
        hub.lake.download(row["sci_key"], sci, version=row["sci_version"])
        if sha256_of(sci) != row["sha256"]:
            raise StarloomError(
                f"{sci} is not what was published: its hash differs",
                code="bad-hash",
                hint="Fetch it again; if it stays so, the lake has lost data.",
            )
        preview = None
        if row["preview_key"] is not None:
            preview = sci.with_suffix(".png")
            hub.lake.download(row["preview_key"], preview)
        fetched.append(
            {"n": wanted, "band": row["band"], "pointing": row["pointing"], "sci": sci, "preview": preview}
        )
    emit_rows(fetched, ["n", "band", "pointing", "sci", "preview"], as_json=json, title="Fetched", whole=["sci"])


def _pick(summary: dict[str, Any] | None) -> dict[str, Any]:
    told = summary or {}
    used = f"{told['n_used']} of {told['n_frames']}" if {"n_used", "n_frames"} <= set(told) else None
    return {"used": used, "exposure_s": told.get("exposure_s")}


def _change(mission: str, wish: Wish, as_json: bool, then: str) -> None:
    from starloom.archive import missions

    with open_archive().transaction() as session:
        found, changed = missions.change(session, mission, wish)
    _tell(found, changed, as_json, then, waits=wish != "cancel")


def _tell(found: Mission, changed: bool, as_json: bool, then: str, *, waits: bool) -> None:
    from starloom.archive import arrivals

    _show([found], as_json)
    if as_json:
        return
    if not changed:
        say(f"It was {found.status} already; nothing changed.")
        return
    say(then)
    with open_archive().session() as session:
        flying = arrivals.in_flight(session, found.id)
    if waits and flying:
        say(
            f"{flying} frames are still in flight; it waits for them {open_settings().settle_max_s:.0f} s at most."
        )


@app.command()
def complete(mission: MissionId, json: JsonOption = False) -> None:
    """Say that the observations are complete: the stack starts when the frames in flight have settled.

    From OPEN, FAILED or CANCELLED.

    Example: starloom mission complete 550
    """
    _change(
        mission, "complete", json, f"The stack starts by itself; `starloom mission show {mission}` follows it."
    )


@app.command()
def restack(
    mission: MissionId,
    reason: Annotated[str, typer.Option(help="Why; stands in the event.")] = "",
    json: JsonOption = False,
) -> None:
    """Ask for the next revision now, late frames included.

    From STACKED, STACKING (one more after the running one) or FAILED.

    The same frames with the same parameters give no new revision.

    Example: starloom mission restack 550 --reason "new flats"
    """
    from starloom.operating import restack as ask

    found, changed = ask(open_archive(), mission, reason)
    _tell(found, changed, json, "The next revision starts by itself.", waits=True)


@app.command()
def cancel(mission: MissionId, json: JsonOption = False) -> None:
    """Cancel a mission: its frames and published revisions stay, nothing is stacked any more, late frames neither.

    Example: starloom mission cancel 550
    """
    _change(mission, "cancel", json, "What was published stays; `starloom mission complete` takes it up again.")


def _show(found: Sequence[Mission], as_json: bool) -> None:
    emit_rows(
        [mission.model_dump() for mission in found],
        COLUMNS,
        as_json=as_json,
        title="Missions",
        whole=["id", "status"],
        empty="No missions yet; `starloom mission create ID` makes one.",
    )
