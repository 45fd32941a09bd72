"""What there is of revisions: held epochs, the newest published one, those whose nodes nobody has told."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text as sql
from sqlalchemy import update
from sqlmodel import Session, col, func, select

from starloom.archive.claims import HELD
from starloom.archive.engine import database_now
from starloom.archive.models import UNTOLD, Frame, Photometry, Revision, RevisionInput


def held_epochs(session: Session) -> set[tuple[str, int, int]]:
    """Return mission, revision number and epoch of every claim that is held."""
    held = select(Revision.mission_id, Revision.n, Revision.epoch).where(col(Revision.status).in_(HELD))
    return set(session.exec(held).all())


def newest_revision(session: Session, mission_id: str) -> int | None:
    """Return the number of the newest published revision, None before the first."""
    newest = select(func.max(Revision.n)).where(Revision.mission_id == mission_id, Revision.status == "published")
    return session.exec(newest).one()


def inputs_of(session: Session, revision_id: int) -> list[tuple[str, str, float | None]]:
    """Return id, name and limiting magnitude of each bound frame of a revision."""
    query = (
        select(Frame.id, Frame.name, Photometry.limiting_mag)
        .join(RevisionInput, col(RevisionInput.frame_id) == Frame.id)
        .join(Photometry, col(Photometry.id) == RevisionInput.photometry_id)
        .where(RevisionInput.revision_id == revision_id)
    )
    return list(session.exec(query).all())


def note_told(session: Session, revision_id: int) -> None:
    """Note that the nodes have their receipts of a revision."""
    session.exec(update(Revision).where(col(Revision.id) == revision_id).values(told_at=database_now(session)))


def untold(session: Session, after_s: float, limit: int) -> list[tuple[int, list[str]]]:
    """Return published revisions whose nodes nobody has told for ``after_s``, with the ids of their frames."""
    before = database_now(session) - timedelta(seconds=after_s)
    found = session.exec(
        select(Revision.id)
        .where(sql(UNTOLD), col(Revision.published_at) < before)
        .order_by(col(Revision.id))
        .limit(limit)
    ).all()
    return [
        (
            revision_id,
            list(
                session.exec(select(RevisionInput.frame_id).where(RevisionInput.revision_id == revision_id)).all()
            ),
        )
        for revision_id in found
        if revision_id is not None
    ]
