"""Counts for metrics. Each question costs what waits or what the last day brought, never what the archive holds.

The exception is the count of missions by status, one pass over a narrow index: missions are few beside frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, case, text
from sqlmodel import Session, col, func, select

from starloom.archive.claims import HELD
from starloom.archive.dispositions import next_step
from starloom.archive.engine import database_now
from starloom.archive.frames import MOSAIC, state_of
from starloom.archive.models import (
    MISSION_STATES,
    REVISION_STATES,
    STEPS,
    WAITING,
    Frame,
    Mission,
    Revision,
    StatusEvent,
)

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
#: Stands for the time of a frame that is READY, whenever that was.
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_STEPS = tuple(col(getattr(Frame, step)) for step in STEPS)


@dataclass(frozen=True)
class Arrived:
    """Frames that the last day brought and that are alike.

    Parameters
    ----------
    state
        As `starloom.archive.frames.state_of` says it.
    code
        Of a frame that was set aside, or whose step failed; empty otherwise.
    solved
        Whether its pixels were solved; None while that is open, or where nothing is to be solved.
    frames, bytes, last_hour
        How many, the size of their raw objects, how many of them arrived within the last hour.
    """

    node: str
    state: str
    code: str
    solved: bool | None
    frames: int
    bytes: int
    last_hour: int


def arrived(session: Session) -> list[Arrived]:
    """Return the frames received within the last day, by what became of them."""
    now = database_now(session)
    mosaic = func.coalesce(col(Frame.plane) == MOSAIC, False)
    ready = col(Frame.ready_at).is_not(None)
    code = func.coalesce(
        case((col(Frame.disposition) != "active", col(Frame.disposition_code))),
        *(getattr(Frame, f"{step}_code") for step in STEPS),
        "",
    )
    kinds: tuple[Any, ...] = (Frame.node_id, Frame.kind, mosaic, ready, Frame.disposition, code, *_STEPS)
    recent = case((col(Frame.received_at) >= now - HOUR, 1), else_=0)
    query = (
        select(*kinds, func.count(), func.coalesce(func.sum(Frame.raw_bytes), 0), func.sum(recent))  # type: ignore[call-overload]
        .where(col(Frame.received_at) >= now - DAY)
        .group_by(*kinds)
    )
    found = []
    for node, kind, is_mosaic, is_ready, disposition, said, *rest in session.exec(query):
        states, (count, size, last_hour) = tuple(rest[: len(STEPS)]), rest[len(STEPS) :]
        state, _ = _in_words(kind, bool(is_mosaic), bool(is_ready), disposition, states)
        solving = states[STEPS.index("solve")] if kind == "light" and not is_mosaic else "pending"
        solved = {"ok": True, "failed": False}.get(solving)
        found.append(Arrived(node, state, said, solved, count, int(size), int(last_hour)))
    return found


@lru_cache(maxsize=4096)
def _in_words(kind: str, mosaic: bool, ready: bool, disposition: str, states: tuple[str, ...]) -> tuple[str, str]:
    """Return state and next step of frames like this, as the functions that know frames say it."""
    like = Frame(
        name="",
        node_id="",
        kind=kind,
        plane=MOSAIC if mosaic else None,
        ready_at=_EVER if ready else None,
        disposition=disposition,
        **dict[str, Any](zip(STEPS, states, strict=True)),
    )
    return state_of(like), next_step(like)


@dataclass(frozen=True)
class Waiting:
    """Frames that wait for a step, and when the first of them arrived; None without one."""

    step: str
    frames: int = 0
    oldest: datetime | None = None


def waiting(session: Session) -> list[Waiting]:
    """Return the frames that are not READY and have something to be done, by the step that is next."""
    query = (
        select(*_STEPS, func.count(), func.min(Frame.received_at))  # type: ignore[call-overload]
        .where(text(WAITING), col(Frame.ready_at).is_(None))
        .group_by(*_STEPS)
    )
    found = {step: Waiting(step) for step in STEPS}
    for *states, count, oldest in session.exec(query):
        _, step = _in_words("light", False, False, "active", tuple(states))
        known = found[step]
        found[step] = Waiting(step, count + known.frames, min(oldest, known.oldest or oldest))
    return list(found.values())


def missions_by_status(session: Session) -> dict[str, int]:
    """Return how many missions there are of each status."""
    counted = select(Mission.status, func.count()).group_by(Mission.status)
    return dict.fromkeys(MISSION_STATES, 0) | dict(session.exec(counted).all())


@dataclass(frozen=True)
class Stacking:
    """What became of the claims of the last day, and what is held now.

    Parameters
    ----------
    seconds
        From claim to publication, of each that was published.
    ended
        Claims by the status they have now: published, unchanged, failed, expired, claimed, bound.
    held
        Claims with a lease that runs.
    """

    seconds: list[float]
    ended: dict[str, int]
    held: int


def stacking(session: Session) -> Stacking:
    """Return what became of the claims of the last day."""
    now = database_now(session)
    rows = session.exec(
        select(Revision.status, Revision.claimed_at, Revision.published_at).where(
            col(Revision.claimed_at) >= now - DAY
        )
    ).all()
    # Spelt out, so that the partial index of held claims serves: a parameter might be any status.
    words: Any = bindparam("held", HELD, expanding=True, literal_execute=True)
    held = select(func.count()).where(col(Revision.status).in_(words), col(Revision.lease_until) > now)
    return Stacking(
        seconds=[(done - begun).total_seconds() for _, begun, done in rows if done is not None],
        ended=dict.fromkeys(REVISION_STATES, 0) | Counter(status for status, _, _ in rows),
        held=session.exec(held).one(),
    )


def open_by_wish(session: Session) -> dict[str, int]:
    """Return how many status events are open: those that ask for a stack, and those that only tell."""
    query = select(StatusEvent.new_status, func.count()).where(StatusEvent.state == "open")
    counts = Counter[str]()
    for status, count in session.exec(query.group_by(StatusEvent.new_status)):
        counts["stack" if status == "COMPLETE" else "news"] += count
    return {wish: counts[wish] for wish in ("stack", "news")}


def size_bytes(session: Session) -> int:
    """Return what the database takes on its disk, as the database itself says."""
    if session.connection().dialect.name == "sqlite":
        said = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    else:
        said = "SELECT pg_database_size(current_database())"
    return int(session.connection().execute(text(said)).scalar_one())


def largest(groups: Iterable[Arrived], most: int) -> set[str]:
    """Return the nodes with the most frames, at most so many: a name may come from anybody."""
    by_node = Counter[str]()
    for group in groups:
        by_node[group.node] += group.frames
    return {node for node, _ in by_node.most_common(most)}
