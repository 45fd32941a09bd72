"""What flows, relay, sweep, tidy, status and the command line ask of the archive, by name, as they ask it.

Each ask calls the code of the hub itself, so the statements in `queries.sql` are those that it issues. What
writes is rolled back.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import event, text
from sqlmodel import Session, SQLModel

from starloom import mastering, receipts, scrubbing, watching
from starloom.archive import (
    Archive,
    alarms,
    arrivals,
    claims,
    comparing,
    counting,
    dispositions,
    events,
    frames,
    giving_back,
    instruments,
    masters,
    missions,
    positions,
    reconciling,
    results,
    revisions,
    selecting,
    staleness,
)
from starloom.archive.models import Frame
from starloom.dispatch import watchdog
from starloom.dispatch.stuck import stuck
from starloom.dispatch.waiting import reasons_to_wait
from starloom.photometry import step as photometry
from starloom.quicklook import step as quicklook
from starloom.settings import Settings

SETTINGS = Settings()


@dataclass(frozen=True)
class Key:
    """Random rows that an ask is about."""

    frame: Frame
    """A READY one."""
    pending: str
    """Id of a frame under way."""
    stacked: str
    open: str
    objects: list[str]
    age_s: float
    """Since the newest frame came: an archive is asked later than it was filled."""


@dataclass(frozen=True)
class Statement:
    """A statement as the database got it."""

    sql: str
    values: Any
    seconds: float


Ask = Callable[[Archive, Session, Key], Any]


def _discover(archive: Archive, session: Session, key: Key) -> None:
    name = f"ObsReq-{key.open}_TelID-{key.frame.node_id}_20261201T{random.randrange(10**6):06d}.fits.fz"
    inbox = f"inbox/{key.frame.node_id}/20261201/{name}"
    arrivals.known_at(session, [inbox])
    arrivals.taken_up(session, [name])
    found = arrivals.discover(
        session, inbox_key=inbox, etag="e", name=name, node_id=key.frame.node_id, obs_req=key.open, kind="light",
        start_utc=datetime.now(UTC),
    )  # fmt: skip
    assert found is not None
    frames.claim_step(session, found.id, "ingest")
    arrivals.record_ingest(session, found.id, pixel_digest=uuid4().hex, mission_id=key.open)
    arrivals.leave_inbox(session, found.id)


def _announce(archive: Archive, session: Session, key: Key) -> None:
    arrivals.announce(
        session, node_id=key.frame.node_id, name=uuid4().hex, obs_req=key.open, size=1, sha256=uuid4().hex * 2,
        expires_at=datetime.now(UTC),
    )  # fmt: skip


def _settle(archive: Archive, session: Session, key: Key) -> None:
    frames.claim_step(session, key.pending, "calibrate")
    frames.settle_step(session, key.pending, "calibrate")


def _results(archive: Archive, session: Session, key: Key) -> None:
    results.newest_solution(session, key.frame.id)
    results.current_results(session, key.frame.id)


def _own_stars(archive: Archive, session: Session, key: Key) -> None:
    solution = results.current_solution(session, key.frame.id)
    assert solution is not None
    positions.source_lists_near(session, solution.ra_deg, solution.dec_deg, 0.3, besides=key.frame.id, limit=12)


def _publish_events(archive: Archive, session: Session, key: Key) -> None:
    events.open_events(session, 1)
    events.supersede_spent(session)
    due = events.due_events(session)
    reasons_to_wait(session, due, [], SETTINGS.settle_max_s)
    events.holders(session)
    events.awaited(session)
    events.news(session)


def _health(archive: Archive, session: Session, key: Key) -> None:
    events.oldest_open(session)
    events.newest_claim(session)
    with suppress(watchdog.Dead):  # in an archive that was filled hours ago nothing moves
        watchdog._claims_move(session, SETTINGS)


def _stale(archive: Archive, session: Session, key: Key) -> None:
    staleness.stale_missions(session, 600.0, staleness.recently_changed(session, 4200.0 + key.age_s))


def _overlooked(archive: Archive, session: Session, key: Key) -> None:
    staleness.share_of_all(session, random.randrange(staleness.ROUND_H))


def _measures(archive: Archive, session: Session, key: Key) -> None:
    for measure in (watching.silent_nodes, watching.refused_frames, watching.full_queues):
        list(measure(session, SETTINGS))


def _raw_objects(archive: Archive, session: Session, key: Key) -> None:
    scrubbing.note_new(session)
    scrubbing.share_of(session, 30)
    scrubbing.longest_unchecked(session, scrubbing.AT_ONCE)
    scrubbing.not_copied(session)


def _status(archive: Archive, session: Session, key: Key) -> None:
    counting.frames_now(session)
    counting.missions_now(session)
    events.surplus_runs(session, 86400.0)
    events.open_events(session)
    stuck(session, relay_alive=True)


ASKS: dict[str, Ask] = {
    "ingest: register, claim, file, free": _discover,
    "ingest: announcement": _announce,
    "process-frames: claim and settle a step": _settle,
    "process-frames: results of a frame": _results,
    "process-frames: receipt": lambda _, s, key: receipts.describe(s, key.frame.id),
    "process-frames: masters of an instrument": lambda _, s, key: masters.current(s, key.frame.instrument_id),
    "process-frames: what an instrument has learnt": lambda _, s, key: instruments.learnt(
        s, key.frame.instrument_id
    ),
    "process-frames: photometry's history": lambda _, s, key: photometry._history(s, key.frame),
    "process-frames: source lists near": _own_stars,
    "process-frames: is there a page": lambda _, s, key: quicklook._has_a_page(s, key.frame),
    "relay: lost holders, unheard missions": lambda a, s, key: reconciling.reconcile(a, giving_back.Budget()),
    "relay: events": _publish_events,
    "relay: alarms": lambda _, s, key: alarms.due_alarms(s),
    "relay: health": _health,
    "stack-mission: bind": lambda _, s, key: s.exec(claims._ready(key.stacked)).all(),
    "sweep: frames due": lambda _, s, key: frames.due(s, 512),
    "sweep: stale stacks": _stale,
    "sweep: what is watched": _measures,
    "sweep: instruments with more to learn": lambda _, s, key: instruments.with_more_to_learn(s),
    "sweep: solutions of an instrument": lambda _, s, key: instruments.solutions_of(
        s, key.frame.instrument_id or 0
    ),
    "sweep: instruments with news": lambda _, s, key: masters.instruments_with_news(s, lights_needed=10),
    "sweep: masters wanted": lambda _, s, key: mastering.wanted(s, key.frame.instrument_id or 0, 300.0),
    "tidy: forgotten frames": lambda _, s, key: frames.forgotten(s, 512),
    "tidy: a share of all stacks": _overlooked,
    "tidy: receipts left out": lambda _, s, key: revisions.untold(s, 600.0, 50),
    "tidy: orphans among 500 objects": lambda _, s, key: results.unreferenced(s, key.objects),
    "tidy: raw objects to check": _raw_objects,
    "status": _status,
    "status: stale stacks": lambda _, s, key: staleness.why_stale(s),
    "frames list": lambda _, s, key: selecting.every_frame_where(s, [], limit=200),
    "frames list --node": lambda _, s, key: selecting.every_frame_where(s, [], limit=200, node=key.frame.node_id),
    "frames list --mission": lambda _, s, key: selecting.every_frame_where(s, [], limit=200, mission=key.stacked),
    "frames list --disposition": lambda _, s, key: selecting.every_frame_where(
        s, [], limit=200, disposition="quarantined"
    ),
    "frames show, by name": lambda _, s, key: frames.find(s, key.frame.name),
    "frames show, by the beginning of its id": lambda _, s, key: frames.find(s, key.frame.id[:12]),
    "frames show, history": lambda _, s, key: (
        results.history(s, key.frame.id), dispositions.attempts_at(s, key.frame.id)
    ),
    "mission list": lambda _, s, key: missions.list_missions(s),
    "mission show": lambda _, s, key: missions.describe(s, key.stacked),
    "mission diff": lambda _, s, key: comparing.compare(s, key.stacked),
    "node list": lambda _, s, key: missions.list_nodes(s),
}  # fmt: skip


def keys(archive: Archive, count: int, *, seed: int = 1) -> list[Key]:
    """Return random keys: frames and missions of any age."""
    rng = random.Random(seed)
    with archive.session() as session:
        run = session.connection().execute
        estimate = run(text("SELECT reltuples FROM pg_class WHERE relname = 'mission'")).scalar_one()
        # Missions of two revisions, which can be compared.
        numbers = [n for n in range(7, int(estimate), 10) if n >= 30 and n % 200 != 1 and n % 100 != 2]
        pending = list(run(text("SELECT id FROM frame WHERE next_attempt_at IS NOT NULL")).scalars())
        age_s = run(text("SELECT extract(epoch FROM now() - max(received_at)) FROM frame")).scalar_one()
        found = []
        while len(found) < count:
            mission = f"M{rng.choice(numbers)}"
            some = frames.list_frames(session, mission=mission, disposition="active", limit=500)
            ready = [frame for frame in some if frame.ready_at is not None]
            if not ready:
                continue
            made = [key for frame in ready for key in (frame.solved_key, frame.sources_key) if key]
            orphans = [key.replace("/1.", "/0.") for key in made]
            objects = [*made, *orphans][:500]
            open_one = f"M{rng.randrange(20)}"
            found.append(Key(rng.choice(ready), rng.choice(pending), mission, open_one, objects, float(age_s)))
    return found


@contextmanager
def listening(archive: Archive) -> Iterator[list[Statement]]:
    """Collect every statement that goes to the database."""
    heard: list[Statement] = []

    def before(connection: Any, *_: Any) -> None:
        connection.info["starloom_began"] = time.perf_counter()

    def after(connection: Any, cursor: Any, sql: str, values: Any, context: Any, many: bool) -> None:
        took = time.perf_counter() - connection.info["starloom_began"]
        heard.append(Statement(sql, values[0] if many and values else values, took))

    event.listen(archive.engine, "before_cursor_execute", before)
    event.listen(archive.engine, "after_cursor_execute", after)
    try:
        yield heard
    finally:
        event.remove(archive.engine, "before_cursor_execute", before)
        event.remove(archive.engine, "after_cursor_execute", after)


def normalised(sql: str) -> str:
    """Return a statement in a form that is short, and the same however many values it was given."""
    said = re.sub(r"\s+", " ", sql).strip()
    for table in SQLModel.metadata.tables.values():
        said = said.replace(
            ", ".join(f"{table.name}.{column.name}" for column in table.columns), f"{table.name}.*"
        )
    said = re.sub(r"%\(\w+?\)s(::TIMESTAMP WITH TIME ZONE|::DOUBLE PRECISION|::\w+)?", "?", said)
    said = re.sub(r"(INSERT INTO \w+) \([^)]*\) VALUES", r"\1 (…) VALUES", said)
    said = re.sub(r"\(\?(, \?)*\)", "(?)", said)
    return re.sub(r"\(\?\)(, \(\?\))+", "(?)", said)


def ask(archive: Archive, name: str, key: Key) -> list[Statement]:
    """Ask once, roll back what was written, and return the statements."""
    with listening(archive) as heard, archive.session() as session:
        ASKS[name](archive, session, key)
        session.flush()
        return [said for said in heard if not said.sql.startswith(("SAVEPOINT", "RELEASE"))]
