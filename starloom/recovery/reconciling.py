"""Reconcile the archive with the lake: everything at once, in the order in which it is safe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlmodel import col, select

from starloom.archive.engine import database_now
from starloom.archive.models import Frame, Mission
from starloom.recovery import derived, epochs, frames, stacks
from starloom.sweeping import orphans

if TYPE_CHECKING:
    from starloom.hub import Hub


@dataclass
class Report:
    """What was found, and done where it was not a dry run."""

    dry_run: bool
    frames_registered: list[str] = field(default_factory=list)
    """Names of frames that came after the backup; their steps are done again."""
    frames_nameless: list[str] = field(default_factory=list)
    """Raw objects whose frames' names are lost."""
    raw_missing: list[str] = field(default_factory=list)
    """Raw objects that rows speak of and the lake does not hold: lost, unless there is a second copy."""
    frames_done_again: list[str] = field(default_factory=list)
    """Names of frames of whose derived objects one is gone."""
    masters_missing: list[str] = field(default_factory=list)
    missions_stacked_again: list[str] = field(default_factory=list)
    missions_unknown: list[str] = field(default_factory=list)
    """Missions that lake or frames speak of and that somebody has to create anew."""
    epochs_raised: int = 0
    orphans: int = 0
    """Objects that `tidy` will remove once they are older than the grace."""

    @property
    def clean(self) -> bool:
        """Whether lake and archive agree; orphans are no disagreement."""
        return not (
            self.frames_registered or self.frames_nameless or self.raw_missing or self.frames_done_again
            or self.masters_missing or self.missions_stacked_again
        )  # fmt: skip


def hold_back(hub: Hub) -> None:
    """Keep a restored archive from giving epochs and numbers of attempts twice; before anything else runs."""
    epochs.fence(hub.archive, epochs.in_the_lake(hub.lake), every=True)
    frames.raise_versions(hub)


def reconcile(hub: Hub, *, dry_run: bool = False) -> Report:
    """Compare lake and archive and make good what can be made good; may be repeated, on a living hub too.

    Missions come last: one that is asked for again then waits for its frames, which are in flight again.
    """
    report = Report(dry_run)
    raw = frames.look(hub)
    gaps = derived.look(hub)
    held = epochs.in_the_lake(hub.lake)
    lost = stacks.look(hub, held)
    gone = stacks.missing_products(hub)
    report.frames_registered = sorted(one.name for one in raw.lost)
    report.frames_nameless, report.raw_missing = raw.nameless, raw.missing
    report.frames_done_again = sorted(gap.name for gap in gaps)
    report.masters_missing = derived.missing_masters(hub)
    report.missions_stacked_again = sorted(
        {one.mission_id for one in lost if one.status not in (None, "CANCELLED")} | set(gone)
    )
    if not dry_run:
        frames.register(hub, raw.lost)
        derived.make_again(hub, gaps)
        report.epochs_raised = epochs.fence(hub.archive, held, every=False)
        stacks.ask_again(hub, lost)
        stacks.make_again(hub, gone)
    report.missions_unknown = _unknown_missions(hub, {one.mission_id for one in lost if one.status is None})
    with hub.archive.session() as session:
        now = database_now(session)
    report.orphans = sum(1 for _ in orphans(hub, now))
    return report


def _unknown_missions(hub: Hub, in_the_lake: set[str]) -> list[str]:
    with hub.archive.session() as session:
        known = select(Mission.id)
        named = session.exec(
            select(Frame.obs_req)
            .where(col(Frame.obs_req).not_in(known), col(Frame.obs_req).is_not(None))
            .distinct()
        ).all()
    return sorted(in_the_lake | {str(name) for name in named})
