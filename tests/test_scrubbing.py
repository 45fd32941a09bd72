"""Scrubbing: stored bytes against the hash in their keys, a share at a time, and the second copy."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from starloom import scrubbing
from starloom.archive.models import Frame, RawCheck
from starloom.errors import Unavailable
from starloom.hub import Hub
from starloom.lake import Stored, keys
from starloom.settings import Settings

START = datetime(2026, 10, 8, 20, 30, tzinfo=UTC)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub.open(Settings(home=tmp_path / "home"))
    made.archive.migrate()
    made.lake.prepare()
    yield made
    made.archive.dispose()


def with_copy(hub: Hub, tmp_path: Path) -> Hub:
    settings = hub.settings.model_copy(update={"raw_copy_url": (tmp_path / "copy").as_uri()})
    return Hub(settings, hub.lake, hub.archive)


def file(hub: Hub, data: bytes) -> str:
    """File a raw frame; return its key."""
    digest = hashlib.sha256(data).hexdigest()
    key = keys.raw("T1", START, digest, compressed=True)
    hub.lake.put_bytes(data, key)
    with hub.archive.transaction() as session:
        session.add(
            Frame(
                name=digest,
                node_id="T1",
                start_utc=START,
                raw_key=key,
                raw_sha256=digest,
                ingest="ok",
                pixel_digest=digest,
            )
        )
    return key


def checks(hub: Hub) -> dict[str, RawCheck]:
    with hub.archive.session() as session:
        found = session.exec(select(RawCheck).where(RawCheck.checked_at > scrubbing.NEVER)).all()
        return {check.key: check for check in found}


def test_a_share_is_checked_each_time_those_longest_unchecked_first(hub: Hub) -> None:
    found = {file(hub, bytes([i])) for i in range(3)}
    seen: list[set[str]] = []
    for _ in range(3):
        assert scrubbing.scrub(hub) == {"raw_checked": 1, "raw_damaged": 0, "raw_copied": 0}
        seen.append(set(checks(hub)))
    assert [len(some) for some in seen] == [1, 2, 3]
    assert seen[-1] == found
    oldest = min(found)
    with hub.archive.transaction() as session:
        session.get(RawCheck, oldest).checked_at = START - timedelta(days=9)  # type: ignore[union-attr]
    scrubbing.scrub(hub)
    assert checks(hub)[oldest].checked_at > START
    off = Hub(hub.settings.model_copy(update={"scrub_days": 0}), hub.lake, hub.archive)
    assert scrubbing.scrub(off)["raw_checked"] == 0


def test_every_raw_object_comes_round_within_the_days(hub: Hub) -> None:
    for i in range(50):
        file(hub, bytes([i]))
    with hub.archive.session() as session:
        scrubbing.note_new(session)
        share = scrubbing.share_of(session, 1)
    assert share * scrubbing.RUNS_A_DAY >= 50
    assert share == 3


def test_a_frame_filed_days_after_it_came_is_found(hub: Hub) -> None:
    """It has its raw key only then: so it is looked at when it comes, and a day and two days later."""
    file(hub, b"seen")
    scrubbing.scrub(hub)
    found = {f"{hours}": file(hub, str(hours).encode()) for hours in (0, 12, 24, 36, 48, 60)}
    with hub.archive.transaction() as session:
        for hours, key in found.items():
            frame = session.exec(select(Frame).where(Frame.raw_key == key)).one()
            frame.received_at -= timedelta(hours=int(hours))
    with hub.archive.transaction() as session:
        scrubbing.note_new(session)
        noted = {check.key for check in session.exec(select(RawCheck)).all()}
    assert {hours for hours, key in found.items() if key in noted} == {"0", "24", "48"}
    with hub.archive.transaction() as session:
        for check in session.exec(select(RawCheck)).all():
            check.checked_at -= timedelta(hours=14)  # the hub did not run for half a day
        scrubbing.note_new(session)
        noted = {check.key for check in session.exec(select(RawCheck)).all()}
    assert {hours for hours, key in found.items() if key in noted} == {"0", "12", "24", "36", "48", "60"}


def test_more_than_one_statement_asks_for_are_checked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "AT_ONCE", 2)
    monkeypatch.setattr(scrubbing, "RUNS_A_DAY", 1)
    settings = hub.settings.model_copy(update={"scrub_days": 1})
    for i in range(5):
        file(hub, bytes([i]))
    assert scrubbing.scrub(Hub(settings, hub.lake, hub.archive))["raw_checked"] == 5
    assert len(checks(hub)) == 5


@pytest.mark.parametrize(("harm", "state"), [("flip", "mismatch"), ("lose", "missing")])
def test_damage_is_found_and_is_an_alarm(hub: Hub, harm: str, state: str) -> None:
    key = file(hub, b"light of long ago")
    if harm == "flip":
        (hub.settings.home / "lake" / key).write_bytes(b"light of long agp")
    else:
        hub.lake.delete(key)
    assert scrubbing.scrub(hub)["raw_damaged"] == 1
    check = checks(hub)[key]
    assert (check.state, check.alert) == (state, True)
    assert check.detail == f"object: {state}; second copy: none is configured"


def test_what_is_damaged_is_told_once_and_checked_every_time_until_it_is_put_back(hub: Hub) -> None:
    keys_ = [file(hub, bytes([i])) for i in range(4)]
    stored = hub.settings.home / "lake" / min(keys_)
    good = stored.read_bytes()
    stored.write_bytes(b"bad")
    assert scrubbing.scrub(hub)["raw_damaged"] == 1
    with hub.archive.transaction() as session:
        session.get(RawCheck, min(keys_)).alert = False  # type: ignore[union-attr]  # told
    assert scrubbing.scrub(hub) == {"raw_checked": 2, "raw_damaged": 1, "raw_copied": 0}
    assert checks(hub)[min(keys_)].alert is False
    stored.write_bytes(good)
    assert scrubbing.scrub(hub) == {"raw_checked": 2, "raw_damaged": 0, "raw_copied": 0}
    assert (checks(hub)[min(keys_)].state, checks(hub)[min(keys_)].detail) == ("ok", None)
    assert scrubbing.scrub(hub)["raw_checked"] == 1


def test_a_damaged_object_is_checked_in_the_version_that_its_frame_reads_now(hub: Hub) -> None:
    key = file(hub, b"put back as a new version")
    with hub.archive.transaction() as session:
        session.exec(select(Frame)).one().raw_version = "damaged"
    scrubbing.scrub(hub)
    for version, state in (("damaged too", "missing"), (None, "ok")):
        with hub.archive.transaction() as session:
            session.exec(select(Frame)).one().raw_version = version
        scrubbing.scrub(hub)
        assert (checks(hub)[key].state, checks(hub)[key].version) == (state, version)


def test_an_object_that_the_store_does_not_give_is_damaged_and_the_check_goes_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS compares a sum of its own, and answers InternalError instead of changed bytes."""
    found = [file(hub, bytes([i])) for i in range(3)]
    download = hub.lake.download

    def refused(key: str, path: Path, *, version: str | None = None) -> Stored:
        if key == min(found):
            raise Unavailable(f"{key}: the lake answers InternalError", code="lake-unavailable")
        return download(key, path, version=version)

    monkeypatch.setattr(hub.lake, "download", refused)
    monkeypatch.setattr(scrubbing, "RUNS_A_DAY", 1)
    all_at_once = Hub(hub.settings.model_copy(update={"scrub_days": 1}), hub.lake, hub.archive)
    assert scrubbing.scrub(all_at_once) == {"raw_checked": 3, "raw_damaged": 1, "raw_copied": 0}
    check = checks(hub)[min(found)]
    assert (check.state, check.alert) == ("missing", True)
    assert check.detail == "object: unreadable; second copy: none is configured"
    shutil.rmtree(hub.settings.home / "lake")
    with pytest.raises(Unavailable):
        scrubbing.scrub(all_at_once)


