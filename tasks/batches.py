"""What arrived, put into batches and handed to ``process-frames``; without the rooms that look at pixels."""

from __future__ import annotations

from prefect import task
from prefect.deployments import run_deployment

import starloom.frames.step
from starloom.batches import FrameBatch
from starloom.hub import current_hub
from tasks.retrying import FRAMES_S, UPKEEP_S, retrying


@task(**retrying(FRAMES_S), task_run_name="discover")
def discover_frames() -> list[FrameBatch]:
    """List the inbox once and put everything new into batches."""
    return starloom.frames.step.discover(current_hub())


@task(**retrying(UPKEEP_S), task_run_name="start {batch.name}")
def start_batch(batch: FrameBatch) -> None:
    """Hand a batch to ``process-frames``. The same batch started twice is one run."""
    run_deployment(
        "process-frames/process-frames",
        parameters={"batch": batch.model_dump()},
        idempotency_key=batch.key,
        flow_run_name=batch.name,
        timeout=0,
        as_subflow=False,
    )
