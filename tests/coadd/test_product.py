from __future__ import annotations

import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import Engine, StackOptions, make_plan, read_input, stack_files, write_preview
from starloom.coadd.budget import Layout
from starloom.coadd.warp import noise_factor


def test_product_is_clean_fits_with_its_provenance(mixed, tmp_path):
    out = tmp_path / "out.fits"
    stack_files(mixed, out, StackOptions(tile_size=100))
    with fits.open(out, checksum=True) as hdus:
        names = ["SCI", "WEIGHT", "COVERAGE", "REJECTED", "FLAGS", "PSF", "PROVENANCE"]
        assert [h.name for h in hdus[1:]] == names
        assert hdus["PSF"].header["PSFSRC"] == "measured"
        assert hdus["PSF"].data.sum() == pytest.approx(1, abs=0.02)
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
        (plan,) = make_plan(inputs[:count], StackOptions(min_common_stars=1))
        tracemalloc.start()
        with Engine(plan, Layout(64, 1, 256, 0)) as engine:
            for tile in engine.tiles[len(engine.tiles) // 2 :][:3]:
                engine.make(tile)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0]


def test_noise_factors_match_simulation():
    assert noise_factor("bilinear", 1.0) == pytest.approx(2 / 3, abs=0.002)
    assert noise_factor("lanczos3", 1.0) == pytest.approx(0.895, abs=0.01)


@pytest.mark.parametrize("weights", ["surface", "point"])
def test_weight_is_the_inverse_variance_whatever_the_weights(make_sky, tmp_path, weights):
    sky = make_sky()
    sky.flux[:] = 1.0
    sky.flux[::9] = 3e4
    seeing = [2.5, 5.0, 5.0, 2.5]
    paths = [
        sky.frame(tmp_path / f"{n}.fits", seed=n, noise=6 + 2 * n, fwhm=f, rot=7.0 * n)
        for n, f in enumerate(seeing)
    ]
    out = tmp_path / "out.fits"
    stack_files(paths, out, StackOptions(weights=weights, streaks=False, scale_arcsec=1.0))
    with fits.open(out) as hdus:
        full = hdus["COVERAGE"].data == 4
        sci, weight = hdus["SCI"].data[full], hdus["WEIGHT"].data[full]
        factor, share = hdus["SCI"].header["NOISECOR"], hdus["PROVENANCE"].data["WEIGHT"]
    sd = 1.4826 * np.median(np.abs(sci - np.median(sci)))
    assert sd == pytest.approx(factor / np.sqrt(np.median(weight)), rel=0.06)  # stars too faint to mask
    noise = np.array([6, 8, 10, 12.0])
    wanted = 1 / noise**2 / (np.array(seeing) ** 2 if weights == "point" else 1)
    np.testing.assert_allclose(share / share.sum(), wanted / wanted.sum(), atol=0.03)
