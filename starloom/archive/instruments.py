"""What the archive knows of instruments beyond their registration: what their own frames have taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy import text as sql
from sqlmodel import Session, col, func, or_, select

from starloom.archive.models import ACTIVE_LIGHT, Frame, Instrument, LearntInstrument, Solution

#: Frames of an instrument that are needed before anything is learnt, and the most that one lesson takes.
FIRST_LESSON = 5
LESSON = 400
#: A new lesson once there is a fifth more to learn from, at least this many frames.
MORE = 5


def learnt(session: Session, instrument_id: int | None) -> LearntInstrument | None:
    """Return the instrument's current model, None where nothing has been learnt."""
    row = None if instrument_id is None else _last_lesson(session, instrument_id)
    return row if row is not None and row.n_frames else None


def _last_lesson(session: Session, instrument_id: int) -> LearntInstrument | None:
    return session.execute(_LAST, {"of": instrument_id}).scalars().first()


_LAST = select(LearntInstrument).where(
    LearntInstrument.instrument_id == bindparam("of"), col(LearntInstrument.current).is_(True)
)


def solutions_of(session: Session, instrument_id: int, *, limit: int = LESSON) -> Sequence[Solution]:
    """Return the newest current solutions of an instrument's frames, oldest of them first."""
    newest = session.exec(
        select(Solution)
        .join(Frame, col(Frame.id) == Solution.frame_id)
        .where(
            sql(ACTIVE_LIGHT),
            Frame.instrument_id == instrument_id,
            col(Solution.current).is_(True),
            or_(col(Solution.distortion).is_not(None), col(Solution.offset_ra_deg).is_not(None)),
        )
        .order_by(col(Frame.start_utc).desc(), col(Solution.id).desc())
        .limit(limit)
    ).all()
    return newest[::-1]


def samples_of(solutions: Sequence[Solution]) -> list[dict[str, Any]]:
    """Return what frames said of their instrument, as `starloom.astrometry.learn` takes it.

    The mount's offset is added from its own columns: the fit that made the sample knows no header.
    """
    said = []
    for solution in solutions:
        if solution.distortion is None:
            continue
        offset = (solution.offset_ra_deg, solution.offset_dec_deg)
        said.append({**solution.distortion, "offset_deg": None if None in offset else list(offset)})
    return said


def with_more_to_learn(session: Session) -> list[int]:
    """Return the instruments that have enough new solutions for a lesson.

    Only instruments with a solution younger than the youngest that any lesson has seen are asked: the cost follows
    what is new, not the size of the archive.
    """
    lessons = {
        row.instrument_id: row
        for row in session.exec(select(LearntInstrument).where(col(LearntInstrument.current).is_(True))).all()
    }
    seen = max((_newest_of(row) for row in lessons.values()), default=0)
    found = []
    candidates = session.exec(
        select(Frame.instrument_id)
        .join(Solution, col(Solution.frame_id) == Frame.id)
        .where(col(Solution.id) > seen, col(Solution.current).is_(True), col(Frame.instrument_id).is_not(None))
        .distinct()
        .order_by(col(Frame.instrument_id))
    ).all()
    for instrument_id in candidates:
        assert instrument_id is not None
        last = lessons.get(instrument_id)
        new = _solved_since(session, instrument_id, 0 if last is None else _newest_of(last))
        enough = FIRST_LESSON if last is None else max(MORE, 0.2 * min(last.n_frames, LESSON))
        if new >= enough:
            found.append(instrument_id)
    return found


def _newest_of(lesson: LearntInstrument) -> int:
    return int(lesson.model.get("newest_solution", 0))


def _solved_since(session: Session, instrument_id: int, after: int) -> int:
    return session.exec(
        select(func.count())
        .select_from(Solution)
        .join(Frame, col(Frame.id) == Solution.frame_id)
        .where(Frame.instrument_id == instrument_id, col(Solution.current).is_(True), col(Solution.id) > after)
    ).one()


def publish_lesson(
    session: Session,
    instrument_id: int,
    model: dict[str, Any] | None,
    *,
    newest_solution: int,
    n_frames: int,
    code_version: str,
) -> LearntInstrument:
    """File what was learnt as the instrument's current model; the earlier one stays as history.

    Parameters
    ----------
    model
        What was learnt; None: nothing. An earlier model stays current then, and only what the lesson has looked at
        is noted, so that it is not looked at again.
    newest_solution
        Id of the youngest solution that the lesson has seen.
    n_frames
        Frames that the model rests on.
    """
    # The instrument's row is the lock: two lessons at once leave one current model.
    session.exec(select(Instrument).where(Instrument.id == instrument_id).with_for_update()).one()
    earlier = _last_lesson(session, instrument_id)
    if earlier is not None:
        if model is None:
            earlier.model = {**earlier.model, "newest_solution": newest_solution}
            return earlier
        earlier.current = False
        session.flush()
    row = LearntInstrument(
        instrument_id=instrument_id,
        model={**(model or {}), "newest_solution": newest_solution},
        n_frames=n_frames if model is not None else 0,
        code_version=code_version,
    )
    session.add(row)
    session.flush()
    return row
