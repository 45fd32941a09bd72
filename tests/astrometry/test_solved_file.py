from __future__ import annotations

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from starloom.astrometry import write_solved
from starloom.astrometry.solved_file import encode_checksum
from starloom.errors import BadInput, StarloomError
from starloom.frames import pixel_digest, read_frame
from starloom.frames.opening import Bounds, opened
from starloom.frames.structure import image_of, scan
from starloom.sky import tres1_frames
from starloom.sky.telescope import Telescope

CARDS = Telescope("T1", 1.6, 64, 48, rotation_deg=20.0, distortion_px=1.0).wcs_cards(286.0, 36.6)
STALE = {
    "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": 1.0, "CRVAL2": 2.0, "CRPIX1": 3.0, "CRPIX2": 4.0,
    "CDELT1": 0.1, "CDELT2": 0.1, "CROTA1": 3.0, "CROTA2": 3.0, "PC1_1": 1.0, "PC2_2": 1.0, "PV1_1": 1.0,
    "PV2_10": 0.5, "LONPOLE": 170.0, "LATPOLE": 1.0, "EQUINOX": 2026.8, "RADECSYS": "FK5", "A_2_2": 1e-9,
    "AP_ORDER": 2, "AP_0_1": 0.1, "A_DMAX": 1.5, "WAT1_001": "wtype=tnx", "CUNIT1": "deg",
}  # fmt: skip


def data_bytes(path: Path) -> bytes:
    """The image's data unit as it stands in the (unzipped) file."""
    with opened(path, Bounds()) as (stream, size):
        image = image_of(path, scan(path, stream, size, Bounds()))
        stream.seek(image.data_start)
        return stream.read(image.data_bytes)


def pixels(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).integers(100, 30000, (48, 64)).astype(dtype)


def make(path: Path, dtype: str, *, compressed: bool, checksum: bool = True) -> Path:
    header = fits.Header()
    header["OBJECT"] = ("TrES-1", "as the capture program wrote it")
    header["RA"], header["DEC"] = 286.1, 36.5
    for key, value in STALE.items():
        header[key] = value
    header["CTYPE1A"] = "LINEAR"
    header["HISTORY"] = "stays"
    header["LONGTEXT"] = "x" * 150
    data = pixels(dtype)
    if compressed:
        kind = "GZIP_2" if dtype.startswith("float") else "RICE_1"
        image = fits.CompImageHDU(data, header, compression_type=kind, quantize_level=0.0)
        hdus = fits.HDUList([fits.PrimaryHDU(), image])
    else:
        extra = fits.BinTableHDU.from_columns([fits.Column("t", "J", array=np.arange(5))], name="MORE")
        hdus = fits.HDUList([fits.PrimaryHDU(data, header), extra])
    hdus.writeto(path, checksum=checksum)
    return path


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "uint8", "float32"])
@pytest.mark.parametrize("compressed", [True, False], ids=["fz", "plain"])
def test_pixels_stay_and_the_wcs_is_new(tmp_path: Path, dtype: str, compressed: bool) -> None:
    source = make(tmp_path / "a.fits", dtype, compressed=compressed)
    out = tmp_path / "b.fits"
    write_solved(source, out, CARDS)
    assert data_bytes(out) == data_bytes(source)
    before, _ = read_frame(source)
    after, header = read_frame(out)
    assert np.array_equal(before, after)
    assert before.dtype == after.dtype
    for key, value in CARDS.items():
        assert header[key] == (pytest.approx(value, rel=1e-14) if isinstance(value, float) else value)
    stale = set(STALE) - set(CARDS)
    assert not [key for key in header if key in stale]
    assert header["OBJECT"] == "TrES-1"
    assert header.comments["OBJECT"] == "as the capture program wrote it"
    assert header["RA"] == 286.1
    assert header["CTYPE1A"] == "LINEAR"
    assert header["LONGTEXT"] == "x" * 150
    assert list(header["HISTORY"]) == ["stays"]


@pytest.mark.parametrize("compressed", [True, False], ids=["fz", "plain"])
def test_checksums_stay_right(tmp_path: Path, compressed: bool) -> None:
    out = tmp_path / "b.fits"
    write_solved(make(tmp_path / "a.fits", "uint16", compressed=compressed), out, CARDS)
    # A wrong checksum warns when the HDU is read, and warnings are errors here.
    with fits.open(out, checksum=True, disable_image_compression=True) as hdus:
        image = hdus[1] if compressed else hdus[0]
        assert "CHECKSUM" in image.header
        assert image.verify_checksum() == 1
        assert image.verify_datasum() == 1
        assert "ZHECKSUM" not in image.header
        assert all(hdu.data is None or len(hdu.data) for hdu in hdus)


