"""What ``sweep`` does: reconcile lake, archive and runs, so that nothing waits for a person who was not told."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from starloom.archive import claims, frames, missions
from starloom.archive.engine import database_now
from starloom.batches import FrameBatch, batches

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

_EPOCH = re.compile(r"^stacks/(?P<mission>[^/]+)/r(?P<n>\d+)/e(?P<epoch>\d+)/")


def due_batches(hub: Hub, *, limit: int = 512) -> list[FrameBatch]:
    """Return frames whose next attempt is due, among them those that a lost run left pending."""
    with hub.archive.transaction() as session:
        due = [frame.id for frame in frames.due(session, limit)]
        frames.hold(session, due)
    return batches(due, "retry", chunk_size=hub.settings.chunk_size)


def free_leases(hub: Hub) -> int:
    """Give missions back whose holder's lease has run out; each becomes a new event."""
    return claims.expire_leases(hub.archive, hub.settings.stack_attempts)


def reopen_stale_missions(hub: Hub) -> int:
    """Set stacked missions COMPLETE again where READY frames are missing from the newest revision."""
    with hub.archive.transaction() as session:
        stale = claims.stale_missions(session, hub.settings.late_quiet_s)
        for mission in stale:
            missions.set_status(session, mission.id, "COMPLETE")
            log.info("mission=%s reopened: late frames", mission.id)
        return len(stale)


def tidy_lake(hub: Hub) -> int:
    """Remove objects of dead epochs and unfinished uploads past the grace; never a living epoch's."""
    removed = hub.lake.abort_stale_uploads(hub.settings.orphan_grace_s)
    with hub.archive.session() as session:
        horizon = database_now(session) - timedelta(seconds=hub.settings.orphan_grace_s)
    for prefix in ("solved/", "sources/"):
        for item in hub.lake.list(prefix):
            if item.modified > horizon:
                continue
            with hub.archive.session() as session:
                wanted = frames.is_referenced(session, item.key)
            if not wanted:
                hub.lake.delete(item.key)
                removed += 1
    for item in hub.lake.list("stacks/"):
        match = _EPOCH.match(item.key)
        if match is None or item.modified > horizon:
            continue
        with hub.archive.session() as session:
            alive = claims.epoch_is_alive(session, match["mission"], int(match["n"]), int(match["epoch"]))
        if not alive:
            hub.lake.delete(item.key)
            removed += 1
    return removed
