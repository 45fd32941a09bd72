"""`explain-header`, `solve` and `stack`: files in, files out, no service."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.frames import pixel_digest, read_frame

FIELDS = {"file", "solved", "reason", "ra_deg", "dec_deg", "scale_arcsec", "rms_arcsec", "rms_px", "matches"}


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory, real: list[Path]) -> list[Path]:
    """Three solved frames."""
    from starloom.astrometry import solve_files

    out = tmp_path_factory.mktemp("solved")
    assert all(row["solved"] for row in solve_files(real[:3], out, target=(286.0408, 36.6326)))
    return sorted(out.iterdir())


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    path = tmp_path / "a[b].fits"
    path.write_bytes(b"\xff\xd8\xff\xe0 JPEG")
    return path


def test_explain_header_gives_every_quantity_with_its_origin(run: Any, real: list[Path]) -> None:
    told = run("explain-header", real[0], "--json").json
    assert set(told["exposure_s"]) == {"value", "keyword", "confidence", "note"}
    assert told["start_utc"]["value"].startswith("2012-06-17T01:56:40")
    assert "exposure_s" in run("explain-header", real[0]).out


@pytest.mark.parametrize("words", [["explain-header"], ["stack", "--out", "x.fits"]])
def test_a_file_that_is_no_frame_is_named_with_reason_and_remedy(run: Any, junk: Path, words: list[str]) -> None:
    for path, code in ((junk, "not-fits"), (junk.with_name("none.fits"), "file-not-found")):
        answer = run(*words, path, "--json")
        assert (answer.code, answer.error["code"]) == (1, code)
        assert path.name in answer.error["message"]


def test_solve_gives_a_row_a_file_and_copies_with_the_same_pixels(
    run: Any, real: list[Path], junk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    answer = run("solve", real[0], junk, "--out", out, "--ra", "286.0408", "--dec", "36.6326", "--json")
    assert answer.code == 1
    good, bad = answer.json
    assert set(good) >= FIELDS
    assert (good["solved"], bad["solved"], bad["reason"]) == (True, False, "not-fits")
    assert good["ra_deg"] == pytest.approx(286.02, abs=0.05)
    assert [path.name for path in out.iterdir()] == [real[0].name]
    assert pixel_digest(read_frame(out / real[0].name)[0]) == pixel_digest(read_frame(real[0])[0])
    told = run("solve", junk)
    assert f"[not-fits] {junk}: " in told.out
    assert "→" in told.out


def test_a_copy_never_replaces_its_frame(run: Any, real: list[Path], tmp_path: Path) -> None:
    path = tmp_path / real[0].name
    shutil.copy(real[0], path)
    answer = run("solve", path, "--out", tmp_path, "--ra", "286.0408", "--dec", "36.6326", "--json")
    assert (answer.code, answer.json[0]["reason"]) == (1, "same-file")
    assert path.read_bytes() == real[0].read_bytes()


def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    run: Any, real: list[Path], junk: Path
) -> None:
    answer = run("solve", real[0], "--out", junk / "below", "--json")
    assert answer.code == 1
    assert "a[b].fits" in answer.error["message"]


def test_stack_makes_a_product_on_any_grid(run: Any, solved: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.fits"
    answer = run("stack", *solved, "--out", out, "--threads", "2", "--json")
    (product,) = answer.json["products"]
    assert len(product["frames"]) == 3
    assert fits.getdata(out).ndim == 2
    second = tmp_path / "second.fits"
    words = ("--target", out, "--kernel", "lanczos3", "--combine", "median")
    told = run("stack", *solved, "--out", second, *words)
    assert str(second) in told.out
    with fits.open(out) as first, fits.open(second) as other:
        assert np.shape(first[0].data if first[0].data is not None else first[1].data) == np.shape(
            other[0].data if other[0].data is not None else other[1].data
        )


def test_stack_refuses_what_has_no_wcs_and_where_there_is_no_folder(
    run: Any, solved: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.arange(4096, dtype="i2").reshape(64, 64)).writeto(path)
    answer = run("stack", path, "--out", tmp_path / "x.fits", "--json")
    assert (answer.code, answer.error["code"]) == (1, "no-wcs")
    assert "starloom solve" in answer.error["hint"]
    answer = run("stack", *solved, "--out", tmp_path / "none" / "x.fits", "--json")
    assert (answer.code, answer.error["code"]) == (1, "no-such-folder")


def full() -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_leaves_nothing_half_written(
    program: Any, real: list[Path], solved: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    answer = program("stack", *solved, "--out", out / "x.fits", "--json", before=full)
    assert (answer.code, answer.error["code"]) == (3, "disk-full")
    assert list(out.iterdir()) == []
    words = ("--ra", "286.0408", "--dec", "36.6326", "--out", out, "--json")
    answer = program("solve", real[0], *words, before=full)
    assert answer.code == 3
    assert list(out.iterdir()) == []
