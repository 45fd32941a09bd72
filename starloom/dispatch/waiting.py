"""Why an open event waits: its run is there already, its mission is held, or frames are still on their way."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlmodel import Session

from starloom.archive import arrivals, events, missions
from starloom.archive.engine import database_now
from starloom.archive.models import StatusEvent

#: Frames that one round takes up, so that a mission with a hundred thousand of them keeps no other waiting.
STRAYS_AT_ONCE = 500


def reasons_to_wait(
    session: Session, due: Sequence[StatusEvent], runs: Sequence[dict[str, Any]], settle_max_s: float
) -> dict[int, str]:
    """Return those of the events that are not to be published now, with the reason; a few questions for a page.

    Parameters
    ----------
    runs
        The runs of stack-mission that Prefect calls alive and that are not stuck.
    settle_max_s
        A mission waits for frames in flight at most this long after its event.
    """
    # A run for an older event of the mission does not count: it finds that event superseded.
    living = {
        (said.get("mission_id"), said.get("event_id")): run for run in runs if (said := run.get("parameters", {}))
    }
    asked = {event.mission_id for event in due}
    # Frames that were here before their mission get its target now, and are tried again before it is stacked.
    adopting = missions.adopt_strays(session, asked, STRAYS_AT_ONCE) == STRAYS_AT_ONCE
    held = events.held_missions(session, asked)
    flying = arrivals.in_flight_of(session, asked)
    now, bound = database_now(session), timedelta(seconds=settle_max_s)
    waiting: dict[int, str] = {}
    for event in due:
        assert event.id is not None
        if run := living.get((event.mission_id, event.id)):
            waiting[event.id] = f"run {run.get('name')} is {str(run.get('state_type')).lower()}"
        elif adopting:
            waiting[event.id] = "frames that were here before their mission are being taken up"
        elif event.mission_id in held:
            waiting[event.id] = "the mission is being stacked"
        elif event.mission_id in flying and now < event.created_at + bound:
            waiting[event.id] = f"{flying[event.mission_id]} frames in flight"
    return waiting
