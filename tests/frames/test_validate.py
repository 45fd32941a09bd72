"""Hostile and broken files: each is refused with its code, and none of them costs anything."""

from __future__ import annotations

import contextlib
import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.errors import BadInput
from starloom.frames import Bounds, compress, describe_file, inspect_file, pixel_digest, read_frame, sha256_of
from starloom.sky.samples import tres1_frames

RNG = np.random.default_rng(7)
SKY = RNG.poisson(900, (60, 80)).astype(np.uint16)


def card(keyword: str, value: object) -> str:
    return f"{keyword:<8}= {value!s:>20}".ljust(80)


def block(*cards: str) -> bytes:
    text = "".join(cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // 2880) * 2880).encode("latin-1")


def primary(bitpix: int, *axes: int) -> bytes:
    cards = [card("SIMPLE", "T"), card("BITPIX", bitpix), card("NAXIS", len(axes))]
    cards += [card(f"NAXIS{n}", axis) for n, axis in enumerate(axes, 1)]
    return block(*cards)


def frame_bytes(data: np.ndarray = SKY, checksum: bool = False) -> bytes:
    out = io.BytesIO()
    fits.PrimaryHDU(data).writeto(out, checksum=checksum)
    return out.getvalue()


def packed_bytes(folder: Path, data: np.ndarray = SKY) -> bytes:
    (folder / "plain.fits").write_bytes(frame_bytes(data))
    compress(folder / "plain.fits", folder / "packed.fits.fz")
    return (folder / "packed.fits.fz").read_bytes()


def refusal(path: Path, bounds: Bounds | None = None) -> BadInput:
    with pytest.raises(BadInput) as caught:
        inspect_file(path, bounds)
    assert path.name in caught.value.message
    assert caught.value.hint
    assert not caught.value.retryable
    return caught.value


def hdus(count: int) -> bytes:
    extension = block(
        "XTENSION= 'IMAGE   '".ljust(80),
        card("BITPIX", 8),
        card("NAXIS", 0),
        card("PCOUNT", 0),
        card("GCOUNT", 1),
    )
    return frame_bytes() + extension * (count - 1)


def wrong_sum(which: str) -> bytes:
    data = bytearray(frame_bytes(checksum=True))
    if which == "data":
        data[2880 + 100] ^= 1
    else:
        at = data.index(b"BITPIX  ")
        data[at + 40] = ord("x")  # a character of the comment
    return bytes(data)


def image_with_heap() -> bytes:
    """An image extension that claims more data than its axes hold."""
    head = block(
        "XTENSION= 'IMAGE   '".ljust(80),
        *(card("BITPIX", 16), card("NAXIS", 2), card("NAXIS1", 40), card("NAXIS2", 30)),
        *(card("PCOUNT", 503), card("GCOUNT", 1)),
    )
    data = RNG.bytes(2 * (40 * 30 + 503))
    return block(card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0)) + head + data + bytes(-len(data) % 2880)


def tile_table(tile: bytes, algorithm: str = "GZIP_1", width: int = 40, height: int = 1) -> bytes:
    """A compressed image of one tile whose bytes are ours."""
    head = block(
        "XTENSION= 'BINTABLE'".ljust(80),
        *(card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 8), card("NAXIS2", 1)),
        *(card("PCOUNT", len(tile)), card("GCOUNT", 1), card("TFIELDS", 1)),
        "TTYPE1  = 'COMPRESSED_DATA'".ljust(80),
        f"TFORM1  = '1PB({len(tile)})'".ljust(80),
        *(card("ZIMAGE", "T"), card("ZBITPIX", 16), card("ZNAXIS", 2), card("ZNAXIS1", width)),
        *(card("ZNAXIS2", height), card("ZTILE1", width), card("ZTILE2", height)),
        f"ZCMPTYPE= '{algorithm}'".ljust(80),
    )
    body = len(tile).to_bytes(4, "big") + (0).to_bytes(4, "big") + tile
    return primary(8) + head + body + b"\0" * (-len(body) % 2880)


def with_nan(fraction: float) -> np.ndarray:
    data = SKY.astype(np.float32)
    data.flat[: int(data.size * fraction)] = np.nan
    return data


