"""Stacks that were begun after the backup are asked for again; so are those whose products are gone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlmodel import Session, col, func, select

from starloom.archive import missions
from starloom.archive.claims import locked_mission
from starloom.archive.models import Mission, Product, Revision, StatusEvent

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

REASON = "a stack that the restored archive does not know lies in the lake"
_TAKEN_UP = ("OPEN", "STACKED", "FAILED")


@dataclass(frozen=True)
class LostStack:
    """A mission whose newest stack the archive does not know.

    Parameters
    ----------
    status
        The mission's; None: the archive does not know the mission either.
    """

    mission_id: str
    n: int
    epoch: int
    status: str | None


def look(hub: Hub, stacks: Mapping[str, set[tuple[int, int]]]) -> list[LostStack]:
    """Return the missions of which the lake holds a later stack than the archive knows; changes nothing."""
    lost = []
    with hub.archive.session() as session:
        for mission_id, places in sorted(stacks.items()):
            known = session.exec(
                select(Revision.n, Revision.epoch, Revision.status).where(Revision.mission_id == mission_id)
            ).all()
            given = {(n, epoch) for n, epoch, _ in known}
            published = max((epoch for _, epoch, status in known if status == "published"), default=0)
            later = [(epoch, n) for n, epoch in places - given if epoch > published]
            if later:
                mission = session.get(Mission, mission_id)
                epoch, n = max(later)
                lost.append(LostStack(mission_id, n, epoch, mission.status if mission else None))
    return lost


def ask_again(hub: Hub, lost: list[LostStack]) -> list[str]:
    """Set the missions COMPLETE, as they were when they were stacked; return which."""
    asked = []
    for one in lost:
        with hub.archive.transaction() as session:
            if _complete(session, one.mission_id, REASON):
                asked.append(one.mission_id)
    return asked


def _complete(session: Session, mission_id: str, reason: str) -> bool:
    mission = locked_mission(session, mission_id)
    if mission is None or mission.status not in _TAKEN_UP:
        return False  # it waits for its stack already, or somebody has cancelled it
    missions.set_status(session, mission_id, "COMPLETE")
    newest = select(func.max(StatusEvent.id)).where(StatusEvent.mission_id == mission_id).scalar_subquery()
    session.exec(update(StatusEvent).where(col(StatusEvent.id) == newest).values(reason=reason))
    log.warning("it is stacked again: %s", reason, extra={"mission": mission_id})
    return True


def missing_products(hub: Hub) -> dict[str, list[str]]:
    """Return the products of newest revisions that are not in the lake, by mission."""
    newest = select(func.max(Revision.id)).where(Revision.status == "published").group_by(col(Revision.mission_id))
    with hub.archive.session() as session:
        wanted = session.exec(
            select(Revision.mission_id, Product.sci_key, Product.sci_version)
            .join(Product, col(Product.revision_id) == Revision.id)
            .where(col(Revision.id).in_(newest))
            .order_by(col(Product.sci_key))
        ).all()
    gone: dict[str, list[str]] = {}
    for mission_id, key, version in wanted:
        if hub.lake.stat(key, version) is None:
            gone.setdefault(mission_id, []).append(key)
    return gone


def make_again(hub: Hub, gone: Mapping[str, list[str]]) -> list[str]:
    """Have missions stacked again whose products are gone; return which."""
    asked = []
    for mission_id in sorted(gone):
        with hub.archive.transaction() as session:
            newest = select(func.max(Revision.id)).where(
                Revision.mission_id == mission_id, Revision.status == "published"
            )
            # The same inputs would be no work: the next run would end `Unchanged`.
            session.exec(
                update(Revision).where(col(Revision.id) == newest.scalar_subquery()).values(input_hash=None)
            )
            if _complete(session, mission_id, "a product of its newest stack is not in the lake"):
                asked.append(mission_id)
    return asked
