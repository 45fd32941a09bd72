"""What ``sweep`` does: reconcile lake, archive and runs, so that nothing waits for a person who was not told."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from starloom import __version__
from starloom.archive import (
    claims,
    dispositions,
    frames,
    instruments,
    missions,
    pruning,
    results,
    revisions,
    staleness,
)
from starloom.archive.engine import database_now
from starloom.archive.reconciling import reconcile
from starloom.astrometry.instrument import BadInstrument, Sample, learn
from starloom.batches import FrameBatch, batches, tell_spent
from starloom.lake import Stored
from starloom.lake.keys import stack_of
from starloom.receipts import write_receipt

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)


#: Instruments that one sweep learns at most: a lesson of 400 frames takes a second or two.
LESSONS = 20
#: How far back changes are looked for that could make a stack stale: with every sweep, and with every `tidy`.
LOOK_BACK_S = 3600.0
THOROUGH_S = 2 * 86400.0
#: Objects that one short look into the archive decides about.
PAGE = 500


def due_batches(hub: Hub, *, limit: int = 512, waiting: Collection[str] = ()) -> list[FrameBatch]:
    """Return frames whose next attempt is due, among them those that a lost run left pending.

    A frame that a lost run had in hand has lost a try with it, and after two such it goes alone: the one that
    kills its worker must not take its neighbours with it.

    Parameters
    ----------
    waiting
        Frames of runs that wait for a worker: these are not lost, and are handed out once.
    """
    lost: list[str] = []
    rest: list[str] = []
    spent = []
    with hub.archive.transaction() as session:
        found = [frame.id for frame in frames.due(session, limit)]
        for frame_id in found:
            if frame_id in waiting:
                continue
            frame = dispositions.cut_off(session, frame_id, budget=hub.settings.frame_attempts)
            if frame.disposition != "active":
                spent.append(frame)
            elif (frame.last_error or {}).get("code") == dispositions.CUT_OFF and frame.attempts > 1:
                lost.append(frame_id)
            else:
                rest.append(frame_id)
        frames.hold(session, [frame_id for frame_id in found if frame_id not in {frame.id for frame in spent}])
    for frame in spent:
        log.error("quarantined: %s", frame.disposition_hint, extra=frames.subject_of(frame))
        tell_spent(hub, frame)
    settings = hub.settings
    again = batches(rest, "retry", chunk_size=settings.chunk_size, batch_size=settings.batch_size)
    return again + batches(lost, "retry alone", chunk_size=1, batch_size=1)


def find_forgotten(hub: Hub, *, limit: int = 512) -> int:
    """Give frames a time for their next attempt that have steps to do and none; return how many."""
    with hub.archive.transaction() as session:
        found = frames.forgotten(session, limit)
        for frame_id in found:
            frames.touch(session, frames.locked(session, frame_id), again_after_s=0.0)
            log.warning("it had steps to do and no time for them", extra={"frame": frame_id})
    return len(found)


def reconcile_missions(hub: Hub) -> int:
    """Give missions back whose holder's lease has run out, and announce those that no event speaks of.

    The relay does the same every few seconds; here it is done where no relay runs for a while.
    """
    freed, found = reconcile(hub.archive, hub.budget)
    return len(freed) + len(found)


def tell_nodes(hub: Hub, *, after_s: float = 600.0, limit: int = 50) -> int:
    """Write the receipts of published stacks whose run died before it had written them all; return how many."""
    with hub.archive.session() as session:
        untold = revisions.untold(session, after_s, limit)
    written = 0
    for revision_id, frame_ids in untold:
        for frame_id in frame_ids:
            with hub.archive.session() as session:
                frame = frames.get(session, frame_id)
            write_receipt(hub, frame)
            written += 1
        with hub.archive.transaction() as session:
            revisions.note_told(session, revision_id)
    return written


def reopen_stale_missions(hub: Hub, *, thorough: bool = False) -> int:
    """Set missions COMPLETE again where the newest revision is behind what is known of their frames.

    Looked at are the missions that something has changed of in the last hour. ``thorough``: in the last two days,
    and a share of all that there are.
    """
    reopened = 0
    with hub.archive.session() as session:
        quiet_s = hub.settings.late_quiet_s
        changed = staleness.recently_changed(session, quiet_s + (THOROUGH_S if thorough else LOOK_BACK_S))
        if thorough:
            changed |= staleness.share_of_all(session, int(database_now(session).timestamp() // 3600))
    with hub.archive.transaction() as session:
        stale = staleness.stale_missions(session, quiet_s, changed)
        for mission_id, status in [(one.id, one.status) for one in stale]:
            mission = claims.locked_mission(session, mission_id, skip=True)
            if mission is None or mission.status != status:
                continue  # cancelled, or completed by hand, since we looked
            why = staleness.in_words(staleness.why_stale(session, mission.id).get(mission.id, []))
            why = why or "it has usable frames now"
            missions.set_status(session, mission.id, "COMPLETE")
            log.info("reopened: %s", why, extra={"mission": mission.id})
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
                "learnt from %d frames: scale %.5g arcsec/px, distortion to %.3f px",
                *(model.frames, model.scale_arcsec, model.scatter_px),
                extra={"instrument": instrument_id},
            )
    return filed


def _readable(said: dict[str, Any]) -> Sample | None:
    """Return a frame's word on its instrument, None where another version wrote it."""
    try:
        return Sample.from_json(said)
    except BadInstrument:
        return None


