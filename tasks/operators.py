"""What operators ask for, as tasks."""

from __future__ import annotations

from prefect import task

from starloom import operating
from starloom.archive import frames
from starloom.hub import current_hub
from tasks.retrying import UPKEEP_S, retrying
from tasks.showing import show_table


@task(**retrying(UPKEEP_S), task_run_name="requeue")
def requeue_frames(conditions: list[str], limit: int) -> list[str]:
    """Requeue the frames that the conditions name, show which, and return their ids."""
    hub = current_hub()
    again = operating.requeue(hub, operating.frames_to_requeue(hub, conditions, limit=limit))
    rows = [
        {"id": one.id, "frame": one.name, "node": one.node_id, "mission": one.obs_req, "now": frames.state_of(one)}
        for one in again
    ]
    show_table("requeued", rows, "Frames that are tried again")
    return [one.id for one in again]


@task(**retrying(UPKEEP_S), task_run_name="restack {mission_id}")
def restack_mission(mission_id: str, reason: str) -> bool:
    """Ask for the mission's next revision; return whether it had not been asked for already."""
    return operating.restack(current_hub().archive, mission_id, reason)[1]
