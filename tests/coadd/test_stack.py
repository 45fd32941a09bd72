from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starloom.coadd import StackOptions, make_plan, read_input, stack_files
from starloom.errors import BadInput


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos3"])
@pytest.mark.parametrize("combine", ["clipped", "median", "mean"])
def test_flux_and_positions_survive_unlike_telescopes(field, mixed, tmp_path, kernel, combine):
    paths = mixed if combine == "clipped" else [p for p in mixed if p.name != "a2.fits"]
    out = tmp_path / "out.fits"
    report = stack_files(paths, out, StackOptions(kernel=kernel, combine=combine))
    (product,) = report.products
    assert product.n_used == len(paths)
    stars = field.fluxes(out)
    assert len(stars.flux) > 15
    bright = stars.truth > 2e4
    ratio = stars.flux[bright] / stars.truth[bright]
    # A per-pixel median of unlike PSFs is not linear in the flux: its documented price.
    assert abs(np.median(ratio) - 1) < (0.05 if combine == "median" else 0.005)
    assert np.median(np.hypot(stars.dx, stars.dy)) < 0.1


def test_scales_reach_one_percent_and_weights_follow_the_noise(mixed):
    (plan,) = make_plan([read_input(p) for p in mixed])
    truth = np.array([25.0, 24.7, 24.4, 24.4, 25.3])
    got = np.array([f.scale for f in plan.frames])
    np.testing.assert_allclose(got, 10 ** (-0.4 * (truth - 25)), rtol=0.01)
    expected = 1 / (got**2 * np.array([f.input.sky_sigma_adu for f in plan.frames]) ** 2)
    expected /= np.array([f.area for f in plan.frames])
    np.testing.assert_allclose([f.weight for f in plan.frames], expected, rtol=1e-6)


def test_scales_without_any_zero_point_are_relative(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, zp=25 - 0.3 * n, known_zp=False) for n in range(3)]
    (plan,) = make_plan([read_input(p) for p in paths])
    assert plan.zero_point_mag is None
    np.testing.assert_allclose([f.scale for f in plan.frames], 10 ** (0.12 * np.array([-1, 0, 1])), rtol=0.01)


@pytest.mark.parametrize("streaks", [True, False])
def test_two_frames_lose_a_trail(field, tmp_path, streaks):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, trail=64.0 if n == 1 else 0.0) for n in range(2)]
    out = tmp_path / "out.fits"
    report = stack_files(paths, out, StackOptions(streaks=streaks))
    clean, trailed = report.products[0].frames
    assert clean.n_streaks == 0
    if streaks:
        assert trailed.n_streaks == 1
    else:
        assert trailed.rejected_fraction > 0.01
    with fits.open(out) as hdus:
        assert hdus["COVERAGE"].data.max() == 2
        assert (hdus["COVERAGE"].data[60:-60, 60:-60] == 1).mean() > 0.01
    stars = field.fluxes(out)
    assert abs(np.median(stars.flux / stars.truth) - 1) < 0.005


