"""From the inbox to raw pixels and a row: whatever is cut off or overwritten, nothing is lost."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from sqlmodel import select

from starloom.archive import arrivals, dispositions
from starloom.archive import frames as rows
from starloom.archive.engine import database_now
from starloom.archive.models import Announcement
from starloom.errors import BadInput, Conflict, StarloomError, Unavailable
from starloom.frames import Bounds, inspect_file, sha256_of
from starloom.frames import step as ingest
from starloom.lake import DiskFull, keys

DAY = "20261009"


def states(station: Any) -> list[tuple[str, str | None]]:
    with station.hub.archive.session() as session:
        return sorted((rows.state_of(f), f.disposition_code) for f in rows.list_frames(session))


def test_a_frame_is_filed_once_whoever_looks_and_runs_twice(station: Any, frames: Any) -> None:
    path = frames(1)
    key = station.send(path)
    (frame_id,) = station.discover()
    assert station.discover() == []
    ingest.run(station.hub, frame_id)
    ingest.run(station.hub, frame_id)
    frame = station.frame(frame_id)
    assert (frame.ingest, frame.inbox_key, frame.raw_sha256) == ("ok", None, sha256_of(path))
    assert frame.pixel_digest == inspect_file(path).pixel_digest
    assert station.hub.lake.stat(key) is None
    assert station.hub.lake.get_bytes(frame.raw_key, max_bytes=10**7) == path.read_bytes()
    assert station.discover() == []


def test_what_was_taken_up_while_the_inbox_was_listed_is_no_arrival(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = frames(1)
    station.send(path)
    (frame_id,) = station.discover()
    listed = list(station.hub.lake.list("inbox/"))
    ingest.run(station.hub, frame_id)
    monkeypatch.setattr(type(station.hub.lake), "list", lambda *_: iter(listed))
    assert station.discover() == []
    station.send(path)  # the same bytes, sent again, are one
    (again,) = station.discover()
    ingest.run(station.hub, again)
    assert states(station) == [("duplicate", "duplicate"), ("processing", None)]


@pytest.mark.parametrize("cut", ["before-commit", "before-receipt", "before-delete", "before-leaving"])
def test_a_run_killed_anywhere_is_run_again(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    class Killed(BaseException):
        """Not an error that anything could handle."""

    def kill(*_: Any, **__: Any) -> Any:
        raise Killed

    path = frames(1)
    key = station.send(path)
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        if cut == "before-commit":
            patch.setattr(arrivals, "record_ingest", kill)
        elif cut == "before-receipt":
            patch.setattr(ingest, "write_receipt", kill)
        elif cut == "before-delete":
            patch.setattr(type(station.hub.lake), "delete", kill)
        else:
            patch.setattr(arrivals, "leave_inbox", kill)
        with pytest.raises(Killed):
            ingest.run(station.hub, frame_id)
    assert station.discover() == []
    assert station.due() == [frame_id]
    ingest.run(station.hub, frame_id)
    assert station.hub.lake.stat(key) is None
    assert station.receipt(path.name)["frame_id"] == frame_id
    assert states(station) == [("processing", None)]
    raw = [item.key for item in station.hub.lake.list("raw/")]
    assert raw == [station.frame(frame_id).raw_key]
    if cut != "before-leaving":
        station.send(path)
        (again,) = station.discover()
        ingest.run(station.hub, again)
        assert states(station) == [("duplicate", "duplicate"), ("processing", None)]


def test_a_refused_frame_whose_run_died_is_told_and_freed_by_the_next_look(
    station: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ObsReq-550_TelID-T42_20261008T220000.fits"
    path.write_bytes(b"no FITS at all" * 100)
    key = station.send(path)
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_receipt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest.run(station.hub, frame_id)
    assert station.due() == []
    assert station.hub.lake.stat(key) is not None
    assert station.discover() == []
    assert station.hub.lake.stat(key) is None
    told = station.receipt(path.name)
    assert (told["state"], told["code"], told["settled"]) == ("quarantined", "not-fits", True)
    assert path.name in told["message"]


def test_what_is_written_over_an_object_being_read_is_another_arrival(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = frames(1), frames(2)
    key = station.send(first)
    (frame_id,) = station.discover()
    examine = ingest.examine_apart

    def overwritten_meanwhile(path: Path) -> Any:
        station.send(second, name=first.name)
        assert station.discover() == []
        return examine(path)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "examine_apart", overwritten_meanwhile)
        ingest.run(station.hub, frame_id)
    frame = station.frame(frame_id)
    assert frame.raw_sha256 == sha256_of(first)
    assert station.hub.lake.get_bytes(frame.raw_key, max_bytes=10**7) == first.read_bytes()
    assert station.hub.lake.stat(key) is not None
    (other,) = station.discover()
    ingest.run(station.hub, other)
    assert station.frame(other).disposition_code == "name-conflict"
    kept = station.frame(other).raw_key
    assert station.hub.lake.get_bytes(kept, max_bytes=10**7) == second.read_bytes()
    told = station.receipt(first.name)
    assert (told["code"], told["original"]["pixel_digest"]) == ("name-conflict", frame.pixel_digest)


def test_an_object_overwritten_after_its_run_died_is_another_arrival(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = frames(1)
    station.send(first)
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "write_receipt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest.run(station.hub, frame_id)
    station.send(frames(2), name=first.name)
    (other,) = station.discover()
    assert other != frame_id
    assert station.frame(frame_id).inbox_key is None


def test_a_node_may_correct_what_nobody_has_read_yet(station: Any, frames: Any) -> None:
    first, second = frames(1), frames(2)
    station.send(first)
    (frame_id,) = station.discover()
    station.send(second, name=first.name)
    assert station.discover() == []
    ingest.run(station.hub, frame_id)
    assert station.frame(frame_id).raw_sha256 == sha256_of(second)
    assert station.inbox() == []


def test_two_runs_at_once_settle_a_frame_once(station: Any, frames: Any) -> None:
    station.send(frames(1))
    (frame_id,) = station.discover()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ingest.run(station.hub, frame_id)
        except StarloomError as error:  # the object went while it was copied: parked, and settled by the other
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {getattr(error, "code", "") for error in failures} <= {"object-missing"}
    assert states(station) == [("processing", None)]
    assert station.inbox() == []


def test_an_object_that_is_gone_is_told_to_its_node(station: Any, frames: Any) -> None:
    path = frames(1)
    key = station.send(path)
    (frame_id,) = station.discover()
    station.hub.lake.delete(key)
    ingest.run(station.hub, frame_id)
    assert station.receipt(path.name)["code"] == "object-missing"
    station.send(path)
    (again,) = station.discover()
    ingest.run(station.hub, again)
    assert station.frame(again).ingest == "ok"


def test_the_same_pixels_in_another_file_are_a_duplicate(station: Any, frames: Any, tmp_path: Path) -> None:
    path = frames(1)
    (first,) = station.process([station.send(path) and station.discover()[0]])
    image, header = fits.getdata(path), fits.getheader(path, 1)
    plain = tmp_path / path.name.removesuffix(".fz")
    fits.PrimaryHDU(image, fits.Header([("OBSERVER", "somebody"), ("DATE-OBS", header["DATE-OBS"])])).writeto(
        plain
    )
    station.send(plain)
    (again,) = station.process()
    assert (again.disposition, again.duplicate_of) == ("duplicate", first.id)
    told = station.receipt(plain.name)
    assert (told["state"], told["original"]["state"]) == ("duplicate", "ready")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ObsReq-550_TelID-T43_20261008T220000.fits.fz", "node-mismatch"),
        ("holiday.fits.fz", "bad-name"),
        ("ObsReq-550_TelID-T42_20261332T220000.fits.fz", "bad-name"),
    ],
)
def test_names_that_do_not_attribute_a_frame_are_quarantined(
    station: Any, frames: Any, name: str, code: str
) -> None:
    path = frames(1)
    station.send(path, name=name)
    (frame,) = station.process()
    assert (frame.disposition, frame.disposition_code) == ("quarantined", code)
    assert station.hub.lake.get_bytes(frame.raw_key, max_bytes=10**7) == path.read_bytes()
    told = station.receipt(name)
    assert (told["code"], told["settled"]) == (code, True)
    assert told["hint"]
    assert station.inbox() == []


def test_an_object_at_a_wrong_place_stops_nobody(station: Any, frames: Any) -> None:
    root = station.hub.lake.root
    long = "/".join(["inbox/T42", *["x" * 200] * 3])
    for place in (
        "inbox/stray.fits",
        "inbox/T42/stray.fits",
        "inbox/T42/nodate/a/b.fits",
        "inbox/T42/..x/c.fits",
        long,
    ):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"x")
    path = frames(1)
    station.send(path)
    found = {frame.name: frame for frame in station.process()}
    assert rows.state_of(found[path.name]) == "ready"
    for name in ("stray.fits", "b.fits"):
        assert found[name].disposition_code == "bad-key"
    # The lake takes no key like the first, the archive none as long as the second.
    assert station.inbox() == ["inbox/T42/..x/c.fits", long]


def test_a_file_too_large_is_not_even_fetched(station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = frames(1)
    station.send(path)
    (frame_id,) = station.discover()
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "Bounds", lambda: Bounds(max_file_bytes=1000))
        patch.setattr(type(station.hub.lake), "download", lambda *_, **__: pytest.fail("fetched"))
        ingest.run(station.hub, frame_id)
    frame = station.frame(frame_id)
    assert frame.disposition_code == "too-large"
    assert station.hub.lake.get_bytes(frame.raw_key, max_bytes=10**7) == path.read_bytes()
    with station.hub.archive.transaction() as session:
        dispositions.requeue(session, frame_id)
    (again,) = station.process([frame_id])
    assert rows.state_of(again) == "ready"


def test_a_quarantined_frame_is_taken_up_when_the_cause_is_gone(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    path = frames(1)
    station.send(path)

    def refuse(path: Path) -> Any:
        raise BadInput(f"{path.name}: no", code="too-many-hdus", hint="A bound of ours was too tight.")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "examine_apart", refuse)
        (frame,) = station.process()
    assert frame.disposition_code == "too-many-hdus"
    assert station.receipt(path.name)["hint"] == "A bound of ours was too tight."
    with station.hub.archive.transaction() as session:
        dispositions.requeue(session, frame.id)
    assert station.due() == [frame.id]
    (again,) = station.process([frame.id])
    assert rows.state_of(again) == "ready"
    told = station.receipt(path.name)
    assert (told["state"], told["code"], told["hint"], told["message"]) == ("ready", None, None, None)


def test_a_name_conflict_is_settled_by_withdrawing_the_other(station: Any, frames: Any) -> None:
    station.create()
    first, second = frames(1), frames(2)
    station.send(first)
    (kept,) = station.process()
    station.send(second, name=first.name)
    (other,) = station.process()
    assert other.disposition_code == "name-conflict"
    with station.hub.archive.transaction() as session:
        dispositions.requeue(session, other.id)
    (other,) = station.process([other.id])
    assert other.disposition_code == "name-conflict"
    with station.hub.archive.transaction() as session:
        dispositions.withdraw(session, kept.id, "wrong exposure")
        dispositions.requeue(session, other.id)
    (other,) = station.process([other.id])
    assert rows.state_of(other) == "ready"
    with station.hub.archive.transaction() as session, pytest.raises(Conflict, match="taken its place"):
        dispositions.requeue(session, kept.id)


def test_a_full_disk_or_a_silent_lake_parks_the_frame(
    station: Any, frames: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.create()
    path = frames(1)
    key = station.send(path)
    (frame_id,) = station.discover()
    for error in (DiskFull("raw/x: No space left on device"), Unavailable("no answer", code="lake-unavailable")):

        def fail(*_: Any, error: StarloomError = error, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(type(station.hub.lake), "put_file", fail)
            station.process([frame_id])
        frame = station.frame(frame_id)
        assert (frame.ingest, frame.last_error["code"]) == ("pending", error.code)
        assert station.hub.lake.stat(key) is not None
    assert station.due() == [frame_id]
    (frame,) = station.process([frame_id])
    assert rows.state_of(frame) == "ready"


def test_calibration_frames_are_filed(station: Any, frames: Any) -> None:
    name = "Cal-dark_TelID-T42_20261008T220000.fits.fz"
    station.send(frames(1), name=name)
    (frame,) = station.process()
    assert (rows.state_of(frame), frame.kind, frame.obs_req, frame.flags) == ("filed", "dark", None, [])
    told = station.receipt(name)
    assert (told["state"], told["settled"], told["code"], told["mission"]) == ("filed", True, None, None)


def announce(station: Any, name: str, /, **changes: Any) -> str:
    said = {"name": name, "node": "T42", "mission": "550", "size": 100, "sha256": "a" * 64} | changes
    key = keys.announcement(keys.inbox("T42", DAY, name))
    station.hub.lake.put_bytes(json.dumps(said).encode(), key)
    return key


def in_flight(station: Any) -> int:
    with station.hub.archive.session() as session:
        return arrivals.in_flight(session, "550")


def test_an_announced_frame_holds_its_mission_until_it_comes_or_the_time_is_up(station: Any, frames: Any) -> None:
    path = frames(1)
    key = announce(station, path.name, sha256=sha256_of(path))
    assert station.discover() == []
    assert station.hub.lake.stat(key) is None
    assert in_flight(station) == 1
    station.send(path)
    (frame_id,) = station.discover()
    assert in_flight(station) == 1
    station.process([frame_id])
    assert in_flight(station) == 0
    announce(station, frames(2).name)
    station.discover()
    assert in_flight(station) == 1
    with station.hub.archive.transaction() as session:
        for announcement in session.exec(select(Announcement)).all():
            announcement.expires_at = database_now(session) - timedelta(seconds=1)
    assert in_flight(station) == 0


def test_a_corrected_frame_that_is_announced_is_waited_for(station: Any, frames: Any, tmp_path: Path) -> None:
    path = frames(1)
    broken = tmp_path / path.name
    broken.write_bytes(path.read_bytes()[:10_000])
    station.send(broken)
    (frame,) = station.process()
    assert frame.disposition_code == "truncated"
    announce(station, path.name, sha256=sha256_of(path))
    station.discover()
    assert in_flight(station) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 10**400},
        {"size": -1},
        {"sha256": "A" * 64},
        {"name": "ObsReq-999_TelID-T42_20261008T220000.fits"},
        {"name": ["x"]},
        {"note": "x" * 20_000},
    ],
)
def test_a_hostile_announcement_is_dropped(station: Any, frames: Any, changes: dict[str, Any]) -> None:
    path = frames(1)
    key = announce(station, path.name, **changes)
    station.send(path)
    assert len(station.discover()) == 1
    assert station.hub.lake.stat(key) is None
    with station.hub.archive.session() as session:
        assert session.exec(select(Announcement)).all() == []
