"""Prefect's REST API, as much of it as starloom needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

from starloom.dispatch.runs import TAG, Runs
from starloom.errors import StarloomError

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


class PrefectApi(Runs):
    """A synchronous client; every answer is checked, so that what is returned has been accepted."""

    def is_healthy(self) -> bool:
        """Tell whether the server answers."""
        try:
            return bool(self.call("GET", "/health"))
        except StarloomError:
            return False

    def version(self) -> str:
        """Return the server's version."""
        return str(self.call("GET", "/admin/version"))

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
        self.call("POST", "/events", body)

    def deployments(self) -> list[str]:
        """Return the names ``flow/deployment`` of all deployments of this project."""
        body = {"deployments": {"tags": {"all_": [TAG]}}, "limit": 200}
        found = self.call("POST", "/deployments/filter", body)
        flows = {flow["id"]: flow["name"] for flow in self.call("POST", "/flows/filter", {"limit": 200})}
        return sorted(f"{flows.get(entry['flow_id'])}/{entry['name']}" for entry in found)

    def pause_deployment(self, name: str, *, paused: bool) -> None:
        """Stop the schedules of a deployment, and remove the runs that they have made; or let them go on."""
        verb = "pause" if paused else "resume"
        self.call("POST", f"/deployments/{self.deployment_id(name)}/{verb}_deployment")

    def update_schedule(self, deployment_id: str, schedule_id: str, changes: dict[str, Any]) -> None:
        """Change one schedule of a deployment."""
        self.call("PATCH", f"/deployments/{deployment_id}/schedules/{schedule_id}", changes)

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
            self.call("PATCH", f"/deployments/{found['id']}", {"job_variables": variables})

    def pool(self, pool: str) -> dict[str, Any] | None:
        """Return a work pool (``type``, ``is_paused``, ``concurrency_limit``, …), None where there is none."""
        found = self.call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": [pool]}}})
        return dict(found[0]) if found else None

    def update_pool(self, pool: str, changes: dict[str, Any]) -> None:
        """Change what a work pool says of itself."""
        self.call("PATCH", f"/work_pools/{pool}", changes)

    def queues(self, pool: str) -> list[dict[str, Any]]:
        """Return the queues of a work pool."""
        return list(self.call("POST", f"/work_pools/{pool}/queues/filter", {}))

    def pause_queue(self, pool: str, queue: str, *, paused: bool) -> None:
        """Let workers take nothing from a queue any more, or again."""
        self.call("PATCH", f"/work_pools/{pool}/queues/{queue}", {"is_paused": paused})

    def set_queue(self, pool: str, queue: str, priority: int, limit: int | None) -> None:
        """Set which queue of a pool a worker serves first (1 before 2), and its runs at once.

        A queue that is not there is made. Without a limit, one that was set on the server stays.
        """
        wanted = {"priority": priority} | ({} if limit is None else {"concurrency_limit": limit})
        found = next((entry for entry in self.queues(pool) if entry["name"] == queue), None)
        if found is None:
            self.call("POST", f"/work_pools/{pool}/queues", {"name": queue, **wanted})
        elif any(found[key] != value for key, value in wanted.items()):
            self.call("PATCH", f"/work_pools/{pool}/queues/{queue}", wanted)

    def automations(self) -> list[dict[str, Any]]:
        """Return all automations, the deployments' own triggers among them."""
        return self.pages("/automations/filter", {})

    def create_automation(self, body: dict[str, Any]) -> str:
        """Create an automation and return its id."""
        return str(self.call("POST", "/automations/", body)["id"])

    def update_automation(self, automation_id: str, body: dict[str, Any]) -> None:
        """Replace what an automation says; it keeps its id, and forgets what it has counted so far."""
        self.call("PUT", f"/automations/{automation_id}", body)

    def delete_automation(self, automation_id: str) -> None:
        """Delete an automation."""
        self.call("DELETE", f"/automations/{automation_id}")

    def enable_automation(self, automation_id: str, *, enabled: bool) -> None:
        """Switch an automation on or off."""
        self.call("PATCH", f"/automations/{automation_id}", {"enabled": enabled})

    def variable(self, name: str) -> Any:
        """Return the value of a Prefect variable, None where there is none."""
        found = self.call("POST", "/variables/filter", {"variables": {"name": {"any_": [name]}}})
        return found[0]["value"] if found else None

    def set_variable(self, name: str, value: Any) -> None:
        """Create a Prefect variable or replace its value, anything that JSON holds."""
        if self.variable(name) is None:
            self.call("POST", "/variables/", {"name": name, "value": value})
        else:
            self.call("PATCH", f"/variables/name/{name}", {"value": value})

    def blocks(self, name: str) -> list[dict[str, Any]]:
        """Return the blocks of a name, one of a type at most; their secrets stay with the server."""
        body = {"block_documents": {"name": {"any_": [name]}}, "include_secrets": False}
        return self.pages("/block_documents/filter", body)

    def save_block(self, name: str, type_slug: str, data: dict[str, Any]) -> str:
        """Create a block or replace the data of the one there is; return its id."""
        kind = self.call("GET", f"/block_types/slug/{type_slug}")["id"]
        known = [block for block in self.blocks(name) if block["block_type_id"] == kind]
        wanted = {"block_schemas": {"block_type_id": {"any_": [kind]}}, "limit": 1}
        (schema,) = self.call("POST", "/block_schemas/filter", wanted)  # the newest
        body: dict[str, Any] = {"data": data, "block_schema_id": schema["id"]}
        if known:
            self.call("PATCH", f"/block_documents/{known[0]['id']}", {**body, "merge_existing_data": False})
            return str(known[0]["id"])
        return str(self.call("POST", "/block_documents/", {**body, "name": name, "block_type_id": kind})["id"])

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """Return the workers that a pool has ever had, with ``status`` and ``last_heartbeat_time``."""
        return self.pages(f"/work_pools/{pool}/workers/filter", {})

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
        return list(self.call("POST", "/events/filter", body)["events"])
