"""The parts of ``sweep`` as tasks."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from prefect import get_client, task
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import get_current_settings
from prefect.states import Cancelling

from starloom import holding, mastering, scrubbing, sweeping, watching
from starloom.batches import FrameBatch
from starloom.dispatch.rest import PrefectApi
from starloom.hub import current_hub
from starloom.mastering import MasterWork
from tasks.retrying import UPKEEP_S, retrying

log = logging.getLogger("starloom.tasks.sweep")

#: Runs asked for at once.
PAGE = 200
#: How long a run of a flow may take, seconds: more than all its tasks' time-outs one after the other.
HUNG_AFTER_S = {"process-frames": 6 * 3600.0, "build-masters": 6 * 3600.0, "stack-mission": 24 * 3600.0}


@task(**retrying(UPKEEP_S))
def end_hung_runs() -> int:
    """Cancel the runs that have hung: a thread inside one call that never returns ends only with its process.

    The worker ends the process; frames and missions come back by their own clocks.
    """
    ended = 0
    with get_client(sync_client=True) as client:
        for name, limit_s in HUNG_AFTER_S.items():
            since = datetime.now(UTC) - timedelta(seconds=limit_s)
            hung = client.read_flow_runs(
                flow_filter=FlowFilter(name={"any_": [name]}),
                flow_run_filter=FlowRunFilter(
                    state={"type": {"any_": ["RUNNING"]}},
                    start_time={"before_": since},
                ),
            )
            for run in hung:
                client.set_flow_run_state(run.id, Cancelling(message=f"It ran for more than {limit_s:.0f} s."))
                log.warning("run %s ran for more than %.0f s and was cancelled", run.name, limit_s)
                ended += 1
    return ended


@task(**retrying(UPKEEP_S))
def due_batches() -> list[FrameBatch]:
    """Frames whose next attempt is due, and frames that a lost run left pending."""
    return sweeping.due_batches(current_hub(), waiting=waiting_frames())


def waiting_frames() -> set[str]:
    """Return the frames of runs that wait for a worker: these are not lost, only late."""
    found: set[str] = set()
    read = 0
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(
            flow_filter=FlowFilter(name={"any_": ["process-frames"]}),
            flow_run_filter=FlowRunFilter(state={"type": {"any_": ["SCHEDULED"]}}),
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=read,
        ):
            read += len(runs)
            for run in runs:
                batch = run.parameters.get("batch")  # somebody may have started one by hand with anything
                found |= set(batch.get("frame_ids", [])) if isinstance(batch, dict) else set()
    return found


@task(**retrying(UPKEEP_S))
def reconcile_missions() -> int:
    """Give missions back whose holder fell silent; announce those that ask for a stack unheard."""
    return sweeping.reconcile_missions(current_hub())


@task(**retrying(UPKEEP_S))
def find_forgotten() -> int:
    """Give frames a time for their next attempt that have steps to do and none."""
    return sweeping.find_forgotten(current_hub())


@task(**retrying(UPKEEP_S))
def tell_nodes() -> int:
    """Write the receipts that a run which died after publishing has left out."""
    return sweeping.tell_nodes(current_hub())


@task(**retrying(UPKEEP_S))
def tidy_work() -> int:
    """Remove the working folders of dead claims from this machine's disk."""
    return holding.tidy_work(current_hub())


@task(**retrying(4 * UPKEEP_S))
def scrub() -> dict[str, int]:
    """Compare the raw objects that are due with the hashes in their keys; fill and check the second copy."""
    return scrubbing.scrub(current_hub())


@task(**retrying(UPKEEP_S))
def reopen_stale_missions() -> int:
    """Open the next revision where late frames have come and gone quiet."""
    return sweeping.reopen_stale_missions(current_hub())


@task(**retrying(UPKEEP_S))
def reopen_overlooked_missions() -> int:
    """Do the same for what sweep does not look at any more: changes of two days, and a share of all stacks."""
    return sweeping.reopen_stale_missions(current_hub(), thorough=True)


@task(**retrying(UPKEEP_S))
def watch() -> int:
    """Tell which nodes have fallen silent, which queues and disks fill, and when that is over."""
    server = get_current_settings().api  # as this run reaches it, in a container too
    auth = server.auth_string.get_secret_value() if server.auth_string else ""
    with PrefectApi(str(server.url), auth) as teller:
        return watching.watch(current_hub(), teller)


@task(**retrying(UPKEEP_S))
def masters_due() -> list[MasterWork]:
    """Instruments that have sent enough calibration frames, or lights to learn defects from, for a master."""
    return mastering.due(current_hub())


@task(**retrying(UPKEEP_S))
def learn_instruments() -> int:
    """Learn distortion, scale and pointing of instruments that have solved enough new frames."""
    return sweeping.learn_instruments(current_hub())


@task(**retrying(4 * UPKEEP_S))
def tidy_lake() -> int:
    """Remove objects of dead epochs, uncommitted keys and unfinished uploads past the grace."""
    return sweeping.tidy_lake(current_hub())


@task(**retrying(UPKEEP_S))
def prune_archive() -> int:
    """Remove rows that nobody needs any more: announcements, failed tries, spent events."""
    return sweeping.prune_archive(current_hub())
