"""``starloom node …``: telescopes, their filters and their credentials."""

from __future__ import annotations

from typing import Annotated

import typer

from starloom.cli.opening import open_archive, open_settings
from starloom.cli.output import JsonOption, emit_json, emit_rows, say
from starloom.errors import BadInput

app = typer.Typer(help="Nodes: register, list.", no_args_is_help=True)

COLUMNS = [
    "id", "registered", "heard_at", "frames_last_day", "name", "owner", "filters", "site_lat_deg", "site_lon_deg",
    "access_key",
]  # fmt: skip


def parse_filters(pairs: list[str]) -> dict[str, str]:
    """Read ``NAME=BAND`` pairs."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, sign, band = pair.rpartition("=")
        if not sign or not name.strip() or not band.strip():
            raise typer.BadParameter(f"{pair!r}: write the node's own name, '=', the standard band: 'Filter 2=R'")
        found[name.strip()] = band.strip()
    return found


@app.command()
def register(
    node: Annotated[str, typer.Argument(help="TelID, as in its frames' names.")],
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose telescope it is.")] = None,
    contact: Annotated[str | None, typer.Option(help="Where to reach the owner.")] = None,
    lat: Annotated[float | None, typer.Option(help="Latitude, deg, north positive.")] = None,
    lon: Annotated[float | None, typer.Option(help="Longitude, deg, east positive.")] = None,
    elev: Annotated[float | None, typer.Option(help="Elevation, m.")] = None,
    exact_site: Annotated[
        bool | None,
        typer.Option("--exact-site/--rounded-site", help="Whether the owner agrees to publish the exact site."),
    ] = None,
    filter: Annotated[
        list[str] | None, typer.Option("--filter", help="The node's filter name and its band: 'Filter 2=R'.")
    ] = None,
    credential: Annotated[
        bool, typer.Option(help="Make a key that can write this node's inbox and read its receipts.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Register a node or change what is given; filters are added to those known.

    Example: starloom node register T42 --owner "A. Observer" --filter 'Filter 2=R' --credential
    """
    from starloom.archive import missions

    filters = parse_filters(filter or [])
    archive = open_archive(create=True)
    secret = _credential(node) if credential else {}
    with archive.transaction() as session:
        missions.register_node(
            session,
            node,
            name=name,
            owner=owner,
            contact=contact,
            site_lat_deg=lat,
            site_lon_deg=lon,
            site_elev_m=elev,
            exact_site=exact_site,
            filters=filters,
            access_key=secret.get("access_key"),
        )
    with archive.session() as session:
        row = next(entry for entry in missions.list_nodes(session) if entry["id"] == node)
    if json:
        emit_json({**row, **secret})
        return
    emit_rows([row], COLUMNS, as_json=False, title="Node", whole=["id", "access_key"])
    if filters and row["heard_at"]:
        say("Its frames have these bands now; a stack follows with `starloom mission restack`.")
    if secret:
        settings = open_settings()
        say("Give these to the node; the secret is shown once:")
        say(f"  STARLOOM_LAKE_URL={settings.lake_url}")
        say(f"  STARLOOM_LAKE_ENDPOINT={settings.lake_public_endpoint or settings.lake_endpoint}")
        say(f"  STARLOOM_LAKE_ACCESS_KEY={secret['access_key']}")
        say(f"  STARLOOM_LAKE_SECRET_KEY={secret['secret_key']}")


def _credential(node: str) -> dict[str, str]:
    """Make a key for a node in the embedded lake, the only one whose users we manage."""
    from starloom.archive.missions import check_id

    settings = open_settings()
    check_id("node", node)
    if not settings.lake_url.startswith("s3://"):
        raise BadInput(
            f"the lake {settings.lake_url} is a folder: it knows no credentials",
            code="no-credentials",
            hint="Whoever can write the folder can send frames; `starloom up` starts a lake that has credentials.",
        )
    if not (settings.home / "seaweed").is_dir():
        raise BadInput(
            f"the lake {settings.lake_url} is not the one that `starloom up` runs in {settings.home}",
            code="foreign-lake",
            hint=f"Make its key with that store's own tools: it writes inbox/{node}/ and reads receipts/{node}/.",
        )
    from starloom.lake.seaweed import SeaweedFS

    access_key, secret_key = SeaweedFS(settings.home).add_node(node)
    return {"access_key": access_key, "secret_key": secret_key}


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List every node that is registered or has sent something.

    Example: starloom node list
    """
    from starloom.archive import missions

    with open_archive().session() as session:
        rows = missions.list_nodes(session)
    emit_rows(
        rows,
        COLUMNS,
        as_json=json,
        title="Nodes",
        whole=["id", "access_key"],
        empty="No nodes yet; `starloom node register TELID` makes one.",
    )
