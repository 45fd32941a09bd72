"""Which errors deserve another try inside the task, and how long to wait before it."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from starloom.errors import StarloomError


async def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Retry what says that a retry helps, and what nobody foresaw; never a fatal StarloomError."""
    error = await state.aresult(raise_on_failure=False)
    return error.retryable if isinstance(error, StarloomError) else True


#: Options of every task. Idempotency is the archive's, so Prefect caches and stores nothing.
RETRYING: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
