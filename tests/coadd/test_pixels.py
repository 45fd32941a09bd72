"""The reader against astropy and fpack: every type, any spans, and bytes that nobody vouches for."""

from __future__ import annotations

import gzip
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.hdu.compressed._codecs import Rice1
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starloom.coadd.pixels import kept, open_source
from starloom.coadd.pixels.rice import RiceTiles, read_rice
from starloom.coadd.pixels.scaling import NO_BLANK, Scaling
from starloom.coadd.pixels.tiled import TilesOneByOne
from starloom.errors import BadInput

SHAPE = (37, 301)


def stars(kind, *, seed=1, shape=SHAPE):
    """A sky with a few bright pixels (long runs of zeros) and a flat corner (blocks of equal pixels)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(900, 25, shape)
    image[rng.integers(0, shape[0], 20), rng.integers(0, shape[1], 20)] += rng.uniform(500, 60000, 20)
    image[:9, :150] = 700
    if kind == "u1":
        image = image / 300 + 5
    if kind == "i4":
        image = image * 3e4
    if np.dtype(kind).kind == "f":
        return image.astype(kind)
    info = np.iinfo(kind)
    return np.clip(np.rint(image), info.min, info.max).astype(kind)


def read_whole(source):
    out = np.full(source.shape, -7, np.float32)
    ny, nx = source.shape
    flag = source.read(0, np.zeros(ny, np.int32), np.full(ny, nx, np.int32), 0, out)
    return out, flag


def check(path, truth, *, rtol=0.0, checkpoint_px=64, seed=5):
    """The whole, and spans in any order by a fresh source, are the truth; nothing else is touched."""
    truth = np.asarray(truth, np.float64).astype(np.float32)
    whole, flag = read_whole(open_source(path))
    np.testing.assert_allclose(whole, truth, rtol=rtol, atol=0)
    assert flag or np.isfinite(truth).all()
    source = open_source(path, checkpoint_px=checkpoint_px)
    assert source.shape == truth.shape
    rng = np.random.default_rng(seed)
    ny, nx = truth.shape
    for _ in range(12):
        y0 = int(rng.integers(0, ny))
        n = int(rng.integers(1, ny - y0 + 1))
        x0 = int(rng.integers(0, nx))
        width = int(rng.integers(1, nx - x0 + 1))
        ends = rng.integers(x0, x0 + width + 1, (n, 2)).astype(np.int32)
        buffer = np.full((n + 2, width + 9), -7, np.float32)
        flag = source.read(y0, ends[:, 0], ends[:, 1], x0, buffer[1:-1, 3 : 3 + width])
        expected = np.full_like(buffer, -7)
        for i, (lo, hi) in enumerate(ends):
            if lo < hi:
                expected[1 + i, 3 + lo - x0 : 3 + hi - x0] = whole[y0 + i, lo:hi]
        np.testing.assert_array_equal(buffer, expected)
        assert flag or np.isfinite(expected).all()
    return whole


def packed(tmp_path, image, *options, header=None):
    path = tmp_path / "f.fits"
    fits.PrimaryHDU(image, header).writeto(path)
    subprocess.run(["fpack", *options, str(path)], check=True, capture_output=True)
    return tmp_path / "f.fits.fz"


needs_fpack = pytest.mark.skipif(shutil.which("fpack") is None, reason="fpack (libcfitsio-bin) is not installed")


@needs_fpack
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("options", [["-r"], ["-r", "-t", "100,7"], ["-r", "-w"], ["-g"], ["-g2"]])
def test_integers_are_what_fpack_was_given(tmp_path, kind, options):
    image = stars(kind)
    check(packed(tmp_path, image, *options), image)


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"])
@pytest.mark.parametrize("kind", ["u1", "i2", "i4"])
def test_integers_are_what_astropy_was_given(tmp_path, algorithm, kind):
    image = stars(kind) if algorithm != "PLIO_1" else stars("i2").astype(kind)
    if algorithm == "PLIO_1":
        image = np.abs(image.astype(np.int64) % 100).astype(kind)
    path = tmp_path / "a.fits"
    tile = (16, 64) if algorithm == "HCOMPRESS_1" else (5, 90)
    fits.CompImageHDU(image, compression_type=algorithm, tile_shape=tile).writeto(path)
    check(path, fits.getdata(path))


def test_noise_of_any_width_and_every_way_through_the_decoder(tmp_path):
    """Equal pixels, each number of low bits, blocks stored as they are, runs of thousands of zeros."""
    rng = np.random.default_rng(2)
    image = np.zeros((64, 257), np.int32)
    for row in range(62):
        image[row] = rng.normal(0, 2.0 ** (row / 2), 257).clip(-(2**31), 2**31 - 1)
    image[62, ::40] = 200_000
    image[63] = rng.integers(-(2**31), 2**31, 257)
    for kind, bits in (("i4", 32), ("i2", 16), ("u1", 8)):
        path = tmp_path / f"{kind}.fits"
        stored = (image >> max(0, 16 - bits)).astype(kind)
        fits.CompImageHDU(stored, compression_type="RICE_1").writeto(path)
        check(path, stored, checkpoint_px=32)


@needs_fpack
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("method", ["-q0", "-q", "-qz"])
@pytest.mark.parametrize("algorithm", ["-r", "-g"])
def test_quantised_floats_agree_with_astropy_bit_for_bit(tmp_path, kind, method, algorithm):
    image = stars(kind)
    image[3, 40:60] = np.nan
    image[11] = np.nan
    image[20, ::7] = 0
    path = packed(tmp_path, image, algorithm, method, "4")
    truth = fits.getdata(path)
    assert np.isnan(truth[3, 40:60]).all()
    check(path, truth)


@pytest.mark.parametrize("most_bytes", [0, 9000, 64 << 20])
def test_tiles_are_inflated_once_a_band_while_there_is_room(tmp_path, monkeypatch, most_bytes):
    image = stars("i2")
    path = tmp_path / "z.fits"
    fits.CompImageHDU(image, compression_type="GZIP_2").writeto(path)
    before = kept.ROOM.taken
    monkeypatch.setattr(kept, "MOST_BYTES", before + most_bytes)
    inflated = []
    inflate = TilesOneByOne._stored
    monkeypatch.setattr(
        TilesOneByOne, "_stored", lambda self, *args: (inflated.append(args[3]), inflate(self, *args))[1]
    )
    source = open_source(path)
    for y0 in (0, 16):
        for x0 in (0, 100, 200):
            out = np.zeros((20, 100), np.float32)
            source.read(y0, np.full(20, x0, np.int32), np.full(20, x0 + 100, np.int32), x0, out)
            np.testing.assert_array_equal(out, image[y0 : y0 + 20, x0 : x0 + 100])
            assert kept.ROOM.taken <= before + most_bytes
    kept_rows = min(20, most_bytes // 602)
    # Rows 16 to 19 are of both bands.
    assert len(inflated) == 20 + 20 + 4 * (20 - kept_rows) - (4 if kept_rows == 20 else 0)
    del source
    assert kept.ROOM.taken == before
    check(path, image)


@pytest.mark.parametrize("method", [-1, 1, 2])
@pytest.mark.parametrize("tile", [None, (37, 301), (37, 50)])
def test_dither_goes_on_past_its_ten_thousand_numbers(tmp_path, method, tile):
    image = stars("f4")
    image[5, 5:9] = np.nan
    image[9:12, 100:120] = 0
    path = tmp_path / "q.fits"
    fits.CompImageHDU(
        image,
        compression_type="RICE_1",
        quantize_level=8,
        quantize_method=method,
        dither_seed=9990,
        tile_shape=tile,
    ).writeto(path)
    whole = check(path, fits.getdata(path))
    assert np.isnan(whole[5, 5:9]).all()
    if method == 2:
        assert (whole[9:12, 100:120] == 0).all()


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_plain_files_and_gzipped_ones(tmp_path, kind):
    image = stars(kind if kind != "i1" else "u1").astype(kind)
    path = tmp_path / "p.fits"
    fits.PrimaryHDU(image).writeto(path)
    check(path, image)
    packed_path = tmp_path / "p.fits.gz"
    packed_path.write_bytes(gzip.compress(path.read_bytes(), 1))
    check(packed_path, image)


@pytest.mark.parametrize("compressed", [False, True])
def test_blank_and_scale(tmp_path, compressed):
    stored = stars("i2")
    stored[4:6, 50:99] = -32768
    header = fits.Header({"BSCALE": 0.37, "BZERO": 1001.5, "BLANK": -32768})
    path = tmp_path / "b.fits"
    hdu = fits.PrimaryHDU(stored)
    hdu.header.update(header)
    hdu.writeto(path)
    if compressed:
        if shutil.which("fpack") is None:
            pytest.skip("fpack (libcfitsio-bin) is not installed")
        subprocess.run(["fpack", "-r", str(path)], check=True, capture_output=True)
        path = tmp_path / "b.fits.fz"
    whole = check(path, np.where(stored == -32768, np.nan, stored * 0.37 + 1001.5))
    assert np.isnan(whole).sum() == 2 * 49


def test_floats_with_nan_say_so_and_finite_ones_do_not(tmp_path):
    image = stars("f4")
    image[30, 200] = np.nan
    path = tmp_path / "n.fits"
    fits.PrimaryHDU(image).writeto(path)
    check(path, image)
    source = open_source(path)
    out = np.zeros((1, 301), np.float32)
    row = np.array([0], np.int32), np.array([301], np.int32)
    assert not source.read(29, *row, 0, out)
    assert source.read(30, *row, 0, out)


@pytest.mark.parametrize("mask_compressed", [False, True])
def test_first_image_and_its_mask_in_a_file_of_many(tmp_path, mask_compressed):
    image, bad = stars("i2"), np.zeros(SHAPE, np.uint8)
    bad[7, 20:33] = 4
    path = tmp_path / "m.fits"
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(3))])
    mask = fits.CompImageHDU(bad, name="MASK") if mask_compressed else fits.ImageHDU(bad, name="mask")
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            table,
            fits.CompImageHDU(image),
            fits.ImageHDU(np.zeros((3, 3), np.uint8), name="MASK"),
            mask,
        ]
    ).writeto(path)
    check(path, image)
    source = open_source(path)
    assert source.has_mask
    np.testing.assert_array_equal(source.mask(5, 20, 10, 30), bad[5:20, 10:30] != 0)
    fits.PrimaryHDU(image).writeto(tmp_path / "none.fits")
    assert open_source(tmp_path / "none.fits").mask(0, 2, 0, 2) is None


@pytest.mark.parametrize("frame", ["m.fits", "m.fits.gz", "m.fits.fz", "m.v2.FIT"])
@pytest.mark.parametrize("ending", [".mask.fits", ".mask.fits.gz", ".mask.fits.fz", ".mask.fz"])
def test_a_mask_beside_the_frame_is_its_mask(tmp_path, frame, ending):
    image, bad = stars("i2"), np.zeros(SHAPE, np.uint8)
    bad[7, 20:33] = 4
    path = tmp_path / frame
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image)]).writeto(path)
    assert not open_source(path).has_mask
    beside = tmp_path / ("m.v2" if "v2" in frame else "m")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(bad)]).writeto(beside.with_name(beside.name + ending))
    source = open_source(path)
    np.testing.assert_array_equal(source.mask(5, 20, 10, 30), bad[5:20, 10:30] != 0)
    check(path, image)


def test_the_mask_in_the_file_goes_before_the_one_beside_it_which_must_fit(tmp_path):
    image = stars("i2")
    path = tmp_path / "m.fits"
    beside = tmp_path / "m.mask.fits"
    fits.PrimaryHDU(np.ones((3, 4), np.uint8)).writeto(beside)
    fits.PrimaryHDU(image).writeto(path)
    with pytest.raises(BadInput, match=r"m\.mask\.fits .*\(3, 4\)") as caught:
        open_source(path)
    assert caught.value.code == "mask-shape"
    fits.append(path, np.zeros(SHAPE, np.uint8), fits.Header({"EXTNAME": "MASK"}))
    assert not open_source(path).mask(0, 9, 0, 9).any()
    assert not open_source(beside).has_mask  # a mask is a frame like any other where it is asked for


@pytest.mark.parametrize(
    ("hdus", "code"),
    [
        ([fits.PrimaryHDU()], "no-image"),
        ([fits.PrimaryHDU(np.zeros((3, 4, 5), np.int16))], "not-2d"),
        ([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((3, 40, 50), np.int16))], "not-2d"),
    ],
)
def test_what_is_no_image_is_refused_with_its_code(tmp_path, hdus, code):
    path = tmp_path / "x.fits"
    fits.HDUList(hdus).writeto(path)
    with pytest.raises(BadInput, match=r"x\.fits") as caught:
        open_source(path)
    assert caught.value.code == code


@pytest.mark.parametrize("content", [b"", b"not FITS at all", b"SIMPLE  =", b"\x1f\x8b\x08\x00junk"])
def test_what_is_no_fits_is_unreadable(tmp_path, content):
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    for missing in (path, tmp_path / "absent.fits"):
        with pytest.raises(BadInput, match=missing.name) as caught:
            open_source(missing)
        assert caught.value.code == "unreadable"


def test_limits_outside_the_frame_or_the_buffer_are_an_error(tmp_path):
    path = tmp_path / "p.fits"
    fits.CompImageHDU(stars("i2")).writeto(path)
    source = open_source(path)
    out = np.zeros((4, 50), np.float32)
    for y0, lo, hi, x0 in (
        (35, 0, 5, 0),
        (-1, 0, 5, 0),
        (0, 0, 302, 260),
        (0, -1, 5, -1),
        (0, 3, 9, 5),
        (0, 0, 51, 0),
    ):
        with pytest.raises(ValueError, match="are not inside"):
            source.read(y0, np.full(4, lo, np.int32), np.full(4, hi, np.int32), x0, out)
    assert not out.any()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read(0, np.zeros(1, np.int32), np.ones(1, np.int32), 0, out)


def test_threads_share_a_source(tmp_path):
    image = stars("i2", shape=(200, 900))
    path = tmp_path / "t.fits"
    fits.CompImageHDU(image, compression_type="RICE_1").writeto(path)
    source = open_source(path, checkpoint_px=32)

    def block(k):
        y0, x0 = 20 * (k % 10), 90 * (k // 10)
        out = np.zeros((20, 90), np.float32)
        source.read(y0, np.full(20, x0, np.int32), np.full(20, x0 + 90, np.int32), x0, out)
        return np.array_equal(out, image[y0 : y0 + 20, x0 : x0 + 90])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(block, np.random.default_rng(3).permutation(100)))


def test_a_thousand_sources_hold_no_file_descriptors(tmp_path):
    path = tmp_path / "p.fits"
    fits.CompImageHDU(stars("i2")).writeto(path)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        sources = [open_source(path) for _ in range(1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    np.testing.assert_array_equal(read_whole(sources[-1])[0], stars("i2"))


@pytest.fixture(scope="module")
def specimens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("specimens")
    for name, image, options in (
        ("rice16", stars("i2"), {"compression_type": "RICE_1"}),
        ("rice32", stars("i4"), {"compression_type": "RICE_1", "tile_shape": (8, 100)}),
        ("dithered", stars("f4"), {"compression_type": "RICE_1", "quantize_method": 2, "dither_seed": 5}),
        ("gzip", stars("i2"), {"compression_type": "GZIP_2"}),
    ):
        fits.CompImageHDU(image, **options).writeto(folder / f"{name}.fits")
    fits.PrimaryHDU(stars("f4")).writeto(folder / "plain.fits")
    (folder / "zipped.fits").write_bytes(gzip.compress((folder / "plain.fits").read_bytes(), 1))
    return [(path, path.read_bytes()) for path in sorted(folder.glob("*.fits"))]


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.data())
def test_damaged_bytes_end_in_bad_input_or_in_pixels(specimens, tmp_path, data):
    _, content = data.draw(st.sampled_from(specimens))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers, table and heap alike: most of the file is heap.
        where = data.draw(
            st.one_of(st.integers(0, len(damaged) - 1), st.integers(0, min(14400, len(damaged)) - 1))
        )
        piece = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\x00" * 64, b"\xff" * 64, b"9"]))
        )
        damaged[where : where + len(piece)] = piece
    if data.draw(st.integers(0, 4)) == 0:
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    target = tmp_path / "damaged.fits"
    target.unlink(missing_ok=True)  # a mapped file must not be shortened
    target.write_bytes(damaged)
    try:
        source = open_source(target)
        if source.shape[0] * source.shape[1] < 10_000_000:
            read_whole(source)
    except BadInput as error:
        refusal = error.code, "damaged.fits" in str(error)
    else:
        refusal = None
    assert refusal in (None, ("unreadable", True), ("no-image", True), ("not-2d", True))


@pytest.mark.parametrize("size", [2880 * k - 1 for k in (1, 2, 3, 5)])
def test_a_truncated_file_is_refused_when_it_is_opened(specimens, tmp_path, size):
    for path, content in specimens:
        if path.stem != "zipped":
            target = tmp_path / path.name
            target.write_bytes(content[:size])
            with pytest.raises(BadInput) as caught:
                open_source(target)
            assert caught.value.code == "unreadable"


def test_a_stream_that_ends_early_or_runs_away_names_its_file(tmp_path):
    path = tmp_path / "cut.fits"
    fits.CompImageHDU(stars("i2"), compression_type="RICE_1").writeto(path)
    content = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        at = hdus[1]._data_offset
        heap = at + hdus[1]._theap
        size = hdus[1].header["PCOUNT"]
    # Row 20's stream is nothing but zeros from its middle on: a run that no one ends.
    length, offset = np.frombuffer(bytes(content[at + 160 : at + 168]), ">i4")
    content[heap + offset + length // 2 : heap + offset + length] = bytes(int(length) - int(length) // 2)
    assert offset + length <= size
    path.unlink()
    path.write_bytes(content)
    source = open_source(path)
    out = np.zeros((1, 301), np.float32)
    source.read(19, np.array([0], np.int32), np.array([301], np.int32), 0, out)
    with pytest.raises(BadInput, match=r"cut\.fits .*tile 20") as caught:
        source.read(20, np.array([0], np.int32), np.array([301], np.int32), 0, out)
    assert caught.value.code == "unreadable"
    # Among its neighbours too, which are decoded in step with it.
    with pytest.raises(BadInput, match=r"cut\.fits .*tile 20"):
        read_whole(open_source(path))


@pytest.mark.parametrize("bytepix", [1, 2, 4])
@pytest.mark.parametrize("block_px", [7, 16, 32, 64, 100])
def test_streams_in_step_are_what_was_encoded_whatever_each_holds(bytepix, block_px):
    """Fifty tiles of unlike noise, flat ones and long runs of zeros between them, in blocks of any length."""
    rng = np.random.default_rng(block_px)
    ny, nx, kind = 50, 333, {1: np.uint8, 2: np.int16, 4: np.int32}[bytepix]
    info = np.iinfo(kind)
    sigma = 2.0 ** rng.uniform(-3, 8 * bytepix - 1, ny)
    truth = np.clip(rng.normal(40, sigma[:, None], (ny, nx)), info.min, info.max).astype(kind)
    truth[rng.random((ny, nx)) < 0.003] = info.max
    truth[::9, 40:200] = 40
    codec = Rice1(blocksize=block_px, bytepix=bytepix, tilesize=nx)
    streams = [bytes(codec.encode(row)) for row in truth]
    lengths = np.array([len(stream) for stream in streams])
    data = np.frombuffer(bytes(2880) + b"".join(streams), np.uint8)
    tiles = RiceTiles(2880 + np.cumsum(lengths) - lengths, lengths, nx, ny, nx, 1, bytepix, block_px, 2 * block_px)
    blank = np.array([NO_BLANK])
    scaling = Scaling(np.ones(1), np.zeros(1), blank, bytepix, 0, 0, 0.0, np.zeros(1, np.float32))
    index = np.zeros((ny, -(-nx // (2 * block_px))), np.uint64)
    for y0, n in ((0, ny), (0, ny), (7, 2), (11, 30)):
        ends = np.sort(rng.integers(0, nx + 1, (n, 2)).astype(np.int32), axis=1)
        out = np.full(n * nx, -7, np.float32)
        lo, hi = np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
        assert read_rice(data, tiles, index, scaling, y0, lo, hi, 0, out, nx) == 0
        columns = np.arange(nx)
        wanted = (columns >= lo[:, None]) & (columns < hi[:, None])
        np.testing.assert_array_equal(
            out.reshape(n, nx), np.where(wanted, truth[y0 : y0 + n].astype(np.float32), -7)
        )
