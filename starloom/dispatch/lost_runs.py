"""Runs that call themselves alive and that nobody works on: ended, so that the slots they hold are free again.

The relay looks, and not `sweep`: a sweep that never began holds the one slot that sweeps have.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from starloom.dispatch.rest import PrefectApi

log = logging.getLogger(__name__)

#: Flows that run under a run of another.
UNDER = ("co-add",)


def end_lost_runs(prefect: PrefectApi, start_max_s: float) -> int:
    """Crash runs that never began, and runs under one that has ended; return how many.

    A worker or server that dies while a run is being submitted leaves it pending for ever; of a process that died,
    Prefect hears only that its upper run did.

    Parameters
    ----------
    start_max_s
        How long a worker may take to start a run that it has taken.

    Raises
    ------
    Unavailable
        Prefect does not answer.
    """
    now = datetime.now(UTC)
    taken = [
        (run, "A worker took it, and it never began.")
        for run in prefect.taken_runs()
        if (now - datetime.fromisoformat(run["state"]["timestamp"])).total_seconds() > start_max_s
    ]
    left = [(run, "The run above it ended.") for run in prefect.left_behind_runs(UNDER)]
    for run, why in (*taken, *left):
        prefect.crash(run["id"], why)
        log.warning("run %s was ended: %s", run["name"], why)
    return len(taken) + len(left)
