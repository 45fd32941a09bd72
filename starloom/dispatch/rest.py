"""Prefect's REST API, as much of it as starloom needs."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx

from starloom.errors import StarloomError, Unavailable
from starloom.settings import Settings

TIMEOUT_S = 20.0
#: Seconds between tries while the server answers 503: on SQLite its database is locked now and then, and what was
#: asked has not been done.
BUSY_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2)
#: What every deployment of this project is tagged with in prefect.yaml.
TAG = "starloom"
#: States in which a run has not ended: it waits or works, it is not lost.
LIVING = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
#: States in which a process or a container works for a run, or is being started.
AT_WORK = ("PENDING", "RUNNING", "CANCELLING")

_EVENTS = UUID("6f0d4d0a-6f1c-4d5e-9a1b-8a4d1a4f5b52")


@dataclass(frozen=True)
class Said:
    """An event to be published.

    Parameters
    ----------
    event, resource, payload
        As Prefect names them.
    key
        What is said twice under one key has one id, and Prefect passes the second over (for five minutes).
    """

    event: str
    resource: str
    payload: dict[str, Any]
    key: str = ""


class PrefectApi:
    """A synchronous client; every answer is checked, so that what is returned has been accepted.

    Parameters
    ----------
    url
        ``http://host:port/api``.
    auth
        ``user:password`` of a protected server, or empty.
    timeout_s
        Seconds that an answer may take.
    """

    def __init__(self, url: str, auth: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        headers = {}
        if auth:
            headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    @classmethod
    def from_settings(cls, settings: Settings, *, timeout_s: float = TIMEOUT_S) -> PrefectApi:
        """Open a client for the settings' server.

        Raises
        ------
        StarloomError
            ``no-prefect``: no server is configured.
        """
        if not settings.prefect_api_url:
            raise StarloomError(
                "no Prefect server is configured",
                code="no-prefect",
                hint="Start one with `starloom up`, or set STARLOOM_PREFECT_API_URL.",
            )
        auth = settings.prefect_api_auth_string.get_secret_value()
        return cls(settings.prefect_api_url, auth, timeout_s=timeout_s)

    @property
    def ui_url(self) -> str:
        """Address of the web pages of the same server."""
        return self.url.removesuffix("/api")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> PrefectApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        for pause_s in (*BUSY_PAUSES_S, 0.0):
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise Unavailable(
                    f"Prefect at {self.url} does not answer: {error}", code="prefect-unavailable"
                ) from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(pause_s)
        if answer.status_code >= 500:
            raise Unavailable(f"Prefect at {self.url} answered {answer.status_code}", code="prefect-unavailable")
        if answer.status_code >= 400:
            raise StarloomError(
                f"Prefect refused {method} {path}: {answer.status_code} {answer.text[:300]}",
                code="prefect-refused",
                hint="Were the deployments registered? `starloom up` does so.",
            )
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(
                f"{self.url} does not speak as Prefect does: {answer.text[:80]!r}",
                code="prefect-unavailable",
                hint="Does STARLOOM_PREFECT_API_URL end in /api?",
            ) from error

    def is_healthy(self) -> bool:
        """Tell whether the server answers."""
        try:
            return bool(self._call("GET", "/health"))
        except StarloomError:
            return False

    def version(self) -> str:
        """Return the server's version."""
        return str(self._call("GET", "/admin/version"))

    def emit(self, event: str, resource: str, payload: dict[str, Any]) -> None:
        """Publish one event and see it accepted (accepted is not delivered: the caller checks for a run)."""
        self.emit_all([Said(event, resource, payload)])

    def emit_all(self, events: Sequence[Said]) -> None:
        """Publish events in one request, all or none of them accepted."""
        now = datetime.now(UTC).isoformat()
        body = [
            {
                "occurred": now,
                "event": said.event,
                "resource": {"prefect.resource.id": said.resource, "prefect.resource.name": said.resource},
                "payload": said.payload,
                "id": str(uuid5(_EVENTS, said.key)) if said.key else str(uuid4()),
            }
            for said in events
        ]
        self._call("POST", "/events", body)

    def deployment_id(self, name: str) -> str:
        """Return the id of a deployment ``flow/deployment``."""
        return str(self.deployment(name)["id"])

    def deployments(self) -> list[str]:
        """Return the names ``flow/deployment`` of all deployments of this project."""
        body = {"deployments": {"tags": {"all_": [TAG]}}, "limit": 200}
        found = self._call("POST", "/deployments/filter", body)
        flows = {flow["id"]: flow["name"] for flow in self._call("POST", "/flows/filter", {"limit": 200})}
        return sorted(f"{flows.get(entry['flow_id'])}/{entry['name']}" for entry in found)

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a deployment ``flow/deployment`` with its schedules."""
        return dict(self._call("GET", f"/deployments/name/{name}"))

    def pause_deployment(self, name: str, *, paused: bool) -> None:
        """Stop the schedules of a deployment, and remove the runs that they have made; or let them go on."""
        verb = "pause" if paused else "resume"
        self._call("POST", f"/deployments/{self.deployment_id(name)}/{verb}_deployment")

    def update_schedule(self, deployment_id: str, schedule_id: str, changes: dict[str, Any]) -> None:
        """Change one schedule of a deployment."""
        self._call("PATCH", f"/deployments/{deployment_id}/schedules/{schedule_id}", changes)

    def set_interval(self, deployment: str, slug: str, seconds: float) -> None:
        """Change the interval of one schedule of a deployment; nothing happens when it is right already.

        Raises
        ------
        StarloomError
            ``no-such-schedule``.
        """
        found = self.deployment(deployment)
        schedule = next((entry for entry in found["schedules"] if entry.get("slug") == slug), None)
        if schedule is None:
            raise StarloomError(
                f"deployment {deployment} has no schedule {slug}",
                code="no-such-schedule",
                hint="Register the deployments of this version: `starloom up`.",
            )
        if schedule["schedule"].get("interval") != seconds:
            changed = {"schedule": {**schedule["schedule"], "interval": seconds}}
            self.update_schedule(found["id"], schedule["id"], changed)

    def set_job_variables(self, deployment: str, variables: dict[str, Any]) -> None:
        """Change what the pool is told of a deployment's jobs; nothing happens when it is right already."""
        found = self.deployment(deployment)
        if found["job_variables"] != variables:
            self._call("PATCH", f"/deployments/{found['id']}", {"job_variables": variables})

    def pool(self, pool: str) -> dict[str, Any] | None:
        """Return a work pool (``type``, ``is_paused``, ``concurrency_limit``, …), None where there is none."""
        found = self._call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [pool]}}})
        return dict(found[0]) if found else None

    def update_pool(self, pool: str, changes: dict[str, Any]) -> None:
        """Change what a work pool says of itself."""
        self._call("PATCH", f"/work_pools/{pool}", changes)

    def queues(self, pool: str) -> list[dict[str, Any]]:
        """Return the queues of a work pool."""
        return list(self._call("POST", f"/work_pools/{pool}/queues/filter", {}))

    def pause_queue(self, pool: str, queue: str, *, paused: bool) -> None:
        """Let workers take nothing from a queue any more, or again."""
        self._call("PATCH", f"/work_pools/{pool}/queues/{queue}", {"is_paused": paused})

    def pool_runs(self, pool: str, states: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of a pool in the given states, at most 200."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "limit": 200,
        }
        return list(self._call("POST", "/flow_runs/filter", body))

    def set_queue(self, pool: str, queue: str, priority: int, limit: int | None) -> None:
        """Set which queue of a pool a worker serves first (1 before 2), and its runs at once.

        A queue that is not there is made. Without a limit, one that was set on the server stays.
        """
        wanted = {"priority": priority} | ({} if limit is None else {"concurrency_limit": limit})
        found = next((entry for entry in self.queues(pool) if entry["name"] == queue), None)
        if found is None:
            self._call("POST", f"/work_pools/{pool}/queues", {"name": queue, **wanted})
        elif any(found[key] != value for key, value in wanted.items()):
            self._call("PATCH", f"/work_pools/{pool}/queues/{queue}", wanted)

    def create_run(
        self, deployment: str, parameters: dict[str, Any], *, idempotency_key: str, name: str | None = None
    ) -> dict[str, Any]:
        """Create a run of a deployment; the same key again returns the run there is, whatever became of it."""
        body = {"parameters": parameters, "idempotency_key": idempotency_key, "state": {"type": "SCHEDULED"}}
        if name:
            body["name"] = name
        run = self._call("POST", f"/deployments/{self.deployment_id(deployment)}/create_flow_run", body)
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
            page = self._call(
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
        return list(self._call("POST", "/flow_runs/filter", body))

    def count_runs(self, body: dict[str, Any]) -> int:
        """Return how many flow runs match filters as Prefect takes them."""
        return int(self._call("POST", "/flow_runs/count", body))

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
        self._call("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def taken_runs(self) -> list[dict[str, Any]]:
        """Return the runs of this project's deployments that a worker has taken and not begun, at most 200."""
        body = {
            "deployments": {"tags": {"all_": [TAG]}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING"]}}},
            "limit": 200,
        }
        return list(self._call("POST", "/flow_runs/filter", body))

    def left_behind_runs(self, flows: Sequence[str]) -> list[dict[str, Any]]:
        """Return the runs of flows that call themselves alive while the run above them has ended."""
        body = {
            "flows": {"name": {"any_": list(flows)}},
            "flow_runs": {"state": {"type": {"any_": list(AT_WORK)}}},
            "limit": 200,
        }
        alive = self._call("POST", "/flow_runs/filter", body)
        above = {run["id"]: run["parent_task_run_id"] for run in alive if run["parent_task_run_id"]}
        if not above:
            return []
        body = {"task_runs": {"id": {"any_": list(above.values())}}, "limit": 200}
        uppers = {task["id"]: task["flow_run_id"] for task in self._call("POST", "/task_runs/filter", body)}
        states = {"type": {"not_any_": list(LIVING)}}
        body = {"flow_runs": {"id": {"any_": list(uppers.values())}, "state": states}, "limit": 200}
        ended = {run["id"] for run in self._call("POST", "/flow_runs/filter", body)}
        return [run for run in alive if uppers.get(above.get(run["id"])) in ended]

    def logs(self, run_id: str) -> list[dict[str, Any]]:
        """Return the log lines of a flow run and of its tasks, oldest first."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return list(self._call("POST", "/logs/filter", body))

    def artifacts(self, run_id: str) -> list[dict[str, Any]]:
        """Return the artifacts of a flow run and of its tasks."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return list(self._call("POST", "/artifacts/filter", body))

    def automations(self) -> list[dict[str, Any]]:
        """Return all automations, the deployments' own triggers among them."""
        return self._pages("/automations/filter", {})

    def create_automation(self, body: dict[str, Any]) -> str:
        """Create an automation and return its id."""
        return str(self._call("POST", "/automations/", body)["id"])

    def update_automation(self, automation_id: str, body: dict[str, Any]) -> None:
        """Replace what an automation says; it keeps its id, and forgets what it has counted so far."""
        self._call("PUT", f"/automations/{automation_id}", body)

    def delete_automation(self, automation_id: str) -> None:
        """Delete an automation."""
        self._call("DELETE", f"/automations/{automation_id}")

    def enable_automation(self, automation_id: str, *, enabled: bool) -> None:
        """Switch an automation on or off."""
        self._call("PATCH", f"/automations/{automation_id}", {"enabled": enabled})

    def variable(self, name: str) -> Any:
        """Return the value of a Prefect variable, None where there is none."""
        found = self._call("POST", "/variables/filter", {"variables": {"name": {"any_": [name]}}})
        return found[0]["value"] if found else None

    def set_variable(self, name: str, value: Any) -> None:
        """Create a Prefect variable or replace its value, anything that JSON holds."""
        if self.variable(name) is None:
            self._call("POST", "/variables/", {"name": name, "value": value})
        else:
            self._call("PATCH", f"/variables/name/{name}", {"value": value})

    def blocks(self, name: str) -> list[dict[str, Any]]:
        """Return the blocks of a name, one of a type at most; their secrets stay with the server."""
        body = {"block_documents": {"name": {"any_": [name]}}, "include_secrets": False}
        return self._pages("/block_documents/filter", body)

    def save_block(self, name: str, type_slug: str, data: dict[str, Any]) -> str:
        """Create a block or replace the data of the one there is; return its id."""
        kind = self._call("GET", f"/block_types/slug/{type_slug}")["id"]
        known = [block for block in self.blocks(name) if block["block_type_id"] == kind]
        wanted = {"block_schemas": {"block_type_id": {"any_": [kind]}}, "limit": 1}
        (schema,) = self._call("POST", "/block_schemas/filter", wanted)  # the newest
        body: dict[str, Any] = {"data": data, "block_schema_id": schema["id"]}
        if known:
            self._call("PATCH", f"/block_documents/{known[0]['id']}", {**body, "merge_existing_data": False})
            return str(known[0]["id"])
        return str(self._call("POST", "/block_documents/", {**body, "name": name, "block_type_id": kind})["id"])

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """Return the workers that a pool has ever had, with ``status`` and ``last_heartbeat_time``."""
        return self._pages(f"/work_pools/{pool}/workers/filter", {})

    def last_success(self, deployment: str) -> dict[str, Any] | None:
        """Return the run of a deployment that was the last to end well, None where none ever did."""
        body = {
            "deployments": {"id": {"any_": [self.deployment_id(deployment)]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
            "sort": "END_TIME_DESC",
            "limit": 1,
        }
        found = self._call("POST", "/flow_runs/filter", body)
        return dict(found[0]) if found else None

    def events(self, names: list[str], resource: str, since: datetime) -> list[dict[str, Any]]:
        """Return the newest events of the given names about one resource, at most 50."""
        body = {
            "filter": {
                "event": {"name": names},
                "resource": {"id": [resource]},
                "occurred": {"since": since.isoformat(), "until": datetime.now(UTC).isoformat()},
            },
            "limit": 50,
        }
        return list(self._call("POST", "/events/filter", body)["events"])

    def _pages(self, path: str, body: dict[str, Any], limit: int = 200) -> list[dict[str, Any]]:
        """Ask for page after page, so that nothing behind the first is overlooked."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("POST", path, {**body, "limit": limit, "offset": len(found)})
            found += page
            if len(page) < limit:
                return found
