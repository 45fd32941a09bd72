"""The command tree. Heavy libraries are imported when a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from starloom import __version__
from starloom.cli import (
    automations,
    backup,
    demo,
    doctor,
    frame_rows,
    hub,
    masters,
    missions,
    nodes,
    quicklook,
    refcat,
    science,
    stacking,
    telescope,
    watchdog,
)

app = typer.Typer(
    name="starloom",
    help="From every telescope's frames to one deep image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

HUB, TELESCOPE, FILES = "Hub", "Telescope", "Files, no service needed"

app.command("demo", rich_help_panel=HUB)(demo.demo)
app.command("up", rich_help_panel=HUB)(hub.up)
app.command("down", rich_help_panel=HUB)(hub.down)
app.command("status", rich_help_panel=HUB)(hub.status)
app.command("doctor", rich_help_panel=HUB)(doctor.doctor)
app.command("relay", rich_help_panel=HUB)(hub.relay)
app.command("watchdog", rich_help_panel=HUB)(watchdog.watchdog)
app.command("backup", rich_help_panel=HUB)(backup.backup)
app.command("restore", rich_help_panel=HUB)(backup.restore)
app.command("reconcile", rich_help_panel=HUB)(backup.reconcile)
app.add_typer(automations.app, name="automations", rich_help_panel=HUB)
app.add_typer(missions.app, name="mission", rich_help_panel=HUB)
app.add_typer(nodes.app, name="node", rich_help_panel=HUB)
app.add_typer(frame_rows.app, name="frames", rich_help_panel=HUB)
app.add_typer(refcat.app, name="refcat", rich_help_panel=HUB)
app.add_typer(masters.app, name="masters", rich_help_panel=HUB)
app.command("submit", rich_help_panel=TELESCOPE)(telescope.submit)
app.command("receipts", rich_help_panel=TELESCOPE)(telescope.receipts)
app.command("explain-header", rich_help_panel=FILES)(science.explain_header)
app.command("solve", rich_help_panel=FILES)(science.solve)
app.command("blind-index", rich_help_panel=FILES)(science.blind_index)
app.command("quicklook", rich_help_panel=FILES)(quicklook.quicklook)
app.command("stack", rich_help_panel=FILES)(stacking.stack)
app.command("stack-plan", rich_help_panel=FILES)(stacking.stack_plan)
app.command("stack-tile", rich_help_panel=FILES)(stacking.stack_tile)
app.command("stack-assemble", rich_help_panel=FILES)(stacking.stack_assemble)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"starloom {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From every telescope's frames to one deep image."""