@pytest.mark.parametrize(("kernel", "streaks"), [("bilinear", False), ("lanczos3", False), ("lanczos3", True)])
def test_trail_leaves_less_than_a_tenth_of_sigma(field, tmp_path, kernel, streaks):
    paths = [
        field.frame(tmp_path / f"{n}.fits", seed=n, dra=1.3 * n, trail=64.0 if n == 2 else 0.0) for n in range(6)
    ]
    clean = [p if n != 2 else field.frame(tmp_path / "c.fits", seed=2, dra=2.6) for n, p in enumerate(paths)]
    images = []
    for n, group in enumerate((paths, clean)):
        out = tmp_path / f"out{n}.fits"
        combine = "clipped" if n == 0 and not streaks else "mean"
        stack_files(group, out, StackOptions(kernel=kernel, combine=combine, streaks=streaks and n == 0))
        with fits.open(out) as hdus:
            images.append(hdus["SCI"].data.astype(float))
            wcs = WCS(hdus["SCI"].header)
    assert images[0].shape == images[1].shape
    with fits.open(paths[2]) as hdus:
        frame = WCS(hdus[0].header)
    yy, xx = np.indices(images[0].shape)
    fx, fy = frame.all_world2pix(*wcs.all_pix2world(xx, yy, 0), 0)
    distance = np.abs((fx - 150) * 0.6 - (fy - 150) * 0.8)
    along = (distance < 8) & (np.hypot(fx - 150, fy - 150) < 120)
    difference = images[0] - images[1]
    sigma = 1.4826 * np.nanmedian(np.abs(images[1] - np.nanmedian(images[1])))
    # Of 8 sigma in a pixel; the clip alone leaves a little of its skirts.
    assert abs(np.nanmean(difference[along])) <= (0.1 if streaks else 0.15) * sigma
    # Negative control: left alone, the trail is there.
    out = tmp_path / "plain.fits"
    stack_files(paths, out, StackOptions(kernel=kernel, combine="mean", streaks=False))
    assert np.nanmean(fits.getdata(out, "SCI")[along] - images[1][along]) > 0.5 * sigma


def test_noise_falls_as_the_weights_say(make_sky, tmp_path):
    empty = make_sky()
    empty.flux[:] = 1.0
    empty.flux[::9] = 3e4
    paths = [empty.frame(tmp_path / f"{n}.fits", seed=n, noise=8 + n, rot=7.0 * n) for n in range(4)]
    out = tmp_path / "out.fits"
    for kernel in ("bilinear", "lanczos3"):
        stack_files(paths, out, StackOptions(kernel=kernel))
        with fits.open(out) as hdus:
            full = hdus["COVERAGE"].data == 4
            sci, weight = hdus["SCI"].data[full], hdus["WEIGHT"].data[full]
            factor = hdus["SCI"].header["NOISECOR"]
        sd = 1.4826 * np.median(np.abs(sci - np.median(sci)))
        assert sd == pytest.approx(factor / np.sqrt(np.median(weight)), rel=0.05)


def test_given_target_header_is_the_grid(field, mixed, tmp_path):
    target = tmp_path / "target.hdr"
    header = fits.Header(fits.getheader(mixed[0]))
    for key in [k for k in header if k.startswith(("A_", "B_"))]:
        del header[key]
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRPIX1"], header["NAXIS1"], header["NAXIS2"] = 120.0, 250, 240
    header.totextfile(target)
    out = tmp_path / "out.fits"
    stack_files(mixed, out, StackOptions(target=target))
    got = fits.getheader(out, "SCI")
    assert (got["NAXIS1"], got["NAXIS2"], got["CRPIX1"]) == (250, 240, 120.0)
    assert got["CD1_2"] == pytest.approx(header["CD1_2"])
    stars = field.fluxes(out)
    assert abs(np.median(stars.flux / stars.truth) - 1) < 0.01


def test_off_target_frame_has_no_weight_and_no_giant_grid(field, make_sky, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    paths.append(make_sky(ra=40.0, dec=-30.0).frame(tmp_path / "elsewhere.fits", seed=9))
    plans = make_plan([read_input(p) for p in paths], target_radec=(150.0, 20.0))
    (plan,) = plans
    assert plan.frames[2].reason == "off-target"
    assert plan.frames[2].weight == 0
    assert max(plan.shape) < 400
    assert len(make_plan([read_input(p) for p in paths])) == 2


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 10.0), (359.999, -45.0), (77.0, 89.98)])
def test_seam_and_pole(make_sky, tmp_path, ra, dec):
    sky = make_sky(ra=ra, dec=dec)
    paths = [sky.frame(tmp_path / f"{n}.fits", seed=n, rot=20.0 * n, ddec=10.0 * n) for n in range(3)]
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out).products
    assert product.n_used == 3
    assert max(product.shape) < 480
    stars = sky.fluxes(out)
    assert abs(np.median(stars.flux / stars.truth) - 1) < 0.005
    assert np.median(np.hypot(stars.dx, stars.dy)) < 0.1


