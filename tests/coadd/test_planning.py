from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starloom.coadd import StackOptions, StackPlan, make_plan, read_input, stack_files
from starloom.coadd.match import sky_basis
from starloom.errors import BadInput


@pytest.fixture
def elsewhere(make_sky):
    return make_sky(ra=40.0, dec=-30.0)


def reported(plans):
    return sorted((f.input.id, f.reason) for plan in plans for f in plan.frames)


def test_stray_of_a_band_without_a_group_is_reported_once(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"v{n}.fits", seed=n) for n in range(2)]
    paths.append(elsewhere.frame(tmp_path / "r.fits", seed=7, band="R"))
    paths.append(elsewhere.frame(tmp_path / "v9.fits", seed=8))
    plans = make_plan([read_input(p) for p in paths], target_radec=(150.0, 20.0))
    assert len(plans) == 1
    assert reported(plans) == [
        ("r.fits", "off-target"),
        ("v0.fits", None),
        ("v1.fits", None),
        ("v9.fits", "off-target"),
    ]


def test_group_without_a_usable_frame_is_reported_with_its_reasons(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"a{n}.fits", seed=n) for n in range(2)]
    lost = [elsewhere.frame(tmp_path / f"b{n}.fits", seed=n, known_zp=False, size=(90, 90)) for n in range(2)]
    options = StackOptions(min_common_stars=50)
    plans = make_plan([read_input(p) for p in (*lost, *paths)], options)
    assert len(plans) == 1
    told = dict(reported(plans))
    assert set(told) == {"a0.fits", "a1.fits", "b0.fits", "b1.fits"}
    assert told["b0.fits"] == told["b1.fits"] == "too-few-stars"


def test_error_names_every_frame_and_its_reason(field, elsewhere, tmp_path):
    paths = [elsewhere.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    with pytest.raises(BadInput, match=r"0\.fits off-target, 1\.fits off-target") as info:
        make_plan([read_input(p) for p in paths], target_radec=(150.0, 20.0))
    assert info.value.code == "nothing-to-stack"


def test_frame_without_a_weight_has_no_scale(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    paths.append(elsewhere.frame(tmp_path / "off.fits", seed=7))
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out, target_radec=(150.0, 20.0)).products
    assert [f.scale is None for f in product.frames] == [False, False, True]
    with fits.open(out) as hdus:
        scale = hdus["PROVENANCE"].data["SCALE"]
    assert scale[0] == pytest.approx(1, abs=0.01)
    assert str(scale[2]) == "nan"


def test_digest_follows_what_decides_the_pixels(field, tmp_path):
    items = [read_input(field.frame(tmp_path / f"{n}.fits", seed=n)) for n in range(2)]
    (plan,) = make_plan(items)
    assert plan.digest() == plan.digest()
    moved = [item.model_copy(update={"path": item.path, "provenance": {"raw_key": "k"}}) for item in items]
    assert make_plan(moved)[0].digest() == plan.digest()
    (with_gain,) = make_plan([item.model_copy(update={"gain_e_per_adu": 2.0}) for item in items])
    assert with_gain.digest() != plan.digest()
    # The digest is kept; a copy with other frames must not inherit it.
    assert plan.model_copy(update={"frames": plan.frames[:1]}).digest() != plan.digest()
    assert plan.model_copy().digest() == plan.digest()


def test_gain_in_the_header_is_the_photon_noise_of_the_clip(field, tmp_path):
    path = field.frame(tmp_path / "a.fits", zp=24.0)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EGAIN"] = 1.7
    item = read_input(path)
    assert item.gain_e_per_adu == pytest.approx(1.7)
    (plan,) = make_plan([item])
    assert plan.frames[0].input.gain_e_per_adu == item.gain_e_per_adu


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("Johnson V", "V"),
        ("V", "V"),
        ("r DECam SDSS c0002 6415.0 1480.0", "r"),
        ("Lum", "Clear"),
        ("My Filter", "My Filter"),
        (None, "unknown"),
    ],
)
def test_band_of_a_file_is_what_its_filter_means(field, tmp_path, name, band):
    path = field.frame(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["BAND"]
        if name is not None:
            hdus[0].header["FILTER"] = name
    assert read_input(path).band == band


def test_extension_with_the_image_and_split_keywords(field, tmp_path):
    paths = []
    for n in range(2):
        with fits.open(field.frame(tmp_path / f"p{n}.fits", seed=n)) as hdus:
            data, header = hdus[0].data.copy(), hdus[0].header.copy()
        primary = fits.PrimaryHDU()
        for key in ("BAND", "TELID", "EXPTIME", "DATE-OBS", "MJD-OBS", "SATURATE", "MAGZPT", "MAGZERR"):
            primary.header[key] = header.pop(key)
        table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])])
        path = tmp_path / f"m{n}.fits"
        fits.HDUList([primary, fits.ImageHDU(data, header), table]).writeto(path)
        paths.append(path)
    item = read_input(paths[0])
    assert (item.band, item.node, item.exposure_s, item.zero_point_mag) == ("V", "T1", 60.0, 25.0)
    assert item.saturation_adu == 1e7
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out).products
    assert product.n_used == 2
    stars = field.fluxes(out)
    assert abs(float((stars.flux / stars.truth).mean()) - 1) < 0.01


