"""Stacking as tasks: bind and plan, tiles in batches, publish."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

import starloom.coadd.step as step
from starloom.hub import current_hub
from tasks.retrying import RETRYING


@task(**RETRYING, task_run_name="bind and plan")
def bind_and_plan(claim: step.ClaimRef) -> list[step.PlanRef]:
    """Write down the exact inputs of the revision and plan one product per band and pointing."""
    return step.bind_and_plan(current_hub(), claim)


@task(**RETRYING, task_run_name="tiles {batch.name}")
def stack_tiles(batch: step.TileBatch) -> step.TileBatch:
    """Co-add a batch of tiles. A tile already on disk is not made again."""
    step.stack_tiles(current_hub(), batch)
    return batch


@task(**RETRYING, task_run_name="publish r{claim.n}")
def publish(claim: step.ClaimRef, plans: list[step.PlanRef]) -> step.StackRef:
    """Assemble the products, upload them under the claim's epoch and publish them in one transaction."""
    stack = step.publish(current_hub(), claim, plans)
    create_table_artifact(table=stack.frames, key="frames-in-stack", description=f"Inputs of {stack.name}")
    for product in stack.products:
        create_image_artifact(image_url=product["preview_url"], key="preview", description=product["name"])
    return stack


class Progress:
    """The run's progress artifact."""

    def __init__(self, description: str) -> None:
        self._id = create_progress_artifact(progress=0.0, key="stack-progress", description=description)

    def at(self, percent: float) -> None:
        """Show how far the run has come, per cent."""
        update_progress_artifact(artifact_id=self._id, progress=percent)  # type: ignore[arg-type]
