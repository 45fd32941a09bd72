"""What ``sweep`` does: reconcile lake, archive and runs, so that nothing waits for a person who was not told."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from starloom import __version__
from starloom.archive import claims, events, frames, instruments, missions, results, staleness
from starloom.archive.engine import database_now
from starloom.astrometry.instrument import BadInstrument, Sample, learn
from starloom.batches import FrameBatch, batches
from starloom.lake import Stored

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

_EPOCH = re.compile(r"^stacks/(?P<mission>[^/]+)/r(?P<n>\d+)/e(?P<epoch>\d+)/")

#: The lake is walked whole, so not with every sweep.
TIDY_EVERY_S = 3600.0
#: Instruments that one sweep learns at most: a lesson of 400 frames takes a second or two.
LESSONS = 20
#: Objects that one short look into the archive decides about.
PAGE = 500


def due_batches(hub: Hub, *, limit: int = 512) -> list[FrameBatch]:
    """Return frames whose next attempt is due, among them those that a lost run left pending."""
    with hub.archive.transaction() as session:
        due = [frame.id for frame in frames.due(session, limit)]
        frames.hold(session, due)
    return batches(due, "retry", chunk_size=hub.settings.chunk_size)


def free_leases(hub: Hub) -> int:
    """Give missions back whose holder's lease has run out; each becomes a new event."""
    return claims.expire_leases(hub.archive, hub.settings.stack_attempts)


def announce_unheard(hub: Hub) -> int:
    """Write the events that no trigger wrote, so that the relay hears of them; return how many."""
    with hub.archive.transaction() as session:
        found = events.announce_unheard(session)
    for mission in found:
        log.warning("mission=%s asked for a stack and no event said so", mission)
    return len(found)


def reopen_stale_missions(hub: Hub) -> int:
    """Set stacked missions COMPLETE again where the newest revision is behind what is known of their frames."""
    reopened = 0
    with hub.archive.transaction() as session:
        for stale in staleness.stale_missions(session, hub.settings.late_quiet_s):
            mission = claims.locked_mission(session, stale.id)
            if mission is None or mission.status != "STACKED":
                continue  # cancelled, or completed by hand, since we looked
            why = staleness.in_words(staleness.why_stale(session, mission.id).get(mission.id, []))
            missions.set_status(session, mission.id, "COMPLETE")
            log.info("mission=%s reopened: %s", mission.id, why)
            reopened += 1
    return reopened


def learn_instruments(hub: Hub, *, limit: int = LESSONS) -> int:
    """Learn distortion, scale and pointing of instruments from their new solutions; return the models filed."""
    with hub.archive.session() as session:
        due = instruments.with_more_to_learn(session)[:limit]
    filed = 0
    for instrument_id in due:
        with hub.archive.session() as session:
            solutions = instruments.solutions_of(session, instrument_id)
        samples = [sample for said in instruments.samples_of(solutions) if (sample := _readable(said))]
        model = learn(samples) if samples else None  # no transaction is open meanwhile
        with hub.archive.transaction() as session:
            instruments.publish_lesson(
                session,
                instrument_id,
                None if model is None else model.to_json(),
                newest_solution=max((solution.id or 0 for solution in solutions), default=0),
                n_frames=0 if model is None else model.frames,
                code_version=__version__,
            )
        if model is not None:
            filed += 1
            log.info(
                "instrument=%s learnt from %d frames: scale %.5g arcsec/px, distortion to %.3f px",
                instrument_id, model.frames, model.scale_arcsec, model.scatter_px,
            )  # fmt: skip
    return filed


def _readable(said: dict[str, Any]) -> Sample | None:
    """Return a frame's word on its instrument, None where another version wrote it."""
    try:
        return Sample.from_json(said)
    except BadInstrument:
        return None


def tidy_lake(hub: Hub, *, every_s: float = TIDY_EVERY_S) -> int:
    """Remove objects of dead epochs and unfinished uploads past the grace; never a living epoch's.

    Parameters
    ----------
    every_s
        Seconds that must have passed on this machine since the last time; else nothing is done.
    """
    stamp = hub.settings.home / "run" / "tidied"
    if stamp.is_file() and time.time() - stamp.stat().st_mtime < every_s:
        return 0
    removed = hub.lake.abort_stale_uploads(hub.settings.orphan_grace_s)
    with hub.archive.session() as session:
        horizon = database_now(session) - timedelta(seconds=hub.settings.orphan_grace_s)
    for prefix in ("masters/", "calibrated/", "solved/", "sources/", "quicklook/"):
        for page in _pages(hub, prefix, horizon):
            with hub.archive.session() as session:
                orphans = [item.key for item in page if not results.is_referenced(session, item.key)]
            removed += _remove(hub, orphans)
    for page in _pages(hub, "stacks/", horizon):
        alive: dict[tuple[str, str, str], bool] = {}
        orphans = []
        with hub.archive.session() as session:
            for item in page:
                match = _EPOCH.match(item.key)
                if match is None:
                    continue
                place = (match["mission"], match["n"], match["epoch"])
                if place not in alive:
                    alive[place] = claims.epoch_is_alive(session, place[0], int(place[1]), int(place[2]))
                if not alive[place]:
                    orphans.append(item.key)
        removed += _remove(hub, orphans)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    return removed


def _pages(hub: Hub, prefix: str, horizon: datetime) -> Iterator[list[Stored]]:
    """Yield what is older than the grace, so much at a time that the archive is asked in short looks."""
    old = (item for item in hub.lake.list(prefix) if item.modified <= horizon)
    while page := list(islice(old, PAGE)):
        yield page


def _remove(hub: Hub, orphans: list[str]) -> int:
    for key in orphans:
        hub.lake.delete(key)
        log.info("lake: removed %s, of which the archive knows nothing", key)
    return len(orphans)
