"""What the archive knows of instruments beyond their registration: what their own frames have taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, func, or_, select

from starloom.archive.models import Frame, Instrument, LearntInstrument, Solution

#: Frames of an instrument that are needed before anything is learnt, and the most that one lesson takes.
FIRST_LESSON = 5
LESSON = 400
#: A new lesson once there is a fifth more to learn from, at least this many frames.
MORE = 5


def learnt(session: Session, instrument_id: int | None) -> LearntInstrument | None:
    """Return the instrument's current model, None where nothing has been learnt."""
    if instrument_id is None:
        return None
    return session.exec(
        select(LearntInstrument).where(
            LearntInstrument.instrument_id == instrument_id, col(LearntInstrument.current).is_(True)
        )
    ).first()


def solutions_of(session: Session, instrument_id: int, *, limit: int = LESSON) -> Sequence[Solution]:
    """Return the newest current solutions of an instrument's frames, oldest of them first."""
    newest = session.exec(
        select(Solution)
        .join(Frame, col(Frame.id) == Solution.frame_id)
        .where(
            Frame.instrument_id == instrument_id,
            col(Solution.current).is_(True),
            Frame.disposition == "active",
            or_(col(Solution.distortion).is_not(None), col(Solution.offset_ra_deg).is_not(None)),
        )
        .order_by(col(Frame.start_utc).desc(), col(Solution.id).desc())
        .limit(limit)
    ).all()
    return newest[::-1]


def with_more_to_learn(session: Session) -> list[int]:
    """Return the instruments that have enough new solutions for a lesson."""
    known = {
        row.instrument_id: row
        for row in session.exec(select(LearntInstrument).where(col(LearntInstrument.current).is_(True))).all()
    }
    found = []
    counts = session.exec(
        select(Frame.instrument_id, func.count(), func.max(Solution.id))
        .join(Solution, col(Solution.frame_id) == Frame.id)
        .where(col(Solution.current).is_(True), col(Frame.instrument_id).is_not(None))
        .group_by(col(Frame.instrument_id))
    ).all()
    for instrument_id, count, newest in counts:
        assert instrument_id is not None
        last = known.get(instrument_id)
        if last is None:
            enough = count >= FIRST_LESSON
        else:
            new = _solved_since(session, instrument_id, int(last.model.get("newest_solution", 0)), newest)
            enough = new >= max(MORE, 0.2 * min(last.n_frames, LESSON))
        if enough:
            found.append(instrument_id)
    return found


def _solved_since(session: Session, instrument_id: int, after: int, newest: int | None) -> int:
    if newest is None or newest <= after:
        return 0
    return session.exec(
        select(func.count())
        .select_from(Solution)
        .join(Frame, col(Frame.id) == Solution.frame_id)
        .where(Frame.instrument_id == instrument_id, col(Solution.current).is_(True), col(Solution.id) > after)
    ).one()


def publish_lesson(
    session: Session, instrument_id: int, model: dict[str, Any], *, n_frames: int, code_version: str
) -> LearntInstrument:
    """File what was learnt as the instrument's current model; the earlier one stays as history."""
    # The instrument's row is the lock: two lessons at once leave one current model.
    session.exec(select(Instrument).where(Instrument.id == instrument_id).with_for_update()).one()
    earlier = learnt(session, instrument_id)
    if earlier is not None:
        earlier.current = False
        session.flush()
    row = LearntInstrument(instrument_id=instrument_id, model=model, n_frames=n_frames, code_version=code_version)
    session.add(row)
    session.flush()
    return row
