"""``starloom node …``: telescopes, their filters and their credentials."""

from __future__ import annotations

from typing import Annotated

import typer

from starloom.cli.keys import open_credentials, say_key
from starloom.cli.opening import open_archive, open_settings
from starloom.cli.output import JsonOption, emit_json, emit_rows, say

app = typer.Typer(help="Nodes: register, list, revoke.", no_args_is_help=True)

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
        bool,
        typer.Option(help="Make a key for this node's inbox and receipts; the one it had is void."),
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
        say_key(secret)


def _credential(node: str) -> dict[str, str]:
    """Make a key for a node."""
    from starloom.archive.missions import check_id
    from starloom.lake.policies import node_grant
    from starloom.lake.seaweed import PREFIX

    check_id("node", node)
    access_key, secret_key = open_credentials().give(node_grant(node, PREFIX))
    return {"access_key": access_key, "secret_key": secret_key}


@app.command()
def policy(node: Annotated[str, typer.Argument(help="TelID, as in its frames' names.")]) -> None:
    """Print what a node may do in the lake, as a policy for the S3 server that keeps it.

    Example: starloom node policy T42 > T42.json
    """
    from starloom.lake.policies import node_grant

    emit_json(node_grant(node, open_settings().lake_url.removeprefix("s3://")).policy)


@app.command()
def revoke(node: Annotated[str, typer.Argument(help="TelID.")], json: JsonOption = False) -> None:
    """Take a node's key away, at once; its frames and receipts stay. `node register --credential` gives a new one.

    Example: starloom node revoke T42
    """
    from starloom.archive.models import Node
    from starloom.lake.policies import node_user

    open_credentials().revoke(node_user(node))
    with open_archive().transaction() as session:
        known = session.get(Node, node)
        if known is not None:
            known.access_key = None
    if json:
        emit_json({"id": node, "access_key": None})
    else:
        say(f"Node {node} has no key any more, and whatever it signed is void.")


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
