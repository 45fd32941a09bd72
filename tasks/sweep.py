"""The parts of ``sweep`` as tasks."""

from __future__ import annotations

from prefect import task

from starloom import sweeping
from starloom.batches import FrameBatch
from starloom.hub import current_hub
from tasks.retrying import UPKEEP_S, retrying


@task(**retrying(UPKEEP_S))
def due_batches() -> list[FrameBatch]:
    """Frames whose next attempt is due, and frames that a lost run left pending."""
    return sweeping.due_batches(current_hub())


@task(**retrying(UPKEEP_S))
def free_leases() -> int:
    """Give missions back whose holder fell silent."""
    return sweeping.free_leases(current_hub())


@task(**retrying(UPKEEP_S))
def announce_unheard() -> int:
    """Write the events of missions that ask for a stack, or have lost their holder, unheard."""
    return sweeping.announce_unheard(current_hub())


@task(**retrying(UPKEEP_S))
def reopen_stale_missions() -> int:
    """Open the next revision where late frames have come and gone quiet."""
    return sweeping.reopen_stale_missions(current_hub())


@task(**retrying(4 * UPKEEP_S))
def tidy_lake() -> int:
    """Remove objects of dead epochs, uncommitted keys and unfinished uploads past the grace."""
    return sweeping.tidy_lake(current_hub())
