"""Masters as tasks: built of what an instrument has sent, and frames done again that waited for them."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.deployments import run_deployment

from starloom import mastering
from starloom.hub import current_hub
from starloom.mastering import MasterWork
from tasks.retrying import STACK_S, UPKEEP_S, retrying
from tasks.showing import show_table


@task(**retrying(UPKEEP_S), task_run_name="start {work.name}")
def start_masters(work: MasterWork) -> None:
    """Hand an instrument to ``build-masters``. The same work asked for twice within the hour is one run."""
    run_deployment(
        "build-masters/build-masters",
        parameters={"instrument_id": work.instrument_id},
        idempotency_key=work.key,
        flow_run_name=f"masters of {work.name}",
        timeout=0,
        as_subflow=False,
    )


@task(**retrying(STACK_S), task_run_name="build masters")
def build_masters(instrument_id: int) -> list[dict[str, Any]]:
    """Combine biases, darks and flats, learn defects; each master is committed by itself. Safe to repeat."""
    rows = mastering.build(current_hub(), instrument_id)
    columns = ("id", "kind", "state", "code", "n_frames", "exposure_s", "temperature_c", "filter")
    show_table("masters", [{name: row[name] for name in columns} for row in rows], "Masters built")
    return rows


@task(**retrying(UPKEEP_S), task_run_name="calibrate again")
def calibrate_again(instrument_id: int) -> int:
    """Have frames done again that had no bias, dark or flat before, where the settings ask for it."""
    return len(mastering.calibrate_again_by_itself(current_hub(), instrument_id))
