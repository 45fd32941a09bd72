from __future__ import annotations

import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import StackOptions, make_plan, read_input, stack_files, stack_tile, write_preview
from starloom.coadd.combine import FrameNoise, combine
from starloom.coadd.match import sky_basis, sky_terms
from starloom.coadd.warp import noise_factor


def test_product_is_clean_fits_with_its_provenance(mixed, tmp_path):
    out = tmp_path / "out.fits"
    stack_files(mixed, out, StackOptions(tile_size=100))
    with fits.open(out, checksum=True) as hdus:
        assert [h.name for h in hdus[1:]] == ["SCI", "WEIGHT", "COVERAGE", "REJECTED", "PROVENANCE"]
        header, table = hdus["SCI"].header, hdus["PROVENANCE"].data
        assert header["NCOMBINE"] == 5
        assert header["EXPTIME"] == 300.0
        assert header["MAGZPT"] == 25.0
        assert header["DATE-BEG"] == "2026-01-01T00:01:00.000"
        assert header["DATE-END"] == "2026-01-01T00:06:00.000"
        assert list(table["ID"]) == [p.name for p in mixed]
        assert np.all(table["WEIGHT"] > 0)
        assert np.isnan(hdus["SCI"].data[hdus["COVERAGE"].data == 0]).all()
    program = shutil.which("fitsverify")
    assert program, "fitsverify is missing: install Debian's `fitsverify`"
    done = subprocess.run([program, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 warning(s) and 0 error(s)" in done.stdout


def test_preview_is_north_up(field, tmp_path):
    from PIL import Image

    out = tmp_path / "out.fits"
    stack_files([field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)], out)
    picture = np.asarray(Image.open(write_preview(out, tmp_path / "p.png")))
    sci = fits.getdata(out, "SCI")
    y, x = np.unravel_index(np.nanargmax(sci), sci.shape)
    assert picture.shape == sci.shape
    assert picture[sci.shape[0] - 1 - y, x] == 255


def test_memory_is_bounded_by_the_tile_not_by_the_frames(field, tmp_path):
    paths = [
        field.frame(tmp_path / f"{n}.fits", seed=n, size=(260, 260), dra=150 * (n % 4), ddec=150 * (n // 4))
        for n in range(12)
    ]
    inputs = [read_input(p) for p in paths]
    peaks = []
    for count in (4, 12):
        (plan,) = make_plan(inputs[:count], StackOptions(tile_size=64, min_common_stars=1))
        tracemalloc.start()
        for tile in plan.tiles[len(plan.tiles) // 2 :][:3]:
            stack_tile(plan, tile, tmp_path / f"w{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0]


def test_noise_factors_match_simulation():
    assert noise_factor("bilinear", 1.0) == pytest.approx(2 / 3, abs=0.002)
    assert noise_factor("lanczos3", 1.0) == pytest.approx(0.895, abs=0.01)


def test_clip_works_from_two_frames_and_keeps_lone_pixels():
    rng = np.random.default_rng(5)
    planes = [rng.normal(0, 1, (64, 64)).astype(np.float32) for _ in range(2)]
    planes[0][20:24, 20:24] += 40
    planes[1][:, 50:] = np.nan
    noises = [FrameNoise(1.0, 1.0, 3.0)] * 2
    result = combine(planes, noises, StackOptions(), (64, 64))
    assert result.masks[0][20:24, 20:24].all()
    assert not result.masks[1][:40, :40].any()
    assert (result.coverage[:, 50:] == 1).all()
    assert np.isfinite(result.sci).all()
    assert result.masks[0].mean() < 0.06


def test_sky_terms_keep_what_is_common():
    rng = np.random.default_rng(1)
    u, v = (a.ravel() for a in np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20)))
    nebula = 300 * np.exp(-4 * (u**2 + v**2))
    truth = rng.normal(0, 50, (4, 6))
    truth -= truth.mean(axis=0)
    samples = nebula + truth @ sky_basis(u, v)
    samples[0, u > 0.5] = np.nan
    np.testing.assert_allclose(sky_terms(samples, u, v), truth, atol=1e-3)
