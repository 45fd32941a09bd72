"""Prefect tasks: thin adapters that add retries, timeouts and artifacts to one library call each."""

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.settings import get_current_settings

from starloom.telemetry import begin
from starloom.telemetry.context import provide


def _run_id() -> str | None:
    """Return the flow run around, also on another machine that works for it."""
    if (task := TaskRunContext.get()) is not None and task.task_run.flow_run_id is not None:
        return str(task.task_run.flow_run_id)
    if (flow := FlowRunContext.get()) is not None and flow.flow_run is not None:
        return str(flow.flow_run.id)
    return None


begin()
provide("run", _run_id)
# Prefect hands the library's lines to a run's log (PREFECT_LOGGING_EXTRA_LOGGERS) but not its own level: without
# this only warnings would arrive.
logging.getLogger("starloom").setLevel(get_current_settings().logging.level)