@pytest.mark.parametrize("weights", ["surface", "point"])
def test_weights_follow_noise_and_seeing(field, tmp_path, weights):
    paths = [
        field.frame(tmp_path / f"{n}.fits", seed=n, fwhm=fwhm, noise=noise)
        for n, (fwhm, noise) in enumerate([(3.0, 8.0), (3.0, 16.0), (4.5, 8.0)])
    ]
    (plan,) = make_plan([read_input(p) for p in paths], StackOptions(weights=weights))
    weight = np.array([f.weight for f in plan.frames])
    seeing = np.array([f.fwhm_px for f in plan.frames])
    assert seeing[2] / seeing[0] == pytest.approx(1.5, rel=0.03)
    expected = np.array([1, 0.25, 1]) * (1 if weights == "surface" else (seeing[0] / seeing) ** 2)
    np.testing.assert_allclose(weight / weight[0], expected, rtol=0.06)


def test_coarse_output_is_resampled_by_area_and_nodes_are_checked(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, sip=2e-6) for n in range(2)]
    (fine,) = make_plan([read_input(p) for p in paths])
    (coarse,) = make_plan([read_input(p) for p in paths], StackOptions(scale_arcsec=2.6))
    assert {f.kernel for f in fine.frames} == {"lanczos3"}
    assert {f.kernel for f in coarse.frames} == {"area"}
    assert coarse.frames[0].sigma < fine.frames[0].sigma * 2.6 / 1.2
    assert all(0 < f.node_error_px < 0.01 for f in fine.frames)


def test_plan_is_the_same_for_any_number_of_threads_and_from_bare_metadata(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, dra=9.0 * n) for n in range(3)]
    items = [read_input(p) for p in paths]
    (one,) = make_plan(items)
    (two,) = make_plan([item.bare() for item in items], StackOptions(threads=2))
    assert one.digest() == two.digest()
    assert StackPlan.model_validate_json(one.model_dump_json()).digest() == one.digest()
    assert one.frames[0].input.sample is None


def test_measurements_of_the_archive_stand(field, tmp_path):
    items = [read_input(field.frame(tmp_path / f"{n}.fits", seed=n)) for n in range(2)]
    known = items[0].model_copy(update={"sky_sigma_adu": 11.0, "fwhm_arcsec": 3.3})
    (plan,) = make_plan([known, items[1]], StackOptions(scale_arcsec=1.0))
    assert plan.frames[0].input.sky_sigma_adu == 11.0
    assert plan.frames[0].fwhm_px == pytest.approx(3.3)


def test_unmatched_skies_keep_their_levels(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n, sky=400.0 + 200 * n) for n in range(2)]
    items = [read_input(p) for p in paths]
    (plan,) = make_plan(items, StackOptions(match_sky=False, scale_arcsec=1.0))
    assert all(f.sky == (0.0,) * 6 for f in plan.frames)
    assert np.median(plan.sky_level) == pytest.approx(500, abs=110)
    (plan,) = make_plan(items, StackOptions(scale_arcsec=1.0))
    assert np.median(plan.sky_level) == pytest.approx(500, abs=1)
    assert plan.frames[1].sky[0] - plan.frames[0].sky[0] == pytest.approx(200, abs=1)