def test_the_second_copy_is_made_and_checked(hub: Hub, tmp_path: Path) -> None:
    found = [file(hub, bytes([i])) for i in range(3)]
    both = with_copy(hub, tmp_path)
    assert scrubbing.scrub(both) == {"raw_checked": 3, "raw_damaged": 0, "raw_copied": 3}
    assert {check.copy_state for check in checks(hub).values()} == {"ok"}
    copy = tmp_path / "copy" / found[0]
    assert copy.read_bytes() == b"\0"
    copy.write_bytes(b"x")
    with hub.archive.transaction() as session:
        session.get(RawCheck, found[0]).checked_at = START  # type: ignore[union-attr]
    assert scrubbing.scrub(both)["raw_damaged"] == 1
    assert checks(hub)[found[0]].detail == "object: ok; second copy: mismatch"
    # A copy that is gone is made again while the object is whole; a damaged object is copied nowhere.
    copy.unlink()
    (hub.settings.home / "lake" / found[1]).write_bytes(b"y")
    with hub.archive.transaction() as session:
        for key in found[:2]:
            session.get(RawCheck, key).checked_at = START  # type: ignore[union-attr]
    scrubbing.scrub(both)
    scrubbing.scrub(both)
    assert (checks(hub)[found[0]].state, checks(hub)[found[0]].copy_state) == ("ok", "ok")
    assert (checks(hub)[found[1]].state, checks(hub)[found[1]].copy_state) == ("mismatch", "ok")
