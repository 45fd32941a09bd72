"""``starloom node …``: telescopes, their filters and their credentials."""

from __future__ import annotations

from typing import Annotated

import typer

from starloom.archive import missions
from starloom.cli.output import JsonOption, console, emit_json, emit_rows
from starloom.hub import current_hub

app = typer.Typer(help="Nodes: register, list.", no_args_is_help=True)

COLUMNS = ["id", "registered", "frames", "name", "owner", "filters", "site_lat_deg", "site_lon_deg", "access_key"]


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
    filter: Annotated[
        list[str] | None, typer.Option("--filter", help="The node's filter name and its band: 'Filter 2=R'.")
    ] = None,
    credential: Annotated[
        bool, typer.Option(help="Make a key that can write this node's inbox and read its receipts.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Register a node or change what is given; filters are added to those known."""
    hub = current_hub()
    secret: dict[str, str] = {}
    if credential:
        from starloom.lake.seaweed import SeaweedFS

        access_key, secret_key = SeaweedFS(hub.settings.home).add_node(node)
        secret = {"access_key": access_key, "secret_key": secret_key}
    with hub.archive.transaction() as session:
        missions.register_node(
            session,
            node,
            name=name,
            owner=owner,
            contact=contact,
            site_lat_deg=lat,
            site_lon_deg=lon,
            site_elev_m=elev,
            filters=parse_filters(filter or []),
            access_key=secret.get("access_key"),
        )
    with hub.archive.session() as session:
        row = next(entry for entry in missions.list_nodes(session) if entry["id"] == node)
    if json:
        emit_json({**row, **secret})
        return
    emit_rows([row], COLUMNS, as_json=False, title="Node")
    if secret:
        console.print("Give these to the node; the secret is shown once:")
        console.print(f"  STARLOOM_LAKE_ACCESS_KEY={secret['access_key']}", highlight=False, soft_wrap=True)
        console.print(f"  STARLOOM_LAKE_SECRET_KEY={secret['secret_key']}", highlight=False, soft_wrap=True)


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List every node that is registered or has sent something."""
    with current_hub().archive.session() as session:
        emit_rows(missions.list_nodes(session), COLUMNS, as_json=json, title="Nodes")
