"""Curves of growth against profiles whose whole light is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from photutils.profiles import CurveOfGrowth

from starloom.astrometry.detect import detect_stars
from starloom.photometry.fluxes import measure_fluxes
from starloom.photometry.growth import ASSUMED
from starloom.photometry.results import PhotometryOptions
from starloom.sky.psf import draw_stars

OPTIONS = PhotometryOptions(match_arcsec=2.0, gain_e_per_adu=1e6)


def true_growth(field, radius_px: float) -> float:
    """Whole light over the light within a radius, by photutils on a star without noise."""
    star = np.zeros((2 * field.psf.half + 5,) * 2, np.float32)
    at = field.psf.half + 2.3
    draw_stars(star, np.array([at]), np.array([at]), np.array([1.0]), field.psf, noise_adu=1e-9)
    curve = CurveOfGrowth(star, (at, at), np.array([radius_px, 1.5 * radius_px]), method="exact")
    return float(star.sum() / curve.profile[0])


@pytest.mark.parametrize("beta", [2.5, 3.0, 4.0, 30.0])
@pytest.mark.parametrize("fwhm", [1.6, 3.0, 5.5])
def test_growth_is_that_of_the_profile(paint, fwhm, beta):
    field = paint(fwhm, beta, seed=int(10 * fwhm + beta))
    light = measure_fluxes(field.image, None, field.listed(), OPTIONS)
    truth = true_growth(field, light.radius_px)
    assert light.growth.correction == pytest.approx(truth, abs=max(3 * light.growth.error * truth, 0.002))
    assert light.growth.error < 0.015
    assert light.growth.stars >= 20
    ratio = light.flux_adu[light.psf] / field.flux[light.psf]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.006)


def test_a_seeing_that_grows_to_the_corners_does_not_reach_the_fluxes(paint):
    field = paint(3.0, 3.0, stars=200, seed=5, wider=0.25)
    light = measure_fluxes(field.image, None, field.listed(), OPTIONS)
    assert light.growth.terms.size == 6
    good = light.psf & (field.flux > np.median(field.flux))
    off = np.hypot(field.x - 350, field.y - 350)[good]
    ratio = (light.flux_adu / field.flux)[good]
    middle, corner = np.median(ratio[off < 180]), np.median(ratio[off > 330])
    assert (middle, corner) == pytest.approx((1.0, 1.0), abs=0.01)
    # Without the terms the corners would lose this much.
    raw = ratio / light.growth.at(field.x, field.y)[good]
    assert np.median(raw[off < 180]) - np.median(raw[off > 330]) > 0.012


def test_faint_stars_in_a_crowded_field_do_not_make_the_curve_grow(paint):
    # 30 stars per 100 x 100 px, most of them below what a detection would list.
    field = paint(3.0, 3.0, stars=1500, size=700, seed=6, snr=(3.0, 1500.0))
    light = measure_fluxes(field.image, None, detect_stars(field.image), OPTIONS)
    truth = true_growth(field, light.radius_px)
    assert light.growth.correction == pytest.approx(truth, abs=max(3 * light.growth.error, 0.01))


def test_a_field_without_a_bright_star_gets_what_profiles_have_in_common(paint):
    field = paint(3.0, 3.0, stars=30, snr=(6.0, 15.0), seed=7)
    light = measure_fluxes(field.image, None, field.listed(), OPTIONS)
    assert (light.growth.correction, light.growth.error) == ASSUMED
    assert light.growth.stars == 0
    np.testing.assert_array_equal(light.growth.at(field.x, field.y), ASSUMED[0])


def test_stars_at_the_edge_whose_wings_are_cut_off_say_nothing(paint):
    field = paint(4.0, 2.8, stars=80, size=300, seed=8)
    whole = measure_fluxes(field.image, None, field.listed(), OPTIONS)
    inner = (field.x > 40) & (field.y > 40) & (field.x < 259) & (field.y < 259)
    assert 10 < (whole.psf & inner).sum() < whole.psf.sum()
    assert whole.growth.correction == pytest.approx(true_growth(field, whole.radius_px), abs=0.03)


def test_trailed_stars_are_summed_along_their_trail(paint):
    field = paint(3.0, 3.0, seed=9, trail_px=12.0, trail_angle_deg=40.0)
    stars = field.listed()
    stars = replace(stars, trail_px=12.0, trail_angle_deg=40.0, frame_fwhm_px=3.2)
    light = measure_fluxes(field.image, None, stars, OPTIONS)
    assert light.reach_px == pytest.approx(light.radius_px + 6.0)
    ratio = light.flux_adu[light.psf] / field.flux[light.psf]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert np.std(ratio) < 0.05
