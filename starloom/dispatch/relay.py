"""The relay: from status events in the archive to runs in Prefect, at least once and never lost.

An event stays open until its mission is claimed or the event is superseded. Prefect may lose what it accepted and
may fire twice; the claim makes the second harmless, and looking again makes the first a delay. Any number of
relays may run: an attempt is taken in the archive before Prefect is told.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel import Session

from starloom.archive import arrivals, events
from starloom.archive.engine import Archive, database_now
from starloom.archive.models import Mission, StatusEvent
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.rest import LIVING, PrefectApi
from starloom.errors import StarloomError, Unavailable
from starloom.settings import Settings

log = logging.getLogger(__name__)

EVENT = "starloom.mission.complete"
DEPLOYMENT = "stack-mission/stack-mission"
#: A trigger makes its run within a second or two, on a machine at its limit within 17 (measured); this long
#: without one, doubled each time, means that it was lost.
FIRST_WAIT_S = 30.0
MAX_WAIT_S = 600.0
#: Events published in vain before the relay makes the run itself.
EVENTS_FIRST = 2
SETTLE_LOOK_S = 2.0
#: Runs of stack-mission that may wait or work at once; more events stay in the archive, where they are safe.
MAX_OUTSTANDING = 50
#: A run claims its mission seconds after it starts. One that is pending or running for this long and has not,
#: died with its worker: Prefect shows it as running for ever. One that is scheduled waits for a worker.
STUCK_AFTER_S = 600.0


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
        if not self.archive.is_sqlite:
            threading.Thread(target=self._listen, args=(stop,), name="listen", daemon=True).start()
        heartbeat = Heartbeat(self.settings.home, "relay")
        troubles = 0
        while not stop.is_set():
            trouble = ""
            try:
                self.once()
            except StarloomError as error:
                trouble = f"{error.message} ({error.code})"
                log.warning("relay: %s; trying again", trouble)
            except Exception as error:  # whatever it is, the events behind it must not wait for a person
                trouble = f"{type(error).__name__}: {error}"
                log.exception("relay: unexpected; trying again")
            troubles = troubles + 1 if trouble else 0
            pause = min(self.settings.relay_poll_s * 2.0 ** min(troubles, 5), 30.0)
            heartbeat.beat(trouble=trouble, next_s=pause)
            self._sleep(pause, stop)
        heartbeat.stop()

    def _sleep(self, seconds: float, stop: threading.Event) -> None:
        until = time.monotonic() + seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._wake.wait(min(left, 0.5)):
                self._wake.clear()
                return

    def once(self) -> int:
        """Go through the events that are due once; return how many were published.

        Raises
        ------
        Unavailable
            Archive or Prefect does not answer; nothing is lost, the events stay open.
        """
        with self.archive.session() as session:
            spent = events.spent_events(session)
        if spent:
            self._tell_news()
            with self.archive.transaction() as session:
                events.supersede_spent(session)
        with self.archive.session() as session:
            if not events.due_events(session, 1):
                return 0
        runs = [run for run in self.prefect.runs(DEPLOYMENT, states=LIVING) if not is_stuck(run)]
        waiting: list[tuple[int, str]] = []
        ready: list[tuple[StatusEvent, Mission]] = []
        with self.archive.session() as session:
            for event, mission in events.due_events(session):
                assert event.id is not None
                reason = self._reason_to_wait(session, event, mission, runs)
                if reason is None:
                    ready.append((event, mission))
                else:
                    waiting.append((event.id, reason))
        if waiting:
            with self.archive.transaction() as session:
                for event_id, reason in waiting:
                    events.postpone(session, event_id, SETTLE_LOOK_S, reason)
        room = max(MAX_OUTSTANDING - len(runs), 0)
        return sum(self._deliver(event, mission) for event, mission in ready[:room])

    def _tell_news(self) -> None:
        """Publish how missions ended, ``starloom.mission.failed`` and the like, for people's automations.

        Before these events are closed: if Prefect is down they are told later, if two relays run perhaps twice.
        """
        with self.archive.session() as session:
            news = events.news(session)
        for event, mission in news:
            word = event.new_status.lower()
            said = {
                "mission_id": mission.id,
                "event_id": event.id,
                "code": mission.failure_code if word == "failed" else None,
                "hint": mission.failure_hint if word == "failed" else None,
            }
            self.prefect.emit(f"starloom.mission.{word}", f"starloom.mission.{mission.id}", said)
            if word == "failed":
                log.error("mission=%s FAILED: %s: %s", mission.id, mission.failure_code, mission.failure_hint)

    def _deliver(self, event: StatusEvent, mission: Mission) -> bool:
        """Take the next attempt at an event, tell Prefect, and give the attempt back if that failed."""
        assert event.id is not None
        attempt = event.publish_attempts + 1
        how = "event published" if attempt <= EVENTS_FIRST else "run created"
        wait = min(FIRST_WAIT_S * 2.0 ** (attempt - 1), MAX_WAIT_S)
        with self.archive.transaction() as session:
            if not events.take_attempt(session, event.id, attempt, wait, f"{how}, attempt {attempt}"):
                return False
        try:
            self._tell(event, attempt)
        except StarloomError as error:
            with self.archive.transaction() as session:
                pause = SETTLE_LOOK_S if isinstance(error, Unavailable) else FIRST_WAIT_S
                events.give_attempt_back(session, event.id, attempt, pause, error.message)
            if isinstance(error, Unavailable):
                raise
            log.error("mission=%s event=%d refused: %s", mission.id, event.id, error.message)
            return False
        log.info("mission=%s event=%d %s (attempt %d)", mission.id, event.id, how, attempt)
        return True

    def _tell(self, event: StatusEvent, attempt: int) -> None:
        parameters = {"mission_id": event.mission_id, "event_id": event.id}
        if attempt <= EVENTS_FIRST:
            self.prefect.emit(EVENT, f"starloom.mission.{event.mission_id}", parameters)
            return
        # Prefect keeps a key for ever. Mission and time set apart the events of an archive that was made anew, and
        # of two hubs on one server, which count from 1 as well.
        key = f"{event.id}:{attempt}:{event.mission_id}:{event.created_at:%Y%m%dT%H%M%S.%f}"
        self.prefect.create_run(DEPLOYMENT, parameters, idempotency_key=key)

    def _reason_to_wait(
        self, session: Session, event: StatusEvent, mission: Mission, runs: list[dict[str, Any]]
    ) -> str | None:
        for run in runs:
            said = run.get("parameters", {})
            # A run for an older event of the mission does not count: it finds that event superseded.
            if said.get("mission_id") == mission.id and said.get("event_id") == event.id:
                return f"run {run.get('name')} is {str(run.get('state_type')).lower()}"
        if events.is_held(session, mission.id):
            return "the mission is being stacked"
        bound = event.created_at + timedelta(seconds=self.settings.settle_max_s)
        if database_now(session) < bound and (flying := arrivals.in_flight(session, mission.id)):
            return f"{flying} frames in flight"
        return None

    def _listen(self, stop: threading.Event) -> None:
        """Wake the loop when PostgreSQL notifies; losing the connection costs only the polling interval."""
        import psycopg

        url = self.archive.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        while not stop.is_set():
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
                    connection.execute("LISTEN starloom_status")
                    self._wake.set()  # what was notified while nobody listened
                    while not stop.is_set():
                        for _ in connection.notifies(timeout=1.0, stop_after=1):
                            self._wake.set()
            except psycopg.Error as error:
                log.warning("relay: not listening: %s", error)
                stop.wait(5.0)


def is_stuck(run: dict[str, Any]) -> bool:
    """Tell whether a run that calls itself alive has been pending or running too long to be merely waiting."""
    if run.get("state_type") == "SCHEDULED":
        return False
    since = datetime.fromisoformat((run.get("state") or {}).get("timestamp") or run["created"])
    return datetime.now(UTC) - since > timedelta(seconds=STUCK_AFTER_S)
