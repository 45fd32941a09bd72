"""What operators start by hand from the Prefect UI: frames tried again, a mission stacked again."""

from __future__ import annotations

from prefect import flow

from tasks.operators import requeue_frames as requeue
from tasks.operators import restack_mission as restack


@flow(name="requeue-frames", persist_result=False)
def requeue_frames(
    mission: str | None = None,
    node: str | None = None,
    code: str | None = None,
    where: list[str] | None = None,
    limit: int = 1000,
) -> int:
    """Try frames again that were set aside, parked or failed in a step; at least one condition must be given.

    Parameters
    ----------
    mission, node
        Only frames of this mission (ObsReq), of this telescope (TelID).
    code
        Only frames set aside with this code, such as ``retries-spent``.
    where
        Further conditions, as ``starloom frames list --where`` takes them.
    limit
        At most so many.
    """
    said = {"mission": mission, "node": node, "disposition_code": code}
    conditions = [f"{name}={value}" for name, value in said.items() if value]
    return len(requeue([*conditions, *(where or [])], limit))


@flow(name="restack-mission", flow_run_name="restack {mission_id}", persist_result=False)
def restack_mission(mission_id: str, reason: str) -> bool:
    """Ask for a mission's next revision now, late frames included; False where it was asked for already.

    Parameters
    ----------
    mission_id
        The mission (ObsReq).
    reason
        Why; it stands in the event that the archive keeps.
    """
    return restack(mission_id, reason)
