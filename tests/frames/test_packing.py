"""Lossless compression: every dtype comes back bit for bit, here and through CFITSIO's own tools."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.errors import BadInput, StarloomError
from starloom.frames import compress, inspect_file, packing, pixel_digest, read_frame
from starloom.sky.samples import tres1_frames

RNG = np.random.default_rng(11)
NIGHT = RNG.normal(1000, 30, (64, 100))

DTYPES = {
    "uint8": (NIGHT / 8).astype(np.uint8),
    "int8": (NIGHT / 16 - 60).astype(np.int8),
    "int16": (NIGHT - 990).astype(np.int16),
    "uint16": (NIGHT * 40).astype(np.uint16),
    "int32": (NIGHT * 50_000).astype(np.int32),
    "uint32": (NIGHT * 3_000_000).astype(np.uint32),
    "int64": (NIGHT * 1e9).astype(np.int64),
    "float32": NIGHT.astype(np.float32),
    "float64": NIGHT,
}


def card(keyword: str, text: str) -> str:
    return f"{keyword:<8}= {text}".ljust(80)


def header() -> fits.Header:
    made = fits.Header()
    made["OBJECT"] = ("M 27", "what we looked at")
    made["EXPTIME"] = (120.0, "[s]")
    made["FOCALLEN"] = 600.25
    made["PIERSIDE"] = ("East", "")
    made["LONGTEXT"] = "a value that needs CONTINUE cards because it is far longer than one card can hold " * 2
    made["HIERARCH iTelescope Plate"] = 1.25
    made["ROTATOR"] = True
    made.add_history("calibrated by hand")
    made.add_history("and once more")
    made.add_comment("a remark")
    return made


def write(path: Path, data: np.ndarray, extra: fits.Header | None = None) -> Path:
    fits.PrimaryHDU(data, extra).writeto(path)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_pixel_comes_back(dtype: str, tmp_path: Path) -> None:
    data = DTYPES[dtype]
    source = write(tmp_path / "a.fits", data, header())
    done = compress(source, tmp_path / "a.fits.fz")
    again, cards = read_frame(tmp_path / "a.fits.fz")
    assert again.dtype == data.dtype
    assert again.dtype.isnative
    assert np.array_equal(again, data)
    assert done.algorithm == ("GZIP_2" if dtype.startswith("float") or dtype == "int64" else "RICE_1")
    assert (done.nbytes_in, done.nbytes_out) == tuple(
        (tmp_path / n).stat().st_size for n in ("a.fits", "a.fits.fz")
    )
    assert done.saving_fraction == pytest.approx(1 - done.nbytes_out / done.nbytes_in)
    for key, value in header().items():
        if key not in ("HISTORY", "COMMENT"):
            assert cards[key] == value
    assert list(cards["HISTORY"]) == ["calibrated by hand", "and once more"]
    assert "a remark" in list(cards["COMMENT"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_digest_is_of_the_pixels_alone(dtype: str, tmp_path: Path) -> None:
    data = DTYPES[dtype]
    source = write(tmp_path / "a.fits", data)
    renamed = write(tmp_path / "b.fits", data, header())
    compress(source, tmp_path / "c.fits.fz")
    (tmp_path / "d.fits.gz").write_bytes(gzip.compress(source.read_bytes()))
    digests = {inspect_file(path).pixel_digest for path in sorted(tmp_path.iterdir())}
    assert digests == {pixel_digest(data)} == {pixel_digest(data.astype(data.dtype.newbyteorder(">")))}
    assert inspect_file(renamed).sha256 != inspect_file(source).sha256


def test_digest_tells_shape_type_and_pixel_apart() -> None:
    data = DTYPES["uint16"]
    one = data.copy()
    one[3, 4] += 1
    others = [data.T, data.reshape(100, 64), data.astype(np.int32), data.view(np.int16), one, data[::-1]]
    assert len({pixel_digest(each) for each in [data, *others]}) == 7
    assert pixel_digest(data[:, ::2]) == pixel_digest(data[:, ::2].copy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nans_and_infinities_are_kept(dtype: str, tmp_path: Path) -> None:
    data = DTYPES[dtype].copy()
    data[3, :50] = np.nan
    data[4, 5], data[6, 7], data[8, 9] = np.inf, -np.inf, -0.0
    source = write(tmp_path / "a.fits", data)
    compress(source, tmp_path / "a.fits.fz")
    again = read_frame(tmp_path / "a.fits.fz")[0]
    assert again.tobytes() == data.tobytes()


def test_scaled_integers_become_the_same_floats(tmp_path: Path) -> None:
    """BSCALE other than 1 and BLANK: physical values are floats, blank pixels NaN."""
    hdu = fits.PrimaryHDU(DTYPES["int16"])
    hdu.header["BLANK"] = int(DTYPES["int16"][0, 0])
    hdu.writeto(tmp_path / "a.fits")
    end, scaled = "END".ljust(160).encode(), (card("BSCALE", "0.5") + "END".ljust(80)).encode()
    (tmp_path / "a.fits").write_bytes((tmp_path / "a.fits").read_bytes().replace(end, scaled, 1))
    data, cards = read_frame(tmp_path / "a.fits")
    assert data.dtype == np.float32
    blank = DTYPES["int16"] == DTYPES["int16"][0, 0]
    assert np.array_equal(np.isnan(data), blank)
    assert np.array_equal(data[~blank], DTYPES["int16"][~blank] * np.float32(0.5))
    assert "BSCALE" not in cards
    compress(tmp_path / "a.fits", tmp_path / "a.fits.fz")
    assert inspect_file(tmp_path / "a.fits.fz").pixel_digest == pixel_digest(data)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"int64"}))
def test_funpack_agrees(dtype: str, tmp_path: Path) -> None:
    """CFITSIO unpacks our files into the same pixels and cards (it knows no 64-bit integers)."""
    source = write(tmp_path / "a.fits", DTYPES[dtype], header())
    compress(source, tmp_path / "a.fits.fz")
    assert shutil.which("funpack"), "install Debian's libcfitsio-bin"
    subprocess.run(["funpack", "-O", tmp_path / "b.fits", tmp_path / "a.fits.fz"], check=True, capture_output=True)
    with fits.open(tmp_path / "b.fits") as opened:
        assert opened[0].data is not None, "the image is not the primary HDU"
        assert np.array_equal(opened[0].data, DTYPES[dtype])
        for key in ("OBJECT", "EXPTIME", "FOCALLEN", "PIERSIDE", "LONGTEXT", "ROTATOR"):
            assert opened[0].header[key] == header()[key]
        assert opened[0].header.comments["OBJECT"] == "what we looked at"
    info = inspect_file(tmp_path / "b.fits")
    assert info.pixel_digest == pixel_digest(DTYPES[dtype])


@pytest.mark.parametrize("flags", [["-r"], ["-g"], ["-r", "-t", "16,16"], ["-g2", "-q", "0"]], ids=" ".join)
def test_what_fpack_wrote_is_read(flags: list[str], tmp_path: Path) -> None:
    data = DTYPES["float32" if "-q" in flags else "uint16"]
    source = write(tmp_path / "a.fits", data, header())
    subprocess.run(["fpack", *flags, "-O", tmp_path / "a.fits.fz", source], check=True, capture_output=True)
    again, cards = read_frame(tmp_path / "a.fits.fz")
    assert again.dtype == data.dtype
    assert np.array_equal(again, data)
    assert cards["OBJECT"] == "M 27"
    assert not [key for key in cards if key.startswith(("ZIMAGE", "ZCMP", "ZTILE", "ZNAXIS", "TFORM", "TTYPE"))]
    assert inspect_file(tmp_path / "a.fits.fz").pixel_digest == pixel_digest(data)


def test_our_file_is_valid_fits(tmp_path: Path) -> None:
    if not shutil.which("fitsverify"):
        pytest.skip("fitsverify is not installed")
    cards = header()
    del cards["LONGTEXT"]  # CONTINUE is in the standard since 4.0, fitsverify still warns of it
    compress(write(tmp_path / "a.fits", DTYPES["uint16"], cards), tmp_path / "a.fits.fz")
    done = subprocess.run(
        ["fitsverify", "-q", tmp_path / "a.fits.fz"], capture_output=True, text=True, check=False
    )
    assert "verification OK" in done.stdout


def test_real_frame_shrinks_by_half(tmp_path: Path) -> None:
    """A real 16-bit sky: what RICE saves on it is what a node saves on its uplink."""
    data, cards = read_frame(tres1_frames()[0])
    source = write(tmp_path / "a.fits", data, cards)
    done = compress(source, tmp_path / "a.fits.fz")
    assert done.saving_fraction > 0.4
    assert read_frame(tmp_path / "a.fits.fz")[1]["SWCREATE"] == "MaxIm DL Version 5.12"


def test_compressing_again_changes_nothing(tmp_path: Path) -> None:
    compress(write(tmp_path / "a.fits", DTYPES["uint16"], header()), tmp_path / "a.fits.fz")
    compress(tmp_path / "a.fits.fz", tmp_path / "b.fits.fz")
    first, second = (read_frame(tmp_path / name) for name in ("a.fits.fz", "b.fits.fz"))
    assert np.array_equal(first[0], second[0])
    assert first[1].tostring() == second[1].tostring()


def test_malformed_cards_do_not_stop_it(tmp_path: Path) -> None:
    """Cards seen in real frames: unquoted text, a number with a comma, an accent, a lone quote, lower case."""
    cards = [
        *(card("SIMPLE", "T".rjust(20)), card("BITPIX", "16".rjust(20)), card("NAXIS", "2".rjust(20))),
        *(card("NAXIS1", "100".rjust(20)), card("NAXIS2", "64".rjust(20)), card("BZERO", "32768")),
        *(card("OBSERVER", "José / unquoted"), card("TEMPERAT", "-12,5"), card("OBJECT", "'M 31")),
        *(card("Airmass", "1.25"), card("SEEING", "nan"), card("EMPTY", ""), " " * 80, card("EXPTIME", "060.00")),
        "COMMENT = 'looks like a value'".ljust(80),
        "NOEQUALS here".ljust(80),
        "END".ljust(80),
    ]
    stored = (DTYPES["uint16"].astype(np.int32) - 32768).astype(">i2").tobytes()
    text = "".join(cards).ljust(2880).encode("latin-1")
    (tmp_path / "odd.fits").write_bytes(text + stored + bytes(-len(stored) % 2880))
    data, header = read_frame(tmp_path / "odd.fits")
    assert np.array_equal(data, DTYPES["uint16"])
    assert header["OBSERVER"] == "Jos?"
    assert header["TEMPERAT"] == "-12,5"
    assert header["OBJECT"] == "M 31"
    assert (header["AIRMASS"], header["EXPTIME"], header["SEEING"]) == (1.25, 60.0, "nan")
    compress(tmp_path / "odd.fits", tmp_path / "odd.fits.fz")
    assert read_frame(tmp_path / "odd.fits.fz")[1]["OBSERVER"] == "Jos?"


def test_header_overlays_the_primary(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["OBSERVAT"], primary.header["FILTER"] = "KPNO", "wrong"
    image = fits.ImageHDU(DTYPES["float32"], name="CCD4")
    image.header["FILTER"] = "r"
    fits.HDUList([primary, image]).writeto(tmp_path / "a.fits")
    header = read_frame(tmp_path / "a.fits")[1]
    assert (header["OBSERVAT"], header["FILTER"], header["EXTNAME"]) == ("KPNO", "r", "CCD4")
    assert "XTENSION" not in header
    compress(tmp_path / "a.fits", tmp_path / "a.fits.fz")
    fits.PrimaryHDU(DTYPES["float32"], header).writeto(tmp_path / "b.fits")


def test_full_disk_leaves_nothing_and_can_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write(tmp_path / "a.fits", DTYPES["uint16"])
    monkeypatch.setattr(packing.os, "fsync", full)
    with pytest.raises(StarloomError) as caught:
        compress(source, tmp_path / "a.fits.fz")
    assert (caught.value.code, caught.value.retryable) == ("disk-full", True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.fits"]


def test_other_failures_pass_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "disk gone")

    source = write(tmp_path / "a.fits", DTYPES["uint16"])
    (tmp_path / "a.fits.fz").write_bytes(b"the old one")
    monkeypatch.setattr(packing.os, "fsync", broken)
    with pytest.raises(OSError, match="disk gone"):
        compress(source, tmp_path / "a.fits.fz")
    assert (tmp_path / "a.fits.fz").read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_round_trip_that_differs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.fits", DTYPES["uint16"], header())
    honest = packing._write

    def lossy(path: Path, data: np.ndarray, cards: fits.Header, algorithm: str) -> None:
        honest(path, data // 2, cards, algorithm)

    def forgetful(path: Path, data: np.ndarray, cards: fits.Header, algorithm: str) -> None:
        del cards["OBJECT"]
        honest(path, data, cards, algorithm)

    for broken in (lossy, forgetful):
        with monkeypatch.context() as patched:
            patched.setattr(packing, "_write", lambda p, d, h, a, broken=broken: broken(p, d, h.copy(), a))
            with pytest.raises(StarloomError) as caught:
                compress(source, tmp_path / "a.fits.fz")
        assert caught.value.code == "round-trip-failed"
        assert [path.name for path in tmp_path.iterdir()] == ["a.fits"]


def test_what_is_no_frame_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.fits").write_bytes(b"\xff\xd8\xff" + bytes(5000))
    with pytest.raises(BadInput) as caught:
        compress(tmp_path / "a.fits", tmp_path / "a.fits.fz")
    assert caught.value.code == "not-fits"
    assert not (tmp_path / "a.fits.fz").exists()
