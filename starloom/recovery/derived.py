"""Frames whose derived objects are gone are done again from their raw pixels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select as columns_of
from sqlmodel import col, select

from starloom.archive import frames as rows
from starloom.archive.frames import MOSAIC, Step
from starloom.archive.models import Frame, Master

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Where a frame's derived objects lie, by the column that names them, and the step that makes them.
_MADE_BY: tuple[tuple[str, str, Step], ...] = (
    ("calibrated_key", "calibrated", "calibrate"),
    ("solved_key", "solved", "solve"),
    ("sources_key", "sources", "measure"),
)


@dataclass(frozen=True)
class Gap:
    """A frame that speaks of an object that is not there."""

    frame_id: str
    name: str
    key: str
    since: Step
    """The first step that has to be done again."""


def look(hub: Hub) -> list[Gap]:
    """Return the usable frames of whose derived objects one is missing; changes nothing.

    A backup is older than what ``tidy`` has removed since: the solved copy of a frame that was solved again.
    """
    with hub.archive.session() as session:
        nodes = session.exec(select(Frame.node_id).distinct()).all()
    return [gap for node in sorted(nodes) for gap in _gaps_of(hub, node)]


def _gaps_of(hub: Hub, node: str) -> Iterator[Gap]:
    there = {column: {item.key for item in hub.lake.list(f"{prefix}/{node}/")} for column, prefix, _ in _MADE_BY}
    # Asked after the lake was listed: what has been written and committed meanwhile is looked up once more.
    names = ("id", "name", "plane", *(column for column, _, _ in _MADE_BY))
    columns = columns_of(*(col(getattr(Frame, name)) for name in names))
    with hub.archive.session() as session:
        wanted = columns.where(col(Frame.node_id) == node, col(Frame.disposition) == "active")
        found = session.connection().execute(wanted).all()
    for frame_id, name, plane, *keys in found:
        for key, (column, _, step) in zip(keys, _MADE_BY, strict=True):
            if key is None or key in there[column] or hub.lake.stat(key) is not None:
                continue
            # A plane is cut from its mosaic's pixels, and is never calibrated by itself.
            since: Step = "solve" if step == "calibrate" and plane not in (None, MOSAIC) else step
            yield Gap(frame_id, name, key, since)
            break


def make_again(hub: Hub, gaps: list[Gap]) -> int:
    """Have the frames done again; they are not READY until they are. Return how many."""
    done = 0
    for gap in gaps:
        with hub.archive.transaction() as session:
            frame = rows.reprocess(session, gap.frame_id, gap.since)
            if frame is None:
                continue
            frame.ready_at = None  # what it would be stacked from is gone
            frame.version += 1
        log.warning("%s is gone; done again from %s", gap.key, gap.since, extra=rows.subject_of(frame))
        done += 1
    return done


def missing_masters(hub: Hub) -> list[str]:
    """Return the keys of current masters that are not in the lake."""
    with hub.archive.session() as session:
        wanted = session.exec(select(Master.key).where(col(Master.current).is_(True))).all()
    return sorted(key for key in wanted if hub.lake.stat(key) is None)
