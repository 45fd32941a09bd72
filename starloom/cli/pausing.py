"""``starloom pause | resume | drain``: stop parts of a hub, and let them go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from starloom.cli.opening import open_settings
from starloom.cli.output import JsonOption, emit_rows, progress

if TYPE_CHECKING:
    from starloom.dispatch.rest import PrefectApi

PARTS = "ingest, sweep, tidy (their schedules stop), frames, stacks (their runs wait), or all."

PartsArgument = Annotated[list[str], typer.Argument(help=PARTS)]
WhyOption = Annotated[str, typer.Option("--reason", help="Why; `starloom status` shows it.")]


def pause(parts: PartsArgument, why: WhyOption = "", json: JsonOption = False) -> None:
    """Stop parts of the hub. Runs that have begun end as they would; what arrives waits, and nothing is lost.

    Example: starloom pause stacks --reason "the lake is being moved"
    """
    from starloom.dispatch import pausing

    with _opened() as (api, pool):
        pausing.pause(api, pool, parts, why)
        _show(pausing.paused(api, pool), json)


def resume(parts: PartsArgument, json: JsonOption = False) -> None:
    """Let parts of the hub go on, whoever paused them.

    Example: starloom resume all
    """
    from starloom.dispatch import pausing

    with _opened() as (api, pool):
        pausing.resume(api, pool, parts)
        _show(pausing.paused(api, pool), json)


def drain(
    why: WhyOption = "draining",
    timeout_s: Annotated[float, typer.Option(help="Give up after so many seconds; all stays paused.")] = 3600.0,
    json: JsonOption = False,
) -> None:
    """Pause everything and wait until no run is at work: the moment to upgrade, move or back up.

    Example: starloom drain --reason "upgrade to the next release"
    """
    from starloom.dispatch import pausing

    with _opened() as (api, pool):
        pausing.pause(api, pool, ["all"], why)
        with progress.status("waiting for the runs that are at work"):
            pausing.wait_for_runs(api, pool, timeout_s)
        _show(pausing.paused(api, pool), json)


@contextmanager
def _opened() -> Iterator[tuple[PrefectApi, str]]:
    from starloom.dispatch.rest import PrefectApi

    settings = open_settings()
    with PrefectApi.from_settings(settings) as api:
        yield api, settings.work_pool


def _show(rows: list[dict[str, Any]], json: bool) -> None:
    emit_rows(rows, ["part", "since", "why"], as_json=json, title="Paused", whole=["part"])
