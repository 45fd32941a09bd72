"""Stars and catalogue on one frame: who is whose partner, and how far apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from starloom.astrometry.wcs import PlaneMap, polynomial
from starloom.quicklook.overlay import overlay, pixels_of
from tests.quicklook.conftest import SHAPE, catalog_of, stars_at


def distorted(wcs: PlaneMap, px: float) -> PlaneMap:
    """Return a map with a radial distortion of so many pixels in the corner."""
    powers = polynomial(3)
    terms = np.zeros((len(powers), 2))
    linear = dict(zip(wcs.powers, wcs.terms, strict=True))
    for n, power in enumerate(powers):
        terms[n] = linear.get(power, np.zeros(2))
    half = float(np.hypot(*SHAPE)) / 2
    bend = px * wcs.cd.T * (wcs.unit_px / half) ** 3 * 1.0
    for (p, q), k in (((3, 0), 0), ((1, 2), 0), ((2, 1), 1), ((0, 3), 1)):
        terms[powers.index((p, q))] += bend[k]
    return replace(wcs, powers=powers, terms=terms)


@pytest.mark.parametrize("bend_px", [0.0, 4.0, -12.0])
def test_a_map_is_inverted_to_a_thousandth_of_a_pixel(linear_map: PlaneMap, bend_px: float) -> None:
    wcs = distorted(linear_map, bend_px)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, SHAPE[1] - 1, 400), rng.uniform(0, SHAPE[0] - 1, 400)
    assert np.ptp(np.hypot(*wcs.displacement_px(x, y))) >= 0.9 * abs(bend_px) * 0.8
    found_x, found_y = pixels_of(wcs, *wcs.sky(x, y), SHAPE)
    np.testing.assert_allclose(found_x, x, atol=1e-3)
    np.testing.assert_allclose(found_y, y, atol=1e-3)


def test_what_is_not_near_the_frame_has_no_pixel(linear_map: PlaneMap) -> None:
    x, y = pixels_of(linear_map, np.array([0.0, 100.0]), np.array([-80.0, 20.0]), SHAPE)
    assert np.isnan(x).all()
    assert np.isnan(y).all()


def test_partners_residuals_and_those_left_over_are_told_apart(linear_map: PlaneMap) -> None:
    x = np.array([100.0, 300.0, 500.0, 50.0])
    y = np.array([100.0, 200.0, 300.0, 380.0])
    shift = np.array([[0.3, -0.2], [-0.1, 0.4], [0.0, 0.0]])
    stars = stars_at(np.append(x[:3] + shift[:, 0], 20.0), np.append(y[:3] + shift[:, 1], 20.0))
    catalog = catalog_of(linear_map, np.append(x, -300.0), np.append(y, 10.0))
    found = overlay(SHAPE, stars, linear_map, catalog, rms_px=0.4)
    assert found.matched.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.residual_px, shift, atol=1e-6)
    np.testing.assert_allclose([found.missing_x[0], found.missing_y[0]], [50.0, 380.0], atol=1e-6)
    assert len(found.missing_x) == 1  # the one beyond the border is not missing
    assert found.rms_px == pytest.approx(np.sqrt((0.13 + 0.17) / 3), abs=1e-6)


def test_the_tolerance_follows_the_fit(linear_map: PlaneMap) -> None:
    stars = stars_at(np.array([101.5]), np.array([100.0]))
    catalog = catalog_of(linear_map, np.array([100.0]), np.array([100.0]))
    assert len(overlay(SHAPE, stars, linear_map, catalog).matched) == 1
    assert len(overlay(SHAPE, stars, linear_map, catalog, rms_px=0.1).matched) == 0


def test_pairs_of_a_fit_stand_and_its_outliers_are_not_called_missing(linear_map: PlaneMap) -> None:
    x, y = np.array([100.0, 300.0]), np.array([100.0, 200.0])
    stars, catalog = stars_at(x, y), catalog_of(linear_map, x, y)
    first = np.array([0])
    found = overlay(SHAPE, stars, linear_map, catalog, pairs=(first, first), rms_px=0.3)
    assert (found.matched.tolist(), len(found.missing_x)) == ([0], 0)


def test_without_a_wcs_there_are_only_stars() -> None:
    found = overlay(SHAPE, stars_at(np.array([5.0]), np.array([6.0])))
    assert (len(found.matched), len(found.missing_x), found.map) == (0, 0, None)
    assert np.isnan(found.rms_px)
