"""The star list in a solved frame: read back as it was, and never mistaken for another's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.astrometry import StarList, detect_stars, write_solved
from starloom.astrometry.stars_table import FACTS, read_stars, stars_hdu
from starloom.frames import compress, read_frame


@pytest.fixture
def stars() -> StarList:
    """A handful of stars, some of it NaN."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:200, 0:300]
    data = rng.normal(100, 5, (200, 300))
    for _ in range(30):
        x0, y0, flux = rng.uniform(10, 290), rng.uniform(10, 190), rng.uniform(3e3, 3e4)
        data += flux / (2 * np.pi * 1.5**2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.5**2))
    found = detect_stars(data.astype(np.float32))
    assert len(found) > 20
    return dataclasses.replace(found, frame_ellipticity=float("nan"))


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    """A compressed frame."""
    rng = np.random.default_rng(6)
    plain = tmp_path / "f.fits"
    fits.PrimaryHDU(rng.integers(90, 110, (200, 300)).astype(np.uint16)).writeto(plain)
    compress(plain, tmp_path / "f.fits.fz")
    return tmp_path / "f.fits.fz"


def same(a: StarList, b: StarList) -> bool:
    def numbers(stars: StarList, name: str) -> np.ndarray:
        return np.asarray(getattr(stars, name), float)

    names = [field.name for field in dataclasses.fields(a)]
    return all(np.array_equal(numbers(a, name), numbers(b, name), equal_nan=True) for name in names)


@pytest.mark.parametrize("suffix", [".fits.fz", ".fits", ".fits.gz"])
def test_a_list_comes_back_as_it_was_and_the_pixels_too(
    frame: Path, stars: StarList, tmp_path: Path, suffix: str
) -> None:
    source = frame
    if suffix != ".fits.fz":
        source = tmp_path / f"plain{suffix}"
        fits.PrimaryHDU(read_frame(frame)[0]).writeto(source)
    out = tmp_path / f"solved{suffix}"
    write_solved(source, out, {"CRVAL1": 1.0}, tables=[stars_hdu(stars)])
    found = read_stars(out)
    assert found is not None
    assert same(found, stars)
    assert found.shape == stars.shape
    assert (read_frame(out)[0] == read_frame(frame)[0]).all()


def test_solved_again_it_holds_one_list_the_newest(frame: Path, stars: StarList, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.fits.fz", tmp_path / "twice.fits.fz"
    write_solved(frame, once, {"CRVAL1": 1.0}, tables=[stars_hdu(stars)])
    write_solved(once, twice, {"CRVAL1": 2.0}, tables=[stars_hdu(stars.brightest(5))])
    found = read_stars(twice)
    assert found is not None
    assert len(found) == 5
    with fits.open(twice) as hdus:
        assert [hdu.name for hdu in hdus].count("STARS") == 1
    write_solved(frame, tmp_path / "again.fits.fz", {"CRVAL1": 1.0}, tables=[stars_hdu(stars)])
    assert (tmp_path / "again.fits.fz").read_bytes() == once.read_bytes()


def test_no_list_and_a_list_of_another_version_are_none(frame: Path, stars: StarList, tmp_path: Path) -> None:
    assert read_stars(frame) is None
    table = stars_hdu(stars)
    table.header[FACTS] = '{"shape": [1, 2]}'
    out = tmp_path / "odd.fits.fz"
    write_solved(frame, out, {}, tables=[table])
    assert read_stars(out) is None
