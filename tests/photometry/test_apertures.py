"""Aperture sums against photutils, and what masked pixels do to them."""

from __future__ import annotations

import numpy as np
import pytest
from photutils.aperture import CircularAperture, EllipticalAperture

from starloom.photometry.apertures import Apertures, filled, peaks
from starloom.photometry.sky_mesh import SkyMesh

FLAT = SkyMesh(np.zeros((1, 1)), 64.0, 1.0)


def places(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(4).uniform(20, 100, (2, n)))  # type: ignore[return-value]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).normal(1000, 100, (120, 120)).astype(np.float32)


@pytest.mark.parametrize("radius", [1.8, 3.0, 7.5, 15.0])
def test_circles_hold_what_photutils_finds_in_them(pixels, radius):
    x, y = places()
    theirs, _ = CircularAperture(np.column_stack([x, y]), radius).do_photometry(pixels, method="exact")
    ours = Apertures(pixels, None, FLAT)
    np.testing.assert_allclose(ours.sums(x, y, radius), theirs, rtol=1e-6)
    assert ours.area(radius) == pytest.approx(np.pi * radius**2)
    outer, _ = CircularAperture(np.column_stack([x, y]), 1.4 * radius).do_photometry(pixels, method="exact")
    np.testing.assert_allclose(ours.ring(x, y, radius, 1.4 * radius), outer - theirs, rtol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 35.0, 120.0, 179.0])
def test_apertures_drawn_out_along_a_trail_hold_what_photutils_finds_in_them(pixels, angle):
    x, y = places()
    ours = Apertures(pixels, None, FLAT, trail_px=9.0, trail_angle_deg=angle)
    theirs = EllipticalAperture(np.column_stack([x, y]), 4.0 + 4.5, 4.0, theta=np.radians(angle))
    np.testing.assert_allclose(ours.sums(x, y, 4.0), theirs.do_photometry(pixels, method="exact")[0], rtol=1e-5)
    assert ours.area(4.0) == pytest.approx(theirs.area)
    assert ours.reach(4.0) == 8.5


def test_the_sky_is_taken_off_by_area(pixels):
    x, y = places(5)
    sky = Apertures(pixels, None, SkyMesh(np.full((2, 2), 900.0), 64.0, 1.0))
    bare = Apertures(pixels, None, FLAT)
    np.testing.assert_allclose(sky.sums(x, y, 4.0), bare.sums(x, y, 4.0) - 900.0 * np.pi * 16, rtol=1e-6)


@pytest.mark.parametrize("trail", [0.0, 6.0])
def test_masked_pixels_are_counted_where_their_centre_is_inside(trail):
    mask = np.random.default_rng(5).random((120, 120)) < 0.05
    x, y = places(20)
    ours = Apertures(np.zeros((120, 120), np.float32), mask, FLAT, trail, 30.0)
    shape = EllipticalAperture(np.column_stack([x, y]), 5.0 + trail / 2, 5.0, theta=np.radians(30.0))
    theirs, _ = shape.do_photometry(mask.astype(float), method="center")
    np.testing.assert_array_equal(ours.masked_pixels(x, y, 5.0), theirs)
    assert Apertures(np.zeros((9, 9), np.float32), None, FLAT).masked_pixels(x, y, 5.0).sum() == 0


def test_a_hot_pixel_in_a_wing_costs_less_than_it_would_to_leave_it_out():
    yy, xx = np.mgrid[:41, :41]
    star = (1e5 * (1 + ((xx - 20.3) ** 2 + (yy - 20.2) ** 2) / 9.0) ** -3).astype(np.float32)
    mask = np.zeros(star.shape, bool)
    mask[20, 24] = True
    spoilt = star.copy()
    spoilt[mask] = 60_000.0
    x, y = np.array([20.3]), np.array([20.2])
    truth = Apertures(star, None, FLAT).sums(x, y, 5.0)[0]
    ours = Apertures(filled(spoilt, mask), mask, FLAT).sums(x, y, 5.0)[0]
    assert ours == pytest.approx(truth, rel=0.004)
    # What programs do that scale up the rest of the aperture.
    inside = (xx - 20.3) ** 2 + (yy - 20.2) ** 2 <= 25
    scaled = star[inside & ~mask].sum() * inside.sum() / (inside & ~mask).sum()
    assert abs(scaled / star[inside].sum() - 1) > 2 * abs(ours / truth - 1)


def test_pixels_without_a_good_neighbour_get_the_sky_and_nothing_is_changed_in_place():
    pixels = np.full((30, 30), 7.0, np.float32)
    mask = np.zeros(pixels.shape, bool)
    mask[5:12, 5:12] = True
    pixels[mask] = np.nan
    out = filled(pixels, mask)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, 7.0)
    assert np.isnan(pixels[8, 8])
    assert filled(pixels, np.zeros_like(mask)) is pixels


def test_apertures_over_the_edge_and_peaks():
    ours = Apertures(np.zeros((50, 80), np.float32), None, FLAT)
    x, y = np.array([3.4, 3.6, 75.4, 75.6, 40.0]), np.array([25.0, 25.0, 25.0, 25.0, 46.0])
    np.testing.assert_array_equal(ours.over_the_edge(x, y, 4.0), [True, False, False, True, True])
    image = np.zeros((9, 9), np.float32)
    image[4, 5], image[0, 0] = 30.0, 5.0
    np.testing.assert_array_equal(peaks(image, np.array([4.2, 0.0]), np.array([4.4, 0.0])), [30.0, 5.0])
    assert ours.sums(np.zeros(0), np.zeros(0), 3.0).size == 0