BROKEN: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "empty": ("empty-file", lambda _: b""),
    "jpeg": ("not-fits", lambda _: b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(5000)),
    "zip": ("not-fits", lambda _: b"PK\x03\x04" + bytes(5000)),
    "html": ("not-fits", lambda _: b"<html><body>404</body></html>"),
    "zeros": ("not-fits", lambda _: bytes(28800)),
    "simple-false": ("not-fits", lambda _: block(card("SIMPLE", "F"))),
    "cut-header": ("truncated", lambda _: frame_bytes()[:1000]),
    "no-end": ("truncated", lambda _: primary(16, 10, 10).replace(b"END     ", b"COMMENT ")),
    "cut-data": ("truncated", lambda _: frame_bytes()[: 2880 + 4000]),
    "no-data": ("truncated", lambda _: primary(16, 100, 100)),
    "cut-fz": ("truncated", lambda p: packed_bytes(p)[:-2881]),
    "cut-gz": ("truncated", lambda _: gzip.compress(frame_bytes())[:-200]),
    "damaged-gz": ("corrupt-data", lambda _: gzip.compress(frame_bytes())[:500] + b"\xff" * 500),
    "huge": ("too-many-pixels", lambda _: primary(16, 1_000_000, 1_000_000)),
    "wide": ("too-many-pixels", lambda _: primary(16, 70_000, 1)),
    "absurd": ("too-many-pixels", lambda _: primary(-64, *[9 * 10**17] * 5)),
    "cube": ("too-many-axes", lambda _: frame_bytes(np.stack([SKY] * 3))),
    "hdus": ("too-many-hdus", lambda _: hdus(65)),
    "no-image": ("no-image", lambda _: primary(8)),
    "one-axis": ("no-image", lambda _: frame_bytes(SKY[0])),
    "empty-axis": ("no-image", lambda _: primary(16, 0, 5)),
    "datasum": ("bad-checksum", lambda _: wrong_sum("data")),
    "checksum": ("bad-checksum", lambda _: wrong_sum("header")),
    "gz-bomb": ("decompression-bomb", lambda _: gzip.compress(primary(16, 5000, 5000) + bytes(50_000_000))),
    "fz-claim": ("decompression-bomb", lambda _: tile_table(b"\0" * 100, width=60_000, height=1000)),
    "tile-bomb": ("decompression-bomb", lambda _: tile_table(gzip.compress(bytes(30_000_000)))),
    "tile-tail": ("decompression-bomb", lambda _: tile_table(gzip.compress(bytes(80)) + gzip.compress(b"x"))),
    "bad-tile": ("corrupt-data", lambda _: tile_table(b"\x1f\x8b" + RNG.bytes(60))),
    "short-tile": ("corrupt-data", lambda _: tile_table(gzip.compress(bytes(10)))),
    "hcompress": ("unsupported-compression", lambda _: tile_table(b"\xdd\x99", "HCOMPRESS_1")),
    "bitpix": ("bad-structure", lambda _: primary(17, 10, 10)),
    "negative": ("bad-structure", lambda _: primary(16, -10, 10)),
    "image-with-heap": ("bad-structure", lambda _: image_with_heap()),
    "text-axis": ("bad-structure", lambda _: primary(16, 10, 10).replace(b" 10  ", b" 'x' ", 1)),
    "no-axis": ("bad-structure", lambda _: block(card("SIMPLE", "T"), card("BITPIX", 16), card("NAXIS", 2))),
    "endless": ("header-too-long", lambda _: primary(8)[:240] + b"HISTORY ".ljust(80) * 20_000),
    "nan": ("all-nan", lambda _: frame_bytes(with_nan(1.0))),
    "nearly-nan": ("all-nan", lambda _: frame_bytes(with_nan(0.995))),
    "black": ("constant-image", lambda _: frame_bytes(np.zeros((50, 50), np.uint16))),
    "saturated": ("constant-image", lambda _: frame_bytes(np.full((50, 50), 65535, np.uint16))),
    "nan-and-one": ("constant-image", lambda _: frame_bytes(np.where(with_nan(0.5) > 0, 1, np.nan))),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_with_their_code(case: str, tmp_path: Path) -> None:
    code, build = BROKEN[case]
    path = tmp_path / f"{case}.fits"
    path.write_bytes(build(tmp_path))
    assert refusal(path).code == code


def test_what_a_stranger_sends_instead_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m31.fits"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    assert "JPEG" in refusal(path).message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.fits").code == "file-not-found"
    assert refusal(tmp_path).code == "file-not-found"


def test_file_beyond_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "large.fits"
    path.write_bytes(frame_bytes())
    assert refusal(path, Bounds(max_file_bytes=5000)).code == "too-large"
    (tmp_path / "large.fits.gz").write_bytes(gzip.compress(frame_bytes()))
    assert refusal(tmp_path / "large.fits.gz", Bounds(max_file_bytes=8000)).code == "too-large"


