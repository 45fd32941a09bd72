"""Pauses: what operators have stopped, why, and how it outlives a new registration of the deployments.

Prefect keeps the pauses themselves, so that its pages show and lift them; the reasons stand in a Prefect variable,
`REASONS`. What was paused in the pages has none, and is told all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.runs import AT_WORK
from starloom.errors import BadInput, Unavailable

#: Parts whose schedule stops: no run is made.
SCHEDULED = {"ingest": "ingest/ingest", "sweep": "sweep/sweep", "tidy": "tidy/tidy"}
#: Parts whose work queue stops: runs are made, and wait.
QUEUED = ("frames", "stacks")
PARTS = (*SCHEDULED, *QUEUED)
#: Prefect variable with what `pause` was told: ``{part: {"since": …, "why": …}}``.
REASONS = "starloom_paused"


def pause(api: PrefectApi, pool: str, parts: Iterable[str], why: str) -> None:
    """Stop parts of the hub; runs that have begun go on to their end.

    Raises
    ------
    BadInput
        ``no-such-part``.
    """
    note = {"since": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}
    _change(api, pool, parts, note)


def resume(api: PrefectApi, pool: str, parts: Iterable[str]) -> None:
    """Let parts of the hub go on, whoever paused them.

    Raises
    ------
    BadInput
        ``no-such-part``.
    """
    _change(api, pool, parts, None)


def paused(api: PrefectApi, pool: str) -> list[dict[str, Any]]:
    """Return what is paused: ``part``, ``since``, ``why``; without a reason where Prefect's pages were used."""
    said = dict(api.variable(REASONS) or {})
    nothing = {"since": None, "why": "paused in Prefect's pages"}
    stopped = [part for part, name in SCHEDULED.items() if _stands_still(api.deployment(name))]
    queues = {queue["name"]: queue for queue in api.queues(pool)}
    stopped += [part for part in QUEUED if queues.get(part, {}).get("is_paused")]
    found = [{"part": part, **(said.get(part) or nothing)} for part in stopped]
    known = api.pool(pool)
    if known and known["is_paused"]:
        found.append({"part": f"pool {pool}", **nothing})
    return found


def _stands_still(deployment: dict[str, Any]) -> bool:
    """Return whether no schedule makes runs: Prefect's pages pause a deployment, or switch its schedules off."""
    return bool(deployment["paused"]) or not any(schedule["active"] for schedule in deployment["schedules"])


def wait_for_runs(api: PrefectApi, pool: str, timeout_s: float) -> None:
    """Return when no run of the pool is at work any more.

    Raises
    ------
    Unavailable
        ``still-running``: some still were after ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while running := api.pool_runs(pool, AT_WORK):
        if time.monotonic() > deadline:
            names = ", ".join(sorted(str(run["name"]) for run in running)[:5])
            raise Unavailable(
                f"{len(running)} runs are still at work after {timeout_s:.0f} s: {names}",
                code="still-running",
                hint="Everything stays paused: call it again to wait longer, or `starloom resume all`.",
            )
        time.sleep(1.0)


@contextmanager
def kept(api: PrefectApi, pool: str, deployments: Iterable[str]) -> Iterator[None]:
    """Keep what an operator has switched off while pool and deployments are registered anew.

    Registering recreates schedules and triggers, all switched on, and resets the pool's pause and limit. Kept are
    these two, pauses of deployments, schedules by their slug, and automations by their name.
    """
    there = set(api.deployments())
    before = {name: api.deployment(name) for name in deployments if name in there}
    known = api.pool(pool)
    off = {automation["name"] for automation in api.automations() if not automation["enabled"]}
    try:
        yield
    finally:
        if known:
            api.update_pool(pool, {name: known[name] for name in ("is_paused", "concurrency_limit")})
        for name, old in before.items():
            new = api.deployment(name)
            api.pause_deployment(name, paused=bool(old["paused"]))
            stopped = {schedule["slug"] for schedule in old["schedules"] if not schedule["active"]}
            for schedule in new["schedules"]:
                if schedule["slug"] in stopped:
                    api.update_schedule(new["id"], schedule["id"], {"active": False})
        for automation in api.automations():
            if automation["enabled"] and automation["name"] in off:
                api.enable_automation(automation["id"], enabled=False)


def _known(parts: Iterable[str]) -> list[str]:
    asked = list(parts)
    for part in asked:
        if part not in (*PARTS, "all"):
            raise BadInput(
                f"there is no part {part!r} that could be paused",
                code="no-such-part",
                hint=f"One of {', '.join(PARTS)}, or all.",
            )
    return list(PARTS) if "all" in asked else asked


def _change(api: PrefectApi, pool: str, parts: Iterable[str], note: dict[str, str] | None) -> None:
    """Pause parts and keep the note about it, or, without one, let them go on and forget theirs."""
    said = dict(api.variable(REASONS) or {})
    for part in _known(parts):
        if part in SCHEDULED:
            api.pause_deployment(SCHEDULED[part], paused=note is not None)
            if note is None:
                _switch_schedules_on(api, SCHEDULED[part])
        else:
            api.pause_queue(pool, part, paused=note is not None)
        said.pop(part, None)
        if note is not None:
            said[part] = note
    api.set_variable(REASONS, said)


def _switch_schedules_on(api: PrefectApi, name: str) -> None:
    deployment = api.deployment(name)
    for schedule in deployment["schedules"]:
        if not schedule["active"]:
            api.update_schedule(deployment["id"], schedule["id"], {"active": True})
