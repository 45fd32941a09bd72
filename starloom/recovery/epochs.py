"""Epochs after a restore: none is ever given twice, although the archive has forgotten the newest ones.

A holder that was cut off before the archive was lost may still write under an epoch that the restored archive has
not given yet. So every mission's next epoch lies past all that the lake holds, and past those that a holder may
have been given without writing anything yet.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from sqlmodel import col, func, select

from starloom.archive.models import Mission, Revision
from starloom.lake import Lake
from starloom.lake.keys import stack_of

if TYPE_CHECKING:
    from starloom.archive import Archive

#: Claims of one mission that may have been made, and left no object, between a backup and its restore: budgets and
#: pauses allow a few hundred a year.
JUMP = 1000
#: Number of the revision whose row only holds the epochs back.
FENCE_N = 0
PAGE = 1000


def in_the_lake(lake: Lake) -> dict[str, set[tuple[int, int]]]:
    """Return revision number and epoch of all stacks, finished or not, that have objects, by mission."""
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for item in lake.list("stacks/"):
        if place := stack_of(item.key):
            found[place[0]].add(place[1:])
    return dict(found)


def fence(archive: Archive, stacks: Mapping[str, set[tuple[int, int]]], *, every: bool) -> int:
    """Raise the epochs of missions past those of the lake; return of how many missions.

    Parameters
    ----------
    stacks
        See `in_the_lake`.
    every
        All missions, as after a restore; else only those of which the lake holds an epoch that the archive has not
        given.
    """
    with archive.session() as session:
        known = session.exec(
            select(Mission.id, Mission.created_at, func.coalesce(func.max(Revision.epoch), 0))
            .join(Revision, col(Revision.mission_id) == Mission.id, isouter=True)
            .group_by(col(Mission.id), col(Mission.created_at))
            .order_by(col(Mission.id))
        ).all()
    rows = []
    for mission_id, created_at, given in known:
        held = max((epoch for _, epoch in stacks.get(mission_id, ())), default=0)
        if every or held > given:
            rows.append(_fence(mission_id, created_at, max(held, given) + JUMP))
    for start in range(0, len(rows), PAGE):
        with archive.transaction() as session:
            session.add_all(rows[start : start + PAGE])
    return len(rows)


def _fence(mission_id: str, created_at: datetime, epoch: int) -> Revision:
    return Revision(
        mission_id=mission_id,
        n=FENCE_N,
        epoch=epoch,
        status="expired",
        token=secrets.token_hex(16),
        holder="restore",
        # Not now: the time of the newest claim says whether missions are being stacked.
        claimed_at=created_at,
        lease_until=created_at,
        error={"code": "restored", "message": f"epochs up to {epoch} are of before a restore", "retryable": True},
    )
