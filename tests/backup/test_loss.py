"""The archive is lost with everything that came since its backup; the lake brings it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from astropy.io import fits
from sqlmodel import select

from starloom import backup
from starloom.archive.frames import state_of
from starloom.archive.models import Frame, Mission, Revision
from starloom.holding import StackRef
from starloom.hub import Hub
from starloom.recovery.epochs import JUMP
from starloom.recovery.frames import VERSION
from starloom.recovery.reconciling import hold_back, reconcile
from tests.backup.conftest import complete, destroy, stack
from tests.steps.conftest import Station

pytestmark = pytest.mark.slow


def pixels(hub: Hub, ref: StackRef) -> dict[str, list[str]]:
    """DATASUM of every image of every product."""
    sums = {}
    for product in ref.products:
        with hub.lake.local_copy(product["sci"]) as path, fits.open(path, checksum=False) as hdus:
            sums[product["name"]] = [
                hdu._calculate_datasum() for hdu in hdus if hdu.name in ("SCI", "WEIGHT", "COVERAGE", "REJECTED")
            ]
    return sums


def all_of(hub: Hub, table: type) -> list:  # type: ignore[type-arg]
    with hub.archive.session() as session:
        return list(session.exec(select(table)).all())


def states(hub: Hub) -> dict[str, str]:
    return {frame.id: state_of(frame) for frame in all_of(hub, Frame)}


def restored(hub: Hub, place: Path) -> None:
    """Do what `starloom restore` does."""
    backup.restore(hub.settings, hub.archive, str(place))
    hold_back(hub)


def test_frames_and_a_stack_that_came_after_the_backup_come_back(
    hub_at: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    hub = hub_at.hub
    hub_at.create()
    for n in (1, 2):
        hub_at.send(frames(n))
    hub_at.process()
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))

    for n in (3, 4):
        hub_at.send(frames(n))
    hub_at.process()
    complete(hub)
    before = stack(hub)
    known = states(hub)
    assert list(known.values()) == ["ready"] * 4
    sums = pixels(hub, before)

    destroy(hub)
    restored(hub, tmp_path / "backups")
    assert len(states(hub)) == 2
    report = reconcile(hub, dry_run=True)
    assert report.frames_registered == [frames(3).name, frames(4).name]
    assert report.missions_stacked_again == ["550"]
    assert len(states(hub)) == 2, "a dry run changes nothing"

    reconcile(hub)
    hub_at.process(hub_at.due())
    assert states(hub) == known, "the same frames, READY under the same ids"
    [mission] = all_of(hub, Mission)
    assert mission.status == "COMPLETE"
    after = stack(hub)
    [mission] = all_of(hub, Mission)
    assert mission.status == "STACKED"
    assert pixels(hub, after) == sums
    assert {p["sci"] for p in after.products}.isdisjoint({p["sci"] for p in before.products})

    again = reconcile(hub)
    assert again.clean
    assert again.orphans > 0, "what the lost stack and the lost solutions left is tidy's"


def test_an_epoch_is_never_given_twice(hub_at: Station, frames: Callable[..., Path], tmp_path: Path) -> None:
    """A holder of before the loss may still write; and the same old backup may be restored twice."""
    hub = hub_at.hub
    hub_at.create()
    hub_at.send(frames(1))
    hub_at.process()
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))
    given = set()
    for _ in range(3):
        complete(hub)
        ref = stack(hub)
        epoch = max(revision.epoch for revision in all_of(hub, Revision))
        assert f"/e{epoch}/" in ref.products[0]["sci"]
        assert epoch not in given
        given.add(epoch)
        destroy(hub)
        restored(hub, tmp_path / "backups")
    assert sorted(given) == [1, 1 + 1 + JUMP, 1 + 2 * (1 + JUMP)]


def test_what_waited_at_the_time_of_the_backup_is_found_where_it_went(
    hub_at: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    hub = hub_at.hub
    hub_at.create()
    hub_at.send(frames(1))
    [waiting] = hub_at.discover()  # registered, and not read yet
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))
    hub_at.process([waiting])
    assert states(hub) == {waiting: "ready"}

    destroy(hub)
    restored(hub, tmp_path / "backups")
    reconcile(hub)
    hub_at.process(hub_at.due())
    assert states(hub) == {waiting: "ready"}
    assert hub_at.frame(waiting).version > VERSION, "nothing is written over what the lost row had made"


def test_a_row_that_met_an_empty_inbox_before_the_reconciliation_is_taken_up(
    at_home: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    hub = at_home.hub
    at_home.create()
    at_home.send(frames(1))
    [waiting] = at_home.discover()
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))
    at_home.process([waiting])
    destroy(hub)
    restored(hub, tmp_path / "backups")
    assert at_home.process([waiting])[0].disposition_code == "object-missing"
    reconcile(hub)
    at_home.process(at_home.due())
    assert states(hub) == {waiting: "ready"}


def test_solved_copies_that_are_gone_are_made_again(
    at_home: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    """`tidy` has removed the solved copy that the backup speaks of, because the frame was solved again."""
    hub = at_home.hub
    at_home.create()
    for n in (1, 2):
        at_home.send(frames(n))
    first, _ = at_home.process()
    complete(hub)
    before = pixels(hub, stack(hub))
    assert first.solved_key is not None
    hub.lake.delete(first.solved_key)
    report = reconcile(hub)
    assert report.frames_done_again == [first.name]
    assert not at_home.frame(first.id).ready_at
    at_home.process(at_home.due())
    assert set(states(hub).values()) == {"ready"}
    assert reconcile(hub).clean
    complete(hub)
    assert pixels(hub, stack(hub)) == before


def test_a_product_that_is_gone_is_made_again_though_its_inputs_are_the_same(
    at_home: Station, frames: Callable[..., Path]
) -> None:
    hub = at_home.hub
    at_home.create()
    at_home.send(frames(1))
    at_home.process()
    complete(hub)
    first = stack(hub)
    sums = pixels(hub, first)
    hub.lake.delete(first.products[0]["sci"])
    assert reconcile(hub).missions_stacked_again == ["550"]
    assert pixels(hub, stack(hub)) == sums
    assert reconcile(hub).clean


def test_raw_frames_that_are_gone_are_told(at_home: Station, frames: Callable[..., Path]) -> None:
    hub = at_home.hub
    at_home.create()
    at_home.send(frames(1))
    [frame] = at_home.process()
    assert frame.raw_key is not None
    hub.lake.delete(frame.raw_key)
    report = reconcile(hub)
    assert report.raw_missing == [frame.raw_key]
    assert not report.clean


def test_the_words_of_people_are_kept_as_far_as_receipts_tell_them(
    at_home: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    """Withdrawn and refused frames do not come back as good ones."""
    from starloom.archive import dispositions
    from starloom.receipts import write_receipt

    hub = at_home.hub
    at_home.create()
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))
    at_home.send(frames(1))
    corrupt = tmp_path / frames(2).name
    corrupt.write_bytes(frames(2).read_bytes()[:20_000])
    at_home.send(corrupt)
    for frame in at_home.process():
        if frame.disposition == "active":
            with hub.archive.transaction() as session:
                gone = dispositions.withdraw(session, frame.id, "dome was closed")
            write_receipt(hub, gone)
    before = {(f.id, f.name, f.disposition, f.disposition_code, f.disposition_hint) for f in all_of(hub, Frame)}
    destroy(hub)
    restored(hub, tmp_path / "backups")
    reconcile(hub)
    assert {
        (f.id, f.name, f.disposition, f.disposition_code, f.disposition_hint) for f in all_of(hub, Frame)
    } == before
    assert reconcile(hub).clean


def test_a_mission_that_nobody_knows_any_more_is_told(
    at_home: Station, frames: Callable[..., Path], tmp_path: Path
) -> None:
    hub = at_home.hub
    backup.take(hub.settings, hub.archive, str(tmp_path / "backups"))
    at_home.create()
    at_home.send(frames(1))
    at_home.process()
    complete(hub)
    stack(hub)
    destroy(hub)
    restored(hub, tmp_path / "backups")
    report = reconcile(hub)
    assert report.missions_unknown == ["550"]
    at_home.process(at_home.due())
    at_home.create()
    assert reconcile(hub).missions_stacked_again == ["550"], "created anew, it is stacked as it was"
    ref = stack(hub)
    assert f"/e{1 + JUMP + 1}/" in ref.products[0]["sci"]


def test_nothing_is_found_where_nothing_was_lost(at_home: Station, frames: Callable[..., Path]) -> None:
    hub = at_home.hub
    at_home.create()
    at_home.send(frames(1))
    at_home.discover()
    assert reconcile(hub).clean, "a frame that waits in the inbox is on its way"
    at_home.process(at_home.due())
    complete(hub)
    stack(hub)
    report = reconcile(hub)
    assert report.clean
    assert report.orphans == report.epochs_raised == 0
