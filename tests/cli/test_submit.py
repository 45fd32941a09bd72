"""`starloom submit` and `receipts`: what a node owner sees, whatever is wrong with a file, a key or a disk."""

from __future__ import annotations

import gzip
import resource
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.archive import missions
from starloom.batches import advance
from starloom.calibration import step as calibration
from starloom.frames import compress
from starloom.frames import step as ingest
from starloom.lake import Lake, LakeDenied

NAME = "ObsReq-550_TelID-T42_20251201T013000.fits"


def huge(path: Path) -> None:
    """A header that claims 10^12 pixels, and one block of data."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2"]
    cards += [f"NAXIS{n}  =              1000000" for n in (1, 2)] + ["END"]
    path.write_bytes("".join(card.ljust(80) for card in cards).encode().ljust(2880) + b"\0" * 2880)


def cube(path: Path) -> None:
    fits.PrimaryHDU(np.arange(3 * 64 * 64, dtype="i2").reshape(3, 64, 64)).writeto(path)


def picture(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.arange(10_000, dtype="u1").reshape(100, 100)).save(path, "jpeg")


BAD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "empty-file": (NAME, lambda path: path.write_bytes(b"")),
    "not-fits": (NAME, picture),
    "too-many-pixels": (NAME, huge),
    "too-many-axes": (NAME, cube),
    "file-not-found": (NAME, lambda path: None),
}


def inbox(hub: Any) -> list[str]:
    return [item.key for item in hub.lake.list("inbox/")]


def process(hub: Any) -> None:
    for batch in ingest.discover(hub):
        for chunk in batch.chunks():
            advance(hub, chunk, ingest.run)
            advance(hub, chunk, calibration.run)


@pytest.mark.parametrize("code", BAD)
def test_what_is_no_frame_is_refused_with_file_reason_and_remedy(
    run: Any, hub: Any, tmp_path: Path, code: str
) -> None:
    name, make = BAD[code]
    path = tmp_path / name
    make(path)
    answer = run("submit", path, "--json")
    (row,) = answer.json
    assert (answer.code, row["state"], row["code"], row["retryable"]) == (1, "refused", code, False)
    assert row["hint"]
    told = run("submit", path)
    assert told.code == 1
    assert f"[{code}] {path}: " in told.out
    assert inbox(hub) == []


def test_a_truncated_frame_is_refused(run: Any, hub: Any, tmp_path: Path, real: list[Path]) -> None:
    path = tmp_path / f"{NAME}.fz"
    path.write_bytes(real[0].read_bytes()[:300_000])
    assert run("submit", path, "--json").json[0]["code"] == "truncated"
    assert inbox(hub) == []


def test_one_bad_file_never_stops_the_others(run: Any, hub: Any, tmp_path: Path, real: list[Path]) -> None:
    huge(tmp_path / NAME)
    answer = run("submit", real[0], tmp_path / NAME, real[1], "--mission", "550", "--node", "T42", "--json")
    assert [row["state"] for row in answer.json] == ["sent", "refused", "sent"]
    assert answer.code == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--mission", "551"], "mission-mismatch"),
        (["--node", "T43"], "node-mismatch"),
        (["--mission", "551", "--node", "T43"], "mission-mismatch"),
    ],
)
def test_a_name_and_options_that_disagree_are_an_error(
    run: Any, hub: Any, tmp_path: Path, real: list[Path], options: list[str], code: str
) -> None:
    path = tmp_path / f"{NAME}.fz"
    shutil.copy(real[0], path)
    answer = run("submit", path, *options, "--json")
    assert (answer.code, answer.json[0]["code"]) == (1, code)
    assert "550" in answer.json[0]["message"] or "T42" in answer.json[0]["message"]
    assert run("submit", path, "--mission", "550", "--node", "T42", "--json").json[0]["state"] == "sent"


def test_a_calibration_frame_belongs_to_no_mission(run: Any, hub: Any, tmp_path: Path, real: list[Path]) -> None:
    path = tmp_path / "Cal-dark_TelID-T42_20251201T013000.fits.fz"
    shutil.copy(real[0], path)
    assert run("submit", path, "--mission", "550", "--json").json[0]["code"] == "mission-mismatch"
    assert run("submit", path, "--json").json[0]["state"] == "sent"
    process(hub)
    (row,) = run("receipts", path.name, "--json").json
    assert (row["state"], row["settled"], row["hint"]) == ("filed", True, None)


def test_a_file_without_a_name_of_ours_is_named_from_its_header(run: Any, hub: Any, real: list[Path]) -> None:
    assert run("submit", real[0], "--json").json[0]["code"] == "bad-name"
    (row,) = run("submit", real[0], "--mission", "TrES-1", "--node", "UMO", "--json").json
    assert row["name"] == "ObsReq-TrES-1_TelID-UMO_20120617T015640.fits.fz"


def test_without_a_start_time_there_is_no_name(run: Any, hub: Any, tmp_path: Path) -> None:
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.arange(4096, dtype="i2").reshape(64, 64)).writeto(path)
    (row,) = run("submit", path, "--mission", "550", "--node", "T42", "--json").json
    assert row["code"] == "no-start-time"


def test_an_unknown_mission_is_accepted_and_the_receipt_says_what_comes_next(
    run: Any, hub: Any, real: list[Path]
) -> None:
    (row,) = run("submit", real[0], "--mission", "nobody-asked", "--node", "UMO", "--json").json
    assert row["state"] == "sent"
    none = run("receipts", row["name"], "--json")
    assert (none.code, none.json[0]["state"]) == (1, "none")
    process(hub)
    told = run("receipts", row["name"])
    assert told.code == 0
    assert "unknown-mission" in told.out
    assert "once the mission has been created" in told.out
    assert run("mission", "create", "nobody-asked").code == 0
    assert "unknown-mission" not in run("receipts", row["name"]).out


def test_the_same_pixels_again_are_known_whatever_wraps_them(
    run: Any, hub: Any, tmp_path: Path, real: list[Path]
) -> None:
    path = tmp_path / f"{NAME}.fz"
    shutil.copy(real[0], path)
    assert run("submit", path, "--json").json[0]["state"] == "sent"
    other = tmp_path / "other" / NAME
    other.parent.mkdir()
    fits.PrimaryHDU(fits.getdata(path), fits.Header([("OBSERVER", "somebody else")])).writeto(other)
    packed = other.with_name(f"{NAME}.gz")
    packed.write_bytes(gzip.compress(other.read_bytes()))
    for stage in ("waiting", "processing"):
        for again in (path, other, packed):
            answer = run("submit", again, "--json")
            assert (answer.code, answer.json[0]["state"], answer.json[0]["key"] is None) == (
                0, "already-known", stage == "processing",
            )  # fmt: skip
        process(hub)
    assert inbox(hub) == []


def test_other_pixels_under_a_name_that_is_taken_are_refused_unless_they_replace_it(
    run: Any, hub: Any, tmp_path: Path, real: list[Path]
) -> None:
    paths = [tmp_path / str(n) / f"{NAME}.fz" for n in range(2)]
    for path, source in zip(paths, real, strict=False):
        path.parent.mkdir()
        shutil.copy(source, path)
    together = run("submit", *paths, "--json")
    assert [row["state"] for row in together.json] == ["sent", "refused"]
    for _ in ("waiting in the inbox", "known to the hub"):
        answer = run("submit", paths[1], "--json")
        assert (answer.code, answer.json[0]["code"]) == (1, "name-conflict")
        process(hub)
    assert run("submit", paths[1], "--replace", "--json").json[0]["state"] == "sent"
    process(hub)
    (told,) = run("receipts", paths[0].name, "--json").json
    assert (told["state"], told["code"]) == ("quarantined", "name-conflict")


def test_floats_gzip_and_what_they_save(run: Any, hub: Any, tmp_path: Path, real: list[Path]) -> None:
    data = fits.getdata(real[0])
    floats, packed = tmp_path / NAME, tmp_path / "ObsReq-550_TelID-T42_20251201T013100.fits.gz"
    fits.PrimaryHDU(data.astype("f4") / 3).writeto(floats)
    fits.PrimaryHDU(data).writeto(packed)
    fz = tmp_path / "plain.fits.fz"
    compress(floats, fz)
    fz_gz = tmp_path / "ObsReq-550_TelID-T42_20251201T013200.fits.fz.gz"
    fz_gz.write_bytes(gzip.compress(fz.read_bytes()))
    answer = run("submit", floats, packed, fz_gz, "--json")
    assert answer.code == 0
    for row in answer.json:
        assert row["nbytes_sent"] == hub.lake.stat(row["key"]).size
        assert row["saving_fraction"] == pytest.approx(1 - row["nbytes_sent"] / row["nbytes_in"])
        with hub.lake.local_copy(row["key"]) as copy, fits.open(copy) as hdus:
            assert isinstance(hdus[1], fits.CompImageHDU)
    assert answer.json[0]["saving_fraction"] > 0.1
    assert run("submit", floats).out.count(NAME) >= 1


def test_a_table_of_submissions_shows_whole_names(
    run: Any, hub: Any, real: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from starloom.cli import output

    monkeypatch.setattr(output, "console", Console(width=100))
    mission = "0c9a3e4e-7f2b-4a51-9d3e-2f6f5f1f7a10"
    answer = run("submit", real[0], "--mission", mission, "--node", "UMO")
    assert f"ObsReq-{mission}_TelID-UMO_20120617T015640.fits.fz" in answer.out


def test_a_file_that_is_still_being_written_is_not_sent(
    run: Any, hub: Any, tmp_path: Path, real: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from starloom.node import submit

    path = tmp_path / f"{NAME}.fz"
    shutil.copy(real[0], path)
    inspect = submit.inspect_file

    def growing(path: Path) -> Any:
        info = inspect(path)
        with path.open("ab") as stream:
            stream.write(b"\0" * 2880)
        return info

    monkeypatch.setattr(submit, "inspect_file", growing)
    assert run("submit", path, "--json").json[0]["code"] == "file-changed"
    assert inbox(hub) == []


def test_an_interrupted_upload_leaves_nothing_half_written(
    run: Any, hub: Any, real: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import starloom.lake.folder as folder

    copy = folder.shutil.copyfileobj

    def cut(source: Any, target: Any, length: int = 0) -> None:
        target.write(source.read(1000))
        raise KeyboardInterrupt

    words = ("submit", real[0], "--mission", "550", "--node", "UMO", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "copyfileobj", cut)
        assert run(*words).code == 130
    assert copy is folder.shutil.copyfileobj
    assert [key for key in inbox(hub) if not key.endswith(".announce.json")] == []
    assert run(*words).json[0]["state"] == "sent"


def test_a_lake_that_fails_on_the_way_ends_the_call_and_says_what_was_not_sent(
    run: Any, hub: Any, real: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = type(hub.lake).put_file
    calls: list[Path] = []

    def fail_later(self: Lake, path: Path, *args: Any, **named: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise LakeDenied("inbox/UMO/x: the lake refuses (AccessDenied)")
        return put(self, path, *args, **named)

    words = ("submit", *real[:4], "--mission", "550", "--node", "UMO", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(type(hub.lake), "put_file", fail_later)
        answer = run(*words)
    assert [row["state"] for row in answer.json] == ["sent", "not-sent", "not-sent", "not-sent"]
    assert (answer.code, answer.json[1]["code"]) == (1, "lake-denied")
    assert len(calls) == 2
    again = run(*words)
    assert [row["state"] for row in again.json] == ["already-known", "sent", "sent", "sent"]


def test_a_closed_port_means_try_again(run: Any, real: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("STARLOOM_LAKE_URL", "s3://starloom")
    monkeypatch.setenv("STARLOOM_LAKE_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("STARLOOM_LAKE_ACCESS_KEY", "SLSOMEBODY")
    monkeypatch.setenv("STARLOOM_LAKE_SECRET_KEY", "not-a-real-one")
    answer = run("submit", *real[:2], "--mission", "550", "--node", "UMO", "--json")
    assert answer.code == 3
    assert [(row["state"], row["code"]) for row in answer.json] == [("not-sent", "lake-unavailable")] * 2
    assert run("receipts", "Cal-dark_TelID-T1_20260101T000000.fits.fz", "--json").error["retryable"] is True


def limit(nbytes: int) -> Callable[[], None]:
    """Let the program write no file beyond a size: to it the disk is full there."""

    def apply() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))

    return apply


def test_a_full_disk_means_try_again_and_leaves_nothing(
    program: Any, hub: Any, tmp_path: Path, real: list[Path]
) -> None:
    plain = tmp_path / NAME
    fits.PrimaryHDU(fits.getdata(real[0])).writeto(plain)
    for path in (plain, real[0]):
        words = ("submit", path, "--mission", "550", "--node", "T42", "--json")
        answer = program(*words, before=limit(100_000))
        assert answer.code == 3
        (row,) = answer.json
        assert (row["state"], row["code"], row["retryable"]) == ("not-sent", "disk-full", True)
        assert "pace" in row["hint"]
    assert [key for key in inbox(hub) if not key.endswith(".announce.json")] == []
    assert list((hub.lake.root / ".lake" / "unfinished").iterdir()) == []


def test_waiting_ends_with_the_hubs_word_or_in_time(run: Any, hub: Any, real: list[Path]) -> None:
    words = ("submit", real[0], "--mission", "550", "--node", "UMO", "--wait", "--timeout", "0", "--json")
    answer = run(*words)
    (row,) = answer.json
    assert (answer.code, row["receipt"], "starloom receipts" in row["hint"]) == (3, None, True)
    with hub.archive.transaction() as session:
        missions.create_mission(session, "550", ra_deg=286.0408, dec_deg=36.6326)
    process(hub)
    answer = run(*words)
    assert (answer.code, answer.json[0]["receipt"]["state"]) == (3, "processing")


def test_after_a_refusal_the_corrected_frame_waits_for_its_own_receipt(
    run: Any, hub: Any, tmp_path: Path, real: list[Path]
) -> None:
    from starloom.lake import keys

    path = tmp_path / f"{NAME}.fz"
    shutil.copy(real[0], path)
    hub.lake.put_bytes(path.read_bytes()[:100_000], keys.inbox("T42", "20251201", path.name))
    process(hub)
    assert run("receipts", path.name, "--json").json[0]["code"] == "truncated"
    answer = run("submit", path, "--wait", "--timeout", "0", "--json")
    assert (answer.json[0]["state"], answer.json[0]["receipt"]) == ("sent", None)


def test_receipts_of_names_that_are_none(run: Any, hub: Any) -> None:
    assert run("receipts", "M31.fits", "--json").error["code"] == "bad-name"