def test_downsampling_keeps_the_flux(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, fwhm=2.0, rot=11.0 * n) for n in range(2)]
    out = tmp_path / "out.fits"
    for kernel in ("bilinear", "lanczos3"):
        stack_files(paths, out, StackOptions(kernel=kernel, scale_arcsec=2.6))
        stars = field.fluxes(out)
        ratio = stars.flux / stars.truth
        assert abs(np.median(ratio) - 1) < 0.005
        assert np.std(ratio[stars.truth > 3e4]) < 0.02


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos3"])
def test_hot_pixel_does_not_ring(field, tmp_path, kernel):
    # The scale is given: it follows the seeing, which hot pixels shift by 3e-4, and then grids do not compare.
    options = StackOptions(kernel=kernel, combine="mean", scale_arcsec=1.26)
    hot = [(140 + 4 * n, 141, 3000.0) for n in range(2)]
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, extra=[hot[n]]) for n in range(2)]
    clean = [field.frame(tmp_path / f"c{n}.fits", seed=n) for n in range(2)]
    images, coverage = [], []
    for group in (paths, clean):
        out = tmp_path / "out.fits"
        stack_files(group, out, options)
        with fits.open(out) as hdus:
            images.append(hdus["SCI"].data.copy())
            coverage.append(hdus["COVERAGE"].data.copy())
            wcs = WCS(hdus["SCI"].header)
    # Masked within the kernel, a hot pixel leaves the other frame: noise, but neither a peak nor lobes, which
    # would be 120 units and more.
    assert np.nanmax(np.abs(images[0] - images[1])) < 60
    with fits.open(paths[0]) as hdus:
        x, y = wcs.all_world2pix(*WCS(hdus[0].header).all_pix2world(140, 141, 0), 0)
    assert coverage[0][round(float(y)), round(float(x))] < 2
    assert coverage[1][round(float(y)), round(float(x))] == 2


def test_bands_become_products_of_their_own(field, tmp_path):
    paths = [field.frame(tmp_path / f"{b}{n}.fits", seed=n, band=b) for b in "VR" for n in range(2)]
    report = stack_files(paths, tmp_path / "m.fits")
    assert [p.path.name for p in report.products] == ["m_V_p1.fits", "m_R_p1.fits"]
    assert json.loads(report.model_dump_json())["products"][0]["n_used"] == 2
    assert sorted(p.name for p in tmp_path.glob("m*")) == ["m_R_p1.fits", "m_V_p1.fits"]
    assert not list(tmp_path.glob(".m*"))


def test_errors_name_file_and_remedy(field, tmp_path):
    with pytest.raises(BadInput, match="no files"):
        stack_files([], tmp_path / "o.fits")
    bare = tmp_path / "bare.fits"
    fits.PrimaryHDU(np.random.default_rng(0).normal(0, 1, (64, 64)).astype("f4")).writeto(bare)
    with pytest.raises(BadInput, match=r"bare\.fits") as info:
        stack_files([bare], tmp_path / "o.fits")
    assert (info.value.code, "solve" in info.value.hint) == ("no-wcs", True)
    text = tmp_path / "text.fits"
    text.write_text("not a picture")
    with pytest.raises(BadInput, match=r"text\.fits") as info:
        read_input(text)
    assert info.value.code == "unreadable"
    good = field.frame(tmp_path / "g.fits")
    with pytest.raises(BadInput) as info:
        stack_files([good], tmp_path / "o.fits", StackOptions(max_pixels=1000))
    assert info.value.code == "grid-too-large"
    with pytest.raises(BadInput) as info:
        stack_files([good], tmp_path / "o.fits", target_radec=(10.0, 10.0))
    assert info.value.code == "nothing-to-stack"
    assert not (tmp_path / "o.fits").exists()
