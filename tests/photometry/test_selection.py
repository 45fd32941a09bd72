"""Stars alone, blends, and partners in the catalogue."""

from __future__ import annotations

import numpy as np
import pytest

from starloom.photometry.selection import match, neighbours
from starloom.refcat.provider import CatalogStars
from starloom.sky.field import offset_position


def test_neighbours_that_disturb_and_blends():
    x, y = np.array([50.0, 58.0, 200.0, 230.0, 400.0]), np.full(5, 50.0)
    flux = np.array([1000.0, 200.0, 1000.0, 1000.0, 1000.0])
    found = neighbours(x, y, flux, far_px=40.0, reach_px=5.0)
    np.testing.assert_allclose(found.clear_px, [8.0, 8.0, 30.0, 30.0, np.inf])
    np.testing.assert_array_equal(found.blended, [True, True, False, False, False])
    faint = neighbours(x, y, np.array([1000.0, 1.0, 1000.0, 1000.0, 1000.0]), far_px=40.0, reach_px=5.0)
    # What is a thousandth of a star does not disturb it; the star disturbs what is so faint.
    assert np.isinf(faint.clear_px[0])
    np.testing.assert_array_equal(faint.blended[:2], [False, True])
    assert neighbours(x[:1], y[:1], flux[:1], far_px=40.0, reach_px=5.0).clear_px[0] == np.inf


def catalogue(ra, dec, mag) -> CatalogStars:
    return CatalogStars(np.array(ra) % 360, np.array(dec), np.array(mag), "V", "test", 2000.0)


@pytest.mark.parametrize("centre", [(10.0, 0.0), (0.0, 20.0), (120.0, 89.9), (0.0, -89.99)])
def test_partners_are_found_everywhere_on_the_sky(centre):
    rng = np.random.default_rng(1)
    ra, dec = offset_position(*centre, 0.2 * np.sqrt(rng.random(80)), rng.uniform(0, 2 * np.pi, 80))
    stars = catalogue(ra, dec, np.full(80, 10.0))
    order = rng.permutation(80)
    seen_ra, seen_dec = (ra[order] + 0.2 / 3600 / np.cos(np.radians(dec[order]))) % 360, dec[order]
    star, partner = match(seen_ra, seen_dec, np.ones(80, bool), stars, match_arcsec=1.0, blend_arcsec=0.001)
    assert len(star) == 80
    np.testing.assert_array_equal(order[star], partner)


def test_pairs_are_unique_and_blended_catalogue_stars_left_out():
    stars = catalogue(
        [10.0, 10.0, 10.1, 10.2, 10.2], [0.0, 1 / 3600, 0.0, 0.0, 3 / 3600], [9.0, 9.5, 9.0, 9.0, 15.5]
    )
    star, partner = match(
        np.array([10.0, 10.1, 10.2]), np.zeros(3), np.array([True, True, True]), stars,
        match_arcsec=2.0, blend_arcsec=5.0,
    )  # fmt: skip
    # The first is within reach of two; the third's neighbour is 6.5 mag fainter and does not matter.
    np.testing.assert_array_equal(star, [1, 2])
    np.testing.assert_array_equal(partner, [2, 3])
    none = match(np.zeros(0), np.zeros(0), np.zeros(0, bool), stars, match_arcsec=2.0, blend_arcsec=5.0)
    assert len(none[0]) == len(none[1]) == 0
