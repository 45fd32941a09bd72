from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
import sep
from astropy.io import fits

from starloom.errors import BadInput
from starloom.sky.field import Sky
from starloom.sky.render import Trail, render, stars_image
from starloom.sky.telescope import Telescope

Make = Callable[..., Telescope]


def detected(image: np.ndarray, fwhm: float, threshold: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Windowed centroids of the stars of an image, after subtraction of the background, and that image."""
    data = np.ascontiguousarray(image, dtype=np.float64)
    background = sep.Background(data)
    data -= background.back()
    found = sep.extract(data, threshold, err=background.globalrms)
    x, y, _ = sep.winpos(data, found["x"], found["y"], np.full(len(found), fwhm / 2.355))
    return np.stack([x, y], axis=1), data


@pytest.mark.parametrize("fwhm", [1.8, 2.4, 3.5, 5.0])
def test_flux_is_right_to_three_per_mille(make_telescope: Make, sparse: Sky, fwhm: float) -> None:
    telescope = make_telescope()
    wcs = telescope.wcs(180.0, 40.0)
    x, y = wcs.all_world2pix(sparse.ra_deg, sparse.dec_deg, 0)
    for star in (0, 17, 44, 80):
        one = Sky(*(v[star : star + 1] for v in (sparse.ra_deg, sparse.dec_deg, sparse.mag, sparse.in_catalog)),
                  sparse.centre_deg, sparse.radius_deg, "V")  # fmt: skip
        image = stars_image(telescope, one, wcs, 23.0, fwhm, 15.0)
        flux = 10 ** (0.4 * (23.0 - sparse.mag[star]))
        assert image.sum() == pytest.approx(flux, rel=3e-3)
        rows, columns = np.indices(image.shape)
        assert (image * columns).sum() / image.sum() == pytest.approx(x[star], abs=0.01)
        assert (image * rows).sum() / image.sum() == pytest.approx(y[star], abs=0.01)


@pytest.mark.parametrize("fwhm", [2.0, 4.0])
def test_aperture_photometry_gives_the_true_magnitudes(
    make_telescope: Make, sparse: Sky, start: datetime, fwhm: float
) -> None:
    frame = render(make_telescope(), sparse, (180.0, 40.0), seed=1, start=start, fwhm_px=fwhm)
    x, y = frame.truth.to_wcs().all_world2pix(sparse.ra_deg, sparse.dec_deg, 0)
    data = frame.image - 300.0  # the level that was put in; an estimate would take in the stars' wings
    flux, _, _ = sep.sum_circle(data, x, y, 3.5 * fwhm, subpix=10)
    off = -2.5 * np.log10(flux) + frame.truth.zero_point_mag - sparse.mag
    bright = sparse.mag < 12.5
    # A Moffat profile of slope 3.5 has 0.2 % of its light outside 3.5 FWHM.
    assert np.median(off[bright]) == pytest.approx(0.002, abs=0.004)
    assert off[bright].std() < 0.02


@pytest.mark.parametrize("rotation", [0.0, 75.0, 197.0])
@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize("distortion", [0.0, 3.0, -2.0])
def test_stars_lie_where_the_wcs_says(
    make_telescope: Make, sky: Sky, start: datetime, rotation: float, parity: int, distortion: float
) -> None:
    telescope = make_telescope(
        rotation_deg=rotation, parity=parity, distortion_px=distortion, width=700, height=600
    )
    bright = Sky(*(v[:400] for v in (sky.ra_deg, sky.dec_deg, sky.mag, sky.in_catalog)), sky.centre_deg, 0.6, "V")
    wcs = telescope.wcs(343.9, 55.9)
    image = stars_image(telescope, bright, wcs, 23.0, 3.0, 15.0)
    image += np.random.default_rng(1).normal(0, 3.0, image.shape)
    found, _ = detected(image, 3.0, threshold=200)
    x, y = wcs.all_world2pix(bright.ra_deg, bright.dec_deg, 0, quiet=True)
    gap = np.hypot(found[:, :1] - x, found[:, 1:] - y)
    near = gap.argmin(axis=1)
    isolated = (gap.min(axis=1) < 1) & (np.sort(gap, axis=1)[:, 1] > 25)
    dx, dy = found[isolated, 0] - x[near][isolated], found[isolated, 1] - y[near][isolated]
    assert isolated.sum() >= 10
    assert max(abs(np.median(dx)), abs(np.median(dy))) < 0.02
    assert np.median(np.hypot(dx, dy)) < 0.02


def test_distortion_reaches_its_size_in_the_corner(make_telescope: Make) -> None:
    wcs = make_telescope(distortion_px=3.0).wcs(10.0, 20.0)
    straight, bent = wcs.wcs_pix2world(0, 0, 0), wcs.all_pix2world(-0.5, -0.5, 0)
    ideal = np.array(wcs.wcs_world2pix(*bent, 0))
    assert np.hypot(*(ideal + 0.5)) == pytest.approx(3.0, abs=1e-6)
    assert np.all(ideal < -0.5), "positive distortion is barrel: light from further out reaches the corner"
    assert np.isfinite(straight).all()


def test_position_angle_and_parity(make_telescope: Make) -> None:
    for parity in (1, -1):
        telescope = make_telescope(rotation_deg=30.0, parity=parity)
        wcs = telescope.wcs(50.0, 0.0)
        x, y = (telescope.width - 1) / 2, (telescope.height - 1) / 2
        ra, dec = wcs.all_pix2world([x, x, x + 100], [y, y + 100, y], 0)
        assert np.degrees(np.arctan2(ra[1] - ra[0], dec[1] - dec[0])) == pytest.approx(30.0, abs=0.01)
        cross = (ra[2] - ra[0]) * (dec[1] - dec[0]) - (ra[1] - ra[0]) * (dec[2] - dec[0])
        assert np.sign(cross) == -parity


def test_noise_is_what_the_truth_says(make_telescope: Make, start: datetime) -> None:
    nothing = Sky(*(np.zeros(0),) * 3, np.zeros(0, bool), (10.0, 10.0), 1.0, "V")
    for bitpix, gain in ((16, 1.0), (32, 0.1), (-32, 2.5)):
        telescope = make_telescope(bitpix=bitpix, gain_e_per_adu=gain, sky_adu=900.0, read_noise_e=8.0)
        frame = render(telescope, nothing, (10.0, 10.0), seed=4, start=start)
        assert frame.image.std() == pytest.approx(frame.truth.noise_adu, rel=0.02)
        assert frame.image.mean() == pytest.approx(1000.0, rel=0.002)
        assert frame.image.dtype == {16: np.uint16, 32: np.int32, -32: np.float32}[bitpix]


def test_the_detector_clips(make_telescope: Make, sparse: Sky, start: datetime) -> None:
    telescope = make_telescope(full_well_adu=4095.0)
    frame = render(telescope, sparse, (180.0, 40.0), seed=1, start=start)
    assert frame.image.max() == 4095
    with pytest.raises(BadInput):
        make_telescope(full_well_adu=70000.0)


def test_vignetting_and_gradient(make_telescope: Make, start: datetime) -> None:
    nothing = Sky(*(np.zeros(0),) * 3, np.zeros(0, bool), (10.0, 10.0), 1.0, "V")
    dark_corners = make_telescope(vignetting=0.3, pedestal_adu=0.0, sky_adu=5000.0)
    image = render(dark_corners, nothing, (10.0, 10.0), seed=4, start=start).image.astype(float)
    assert image[:20, :20].mean() / image[210:230, 250:270].mean() == pytest.approx(1 - 0.3 * 0.922, abs=0.005)
    tilted = make_telescope(gradient=0.2, pedestal_adu=0.0, sky_adu=5000.0)
    image = render(tilted, nothing, (10.0, 10.0), seed=4, start=start).image.astype(float)
    assert image[:, -20:].mean() / image[:, :20].mean() == pytest.approx(1.16, abs=0.015)


def test_trail_stands_out_of_every_pixel_on_its_ridge(make_telescope: Make, sky: Sky, start: datetime) -> None:
    trail = Trail(0.0, 100.0, 519.0, 350.0, sigma_per_px=10.0)
    telescope = make_telescope()
    plain = render(telescope, sky, (343.9, 55.85), seed=4, start=start, fwhm_px=3.0)
    marked = render(telescope, sky, (343.9, 55.85), seed=4, start=start, fwhm_px=3.0, trail=trail)
    assert marked.truth.trail == trail
    x = np.arange(10, 510)
    y = np.rint(100 + (x - 0.0) * 250 / 519).astype(int)
    excess = marked.image[y, x].astype(float) - plain.image[y, x]
    assert np.median(excess) / marked.truth.noise_adu >= 8.0
    far = np.abs(np.indices(plain.image.shape)[0] - 100 - np.arange(520) * 250 / 519) > 40
    assert abs(marked.image[far].mean() - plain.image[far].mean()) < 0.5


def test_the_seed_decides(make_telescope: Make, sky: Sky, start: datetime) -> None:
    telescope = make_telescope(cosmic_rays=50.0)
    first, again, other = (render(telescope, sky, (343.9, 55.85), seed=s, start=start) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.truth == again.truth
    assert first.header.tostring() == again.header.tostring()
    assert not np.array_equal(first.image, other.image)


def test_clouds_dim_the_zero_point(make_telescope: Make, sky: Sky, start: datetime) -> None:
    half = render(make_telescope(), sky, (343.9, 55.85), seed=1, start=start, transparency=0.5).truth
    assert half.zero_point_mag == pytest.approx(23.0 - 0.7526, abs=1e-3)
    assert half.flux_scale == pytest.approx(10 ** (0.4 * (half.zero_point_mag - 25)))


@pytest.mark.parametrize("program", ["nina", "maxim", "seestar"])
def test_header_points_nearly_right(make_telescope: Make, sparse: Sky, start: datetime, program: str) -> None:
    telescope = make_telescope(program=program)
    errors = []
    for seed in range(6):
        frame = render(telescope, sparse, (180.0, 40.0), seed=seed, start=start)
        header: fits.Header = frame.header
        if "RA" in header:
            ra, dec = header["RA"], header["DEC"]
        else:
            hours, degrees = header["OBJCTRA"].split(), header["OBJCTDEC"].split()
            ra = 15 * sum(float(v) / 60**i for i, v in enumerate(hours))
            dec = sum(float(v) / 60**i for i, v in enumerate(degrees))
        error = np.hypot((ra - 180.0) * np.cos(np.radians(40.0)), dec - 40.0)
        assert error == pytest.approx(frame.truth.pointing_error_deg, abs=2e-3)
        errors.append(error)
        assert header["DATE-OBS"].startswith("2026-10-08T21:59:59.99")
        assert not any(card.startswith(("CRVAL", "CTYPE", "CD1")) for card in header)
    assert 0.02 < max(errors) <= 0.2


def test_naive_start_is_refused(make_telescope: Make, sparse: Sky) -> None:
    with pytest.raises(BadInput) as caught:
        render(make_telescope(), sparse, (180.0, 40.0), seed=1, start=datetime(2026, 1, 1))  # noqa: DTZ001
    assert caught.value.code == "naive-time"
