"""``starloom up | down | status | relay``: the hub's services."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_archive, open_settings
from starloom.cli.output import JsonOption, console, emit_json, emit_rows, progress, say
from starloom.errors import StarloomError

if TYPE_CHECKING:
    from starloom.lake.refusals import RefusalLog
    from starloom.settings import Settings


def up(json: JsonOption = False) -> None:
    """Start lake, archive, Prefect, worker and relay on this machine; safe to repeat.

    Example: STARLOOM_HOME=~/starloom starloom up
    """
    from starloom.dispatch.embedded import Embedded
    from starloom.settings import default_home

    hub = Embedded(default_home())
    with progress.status("starting") as shown:
        settings = hub.up(say=shown.update)
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
    """Stop what `starloom up` started; nothing is lost.

    Example: starloom down
    """
    from starloom.dispatch.embedded import Embedded
    from starloom.settings import default_home

    stopped = Embedded(default_home()).down()
    if json:
        emit_json({"stopped": stopped})
    else:
        console.print("stopped: " + (", ".join(stopped) or "nothing was running"))


def status(json: JsonOption = False) -> None:
    """Say what runs, what waits, since when, and what will happen to it. Exit code 3: a service does not answer.

    Example: starloom status
    """
    from starloom.dispatch.overview import overview

    settings = open_settings()
    hint = ""
    try:
        open_archive()
    except StarloomError as error:
        if error.code != "archive-unavailable":
            hint = f"{error.message}. {error.hint}"
    seen: dict[str, Any] = overview(settings)
    if json:
        emit_json({**seen, "hint": hint})
    else:
        emit_rows(seen["services"], ["service", "state", "detail"], as_json=False, title="Services")
        if seen["paused"]:
            emit_rows(seen["paused"], ["part", "since", "why"], as_json=False, title="Paused", whole=["part"])
        title = "Frames under way, and those that came in the last day"
        emit_rows(seen["frames"], ["state", "count", "oldest"], as_json=False, title=title)
        title = "Missions with something to do, and those that ended in the last month"
        emit_rows(seen["missions"], ["status", "count"], as_json=False, title=title)
        emit_rows(seen["stale"], ["mission_id", "why"], as_json=False, title="Stale stacks", whole=["mission_id"])
        columns = ["what", "id", "since", "why", "next", "when"]
        emit_rows(seen["stuck"], columns, as_json=False, title="What waits, and what will happen", whole=["id"])
        emit_rows(
            [row for row in seen["counts"] if row["count"]], ["what", "count"], as_json=False, title="Counts"
        )
        if hint:
            say(f"→ {hint}")
    if any(row["state"] == "silent" for row in seen["services"]):
        raise typer.Exit(3)


def relay(
    once: Annotated[bool, typer.Option("--once", help="Go through the open events once and end.")] = False,
    json: JsonOption = False,
) -> None:
    """Publish status events to Prefect until stopped; safe to run twice.

    With STARLOOM_RELAY_HEALTH_PORT it answers GET /health there: 200, or 503 when no round went well lately; and
    GET /metrics, for Prometheus.

    Example: starloom relay --once
    """
    from starloom.dispatch.relay import Relay
    from starloom.dispatch.rest import PrefectApi
    from starloom.telemetry import logs

    settings = open_settings()
    logs.configure(settings)
    prefect = PrefectApi.from_settings(settings)
    if once:
        published = Relay(settings, open_archive(), prefect).once()
        if json:
            emit_json({"published": published})
        else:
            say(f"{published} events published.")
        return
    from starloom.archive import Archive
    from starloom.dispatch.health import Health
    from starloom.telemetry.metrics import PATIENCE_S, RelayMetrics, registry_of

    # As a service it waits for an archive that is not there yet, rather than end.
    archive = Archive(settings.archive_url.get_secret_value())
    registry = registry_of(settings, archive, PrefectApi.from_settings(settings, timeout_s=PATIENCE_S))
    worker = Relay(settings, archive, prefect, RelayMetrics(registry))
    health = Health(worker.health, registry)
    if settings.relay_health_port:
        health.serve(settings.relay_health_host, settings.relay_health_port)
    refusals = _refusals(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    worker.run(stop, heard=health.heard)
    health.close()
    if refusals is not None:
        refusals.close()


def _refusals(settings: Settings) -> RefusalLog | None:
    """Listen for what the embedded lake refuses; None where another lake, or another relay, has that task."""
    if not (settings.home / "seaweed" / "state.json").is_file():
        return None
    from starloom.lake.refusals import RefusalLog
    from starloom.lake.seaweed import SeaweedFS

    try:
        return RefusalLog(SeaweedFS(settings.home).audit_port, settings.home / "logs" / "refused.log")
    except (OSError, KeyError) as error:
        logging.getLogger(__name__).info("the lake's refusals are not written down here: %r", error)
        return None


def metrics(json: JsonOption = False) -> None:
    """Print the metrics that Prometheus reads from a relay, as they are now.

    Example: starloom metrics | grep waiting
    """
    from starloom.dispatch.rest import PrefectApi
    from starloom.telemetry.metrics import PATIENCE_S, exposition, registry_of

    settings = open_settings()
    prefect = PrefectApi.from_settings(settings, timeout_s=PATIENCE_S) if settings.prefect_api_url else None
    registry = registry_of(settings, open_archive(), prefect)
    if json:
        emit_json(
            [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for family in registry.collect()
                for sample in family.samples
            ]
        )
        return
    typer.echo(exposition(registry)[0].decode(), nl=False)
