"""What was found out about a frame, with its history: solutions, photometry, what may be forgotten.

A frame that is READY keeps its solution and photometry until new ones are complete: both are exchanged in the
transaction that files the new photometry, so no stack ever binds half of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Update, bindparam, update
from sqlmodel import Session, and_, col, select

from starloom.archive.claims import HELD
from starloom.archive.frames import MOSAIC, plane_ids
from starloom.archive.models import (
    Calibration,
    Conditions,
    Frame,
    Master,
    Photometry,
    Revision,
    RevisionInput,
    Solution,
)
from starloom.archive.positions import index_frame
from starloom.lake.keys import frame_of

# Made once: `starloom.archive.frames` says why.
_CALIBRATION = select(Calibration).where(
    Calibration.frame_id == bindparam("of"), col(Calibration.current).is_(True)
)
_NEWEST = select(Solution).where(Solution.frame_id == bindparam("of")).order_by(col(Solution.id).desc()).limit(1)


def current_solution(session: Session, frame_id: str) -> Solution | None:
    """Return the solution that stacks take, None before the first."""
    return session.exec(
        select(Solution).where(Solution.frame_id == frame_id, col(Solution.current).is_(True))
    ).first()


def current_photometry(session: Session, frame_id: str) -> Photometry | None:
    """Return the photometry that stacks take, None before the first."""
    return session.exec(
        select(Photometry).where(Photometry.frame_id == frame_id, col(Photometry.current).is_(True))
    ).first()


def current_calibration(session: Session, frame_id: str) -> Calibration | None:
    """Return what was last done to the frame's pixels, None where nothing is on record."""
    return session.execute(_CALIBRATION, {"of": frame_id}).scalars().first()


def newest_solution(session: Session, frame_id: str) -> Solution | None:
    """Return the solution to measure under: a re-solved frame's is not current yet."""
    return session.execute(_NEWEST, {"of": frame_id}).scalars().first()


def add_solution(session: Session, frame: Frame, solution: Solution) -> None:
    """File a frame's solution; a READY frame keeps the one it has until the new one is measured."""
    solution.current = frame.ready_at is None
    if solution.current:
        retire(session, Solution, frame.id)
        _index(session, solution)
    session.add(solution)
    session.flush()


def add_photometry(session: Session, frame: Frame, solution: Solution, photometry: Photometry) -> None:
    """File a frame's photometry and make it, and the solution it was measured under, the current ones."""
    retire(session, Photometry, frame.id)
    photometry.current = True
    session.add(photometry)
    if not solution.current:
        retire(session, Solution, frame.id)
        session.execute(update(Solution).where(col(Solution.id) == solution.id).values(current=True))
        _index(session, solution)
    session.flush()


def _index(session: Session, solution: Solution) -> None:
    """Let the frame be found where its current solution says it lies."""
    if solution.footprint:
        index_frame(session, solution.frame_id, solution.footprint)


def retire(session: Session, table: type[Calibration | Solution | Photometry], frame_id: str) -> None:
    """Make a frame's current row of a table one of its history."""
    session.execute(_retirement(table), {"of": frame_id})


@lru_cache
def _retirement(table: type[Calibration | Solution | Photometry]) -> Update:
    current = (col(table.frame_id) == bindparam("of"), col(table.current).is_(True))
    return update(table).where(*current).values(current=False)


def current_results(session: Session, frame_id: str) -> dict[str, dict[str, Any]]:
    """Return the whole rows of a frame's current ``calibration``, ``solution``, ``photometry``, ``conditions``."""
    found: dict[str, Any] = {
        "calibration": current_calibration(session, frame_id),
        "solution": current_solution(session, frame_id),
        "photometry": current_photometry(session, frame_id),
        "conditions": session.get(Conditions, frame_id),
    }
    return {name: row.model_dump() for name, row in found.items() if row is not None}


def history(session: Session, frame_id: str) -> list[dict[str, Any]]:
    """Return every solution of a frame, newest first, with the photometry measured under it."""
    found = session.exec(
        select(Solution, Photometry)
        .join(
            Photometry,
            and_(Photometry.frame_id == Solution.frame_id, Photometry.solution_id == Solution.id),
            isouter=True,
        )
        .where(Solution.frame_id == frame_id)
        .order_by(col(Solution.id).desc(), col(Photometry.id).desc())
    ).all()
    columns = (
        "id", "current", "created_at", "solver", "catalog", "catalog_version", "code_version", "hint", "ra_deg",
        "dec_deg", "scale_arcsec", "matches", "order", "rms_px", "held_out_arcsec", "corner_error_px", "model_id",
        "calibration_id",
    )  # fmt: skip
    return [
        {name: getattr(solution, name) for name in columns}
        | {
            "photometry_id": None if photometry is None else photometry.id,
            "zero_point_mag": None if photometry is None else photometry.zero_point_mag,
            "current": solution.current and (photometry is None or photometry.current),
        }
        for solution, photometry in found
    ]


def unreferenced(session: Session, keys: Sequence[str]) -> list[str]:
    """Return those objects of the lake that are wanted no more: masters, and what was made of frames.

    Solved copies and calibrated pixels of earlier solutions are wanted only while a run that has bound them holds
    its mission: raw frames and masters are kept, so they can be made again. The frame's id stands in the key of
    what was made of it, so that nothing is searched for.
    """
    made: dict[str, set[str]] = {}
    masters = []
    for key in keys:
        frame_id = frame_of(key)
        if frame_id is None:
            masters.append(key)
        else:
            made.setdefault(key.partition("/")[0], set()).add(frame_id)
    queries: list[Any] = [select(Master.key).where(col(Master.key).in_(masters))] if masters else []
    for folder, ids in made.items():
        queries += _wanted_of(session, folder, ids)
    wanted = {key for query in queries for key in session.exec(query).all()}
    return [key for key in keys if key not in wanted]


def _wanted_of(session: Session, folder: str, ids: set[str]) -> Iterator[Any]:
    """Yield the queries of what is wanted in one folder of the lake, made of some frames."""
    if folder in ("calibrated", "quicklook"):  # a mosaic's are its planes' too
        mosaics = select(Frame).where(col(Frame.id).in_(ids), Frame.plane == MOSAIC)
        ids = ids.union(*(plane_ids(mosaic) for mosaic in session.exec(mosaics).all()))
    of_frames: dict[str, Any] = {
        "calibrated": Frame.calibrated_key,
        "solved": Frame.solved_key,
        "sources": Frame.sources_key,
        "quicklook": Frame.quicklook_key,
    }
    yield select(of_frames[folder]).where(col(Frame.id).in_(ids))
    current: dict[str, tuple[Any, Any]] = {
        "calibrated": (Calibration, Calibration.key),
        "solved": (Solution, Solution.solved_key),
        "sources": (Photometry, Photometry.sources_key),
    }
    if folder in current:
        table, column = current[folder]
        yield select(column).where(col(table.frame_id).in_(ids), col(table.current).is_(True))
    if folder == "solved":
        held = col(Revision.status).in_(HELD)
        yield (
            select(Solution.solved_key)
            .join(RevisionInput, col(RevisionInput.solution_id) == Solution.id)
            .join(Revision, col(Revision.id) == RevisionInput.revision_id)
            .where(col(RevisionInput.frame_id).in_(ids), col(Solution.frame_id).in_(ids), held)
        )
