from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from starloom.astrometry.fitting import Model, fit_map, k_fold_residuals
from starloom.astrometry.tangent import deproject, project
from starloom.astrometry.wcs import PlaneMap, astropy_wcs, map_from_cards
from starloom.sky.telescope import Telescope

SHAPE = (1100, 1500)
POLES = [(10.0, 0.0), (359.99, 45.0), (200.0, 89.5), (120.0, -89.9)]


def scope(distortion_px: float = 3.0) -> Telescope:
    return Telescope("T1", 1.6, SHAPE[1], SHAPE[0], rotation_deg=33.0, parity=-1, distortion_px=distortion_px)


def stars(n: int, truth: WCS, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    return x, y, *truth.all_pix2world(x, y, 0)


def rough(telescope: Telescope, ra: float, dec: float) -> PlaneMap:
    """A linear start that is a few pixels, a tenth of a degree of rotation and 0.1 % of scale off."""
    cards = telescope.wcs_cards(ra, dec)
    linear = {k: v for k, v in cards.items() if not k.startswith(("A_", "B_"))}
    linear |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 752.0, "CRPIX2": 549.0}
    linear["CD1_1"] = float(linear["CD1_1"]) * 1.001
    return map_from_cards(linear, SHAPE)


@pytest.mark.parametrize(("ra", "dec"), POLES)
def test_projection_undoes_itself(ra: float, dec: float) -> None:
    xi, eta = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))
    back = project(*deproject(xi, eta, ra, dec), ra, dec)
    assert np.allclose(back, (xi, eta), atol=1e-11)


def test_far_side_of_the_sky_has_no_image() -> None:
    xi, _ = project([190.0, 10.0], [0.0, 0.0], 10.0, 0.0)
    assert np.isnan(xi[0])
    assert xi[1] == pytest.approx(0.0)


@pytest.mark.parametrize(("ra", "dec"), POLES)
@pytest.mark.parametrize("model", ["radial", "quadratic-radial", "cubic"])
def test_recovers_a_distorted_wcs_exactly(ra: float, dec: float, model: Model) -> None:
    telescope = scope()
    truth = telescope.wcs(ra, dec)
    x, y, a, d = stars(80, truth)
    fit = fit_map(x, y, a, d, rough(telescope, ra, dec), model)
    gx, gy = (v.ravel() for v in np.meshgrid(np.linspace(0, 1499, 11), np.linspace(0, 1099, 11)))
    px, py = truth.all_world2pix(*astropy_wcs(fit.map.cards(SHAPE)).all_pix2world(gx, gy, 0), 0)
    assert np.hypot(px - gx, py - gy).max() < 1e-3
    assert fit.keep.all()


def test_cards_say_the_same_as_the_map() -> None:
    telescope = scope()
    x, y, a, d = stars(80, telescope.wcs(80.0, 30.0))
    fitted = fit_map(x, y, a, d, rough(telescope, 80.0, 30.0), "cubic").map
    cards = fitted.cards(SHAPE)
    ra, dec = astropy_wcs(cards).all_pix2world(x, y, 0)
    own = fitted.sky(x, y)
    assert np.abs(ra - own[0]).max() < 1e-9
    assert np.abs(dec - own[1]).max() < 1e-9
    assert cards["CTYPE1"] == "RA---TAN-SIP"
    assert {"A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"} <= cards.keys()
    assert cards["CRPIX1"] == (SHAPE[1] + 1) / 2


def test_inverse_terms_serve_those_who_do_not_iterate() -> None:
    telescope = scope(distortion_px=6.0)
    x, y, a, d = stars(80, telescope.wcs(80.0, 30.0))
    wcs = astropy_wcs(fit_map(x, y, a, d, rough(telescope, 80.0, 30.0), "radial").map.cards(SHAPE))
    gx, gy = np.meshgrid(np.linspace(0, 1499, 11), np.linspace(0, 1099, 11))
    focal = wcs.sip_pix2foc(gx.ravel(), gy.ravel(), 0)
    back = wcs.sip_foc2pix(*focal, 0)
    assert np.hypot(back[0] - gx.ravel(), back[1] - gy.ravel()).max() < 0.005


def test_linear_map_is_plain_tan() -> None:
    telescope = scope(0.0)
    x, y, a, d = stars(8, telescope.wcs(80.0, 30.0))
    cards = fit_map(x, y, a, d, rough(telescope, 80.0, 30.0), "linear").map.cards(SHAPE)
    assert cards["CTYPE1"] == "RA---TAN"
    assert not any(key.startswith(("A_", "AP_")) for key in cards)


def test_outliers_do_not_pull() -> None:
    telescope = scope()
    truth = telescope.wcs(80.0, 30.0)
    x, y, a, d = stars(40, truth)
    rng = np.random.default_rng(2)
    x, y = x + rng.normal(0, 0.05, 40), y + rng.normal(0, 0.05, 40)
    bad = np.arange(0, 40, 6)
    x[bad] += 2.5
    fit = fit_map(x, y, a, d, rough(telescope, 80.0, 30.0), "radial")
    assert not fit.keep[bad].any()
    assert fit.keep.sum() >= 31
    cx, cy = truth.all_world2pix(*fit.map.sky(750.0, 550.0), 0)
    assert np.hypot(cx - 750, cy - 550) < 0.05


def test_corner_error_is_honest() -> None:
    # The expected error at the worst corner against the error that many noisy fits really make there.
    telescope = scope()
    truth = telescope.wcs(80.0, 30.0)
    x, y, a, d = stars(30, truth)
    rng = np.random.default_rng(3)
    cx, cy = np.array([0, 1499, 1499, 0.0]), np.array([0, 0, 1099, 1099.0])
    said, squares = [], []
    for _ in range(60):
        noisy = x + rng.normal(0, 0.1, 30), y + rng.normal(0, 0.1, 30)
        fit = fit_map(*noisy, a, d, rough(telescope, 80.0, 30.0), "radial", clip=False)
        said.append(fit.corner_error_px)
        px, py = truth.all_world2pix(*fit.map.sky(cx, cy), 0)
        squares.append((px - cx) ** 2 + (py - cy) ** 2)
    real = float(np.sqrt(np.mean(squares, axis=0).max()))
    assert np.mean(said) == pytest.approx(real, rel=0.3)


def test_held_out_residuals_exceed_the_fitted_ones() -> None:
    telescope = scope()
    x, y, a, d = stars(30, telescope.wcs(80.0, 30.0))
    rng = np.random.default_rng(4)
    x, y = x + rng.normal(0, 0.1, 30), y + rng.normal(0, 0.1, 30)
    start = rough(telescope, 80.0, 30.0)
    fitted = fit_map(x, y, a, d, start, "cubic").residual_px
    held = k_fold_residuals(x, y, a, d, start, "cubic")
    stiff = k_fold_residuals(x, y, a, d, start, "radial")
    assert np.isfinite(held).all()
    assert np.sqrt(np.mean(fitted**2)) < np.sqrt(np.mean(stiff**2)) < np.sqrt(np.mean(held**2))


def test_a_foreign_wcs_is_followed() -> None:
    telescope = scope()
    found = map_from_cards(telescope.wcs_cards(80.0, 30.0), SHAPE)
    x, y = np.array([0.0, 1499.0, 700.0]), np.array([0.0, 1099.0, 900.0])
    truth = telescope.wcs(80.0, 30.0).all_pix2world(x, y, 0)
    assert np.abs(np.array(found.sky(x, y)) - truth).max() * 3600 < 0.001
    assert found.scale_arcsec == pytest.approx(1.6, rel=1e-3)