def test_no_checksum_none_added(tmp_path: Path) -> None:
    out = tmp_path / "b.fits"
    write_solved(make(tmp_path / "a.fits", "uint16", compressed=False, checksum=False), out, CARDS)
    assert "CHECKSUM" not in fits.getheader(out)


def test_other_hdus_are_copied_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "b.fits"
    write_solved(make(tmp_path / "a.fits", "uint16", compressed=False), out, CARDS)
    with fits.open(out) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "MORE"]
        assert list(hdus["MORE"].data["t"]) == [0, 1, 2, 3, 4]
    assert out.stat().st_size % 2880 == 0


@pytest.mark.parametrize("name", ["b.fits", "b.fits.gz"])
def test_gzipped_frames(tmp_path: Path, name: str) -> None:
    plain = make(tmp_path / "a.fits", "uint16", compressed=False)
    source = tmp_path / "a.fits.gz"
    source.write_bytes(gzip.compress(plain.read_bytes()))
    out = tmp_path / name
    write_solved(source, out, CARDS)
    assert (out.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert data_bytes(out) == data_bytes(plain)
    again = tmp_path / f"again-{name}"
    write_solved(source, again, CARDS)
    assert again.read_bytes() == out.read_bytes()


def test_stale_wcs_leaves_an_empty_primary_header(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU()
    primary.header["CD1_1"], primary.header["CROTA2"], primary.header["NODE"] = 9.0, 9.0, "T1"
    source = tmp_path / "a.fits"
    fits.HDUList([primary, fits.ImageHDU(pixels("int16"))]).writeto(source)
    write_solved(source, tmp_path / "b.fits", CARDS)
    header = read_frame(tmp_path / "b.fits")[1]
    assert header["CD1_1"] == pytest.approx(CARDS["CD1_1"], rel=1e-14)
    assert "CROTA2" not in header
    assert header["NODE"] == "T1"


def test_malformed_cards_survive_letter_by_letter(tmp_path: Path) -> None:
    source = make(tmp_path / "a.fits", "uint16", compressed=False, checksum=False)
    raw = source.read_bytes()
    odd = b"MYKEY   = 'no end quote and / more".ljust(80)
    at = raw.index(b"OBJECT  =")
    source.write_bytes(raw[:at] + odd + raw[at + 80 :])
    write_solved(source, tmp_path / "b.fits", CARDS)
    assert odd in (tmp_path / "b.fits").read_bytes()


def test_real_frame(tmp_path: Path) -> None:
    source = tres1_frames()[0]
    out = tmp_path / source.name
    write_solved(source, out, CARDS)
    assert data_bytes(out) == data_bytes(source)
    assert pixel_digest(read_frame(out)[0]) == pixel_digest(read_frame(source)[0])
    with fits.open(out) as hdus:
        assert np.array_equal(hdus[1].data, read_frame(source)[0])
        assert hdus[1].header["CRVAL1"] == 286.0
        assert hdus[1].header["SWCREATE"] == "MaxIm DL Version 5.12"


def test_writing_twice_changes_nothing_more(tmp_path: Path) -> None:
    source = make(tmp_path / "a.fits", "uint16", compressed=True)
    write_solved(source, tmp_path / "b.fits", CARDS)
    write_solved(tmp_path / "b.fits", tmp_path / "c.fits", CARDS)
    assert (tmp_path / "b.fits").read_bytes() == (tmp_path / "c.fits").read_bytes()


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    source = make(tmp_path / "a.fits", "uint16", compressed=False)
    before = source.read_bytes()
    with pytest.raises(BadInput) as caught:
        write_solved(source, source, CARDS)
    assert caught.value.code == "same-file"
    assert source.read_bytes() == before


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "a.fits"
    source.write_text("no FITS")
    with pytest.raises(BadInput):
        write_solved(source, tmp_path / "b.fits", CARDS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


def test_full_disk_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = make(tmp_path / "a.fits", "uint16", compressed=False)
    monkeypatch.setattr("starloom.astrometry.solved_file.os.fsync", full)
    with pytest.raises(StarloomError) as caught:
        write_solved(source, tmp_path / "b.fits", CARDS)
    assert (caught.value.code, caught.value.retryable) == ("disk-full", True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]


@pytest.mark.parametrize("total", [0, 1, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF, 868229149])
def test_checksum_encoding_sums_to_all_ones(total: int) -> None:
    text = encode_checksum(total)
    assert len(text) == 16
    assert text.isalnum()
    # The value stands in columns 12 to 27 of its card: one character off the 4-byte grid, hence the rotation.
    words = np.frombuffer((text[1:] + text[0]).encode(), ">u4").astype(np.uint64)
    zeros = np.frombuffer(b"0" * 16, ">u4").astype(np.uint64)
    value = total + int(words.sum()) - int(zeros.sum())
    assert value % 0xFFFFFFFF == 0
