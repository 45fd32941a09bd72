"""The relay: from status events in the archive to runs in Prefect, at least once and never lost.

An event stays open until its mission is claimed or the event is superseded. Prefect may lose what it accepted and
may fire twice; the claim makes the second harmless, and looking again makes the first a delay. Any number of
relays may run: an attempt is taken in the archive before Prefect is told, and counts only when Prefect has been.

The relay also gives missions back whose holder fell silent, and ends runs that nobody works on, so that this needs
no run of Prefect's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starloom.archive import alarms, events
from starloom.archive.engine import Archive, database_now
from starloom.archive.giving_back import Budget
from starloom.archive.models import StatusEvent
from starloom.archive.reconciling import reconcile
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.lost_runs import end_lost_runs
from starloom.dispatch.rest import PrefectApi, Said
from starloom.dispatch.runs import LIVING
from starloom.dispatch.waiting import reasons_to_wait
from starloom.errors import StarloomError, Unavailable
from starloom.settings import Settings
from starloom.telemetry import traces
from starloom.telemetry.metrics import RelayMetrics

log = logging.getLogger(__name__)

EVENT = "starloom.mission.complete"
DEPLOYMENT = "stack-mission/stack-mission"
#: A trigger makes its run within a second or two, on a machine at its limit within 17 (measured); this long
#: without one, doubled each time, means that it was lost.
FIRST_WAIT_S = 30.0
MAX_WAIT_S = 600.0
#: Events published in vain before the relay makes the run itself.
EVENTS_FIRST = 2
#: Prefect is told of so many events in one request, and makes so many runs one after the other (0.4 s each).
EVENTS_AT_ONCE, RUNS_AT_ONCE = 200, 8
#: An attempt that was taken and not told, because its relay died, comes again after this long.
TELL_S = 15.0
SETTLE_LOOK_S = 2.0
#: Attempts in vain after which somebody should know: the event is told as ``starloom.mission.unclaimed``.
WORRY_AFTER = 5
#: A run claims its mission seconds after it has started. One that calls itself running or pending for this long
#: and has not, died with its worker, or soon finds itself the second of two, which is harmless. One that is
#: scheduled waits for a worker.
STUCK_AFTER_S = {"RUNNING": 45.0, "PENDING": 75.0, "CANCELLING": 45.0}
#: Leases and unheard missions are looked at so often.
RECONCILE_S = 5.0
#: Lost runs are looked for so often: two questions to Prefect.
LOST_RUNS_S = 30.0


@dataclass
class Relay:
    """Look at open events and see to it that each gets a run.

    Parameters
    ----------
    settings, archive, prefect
        Where to look and whom to tell.
    metrics
        What it counts of its own work.
    """

    settings: Settings
    archive: Archive
    prefect: PrefectApi
    metrics: RelayMetrics = field(default_factory=RelayMetrics)
    _wake: threading.Event = field(default_factory=threading.Event)
    _reconcile_at: float = 0.0
    _lost_runs_at: float = 0.0

    def run(self, stop: threading.Event, *, heard: Callable[[str], None] = lambda trouble: None) -> None:
        """Work until told to stop. An archive or server that does not answer is tried again for ever.

        Parameters
        ----------
        heard
            Called after every round with what troubled it, for `starloom.dispatch.health`.
        """
        if not self.archive.is_sqlite:
            threading.Thread(target=self._listen, args=(stop,), name="listen", daemon=True).start()
        heartbeat = Heartbeat(self.settings.home, "relay")
        troubles = 0
        while not stop.is_set():
            trouble, published = "", 0
            try:
                with self.metrics.round_s.time():
                    self._reconcile_now_and_then()
                    published = self.once()
                    self._end_lost_runs_now_and_then()
                self.metrics.good_round_at.set_to_current_time()
            except StarloomError as error:
                trouble = f"{error.message} ({error.code})"
                log.warning("relay: %s; trying again", trouble)
            except Exception as error:  # whatever it is, the events behind it must not wait for a person
                trouble = f"{type(error).__name__}: {error}"
                log.exception("relay: unexpected; trying again")
            troubles = troubles + 1 if trouble else 0
            if trouble:
                self.metrics.troubles.inc()
                # Holders could not renew their leases either; they are back within a renewal.
                self._reconcile_at = time.monotonic() + 2 * self.settings.lease_renew_s
            pause = min(self.settings.relay_poll_s * 2.0 ** min(troubles, 5), 30.0)
            heartbeat.beat(trouble=trouble, next_s=pause)
            heard(trouble)
            if not published:
                self._sleep(pause, stop)
        heartbeat.stop()

    def _sleep(self, seconds: float, stop: threading.Event) -> None:
        until = time.monotonic() + seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._wake.wait(min(left, 0.5)):
                self._wake.clear()
                return

    def _reconcile_now_and_then(self) -> None:
        if time.monotonic() < self._reconcile_at:
            return
        self._reconcile_at = time.monotonic() + RECONCILE_S
        reconcile(self.archive, Budget(self.settings.stack_attempts, self.settings.stack_retries))
        self._tell_alarms()

    def _end_lost_runs_now_and_then(self) -> None:
        if time.monotonic() < self._lost_runs_at:
            return
        self._lost_runs_at = time.monotonic() + LOST_RUNS_S
        try:
            end_lost_runs(self.prefect, self.settings.start_max_s)
        except Unavailable as error:
            # No trouble of the relay's: what it has to tell, it would say so of; lost runs wait for the next look.
            log.info("relay: lost runs not looked for: %s", error.message)

    def _tell_alarms(self) -> None:
        """Publish what people must hear of: frames given up, bytes that are lost."""
        with self.archive.session() as session:
            due = alarms.due_alarms(session)
        if due:
            refused = self._emit(
                {i: Said(one.event, one.resource, one.payload, one.key) for i, one in enumerate(due)}
            )
            for i, why in refused.items():
                log.error("%s could not be told: %s", due[i].resource, why)
            with self.archive.transaction() as session:
                alarms.note_told(session, due)

    def once(self) -> int:
        """Go through the events that are due once; return how many were published.

        Raises
        ------
        Unavailable
            Archive or Prefect does not answer; nothing is lost, the events stay open.
        """
        with self.archive.session() as session:
            if not events.open_events(session, 1):
                return 0
        self._tell_news()
        with self.archive.transaction() as session:
            events.supersede_spent(session)
            due = events.due_events(session)
        if not due:
            return 0
        runs = [run for run in self.prefect.runs(DEPLOYMENT, states=LIVING) if not is_stuck(run)]
        with self.archive.transaction() as session:
            waiting = reasons_to_wait(session, due, runs, self.settings.settle_max_s)
            events.postpone(session, waiting, SETTLE_LOOK_S)
        room = self._room(runs)
        ready = {event.id: event for event in due if event.id is not None and event.id not in waiting}
        again = {event_id for event_id, event in ready.items() if event.publish_attempts >= EVENTS_FIRST}
        published = 0
        fresh = [event_id for event_id in ready if event_id not in again][:room]
        for i in range(0, len(fresh), EVENTS_AT_ONCE):
            published += self._deliver(ready, fresh[i : i + EVENTS_AT_ONCE])
        for event_id in sorted(again)[: min(max(room - published, 0), RUNS_AT_ONCE)]:
            published += self._deliver(ready, [event_id])
        return published

    def _room(self, runs: list[dict[str, Any]]) -> int:
        """Return how many runs more may wait or work at once; further events stay in the archive, safe.

        What counts: missions that are held, runs that wait to claim one, and events whose run has not come yet.
        """
        with self.archive.session() as session:
            holders, awaited = events.holders(session), events.awaited(session)
        idle = [run for run in runs if str(run.get("id")) not in holders]
        coming = awaited - {run.get("parameters", {}).get("event_id") for run in idle}
        return max(self.settings.max_outstanding_runs - len(holders) - len(idle) - len(coming), 0)

    def _tell_news(self) -> None:
        """Publish how missions ended, ``starloom.mission.failed`` and the like, for people's automations.

        Before these events are closed: if Prefect is down they are told later, if two relays run under one id.
        """
        with self.archive.session() as session:
            news = events.news(session)
        if not news:
            return
        said: dict[int, Said] = {}
        for event, mission in news:
            assert event.id is not None
            word = event.new_status.lower()
            failed = word == "failed"
            payload = {
                "mission_id": mission.id,
                "event_id": event.id,
                "code": mission.failure_code if failed else None,
                "hint": mission.failure_hint if failed else None,
            }
            said[event.id] = Said(
                f"starloom.mission.{word}", f"starloom.mission.{mission.id}", payload, _key(event, word)
            )
            if failed:
                log.error("FAILED: %s: %s", mission.failure_code, mission.failure_hint, extra=_about(event))
        refused = self._emit(said)
        with self.archive.transaction() as session:
            events.close_told(session, said.keys() - refused.keys(), "told")
            for event_id, why in refused.items():
                # No news is worth that the events behind it wait for ever.
                log.error("could not be told: %s", why, extra={"event": event_id})
                events.close_told(session, [event_id], f"not told: {why}")

    def _emit(self, said: dict[int, Said]) -> dict[int, str]:
        """Publish events together; return those that Prefect refuses, with its reason."""
        try:
            self.prefect.emit_all(list(said.values()))
        except Unavailable:
            raise
        except StarloomError as error:
            if len(said) == 1:
                return dict.fromkeys(said, error.message)
            # One of them is not to its liking; the others must not suffer for it.
            return {key: why for key, one in said.items() for why in self._emit({key: one}).values()}
        return {}

    def _deliver(self, ready: dict[int, StatusEvent], event_ids: list[int]) -> int:
        """Take the next attempts at events, tell Prefect, and count them told, or give them back.

        A relay that dies between the two leaves attempts that come again by themselves after `TELL_S`.
        """
        with self.archive.transaction() as session:
            taken = events.take_attempts(session, event_ids, TELL_S)
        if not taken:
            return 0
        try:
            with traces.span("tell Prefect", events=len(taken)):
                refused = self._tell({event_id: ready[event_id] for event_id in taken}, taken)
        except Unavailable as error:
            with self.archive.transaction() as session:
                events.give_attempts_back(session, taken, SETTLE_LOOK_S, error.message)
            raise
        told = {event_id: attempt for event_id, attempt in taken.items() if event_id not in refused}
        with self.archive.transaction() as session:
            events.attempts_told(session, told, wait_s, note)
            for event_id, why in refused.items():
                events.give_attempts_back(session, {event_id: taken[event_id]}, FIRST_WAIT_S, why)
                log.error("refused: %s", why, extra=_about(ready[event_id]))
        for event_id, attempt in told.items():
            self.metrics.told.labels("event" if attempt <= EVENTS_FIRST else "run").inc()
            log.info(note(attempt), extra=_about(ready[event_id]))
        return len(told)

    def _tell(self, wanted: dict[int, StatusEvent], taken: dict[int, int]) -> dict[int, str]:
        """Publish events, or make runs of those that were published in vain; return the refused ones, and why."""
        said: dict[int, Said] = {}
        refused: dict[int, str] = {}
        for event_id, event in wanted.items():
            attempt, resource = taken[event_id], f"starloom.mission.{event.mission_id}"
            parameters = {"mission_id": event.mission_id, "event_id": event_id}
            if attempt <= EVENTS_FIRST:
                said[event_id] = Said(EVENT, resource, parameters, _key(event, f"attempt {attempt}"))
                continue
            try:
                self.prefect.create_run(
                    DEPLOYMENT, parameters, idempotency_key=f"{event_id}:{attempt}:{_stamp(event)}"
                )
            except Unavailable:
                raise
            except StarloomError as error:
                refused[event_id] = error.message
            if attempt == WORRY_AFTER:
                since = event.created_at.isoformat()
                log.error("told %d times since %s", attempt, since, extra=_about(event))
                worry = {**parameters, "attempts": attempt, "since": since}
                self._emit({event_id: Said("starloom.mission.unclaimed", resource, worry, _key(event, "worry"))})
        if said:
            refused |= self._emit(said)
        return refused

    def health(self) -> dict[str, Any]:
        """Return what `starloom.dispatch.health` tells of the archive: ages in seconds, None where none is."""
        with self.archive.session() as session:
            now = database_now(session)
            oldest, claimed = events.oldest_open(session), events.newest_claim(session)
        return {
            "oldest_open_event": None if oldest is None else oldest[0],
            "oldest_open_event_s": None if oldest is None else (now - oldest[1]).total_seconds(),
            "newest_claim_s": None if claimed is None else (now - claimed).total_seconds(),
        }

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


def wait_s(attempt: int) -> float:
    """Return how long an event is given to be claimed after an attempt, before the next."""
    return min(FIRST_WAIT_S * 2.0 ** (attempt - 1), MAX_WAIT_S)


def note(attempt: int) -> str:
    """Return in words what an attempt does."""
    return f"{'event published' if attempt <= EVENTS_FIRST else 'run created'}, attempt {attempt}"


def _about(event: StatusEvent) -> dict[str, Any]:
    return {"mission": event.mission_id, "event": event.id}


def _stamp(event: StatusEvent) -> str:
    # Prefect keeps a key for ever. Mission and time set apart the events of an archive that was made anew, and of
    # two hubs on one server, which count from 1 as well.
    return f"{event.mission_id}:{event.created_at:%Y%m%dT%H%M%S.%f}"


def _key(event: StatusEvent, what: str) -> str:
    return f"{event.id}:{what}:{_stamp(event)}"


def is_stuck(run: dict[str, Any]) -> bool:
    """Tell whether a run that calls itself alive has been pending or running too long to be merely waiting."""
    limit = STUCK_AFTER_S.get(str(run.get("state_type")))
    if limit is None:
        return False
    since = datetime.fromisoformat((run.get("state") or {}).get("timestamp") or run["created"])
    return (datetime.now(UTC) - since).total_seconds() > limit
