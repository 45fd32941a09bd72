"""The sky under the stars and in empty apertures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from photutils.aperture import CircularAperture
from photutils.utils import ImageDepth
from scipy.ndimage import gaussian_filter

from starloom.photometry.apertures import Apertures
from starloom.photometry.empty_apertures import empty_apertures
from starloom.photometry.fluxes import measure_fluxes, prepare
from starloom.photometry.results import PhotometryOptions
from starloom.photometry.sky_mesh import sky_mesh
from starloom.sky.psf import draw_stars

NOBODY = np.zeros(0)


def noise(seed: int = 1, size: int = 600) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, (size, size)).astype(np.float32)


def test_a_gradient_is_followed_and_sigma_is_the_pixels():
    size = 640
    v, u = np.mgrid[:size, :size] / size
    truth = 1000 + 80 * u - 50 * v
    mesh = sky_mesh((truth + noise(2, size)).astype(np.float32))
    x, y = np.random.default_rng(3).uniform(40, size - 41, (2, 300))
    off = mesh.at(x, y) - (1000 + 80 * x / size - 50 * y / size)
    assert abs(off.mean()) < 0.2
    assert off.std() < 0.6
    # The gradient within a cell is in it.
    assert mesh.sigma_adu == pytest.approx(10, rel=0.05)


def test_a_bright_star_lifts_its_own_sky_only_where_its_wings_are_left_in(paint):
    field = paint(6.0, 2.5, stars=12, snr=(1500.0, 3000.0), seed=4)
    stars = field.listed()
    cell = int(12 * stars.frame_fwhm_px)
    without = sky_mesh(field.image, cell_px=cell).at(field.x, field.y).mean() - 500.0
    with_discs = prepare(field.image, None, stars, stars.frame_fwhm_px).sky.at(field.x, field.y).mean() - 500.0
    assert without > 3 * abs(with_discs)
    assert abs(with_discs) < 0.5


def test_masked_cells_take_their_neighbours_level_and_a_lost_frame_has_none():
    image = noise(5) + 200
    mask = np.zeros(image.shape, bool)
    mask[:200, :200] = True
    image[:200, :200] = np.nan
    assert sky_mesh(image, mask).at(np.array([90.0]), np.array([90.0]))[0] == pytest.approx(200, abs=2)
    everywhere = (np.array([300.0]), np.array([300.0]), np.array([900.0]))
    assert sky_mesh(image, mask, discs=everywhere).at(np.array([90.0]), np.array([90.0]))[0] == pytest.approx(
        200, abs=2
    )
    assert sky_mesh(np.full((100, 100), np.nan, np.float32)).at(np.array([5.0]), np.array([5.0]))[0] == 0.0


@pytest.mark.parametrize("smooth", [0.0, 1.2])
def test_empty_apertures_know_the_noise_of_sums_correlated_or_not(smooth):
    image = gaussian_filter(noise(6, 900), smooth) if smooth else noise(6, 900)
    frame = Apertures(image, None, sky_mesh(image))
    found = empty_apertures(frame, NOBODY, NOBODY, radius_px=4.0, clear_px=8.0, sigma_adu=float(image.std()))
    places = np.random.default_rng(7).uniform(10, 889, (800, 2))
    theirs, _ = CircularAperture(places, 4.0).do_photometry(image, method="exact")
    assert found.noise_adu == pytest.approx(np.std(theirs), rel=0.1)
    assert found.count > 700
    assert abs(found.level_adu) < 4 * 10 * np.sqrt(np.pi * 16 / 800)
    if smooth:
        assert found.noise_adu > 2 * image.std() * np.sqrt(np.pi * 16)


def test_the_noise_is_what_photutils_image_depth_finds(paint):
    field = paint(3.0, 3.0, stars=60, seed=7)
    stars = field.listed()
    light = measure_fluxes(field.image, None, stars, PhotometryOptions(match_arcsec=2.0, gain_e_per_adu=1e6))
    yy, xx = np.mgrid[: field.image.shape[0], : field.image.shape[1]]
    mask = np.zeros(field.image.shape, bool)
    for x, y in zip(field.x, field.y, strict=True):
        mask |= (xx - x) ** 2 + (yy - y) ** 2 < 15**2
    depth = ImageDepth(light.radius_px, n_sigma=5.0, n_apertures=400, n_iters=1, seed=1, progress_bar=False)
    limit, _ = depth(field.image - np.float32(500.0), mask)
    assert 5 * light.noise_adu == pytest.approx(limit, rel=0.1)


def test_without_empty_places_the_pixels_noise_has_to_do():
    image = noise(8, 120)
    frame = Apertures(image, None, sky_mesh(image))
    x, y = (a.ravel() for a in np.meshgrid(np.arange(0.0, 120, 6), np.arange(0.0, 120, 6)))
    found = empty_apertures(frame, x, y, radius_px=4.0, clear_px=8.0, sigma_adu=10.0)
    assert (found.level_adu, found.count) == (0.0, 0)
    assert found.noise_adu == pytest.approx(10 * np.sqrt(np.pi * 16))


def test_a_star_of_the_limiting_flux_is_measured_at_five_sigma(paint):
    field = paint(3.0, 3.0, stars=60, size=900, seed=9)
    stars = field.listed()
    options = PhotometryOptions(match_arcsec=2.0, gain_e_per_adu=1e6)
    limit = 5 * measure_fluxes(field.image, None, stars, options).noise_adu
    # 300 stars of that light in the aperture, on a grid that keeps clear of the others.
    x, y = (a.ravel() + 0.37 for a in np.meshgrid(np.arange(40.0, 860, 45), np.arange(40.0, 860, 45)))
    clear = np.hypot(x[:, None] - field.x, y[:, None] - field.y).min(axis=1) > 25
    x, y = x[clear], y[clear]
    image = field.image.copy()
    growth = measure_fluxes(field.image, None, stars, options).growth.correction
    draw_stars(image, x, y, np.full(len(x), limit * growth), field.psf, noise_adu=0.01)
    forced = measure_fluxes(image, None, replace(field, image=image).listed(x, y), options)
    flux = forced.flux_adu / forced.growth.correction * growth / (limit * growth)
    assert len(x) > 100
    assert np.mean(flux) == pytest.approx(1.0, abs=0.06)
    assert np.std(flux) == pytest.approx(0.2, rel=0.2)
