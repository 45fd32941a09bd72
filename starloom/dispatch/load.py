"""How busy Prefect is: what waits in each work queue, for how long, and what ended badly."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.runs import TAG

BEGUN = ("PENDING", "RUNNING", "CANCELLING")
BAD = ("FAILED", "CRASHED")


@dataclass(frozen=True)
class Load:
    """What waits and what works.

    Parameters
    ----------
    queues
        For each work queue the runs that are due and not begun, and those that have begun.
    lag_s
        Seconds since the longest waiting run of this project was due, 0 where none waits.
    ended_badly
        Runs of the last hour by the state they ended in.
    """

    queues: dict[str, tuple[int, int]]
    lag_s: float
    ended_badly: dict[str, int]


def load_of(prefect: PrefectApi, pool: str) -> Load:
    """Ask Prefect; two counts for each queue, one for each bad end and one look at the longest waiting run.

    Raises
    ------
    Unavailable
        It does not answer.
    """
    now = datetime.now(UTC)

    def count(queue: str, runs: dict[str, Any]) -> int:
        place = {"work_pools": {"name": {"any_": [pool]}}, "work_pool_queues": {"name": {"any_": [queue]}}}
        return prefect.count_runs({**place, "flow_runs": runs})

    late = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": now.isoformat()}}
    begun = {"state": {"type": {"any_": list(BEGUN)}}}
    first = prefect.late_runs(timedelta(0), 1)
    hour_ago = (now - timedelta(hours=1)).isoformat()
    return Load(
        queues={
            queue["name"]: (count(queue["name"], late), count(queue["name"], begun))
            for queue in prefect.queues(pool)
        },
        lag_s=max(
            ((now - datetime.fromisoformat(run["expected_start_time"])).total_seconds() for run in first),
            default=0.0,
        ),
        ended_badly={
            state: prefect.count_runs(
                {
                    "deployments": {"tags": {"all_": [TAG]}},
                    "flow_runs": {"state": {"type": {"any_": [state]}}, "end_time": {"after_": hour_ago}},
                }
            )
            for state in BAD
        },
    )