@pytest.mark.parametrize("case", ["huge", "absurd", "no-data", "fz-claim", "tile-bomb", "endless", "hdus"])
def test_hostile_claims_cost_no_memory(case: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.fits"
    path.write_bytes(BROKEN[case][1](tmp_path))
    tracemalloc.start()
    try:
        refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


def test_corrupt_rice_stream(tmp_path: Path) -> None:
    """Without a checksum to betray it, a stream that ends early is found by the decoder."""
    path = tmp_path / "rice.fits.fz"
    path.write_bytes(tile_table(b"\xff", "RICE_1", 40, 1))
    assert refusal(path).code == "corrupt-data"


def test_tiles_outside_the_file(tmp_path: Path) -> None:
    data = bytearray(tile_table(gzip.compress(bytes(80))))
    at = data.index(b"XTENSION") + 2880
    data[at + 4 : at + 8] = (10**6).to_bytes(4, "big")
    path = tmp_path / "outside.fits.fz"
    path.write_bytes(data)
    assert refusal(path).code == "corrupt-data"


def test_a_good_frame_is_described(tmp_path: Path) -> None:
    path = tmp_path / "good.fits"
    path.write_bytes(frame_bytes(checksum=True))
    info = inspect_file(str(path))
    assert (info.path, info.nbytes, info.shape) == (path, path.stat().st_size, (60, 80))
    assert (info.dtype, info.compressed) == ("uint16", False)
    assert info.sha256 == sha256_of(path)
    assert info.pixel_digest == pixel_digest(SKY)


def test_checksums_that_hold_pass_in_every_form(tmp_path: Path) -> None:
    for name, data in (("odd.fits", SKY[:7, :3]), ("float.fits", with_nan(0.1))):
        (tmp_path / name).write_bytes(frame_bytes(data, checksum=True))
        inspect_file(tmp_path / name)
    packed = tmp_path / "a.fits.fz"
    packed.write_bytes(packed_bytes(tmp_path))
    assert inspect_file(packed).compressed
    damaged = bytearray(packed.read_bytes())
    damaged[-2880 - 1000] ^= 1
    packed.write_bytes(damaged)
    assert refusal(packed).code == "bad-checksum"


def test_habits_of_real_programs_are_forgiven(tmp_path: Path) -> None:
    """No padding behind the data, padding of NULs in the header, junk behind the last HDU, NAXIS3 = 1."""
    plain = frame_bytes()
    unpadded = tmp_path / "unpadded.fits"
    unpadded.write_bytes(plain[: 2880 + SKY.nbytes])
    junk = tmp_path / "junk.fits"
    junk.write_bytes(plain + b"written by a careless program")
    nul = tmp_path / "nul.fits"
    end = plain.index(b"END     ") + 3
    nul.write_bytes(plain[:end] + b"\0" * (2880 - end) + plain[2880:])
    flat = tmp_path / "flat.fits"
    flat.write_bytes(frame_bytes(SKY[None]))
    for path in (unpadded, junk, nul, flat):
        assert inspect_file(path).pixel_digest == pixel_digest(SKY), path.name


def test_second_hdu_counts_where_the_primary_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "extension.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(3.0))])
    fits.HDUList([fits.PrimaryHDU(), table, fits.ImageHDU(SKY)]).writeto(path)
    assert inspect_file(path).pixel_digest == pixel_digest(SKY)


def test_real_frames_pass() -> None:
    for path in tres1_frames():
        info = inspect_file(path)
        assert (info.shape, info.dtype, info.compressed) == ((736, 1092), "uint16", True)


def test_read_frame_serves_what_inspect_refuses_by_value(tmp_path: Path) -> None:
    path = tmp_path / "black.fits"
    path.write_bytes(frame_bytes(np.zeros((5, 6), np.uint16)))
    assert read_frame(path)[0].sum() == 0


def test_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "two.fits.gz"
    data = frame_bytes()
    path.write_bytes(gzip.compress(data[:3000]) + gzip.compress(data[3000:]) + bytes(64))
    assert inspect_file(path).pixel_digest == pixel_digest(SKY)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["plain", "packed", "table"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=5)), max_size=8),
    cut=st.floats(0.5, 1.5),
)
def test_damage_is_refused_or_harmless(
    form: str, changes: list[tuple[float, bytes]], cut: float, tmp_path: Path
) -> None:
    """Whatever is damaged, the answer is a description or a refusal, never another error."""
    build = {"plain": frame_bytes, "packed": lambda: packed_bytes(tmp_path)}
    data = bytearray(build.get(form, lambda: tile_table(gzip.compress(bytes(80))))())
    # Without the sums the damage reaches the decoder.
    data = bytearray(bytes(data).replace(b"CHECKSUM=", b"XHECKSUM=").replace(b"DATASUM =", b"XATASUM ="))
    for place, value in changes:
        at = int(place * len(data))
        data[at : at + len(value)] = value
    path = tmp_path / "damaged.fits"
    path.write_bytes(data[: int(cut * len(data))])
    with contextlib.suppress(BadInput):
        inspect_file(path)
    with contextlib.suppress(BadInput):
        describe_file(path)
