"""What is stuck, since when, why, and what will happen to it: the table of ``starloom status``."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text as sql
from sqlalchemy import union
from sqlmodel import Session, col, or_, select

from starloom.archive import dispositions, events
from starloom.archive.claims import HELD
from starloom.archive.engine import database_now
from starloom.archive.models import DAMAGED, WAITING, Frame, Mission, RawCheck, Revision
from starloom.archive.staleness import NO_FRAMES
from starloom.dispatch.relay import EVENTS_FIRST
from starloom.dispatch.rest import PrefectApi

#: Rows of one kind; the oldest are shown.
MOST = 100
#: A run that could have started so long ago waits for a worker, seconds.
LATE_S = 60.0


def stuck(session: Session, *, relay_alive: bool) -> list[dict[str, Any]]:
    """Return rows ``what, id, since, why, next, when``: whatever waits in the archive, the oldest of a kind first.

    ``when`` is None where nothing happens by itself; ``next`` then says what to do.
    """
    now = database_now(session)
    return [
        *_open_events(session, relay_alive),
        *_missions_in_hand(session, now),
        *_failed_missions(session),
        *_frames(session),
        *_damaged(session),
    ]


def _row(what: str, id_: object, since: datetime | None, why: str, then: str, when: Any = None) -> dict[str, Any]:
    return {"what": what, "id": str(id_), "since": since, "why": why, "next": then, "when": when}


def _open_events(session: Session, relay_alive: bool) -> list[dict[str, Any]]:
    rows = []
    for event, mission in events.open_events(session, MOST):
        if event.new_status != "COMPLETE":
            continue  # news, told within a second of Prefect's answering
        attempt = event.publish_attempts + 1
        then = f"attempt {attempt}: {'its event is published' if attempt <= EVENTS_FIRST else 'a run is created'}"
        if not relay_alive:
            then = "nothing: no relay lives here; start one with `starloom up` or `starloom relay`"
        why = event.note or "nobody has looked at it yet"
        rows.append(_row("mission to stack", mission.id, event.created_at, why, then, event.next_publish_at))
    return rows


def _missions_in_hand(session: Session, now: datetime) -> list[dict[str, Any]]:
    rows = []
    in_hand = union(
        select(Mission.id).where(Mission.status == "STACKING"),
        select(Revision.mission_id).where(col(Revision.status).in_(HELD)),
    )
    found = session.exec(
        select(Mission, Revision)
        .join(Revision, (col(Revision.mission_id) == Mission.id) & col(Revision.status).in_(HELD), isouter=True)
        .where(col(Mission.id).in_(in_hand))
        .order_by(col(Mission.status_changed_at))
        .limit(MOST)
    ).all()
    for mission, held in found:
        if held is None:
            why, then = "nobody holds it", "the relay sets it COMPLETE again"
            rows.append(_row("mission", mission.id, mission.status_changed_at, why, then, now))
            continue
        what = f"r{held.n} epoch {held.epoch}, {held.status} by {held.holder or 'a run'}"
        if held.lease_until > now:
            then = "its lease is renewed, or the mission given back when it ends"
            rows.append(_row("stack", mission.id, held.claimed_at, f"{what} works on it", then, held.lease_until))
        else:
            why = f"{what} fell silent"
            rows.append(_row("stack", mission.id, held.lease_until, why, "the relay gives the mission back", now))
    return rows


def _failed_missions(session: Session) -> list[dict[str, Any]]:
    found = session.exec(
        select(Mission).where(Mission.status == "FAILED").order_by(col(Mission.status_changed_at)).limit(MOST)
    ).all()
    return [
        _row(
            "failed mission",
            mission.id,
            mission.status_changed_at,
            f"{mission.failure_code}: {mission.failure_hint}",
            "`sweep` opens it again once a frame is READY and all is quiet"
            if mission.failure_code == NO_FRAMES
            else f"nothing by itself: mend it, then `starloom mission restack {mission.id}`",
        )
        for mission in found
    ]


def _frames(session: Session) -> list[dict[str, Any]]:
    """Return frames that wait for another try, and those set aside, counted by step and code."""
    parked = session.exec(
        select(Frame.received_at, Frame.in_hand, Frame.last_error, Frame.next_attempt_at)
        .where(
            sql(WAITING),
            or_(Frame.attempts > 0, col(Frame.in_hand).is_not(None)),
        )
        .order_by(col(Frame.next_attempt_at))
        .limit(10 * MOST)
    ).all()
    groups: dict[tuple[str, str], list[tuple[datetime, datetime | None]]] = defaultdict(list)
    for received_at, in_hand, error, again in parked:
        said = error or {}
        step = in_hand or str(said.get("step", ""))
        groups[step, "in hand" if in_hand else str(said.get("code"))].append((received_at, again))
    rows = []
    for (step, code), some in sorted(groups.items()):
        then = "taken up again where its run is lost" if code == "in hand" else "`sweep` tries them again"
        when = min((again for _, again in some if again is not None), default=None)
        count = f"{len(some)} frame{'s' * (len(some) > 1)}"
        rows.append(_row("frames", count, min(at for at, _ in some), f"{step}: {code}", then, when))
    return rows + _set_aside(session)


def _set_aside(session: Session) -> list[dict[str, Any]]:
    rows = []
    for code, count, since in dispositions.quarantined_by_code(session):
        then = "nothing by itself: their nodes were told why; `starloom frames requeue` tries them again"
        if code == dispositions.SPENT:
            then = f"nothing by itself: mend it, then `starloom frames requeue --where disposition_code={code}`"
        rows.append(_row("frames set aside", f"{count} frame{'s' * (count > 1)}", since, code, then))
    return rows


def _damaged(session: Session) -> list[dict[str, Any]]:
    found = session.exec(select(RawCheck).where(sql(DAMAGED)).order_by(col(RawCheck.checked_at)).limit(MOST)).all()
    then = "nothing by itself: put the good one of its copies back, or ask its node for the frame"
    return [_row("raw object", check.key, check.checked_at, check.detail or check.state, then) for check in found]


def late_runs(api: PrefectApi) -> list[dict[str, Any]]:
    """Return the runs that wait for a worker for more than a minute, as rows of the same table."""
    return [
        _row(
            "run",
            run["name"],
            datetime.fromisoformat(run["expected_start_time"]),
            f"waits for a worker in the queue {run.get('work_queue_name')} of {run.get('work_pool_name')}",
            "starts when a worker is free and its queue is not paused",
        )
        for run in api.late_runs(timedelta(seconds=LATE_S), MOST)
    ]
