"""What must go on when no run of Prefect's does: missions come back from holders that fell silent."""

from __future__ import annotations

import logging

from starloom.archive import events, giving_back
from starloom.archive.engine import Archive

log = logging.getLogger(__name__)


def reconcile(archive: Archive, budget: giving_back.Budget) -> tuple[list[str], list[str]]:
    """Give missions back whose lease has run out, and write the events that no trigger wrote; return which.

    Safe to do from several programs at once; asks without locking first, because mostly there is nothing to do.
    """
    freed = giving_back.expire_leases(archive, budget)
    with archive.session() as session:
        unheard = events.has_unheard(session)
    found: list[str] = []
    if unheard:
        with archive.transaction() as session:
            found = events.announce_unheard(session)
    for mission in found:
        log.warning("it asked for a stack and no event said so", extra={"mission": mission})
    return freed, found