def prune_archive(hub: Hub) -> int:
    """Remove rows that nobody needs any more, a page at a time; return how many."""
    removed = 0
    while hub.settings.history_days:
        with hub.archive.transaction() as session:
            page = pruning.prune(session, hub.settings.history_days)
        removed += page
        if page < pruning.PAGE:
            break
    return removed


def tidy_lake(hub: Hub) -> int:
    """Remove objects of dead epochs and unfinished uploads past the grace; never a living epoch's.

    The lake is walked whole, so not with every sweep. Raw frames are never removed: their key is their content, so
    one that nobody refers to may be referred to in the next moment.
    """
    removed = hub.lake.abort_stale_uploads(hub.settings.orphan_grace_s)
    with hub.archive.session() as session:
        horizon = database_now(session) - timedelta(seconds=hub.settings.orphan_grace_s)
    for key in orphans(hub, horizon):
        now = hub.lake.stat(key)
        if now is None or now.modified > horizon:
            continue  # gone, or written anew since it was listed: its row may be on its way
        hub.lake.delete(key)
        log.info("lake: removed %s, of which the archive knows nothing", key)
        removed += 1
    return removed


def orphans(hub: Hub, horizon: datetime) -> Iterator[str]:
    """Yield the keys of what was made, not newer than the horizon, of which the archive knows nothing."""
    for prefix in ("masters/", "calibrated/", "solved/", "sources/", "quicklook/"):
        for page in _pages(hub, prefix, horizon):
            with hub.archive.session() as session:
                unknown = results.unreferenced(session, [item.key for item in page])
            yield from unknown
    for page in _pages(hub, "stacks/", horizon):
        alive: dict[tuple[str, int, int], bool] = {}
        dead = []
        with hub.archive.session() as session:
            for item in page:
                place = stack_of(item.key)
                if place is None:
                    continue
                if place not in alive:
                    alive[place] = claims.epoch_is_alive(session, *place)
                if not alive[place]:
                    dead.append(item.key)
        yield from dead


def _pages(hub: Hub, prefix: str, horizon: datetime) -> Iterator[list[Stored]]:
    """Yield what is older than the grace, so much at a time that the archive is asked in short looks."""
    old = (item for item in hub.lake.list(prefix) if item.modified <= horizon)
    while page := list(islice(old, PAGE)):
        yield page
