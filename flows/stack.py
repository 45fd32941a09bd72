"""``stack-mission``: a mission became COMPLETE; bind what it has by now and publish its next revision."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.futures import as_completed, wait
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from starloom.archive.claims import AlreadyClaimed, LeaseLost, MissionCancelled
from starloom.dispatch.tile_workers import PATIENCE_S, count_workers
from starloom.holding import PlanRef, StackRef, claimed
from starloom.hub import current_hub
from tasks.showing import Progress

log = logging.getLogger("starloom.flows.stack")


@flow(
    name="stack-mission",
    flow_run_name="stack {mission_id} (event {event_id})",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
)
def stack_mission(mission_id: str, event_id: int) -> StackRef | State[None]:
    """Bind what the mission has by now and publish the next revision of its stack."""
    try:
        with claimed(current_hub(), mission_id, event_id, holder=str(flow_run.id)) as claim:
            # What stacks takes two seconds to load: after the claim, so that a run whose mission is taken ends at
            # once, and while the lease is being renewed.
            from tasks.stack import bind_and_plan, publish

            progress = Progress("stack-progress", f"Stack of {mission_id}, revision {claim.n}")
            plans = bind_and_plan(claim)
            if not plans:
                return Completed(
                    name="Unchanged", message="The same frames and parameters as the newest revision."
                )
            progress.at(10)
            co_add.with_options(task_runner=tile_runner())(plans)
            stack = publish(claim, plans)
            progress.at(100)
            return stack
    except AlreadyClaimed as taken:
        log.info(taken.message, extra={"mission": mission_id, "event": event_id})
        return Completed(name="AlreadyClaimed", message=taken.message)
    except LeaseLost as lost:
        log.warning(lost.message, extra={"mission": mission_id, "event": event_id})
        name = "MissionCancelled" if isinstance(lost, MissionCancelled) else "LeaseLost"
        return Completed(name=name, message=f"{lost.message}; nothing was published by this run")


@flow(name="co-add", flow_run_name="co-add", persist_result=False)
def co_add(plans: list[PlanRef]) -> None:
    """Make all tiles, and return when the last task has ended: the working folder goes with the claim."""
    from tasks.stack import stack_tiles

    progress = Progress("co-add-progress", "Tiles of the stack")
    futures = list(stack_tiles.map([batch for plan in plans for batch in plan.batches()]))
    try:
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            progress.at(100 * done / len(futures))
    finally:
        wait(futures)


def tile_runner() -> TaskRunner[Any]:
    """Return who makes tiles: threads of this process, or the workers of a Dask cluster.

    Dask gives the work of a worker that died to the others; tiles that are on disk are not made again. A cluster
    without workers would let the mission wait for ever, so it is given back, to be tried again.
    """
    settings = current_hub().settings
    if not settings.dask_scheduler:
        return ThreadPoolTaskRunner(max_workers=settings.stack_threads)
    count_workers(settings.dask_scheduler, PATIENCE_S)
    from prefect_dask import DaskTaskRunner

    runner: TaskRunner[Any] = DaskTaskRunner(address=settings.dask_scheduler)
    return runner
