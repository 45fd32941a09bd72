"""`quicklook`: a page of any file, with the reason where it did not solve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from starloom.cli.quicklook import picture_of
from starloom.quicklook.page import HEIGHT, WIDTH

TRES1 = ("--ra", "286.0408", "--dec", "36.6326")


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_a_real_frame_is_solved_measured_and_drawn(run: Any, real: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.png"
    answer = run("quicklook", real[0], *TRES1, "--out", out, "--json")
    assert answer.code == 0
    assert size_of(out) == (WIDTH, HEIGHT)
    told = answer.json
    assert (told["solved"], told["picture"]) == (True, str(out))
    assert told["matches"] >= 15
    assert told["scale_arcsec"] == pytest.approx(2.374, abs=0.002)
    assert told["rms_px"] < 0.3
    assert told["missing"] <= 5
    assert told["zero_point_mag"] is not None
    assert "stars matched" in run("quicklook", real[0], *TRES1, "--out", out).out


def test_the_wcs_in_a_solved_file_is_taken_as_it_is(run: Any, real: list[Path], tmp_path: Path) -> None:
    assert run("solve", real[0], *TRES1, "--out", tmp_path).code == 0
    solved = tmp_path / real[0].name
    told = run("quicklook", solved, "--no-solve", "--json").json
    assert told["picture"] == str(tmp_path / "tres1-021.png")
    assert told["hint"] == "the WCS in the file"
    assert told["matches"] >= 15
    assert told["rms_px"] < 0.3
    # A WCS that is wrong by a degree is not hidden: nothing on the page fits it.
    moved = tmp_path / "moved.fits"
    with fits.open(solved) as hdus:
        image = hdus[1]
        header = image.header.copy()
        header["CRVAL2"] += 1.0
        fits.PrimaryHDU(image.data, header).writeto(moved)
    wrong = run("quicklook", moved, "--no-solve", "--json").json
    assert wrong["matches"] <= 4
    assert wrong["missing"] >= 10


def test_a_frame_that_does_not_solve_gets_its_page_with_the_reason(run: Any, tmp_path: Path) -> None:
    noise = tmp_path / "noise.fits"
    fits.PrimaryHDU(np.random.default_rng(1).normal(300, 9, (200, 300)).astype("f4")).writeto(noise)
    answer = run("quicklook", noise, "--json")
    assert (answer.code, answer.json["solved"]) == (1, False)
    assert answer.json["reason"]
    assert answer.json["remedy"]
    assert size_of(tmp_path / "noise.png") == (WIDTH, HEIGHT)
    assert answer.json["reason"] in run("quicklook", noise).out


def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(run: Any, tmp_path: Path) -> None:
    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((50, 60), "i2")).writeto(plain)
    assert run("quicklook", plain, "--no-solve", "--json").error["code"] == "no-wcs"
    assert run("quicklook", plain, "--out", plain, "--json").error["code"] == "same-file"
    assert run("quicklook", tmp_path / "none.fits", "--json").code == 1
    assert run("quicklook", plain, "--ra", "1", "--json").code == 2
    assert run("quicklook", plain, "--no-solve", "--scale", "1", "--json").code == 2
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["plain.fits"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a/f.fits.fz", "a/f.png"), ("f.FIT", "f.png"), ("f.fits.gz", "f.png"), ("m31.v2.fits", "m31.v2.png")],
)
def test_the_picture_stands_beside_its_file(file: str, expected: str, tmp_path: Path) -> None:
    assert picture_of(Path(file), None) == Path(expected)
    assert picture_of(Path(file), tmp_path) == tmp_path / Path(expected).name
    assert picture_of(Path(file), Path("x.png")) == Path("x.png")
