"""Flow runs, by Prefect's REST API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from starloom.dispatch.connection import Connection

#: What every deployment of this project is tagged with in prefect.yaml.
TAG = "starloom"
#: States in which a run has not ended: it waits or works, it is not lost.
LIVING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
#: States in which a process or a container works for a run, or is being started.
AT_WORK = ("PENDING", "RUNNING", "CANCELLING")


class Runs(Connection):
    """What is asked of runs, and done to them."""

    def deployment_id(self, name: str) -> str:
        """Return the id of a deployment ``flow/deployment``."""
        return str(self.deployment(name)["id"])

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a deployment ``flow/deployment`` with its schedules."""
        return dict(self.call("GET", f"/deployments/name/{name}"))

    def create_run(
        self, deployment: str, parameters: dict[str, Any], *, idempotency_key: str, name: str | None = None
    ) -> dict[str, Any]:
        """Create a run of a deployment; the same key again returns the run there is, whatever became of it."""
        body = {"parameters": parameters, "idempotency_key": idempotency_key, "state": {"type": "SCHEDULED"}}
        if name:
            body["name"] = name
        run = self.call("POST", f"/deployments/{self.deployment_id(deployment)}/create_flow_run", body)
        return dict(run)

    def runs(
        self, deployment: str, *, states: tuple[str, ...] | None = None, limit: int = 200
    ) -> list[dict[str, Any]]:
        """Return runs of a deployment, newest first, optionally in the given states only."""
        found: list[dict[str, Any]] = []
        flow_runs: dict[str, Any] = {"state": {"type": {"any_": list(states)}}} if states else {}
        # By name, in one question: an id that was kept would miss a deployment that was deleted and made anew.
        flow, _, name = deployment.partition("/")
        while True:
            page = self.call(
                "POST",
                "/flow_runs/filter",
                {
                    "flows": {"name": {"any_": [flow]}},
                    "deployments": {"name": {"any_": [name]}},
                    "flow_runs": flow_runs,
                    "sort": "ID_DESC",
                    "limit": limit,
                    "offset": len(found),
                },
            )
            found += page
            if len(page) < limit:
                return found

    def pool_runs(self, pool: str, states: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of a pool in the given states, at most 200."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "limit": 200,
        }
        return list(self.call("POST", "/flow_runs/filter", body))

    def late_runs(self, by: timedelta, limit: int) -> list[dict[str, Any]]:
        """Return the runs of this project's deployments that should have started ``by`` ago, oldest first."""
        body = {
            "deployments": {"tags": {"all_": [TAG]}},
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "expected_start_time": {"before_": (datetime.now(UTC) - by).isoformat()},
            },
            "sort": "EXPECTED_START_TIME_ASC",
            "limit": limit,
        }
        return list(self.call("POST", "/flow_runs/filter", body))

    def count_runs(self, body: dict[str, Any]) -> int:
        """Return how many flow runs match filters as Prefect takes them."""
        return int(self.call("POST", "/flow_runs/count", body))

    def last_success(self, deployment: str) -> dict[str, Any] | None:
        """Return the run of a deployment that was the last to end well, None where none ever did."""
        body = {
            "deployments": {"id": {"any_": [self.deployment_id(deployment)]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
            "sort": "END_TIME_DESC",
            "limit": 1,
        }
        found = self.call("POST", "/flow_runs/filter", body)
        return dict(found[0]) if found else None

    def taken_runs(self) -> list[dict[str, Any]]:
        """Return the runs of this project's deployments that a worker has taken and not begun, at most 200."""
        body = {
            "deployments": {"tags": {"all_": [TAG]}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING"]}}},
            "limit": 200,
        }
        return list(self.call("POST", "/flow_runs/filter", body))

    def left_behind_runs(self, flows: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of flows that call themselves alive while the run above them has ended."""
        body = {
            "flows": {"name": {"any_": list(flows)}},
            "flow_runs": {"state": {"type": {"any_": list(AT_WORK)}}},
            "limit": 200,
        }
        alive = self.call("POST", "/flow_runs/filter", body)
        above = {run["id"]: run["parent_task_run_id"] for run in alive if run["parent_task_run_id"]}
        if not above:
            return []
        body = {"task_runs": {"id": {"any_": list(above.values())}}, "limit": 200}
        uppers = {task["id"]: task["flow_run_id"] for task in self.call("POST", "/task_runs/filter", body)}
        states = {"type": {"not_any_": list(LIVING)}}
        body = {"flow_runs": {"id": {"any_": list(uppers.values())}, "state": states}, "limit": 200}
        ended = {run["id"] for run in self.call("POST", "/flow_runs/filter", body)}
        return [run for run in alive if uppers.get(above.get(run["id"])) in ended]

    def crash_orphans(self, pool: str) -> int:
        """Mark the runs of a pool that nobody works on any more as crashed; return how many.

        For the moment before the pool's only worker starts: what calls itself running then, died with the last.
        """
        found = self.pool_runs(pool, AT_WORK)
        for run in found:
            self.crash(run["id"], "The worker ended and this run with it.")
        return len(found)

    def crash(self, run_id: str, why: str) -> None:
        """Mark a run as crashed, whatever it calls itself; slots that it holds are free again."""
        state = {"type": "CRASHED", "message": why}
        self.call("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def logs(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log lines of a flow run and of its tasks, oldest first."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return list(self.call("POST", "/logs/filter", body))

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the artifacts of a flow run and of its tasks."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return list(self.call("POST", "/artifacts/filter", body))
