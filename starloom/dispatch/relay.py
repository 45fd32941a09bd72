"""The relay: from status events in the archive to runs in Prefect, at least once and never lost.

An event stays open until its mission is claimed or the event is superseded. Prefect may lose what it accepted and
may fire twice; the claim makes the second harmless, and looking again makes the first a delay.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from starloom.archive import events, frames
from starloom.archive.engine import Archive, database_now
from starloom.archive.models import Mission, StatusEvent
from starloom.dispatch.rest import LIVING, PrefectApi
from starloom.errors import StarloomError
from starloom.settings import Settings

log = logging.getLogger(__name__)

EVENT = "starloom.mission.complete"
DEPLOYMENT = "stack-mission/stack-mission"
#: A trigger makes its run within a second or two; twice that, doubled with every attempt, means it was lost.
FIRST_WAIT_S = 15.0
MAX_WAIT_S = 600.0
#: Events published in vain before the relay makes the run itself.
EVENTS_FIRST = 2
SETTLE_LOOK_S = 2.0
#: Runs of stack-mission that may wait or work at once; more events stay in the archive, where they are safe.
MAX_OUTSTANDING = 50


@dataclass
class Relay:
    """Look at open events and see to it that each gets a run.

    Parameters
    ----------
    settings, archive, prefect
        Where to look and whom to tell.
    """

    settings: Settings
    archive: Archive
    prefect: PrefectApi
    _wake: threading.Event = field(default_factory=threading.Event)

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop. An archive or server that does not answer is tried again for ever."""
        listener = threading.Thread(target=self._listen, args=(stop,), name="listen", daemon=True)
        if not self.archive.is_sqlite:
            listener.start()
        trouble = 0
        while not stop.is_set():
            try:
                self.once()
                trouble = 0
            except StarloomError as error:
                trouble += 1
                log.warning("relay: %s (%s); trying again", error.message, error.code)
            self._wake.wait(min(self.settings.relay_poll_s * 2.0 ** min(trouble, 5), 30.0))
            self._wake.clear()

    def once(self) -> int:
        """Go through the open events once; return how many were published."""
        with self.archive.session() as session:
            waiting = bool(events.open_events(session, 1))
        if not waiting:
            return 0
        with self.archive.transaction() as session:
            events.supersede_spent(session)
        with self.archive.session() as session:
            now = database_now(session)
            found = [
                (event, mission)
                for event, mission in events.open_events(session)
                if event.next_publish_at is None or event.next_publish_at <= now
            ]
        if not found:
            return 0
        runs = self.prefect.runs(DEPLOYMENT, states=LIVING)
        published = 0
        for event, mission in found:
            if len(runs) + published >= MAX_OUTSTANDING:
                break
            published += self._deliver(event, mission, runs)
        return published

    def _deliver(self, event: StatusEvent, mission: Mission, runs: list[dict[str, Any]]) -> bool:
        assert event.id is not None
        reason = self._reason_to_wait(event, mission, runs)
        if reason is not None:
            with self.archive.transaction() as session:
                events.postpone(session, event.id, SETTLE_LOOK_S, reason)
            return False
        attempt = event.publish_attempts + 1
        parameters = {"mission_id": mission.id, "event_id": event.id}
        if attempt <= EVENTS_FIRST:
            self.prefect.emit(EVENT, f"starloom.mission.{mission.id}", parameters)
            how = "event published"
        else:
            key = f"{event.id}:{attempt}"
            self.prefect.create_run(DEPLOYMENT, parameters, idempotency_key=key)
            how = "run created"
        wait = min(FIRST_WAIT_S * 2.0 ** (attempt - 1), MAX_WAIT_S)
        with self.archive.transaction() as session:
            events.record_publish(session, event.id, wait, f"{how}, attempt {attempt}")
        log.info("mission=%s event=%d %s (attempt %d)", mission.id, event.id, how, attempt)
        return True

    def _reason_to_wait(self, event: StatusEvent, mission: Mission, runs: list[dict[str, Any]]) -> str | None:
        for run in runs:
            said = run.get("parameters", {})
            if said.get("mission_id") == mission.id and said.get("event_id") == event.id:
                return f"run {run.get('name')} is {str(run.get('state_type')).lower()}"
        with self.archive.session() as session:
            if events.is_held(session, mission.id):
                return "the mission is being stacked"
            flying = frames.in_flight(session, mission.id)
            bound = event.created_at + timedelta(seconds=self.settings.settle_max_s)
            if flying and database_now(session) < bound:
                return f"{flying} frames in flight"
        return None

    def _listen(self, stop: threading.Event) -> None:
        """Wake the loop when PostgreSQL notifies; losing the connection costs only the polling interval."""
        import psycopg

        url = self.archive.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not stop.is_set():
            try:
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("LISTEN starloom_status")
                    while not stop.is_set():
                        for _ in connection.notifies(timeout=1.0, stop_after=1):
                            self._wake.set()
            except psycopg.OperationalError as error:
                log.warning("relay: not listening: %s", error)
                stop.wait(5.0)