def test_clipping_level_is_learnt_from_frames_of_the_same_telescope(field, tmp_path):
    items = [read_input(field.frame(tmp_path / f"{n}.fits", seed=n)) for n in range(3)]
    items = [
        item.bare().model_copy(update={"saturation_adu": level})
        for item, level in zip(items, (9000.0, 9000.0, None), strict=True)
    ]
    (plan,) = make_plan(items)
    assert plan.frames[2].input.saturation_adu == 9000.0


def with_gradient(path, slope_x, slope_y, disc):
    """Add a sky gradient and a disc (in world coordinates) of a given height."""
    with fits.open(path, mode="update") as hdus:
        header, shape = hdus[0].header, hdus[0].data.shape
        y, x = np.indices(shape)
        ra, dec = WCS(header).all_pix2world(x, y, 0)
        v, u = (2 * a / (n - 1) - 1 for a, n in zip((y, x), shape, strict=True))
        surface = slope_x * u + slope_y * v + 0.3 * slope_x * u * v
        inside = np.hypot((ra - 150.0) * np.cos(np.radians(20.0)), dec - 20.0) * 3600 < 55
        hdus[0].data += (surface + disc * inside).astype(np.float32)
    return path


@pytest.mark.parametrize("count", [3, 8])
def test_disc_of_a_hundredth_of_the_sky_keeps_its_flux(field, tmp_path, count):
    """Gradients of a tenth of the sky, another one in every frame, dithers of a quarter of the frame."""
    rng = np.random.default_rng(count)
    disc, paths, slopes = 10.0, [], rng.uniform(-100, 100, (count, 2))
    levels = rng.uniform(900, 1100, count)
    for n in range(count):
        path = field.frame(
            tmp_path / f"{n}.fits", seed=n, sky=levels[n], size=(400, 400), noise=5.0,
            rot=rng.uniform(-8, 8), dra=rng.uniform(-80, 80), ddec=rng.uniform(-80, 80),
        )  # fmt: skip
        paths.append(with_gradient(path, *slopes[n], disc))
    options = StackOptions(scale_arcsec=1.0, combine="mean")
    (plan,) = make_plan([read_input(p) for p in paths], options)
    # What a mean of the frames' skies shows, without noise and stars: each sky as it was made, less its terms.
    ny, nx = plan.shape
    grid_y, grid_x = np.mgrid[0:ny:4, 0:nx:4]
    ra, dec = WCS({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")}).all_pix2world(
        grid_x, grid_y, 0
    )
    radius = np.hypot((ra - 150.0) * np.cos(np.radians(20.0)), dec - 20.0) * 3600
    total, weight = np.zeros(radius.shape), np.zeros(radius.shape)
    basis = sky_basis(2 * grid_x / (nx - 1) - 1, 2 * grid_y / (ny - 1) - 1)
    for frame, slope, level in zip(plan.frames, slopes, levels, strict=True):
        x, y = WCS(fits.getheader(frame.input.path)).all_world2pix(ra, dec, 0)
        u, v = 2 * x / 399 - 1, 2 * y / 399 - 1
        sky = slope[0] * u + slope[1] * v + 0.3 * slope[0] * u * v + level + disc * (radius < 55)
        inside = (np.abs(u) < 1) & (np.abs(v) < 1)
        total += inside * (sky * frame.scale - np.tensordot(frame.sky, basis, 1)) * frame.weight
        weight += inside * frame.weight
    full = weight > 0.99 * sum(f.weight for f in plan.frames)
    image = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    here, around = (radius < 50) & full, (radius > 60) & (radius < 100) & full
    design = np.concatenate([basis, (radius < 55)[None]])
    use = here | around
    fitted = np.linalg.lstsq(design[:, use].T, image[use], rcond=None)[0]
    assert fitted[-1] == pytest.approx(disc, rel=0.02)
    # And where a frame ends the stack hardly steps: what the frames' skies still differ by is far below the disc.
    seen = weight > 0
    smooth = np.linalg.lstsq(design[:, seen].T, image[seen], rcond=None)[0]
    assert np.std(image[seen] - design[:, seen].T @ smooth) < 0.1 * disc
