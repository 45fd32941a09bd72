from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from starloom.coadd import StackOptions, make_plan, read_input
from starloom.coadd.inputs import open_frame
from starloom.coadd.sample import band_rows, take_sample


@pytest.fixture
def sampled(monkeypatch):
    """Frames of a quarter of a megapixel are sampled, not read whole."""
    monkeypatch.setattr("starloom.coadd.sample._WHOLE_BELOW", 100_000)


@pytest.fixture
def rich(make_sky):
    return make_sky(half_arcmin=5.0, spacing_arcsec=19.0)


@pytest.fixture
def tall(rich, tmp_path):
    return rich.frame(tmp_path / "tall.fits", size=(1200, 400), scale=0.45, fwhm=1.3, noise=8.0)


def sample_of(path, height, **options):
    with open_frame(path) as frame:
        return take_sample(frame, saturation_adu=1e7, height=height, **options)


def test_bands_lie_evenly_within_the_frame():
    bands = list(band_rows(1000, 50))
    assert len(bands) == 8
    assert {b - a for a, b in bands} == {50}
    assert np.ptp(np.diff([a for a, _ in bands])) <= 1
    assert bands[0][0] > 0
    assert bands[-1][1] < 1000
    assert list(band_rows(40, 64)) == [(0, 40)]


def test_bands_tell_what_the_whole_frame_tells(rich, tall, sampled):
    bands, whole = sample_of(tall, 64), sample_of(tall, 1200)
    assert bands.share == pytest.approx(512 / 1200)
    assert whole.whole
    for sample in (bands, whole):
        # A Gaussian integrated over pixels is wider by a pixel's own variance.
        true_fwhm = np.sqrt((1.3 / 0.45) ** 2 + 8 * np.log(2) / 12)
        assert sample.fwhm_px == pytest.approx(true_fwhm, rel=0.02)
        assert sample.sigma_adu == pytest.approx(8.0, rel=0.01)
        assert np.nanmean(sample.sky.level) == pytest.approx(500, abs=0.3)
        x, y = WCS(fits.getheader(tall)).all_world2pix(rich.ra, rich.dec, 0)
        distance, index = cKDTree(np.column_stack([x, y])).query(np.column_stack([sample.stars.x, sample.stars.y]))
        assert (distance < 0.5).all()
        good = sample.stars.alone
        ratio = sample.growth * sample.stars.flux[good] / rich.flux[index[good]]
        assert np.median(ratio) == pytest.approx(1, abs=0.003)
        # Centres scatter as their errors say, one axis.
        pull = (sample.stars.x - x[index])[good] / sample.stars.error_px[good]
        assert 0.7 < 1.4826 * np.median(np.abs(pull)) < 1.5
    pairs = cKDTree(np.column_stack([whole.stars.x, whole.stars.y])).query(
        np.column_stack([bands.stars.x, bands.stars.y])
    )
    same = pairs[0] < 0.5
    assert same.mean() > 0.95
    np.testing.assert_allclose(
        bands.stars.flux[same], whole.stars.flux[pairs[1][same]], atol=4 * bands.stars.flux_error.max()
    )


def test_sample_is_taken_denser_where_stars_are_few(make_sky, tmp_path, sampled):
    poor = make_sky(half_arcmin=5.0, spacing_arcsec=45.0)
    path = poor.frame(tmp_path / "poor.fits", size=(1200, 400), scale=0.45, fwhm=1.3)
    assert sample_of(path, 24).share > 8 * 24 / 1200


def test_bands_that_seeing_fills_are_taken_taller(rich, tmp_path, sampled):
    path = rich.frame(tmp_path / "blurred.fits", size=(1200, 400), scale=0.45, fwhm=4.0, noise=2.0)
    assert sample_of(path, 64).share > 8 * 64 / 1200


def test_holes_and_bright_stars_leave_the_sky_alone(field, tmp_path):
    path = field.frame(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[100:220, 40:160] = np.nan
        hdus[0].data[240:260, 200:260] += 3e5
        hdus[0].header["SATURATE"] = 1e5
    item = read_input(path)
    assert item.sky_sigma_adu == pytest.approx(8.0, rel=0.03)
    level = item.sample.sky.level
    assert np.isnan(level).any()
    assert np.nanmax(np.abs(level - 500)) < 4
    clean = read_input(field.frame(tmp_path / "b.fits"))
    assert item.fwhm_arcsec == pytest.approx(clean.fwhm_arcsec, rel=0.02)


def test_cosmic_rays_and_hot_pixels_are_no_stars(field, tmp_path):
    rng = np.random.default_rng(3)
    hot = [(*rng.integers(5, 295, 2), 4000.0) for _ in range(60)]
    rays = [(int(x) + k, int(y), 3000.0) for x, y in rng.integers(20, 280, (15, 2)) for k in range(6)]
    clean, dirty = (
        read_input(field.frame(tmp_path / f"{name}.fits", extra=extra))
        for name, extra in (("clean", None), ("dirty", hot + rays))
    )
    assert dirty.fwhm_arcsec == pytest.approx(clean.fwhm_arcsec, rel=0.02)
    x, y = ([np.asarray(getattr(i.sample.stars, axis)) for i in (clean, dirty)] for axis in "xy")
    nearest = cKDTree(np.column_stack([x[0], y[0]])).query(np.column_stack([x[1], y[1]]))[0]
    assert (nearest < 1.0).mean() > 0.95


def test_turned_frames_share_stars_through_a_reference(rich, tmp_path, sampled):
    """Bands of frames turned by 90 degrees cross in spots; scales come out as made all the same."""
    zero_points = (25.0, 24.6, 25.3, 24.8)
    paths = [
        rich.frame(
            tmp_path / f"{n}.fits", size=(1200, 400) if n % 2 else (1200, 420), scale=0.45, seed=n, zp=zp,
            fwhm=1.3 + 0.1 * n, rot=(0.0, 90.0, 4.0, 184.0)[n], known_zp=n == 0,
        )
        for n, zp in enumerate(zero_points)
    ]  # fmt: skip
    items = [read_input(p) for p in paths]
    assert not any(item.sample.whole for item in items)
    (plan,) = make_plan(items, StackOptions(register_frames=False))
    assert {f.reason for f in plan.frames} == {None}
    np.testing.assert_allclose(
        [f.scale for f in plan.frames], 10 ** (-0.4 * (np.array(zero_points) - 25)), rtol=0.004
    )
