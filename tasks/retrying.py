"""Which errors deserve another try inside the task, how long to wait before it, and when a task is given up."""

from __future__ import annotations

import logging
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.tasks import Task, exponential_backoff

from starloom.errors import StarloomError

RETRIES = 3
#: Seconds that a chunk of frames, an upkeep task, a part of a stack may take: far more than any has needed.
FRAMES_S = 1800.0
UPKEEP_S = 900.0
STACK_S = 6 * 3600.0


async def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry what says that a retry helps, and what nobody foresaw; never a fatal error, never one out of time.

    A task that ran out of time once would do so again and hold its place four times as long; `sweep` takes up
    what it left.
    """
    error = await state.aresult(raise_on_failure=False)
    if isinstance(error, TimeoutError):
        return False
    return error.retryable if isinstance(error, StarloomError) else True


def is_last_try() -> bool:
    """Tell whether Prefect will not try the running task again."""
    return int(task_run.run_count or 0) > RETRIES


def retrying(timeout_s: float) -> dict[str, Any]:
    """Return the options of a task. Idempotency is the archive's, so Prefect caches and stores nothing."""
    return {
        "retries": RETRIES,
        "retry_delay_seconds": exponential_backoff(backoff_factor=2),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": worth_retrying,
        "timeout_seconds": timeout_s,
        "cache_policy": NO_CACHE,
        "persist_result": False,
    }


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Timeout of %s seconds configured")


# Prefect says at every run of every task that a thread is interrupted only between two Python instructions. True:
# the time-out is for a chunk whose frames go on for ever, one call that never returns ends with its process.
logging.getLogger("prefect.task_runs").addFilter(_is_news)
