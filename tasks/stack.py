"""Stacking as tasks: bind and plan, tiles in batches, publish."""

from __future__ import annotations

from prefect import task

from starloom.coadd import step
from starloom.holding import ClaimRef, PlanRef, StackRef, TileBatch
from starloom.hub import current_hub
from tasks.retrying import STACK_S, retrying
from tasks.showing import show_image, show_table


@task(**retrying(STACK_S), task_run_name="bind and plan")
def bind_and_plan(claim: ClaimRef) -> list[PlanRef]:
    """Write down the exact inputs of the revision and plan one product per band and pointing."""
    return step.bind_and_plan(current_hub(), claim)


@task(**retrying(STACK_S), task_run_name="tiles {batch.name}")
def stack_tiles(batch: TileBatch) -> TileBatch:
    """Carry out a work unit, here or on a Dask worker. A tile already on disk is not made again."""
    step.stack_tiles(batch)
    return batch


@task(**retrying(STACK_S), task_run_name="publish r{claim.n}")
def publish(claim: ClaimRef, plans: list[PlanRef]) -> StackRef:
    """Assemble the products, upload them under the claim's epoch and publish them in one transaction."""
    stack = step.publish(current_hub(), claim, plans)
    show_table("products", stack.told, f"Products of {stack.name}")
    show_table("frames-in-stack", stack.inputs, f"Inputs of {stack.name} and their weights")
    for product in stack.products:
        show_image("preview", product["preview_url"], f"{stack.name}: {product['name']}")
    return stack
