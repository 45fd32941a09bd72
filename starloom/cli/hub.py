"""``starloom up | down | status | relay``: the hub's services."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated, Any

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows


def up(json: JsonOption = False) -> None:
    """Start lake, archive, Prefect, worker and relay on this machine; safe to repeat."""
    from starloom.dispatch.embedded import Embedded
    from starloom.settings import default_home

    hub = Embedded(default_home())
    with console.status("starting") as shown:
        settings = hub.up(say=lambda text: shown.update(text) if not json else None)
    result = {
        "home": str(settings.home),
        "ui": settings.prefect_api_url.removesuffix("/api"),
        "lake": settings.lake_url,
        "pids": hub.pids(),
    }
    if json:
        emit_json(result)
        return
    console.print(f"[bold green]up[/bold green]  Prefect UI: {result['ui']}   home: {result['home']}")


def down(json: JsonOption = False) -> None:
    """Stop what `starloom up` started; nothing is lost."""
    from starloom.dispatch.embedded import Embedded
    from starloom.settings import default_home

    stopped = Embedded(default_home()).down()
    if json:
        emit_json({"stopped": stopped})
    else:
        console.print("stopped: " + (", ".join(stopped) or "nothing was running"))


def status(json: JsonOption = False) -> None:
    """Say what runs, what waits and since when. Exit code 3 when a service does not answer."""
    from starloom.dispatch.overview import overview
    from starloom.settings import load_settings

    seen: dict[str, Any] = overview(load_settings())
    if json:
        emit_json(seen)
    else:
        emit_rows(seen["services"], ["service", "state", "detail"], as_json=False, title="Services")
        emit_rows(seen["frames"], ["state", "count", "oldest"], as_json=False, title="Frames")
        emit_rows(seen["missions"], ["status", "count"], as_json=False, title="Missions")
        emit_rows(
            seen["events"], ["id", "mission_id", "since", "attempts", "note"], as_json=False, title="Open events"
        )
    if any(row["state"] == "silent" for row in seen["services"]):
        raise typer.Exit(3)


def relay(
    once: Annotated[bool, typer.Option("--once", help="Go through the open events once and end.")] = False,
    json: JsonOption = False,
) -> None:
    """Publish status events to Prefect until stopped; safe to run twice."""
    from starloom.archive import Archive
    from starloom.dispatch.relay import Relay
    from starloom.dispatch.rest import PrefectApi
    from starloom.settings import load_settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load_settings()
    worker = Relay(settings, Archive(settings.archive_url.get_secret_value()), PrefectApi.from_settings(settings))
    if once:
        published = worker.once()
        if json:
            emit_json({"published": published})
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker.run(stop)
