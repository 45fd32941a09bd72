"""``starloom watchdog``: is the hub alive? From cron or a timer, without Prefect."""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, emit_json, say
from starloom.errors import BadInput


def watchdog(
    once: Annotated[bool, typer.Option("--once", help="Look once and end: for cron and systemd timers.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between looks.")] = 60.0,
    webhook: Annotated[
        str, typer.Option(envvar="STARLOOM_WATCHDOG_WEBHOOK", help="URL that alarms are POSTed to as JSON.")
    ] = "",
    exec_: Annotated[
        Path | None,
        typer.Option(
            "--exec",
            envvar="STARLOOM_WATCHDOG_EXEC",
            help="Program started with the subject as argument and the text on its standard input.",
        ),
    ] = None,
    heartbeat_url: Annotated[
        str,
        typer.Option(
            envvar="STARLOOM_WATCHDOG_HEARTBEAT_URL", help="URL called when, and only when, all is well."
        ),
    ] = "",
    relay_url: Annotated[
        str,
        typer.Option(envvar="STARLOOM_WATCHDOG_RELAY_URL", help="Health page of a relay on another machine."),
    ] = "",
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that something may be dead before it is told.")
    ] = 120.0,
    skip: Annotated[list[str] | None, typer.Option(help="A check to leave out; may be repeated.")] = None,
    json: JsonOption = False,
) -> None:
    """Look whether relay, worker, sweep, claims and the Prefect server live. Exit code 3 where one does not.

    Example: starloom watchdog --once --heartbeat-url https://hc.example.org/ping/UUID
    """
    from starloom.dispatch.deadman import Voice, look_and_tell
    from starloom.dispatch.watchdog import CHECKS, in_words
    from starloom.dispatch.webhook import check_url

    if unknown := sorted(set(skip or ()) - set(CHECKS)):
        raise BadInput(
            f"there is no check {', '.join(unknown)}", code="no-such-check", hint=f"There are {', '.join(CHECKS)}."
        )
    settings = open_settings()
    voice = Voice(webhook, exec_, heartbeat_url)
    voice.check()
    if relay_url:
        check_url(relay_url)
    stop = threading.Event()
    if not once:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    while True:
        told = look_and_tell(settings, voice, skip or (), relay_url=relay_url, grace_s=grace)
        if json:
            emit_json(
                {
                    "at": datetime.now(UTC),
                    "well": told.well,
                    "checks": [vars(finding) for finding in told.findings],
                    "alarm": told.alarm,
                    "trouble": told.trouble,
                }
            )
        elif once or not told.well or told.alarm:
            say(in_words(told.findings))
            say(f"alarm: {told.alarm}" if told.alarm else "no alarm")
        if told.trouble:
            typer.echo(f"watchdog: {told.trouble}", err=True)
        if once:
            break
        sys.stdout.flush()
        if stop.wait(every):
            return
    if not told.well:
        raise typer.Exit(3)
