"""Planes on disk: integers and masks bit for bit, floats without bias, NaN as NaN, and other readers served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.astrometry.solved_file import write_solved
from starloom.calibration.calibrated_file import MaskBit, Planes, mark, read_planes, write_planes
from starloom.calibration.noise import spread
from starloom.calibration.planes import plane_frame
from starloom.frames import inspect_file, read_frame
from starloom.sky.camera import Camera
from starloom.sky.mosaic import mosaic

SHAPE = (120, 200)


def noisy(seed: int = 1, sigma: float = 12.0) -> np.ndarray:
    image = np.random.default_rng(seed).normal(400, sigma, SHAPE)
    image[40:44, 50:54] += 20_000
    return image.astype("f4")


def planes(data: np.ndarray) -> Planes:
    rng = np.random.default_rng(2)
    mask = rng.choice(np.array([0, 0, 0, 0, 1, 2, 4, 6, 63], np.uint8), SHAPE)
    slope = np.linspace(1, 3, SHAPE[1], dtype="f4")[None, :] * np.ones(SHAPE, "f4")
    return Planes(data, fits.Header({"EXPTIME": 60.0, "FILTER": "V", "PEDESTAL": -100}), mask, 144 * slope)


def test_floats_keep_value_noise_and_header(tmp_path: Path) -> None:
    given = planes(noisy())
    given.data[5, 6] = np.nan
    found = read_planes(write_planes(given, tmp_path / "c.fits.fz"))
    assert found.data.dtype == np.float32
    off = (found.data - given.data)[np.isfinite(given.data)]
    assert abs(off.mean()) < 3 * off.std() / np.sqrt(off.size)  # no bias: the dither is subtracted
    assert off.std() < 12 / 16 / 3
    assert spread(found.data[8:]) == pytest.approx(spread(given.data[8:]), rel=0.01)
    assert np.abs(off).max() < 12 / 16 * 1.5  # bright pixels are as exact as faint ones
    assert np.isnan(found.data[5, 6])
    assert np.isfinite(found.data).sum() == found.data.size - 1
    assert np.array_equal(found.mask, given.mask)
    assert found.variance is not None
    assert np.abs(found.variance / given.variance - 1).max() < 0.02
    assert (found.header["EXPTIME"], found.header["FILTER"], found.header["PEDESTAL"]) == (60.0, "V", -100)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
def test_integers_are_kept_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    info = np.iinfo(dtype)
    data = np.random.default_rng(3).integers(max(info.min, -5000), min(info.max, 60_000), SHAPE).astype(dtype)
    given = planes(data)
    found = read_planes(write_planes(Planes(data, given.header, given.mask), tmp_path / "c.fits.fz"))
    assert np.array_equal(found.data, data)
    assert np.array_equal(found.mask, given.mask)
    assert found.variance is None
    assert read_frame(tmp_path / "c.fits.fz")[0].dtype == np.dtype(dtype)


def test_zeros_stay_zero_and_a_mosaics_noise_is_that_of_its_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    colours = {c: np.full(SHAPE, level, "f4") for c, level in zip("RGB", (600, 3000, 200), strict=True)}
    data = (mosaic(colours, "RGGB") + rng.normal(0, 8, SHAPE)).astype("f4")
    data[:, 17] = 0.0
    found = read_planes(write_planes(Planes(data, fits.Header()), tmp_path / "m.fits.fz"))
    assert (found.data[:, 17] == 0).all()
    off = np.delete(found.data - data, 17, axis=1)
    assert off.std() < 8 / 16 / 3


@pytest.mark.parametrize("what", ["blank", "all NaN", "odd variance"])
def test_odd_planes_come_back(tmp_path: Path, what: str) -> None:
    data = {"blank": np.zeros(SHAPE, "f4"), "all NaN": np.full(SHAPE, np.nan, "f4")}.get(what, noisy())
    variance = np.ones(SHAPE, "f4")
    if what == "odd variance":
        variance[3] = np.nan
        variance[4] = 0.0
    found = read_planes(write_planes(Planes(data, fits.Header(), None, variance), tmp_path / "o.fits.fz"))
    assert found.data.shape == SHAPE
    assert np.array_equal(np.isnan(found.data), np.isnan(data))
    assert found.mask is None
    assert found.variance is not None
    assert np.array_equal(np.isnan(found.variance), np.isnan(variance))
    assert np.abs(np.nan_to_num(found.variance - variance)).max() < 0.02


def test_the_same_planes_are_the_same_bytes_and_valid_fits(tmp_path: Path) -> None:
    given = planes(noisy())
    first, second = (write_planes(given, tmp_path / f"{n}.fits.fz") for n in "ab")
    # Checksums carry the time in their comments; the pixels' bytes do not.
    with (
        fits.open(first, disable_image_compression=True) as a,
        fits.open(second, disable_image_compression=True) as b,
    ):
        for one, two in zip(a[1:], b[1:], strict=True):
            assert one.header["DATASUM"] == two.header["DATASUM"]
    assert inspect_file(first).shape == SHAPE
    with fits.open(first, checksum=True) as hdus:
        assert [hdu.name for hdu in hdus[2:]] == ["MASK", "VAR"]
        assert hdus["MASK"].header["BIT2"] == "saturated"


def test_a_solved_copy_takes_the_planes_along(tmp_path: Path) -> None:
    given = planes(noisy())
    source = write_planes(given, tmp_path / "c.fits.fz")
    write_solved(source, tmp_path / "s.fits.fz", {"CRVAL1": 12.5, "CRVAL2": 1.0})
    before, after = read_planes(source), read_planes(tmp_path / "s.fits.fz")
    assert np.array_equal(after.data, before.data)
    assert np.array_equal(after.mask, given.mask)
    assert np.array_equal(after.variance, before.variance)
    assert after.header["CRVAL1"] == 12.5


def test_a_colour_plane_takes_its_part_of_the_planes(tmp_path: Path) -> None:
    camera = Camera(shape=SHAPE, bayer="RGGB")
    given = planes(camera.expose(500.0, 1.0, np.random.default_rng(1)).astype("f4"))
    given.header["BAYERPAT"] = "RGGB"
    given.header["XPIXSZ"] = 3.76
    source = write_planes(given, tmp_path / "c.fits.fz")
    whole = read_planes(source)
    for plane, (y, x) in {"R": (0, 0), "G1": (0, 1), "G2": (1, 0), "B": (1, 1)}.items():
        cut = read_planes(plane_frame(source, plane, tmp_path / f"{plane}.fits.fz"))
        assert np.array_equal(cut.mask, given.mask[y::2, x::2])  # type: ignore[index]
        assert np.abs(cut.data - whole.data[y::2, x::2]).max() < 1.0
        assert np.allclose(cut.variance, whole.variance[y::2, x::2], rtol=0.03)  # type: ignore[index, arg-type]
        assert "BAYERPAT" not in cut.header
        assert cut.header["XPIXSZ"] == 7.52


def test_a_mask_that_says_nothing_is_small_and_readable(tmp_path: Path) -> None:
    shape = (1500, 4000)  # a bound against files that unpack to a thousand times their size must not meet it
    data = np.random.default_rng(1).normal(0, 5, shape).astype("f4")
    given = Planes(data, fits.Header(), np.zeros(shape, "u1"), np.full(shape, 25.0, "f4"))
    found = read_planes(write_planes(given, tmp_path / "c.fits.fz"))
    assert not found.mask.any()  # type: ignore[union-attr]
    assert np.abs(found.variance / 25 - 1).max() < 0.02  # type: ignore[operator]
    assert (tmp_path / "c.fits.fz").stat().st_size < 1.3 * data.size
    nothing = Planes(data[:100], fits.Header(), None, np.zeros((100, 4000), "f4"))
    assert read_planes(write_planes(nothing, tmp_path / "n.fits.fz")).variance is None


def test_a_file_without_planes_has_none(tmp_path: Path) -> None:
    fits.PrimaryHDU(noisy()).writeto(tmp_path / "plain.fits")
    found = read_planes(tmp_path / "plain.fits")
    assert (found.mask, found.variance) == (None, None)
    other = fits.ImageHDU(np.zeros((3, 3), "u1"), name="MASK")
    fits.HDUList([fits.PrimaryHDU(noisy()), other]).writeto(tmp_path / "other.fits")
    assert read_planes(tmp_path / "other.fits").mask is None  # of another size: it is not this frame's


def test_bits_add_up() -> None:
    mask = np.zeros((2, 2), np.uint8)
    mark(mask, np.array([[True, False], [True, False]]), MaskBit.HOT)
    mark(mask, np.array([[True, True], [False, False]]), MaskBit.SATURATED)
    assert mask.tolist() == [[6, 4], [2, 0]]
