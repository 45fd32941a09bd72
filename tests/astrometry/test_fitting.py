from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS

from starloom.astrometry.distortion import (
    SIMILARITY,
    Prior,
    as_map,
    design,
    of_map,
    powers,
    radial,
    similarity,
    size,
)
from starloom.astrometry.fitting import Model, Pairs, expected, fit_map, held_out, plain_pairs
from starloom.astrometry.tangent import deproject, project
from starloom.astrometry.wcs import PlaneMap, astropy_wcs, map_from_cards
from starloom.sky.telescope import Telescope

SHAPE = (1100, 1500)
POLES = [(10.0, 0.0), (359.99, 45.0), (200.0, 89.5), (120.0, -89.9)]


def scope(distortion_px: float = 3.0) -> Telescope:
    return Telescope("T1", 1.6, SHAPE[1], SHAPE[0], rotation_deg=33.0, parity=-1, distortion_px=distortion_px)


def stars(n: int, truth: WCS, seed: int = 1, noise_px: float = 0.0, error_px: float = 0.1) -> Pairs:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)
    sky = truth.all_pix2world(x, y, 0)
    off = rng.normal(0, noise_px, (2, n)) if noise_px else np.zeros((2, n))
    return plain_pairs(x + off[0], y + off[1], *sky, error_px)


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
    fit = fit_map(stars(80, truth, error_px=0.001), rough(telescope, ra, dec), model)
    gx, gy = (v.ravel() for v in np.meshgrid(np.linspace(0, 1499, 11), np.linspace(0, 1099, 11)))
    px, py = truth.all_world2pix(*astropy_wcs(fit.map.cards(SHAPE)).all_pix2world(gx, gy, 0), 0)
    assert np.hypot(px - gx, py - gy).max() < 2e-3
    assert fit.keep.all()


def test_cards_say_the_same_as_the_map() -> None:
    telescope = scope()
    pairs = stars(80, telescope.wcs(80.0, 30.0))
    fitted = fit_map(pairs, rough(telescope, 80.0, 30.0), "cubic").map
    cards = fitted.cards(SHAPE)
    ra, dec = astropy_wcs(cards).all_pix2world(pairs.x, pairs.y, 0)
    own = fitted.sky(pairs.x, pairs.y)
    assert np.abs(ra - own[0]).max() < 1e-9
    assert np.abs(dec - own[1]).max() < 1e-9
    assert cards["CTYPE1"] == "RA---TAN-SIP"
    assert {"A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"} <= cards.keys()
    assert cards["CRPIX1"] == (SHAPE[1] + 1) / 2


def test_inverse_terms_serve_those_who_do_not_iterate() -> None:
    telescope = scope(distortion_px=6.0)
    pairs = stars(80, telescope.wcs(80.0, 30.0))
    wcs = astropy_wcs(fit_map(pairs, rough(telescope, 80.0, 30.0), "radial").map.cards(SHAPE))
    gx, gy = np.meshgrid(np.linspace(0, 1499, 11), np.linspace(0, 1099, 11))
    focal = wcs.sip_pix2foc(gx.ravel(), gy.ravel(), 0)
    back = wcs.sip_foc2pix(*focal, 0)
    assert np.hypot(back[0] - gx.ravel(), back[1] - gy.ravel()).max() < 0.005


def test_linear_map_is_plain_tan() -> None:
    telescope = scope(0.0)
    pairs = stars(8, telescope.wcs(80.0, 30.0))
    cards = fit_map(pairs, rough(telescope, 80.0, 30.0), "linear").map.cards(SHAPE)
    assert cards["CTYPE1"] == "RA---TAN"
    assert not any(key.startswith(("A_", "AP_")) for key in cards)


def test_outliers_do_not_pull() -> None:
    telescope = scope()
    truth = telescope.wcs(80.0, 30.0)
    pairs = stars(40, truth, noise_px=0.05)
    bad = np.arange(0, 40, 6)
    pairs.x[bad] += 2.5
    fit = fit_map(pairs, rough(telescope, 80.0, 30.0), "radial")
    assert not fit.keep[bad].any()
    assert fit.keep.sum() >= 31
    cx, cy = truth.all_world2pix(*fit.map.sky(750.0, 550.0), 0)
    assert np.hypot(cx - 750, cy - 550) < 0.05


def test_corner_error_is_honest() -> None:
    # The expected error at the worst corner against the error that many noisy fits really make there.
    telescope = scope()
    truth = telescope.wcs(80.0, 30.0)
    cx, cy = np.array([0, 1499, 1499, 0.0]), np.array([0, 0, 1099, 1099.0])
    said, squares = [], []
    pairs = stars(30, truth)
    rng = np.random.default_rng(3)
    for _ in range(60):
        noisy = replace(pairs, x=pairs.x + rng.normal(0, 0.1, 30), y=pairs.y + rng.normal(0, 0.1, 30))
        fit = fit_map(noisy, rough(telescope, 80.0, 30.0), "cubic", clip=False)
        said.append(fit.corner_error_px)
        px, py = truth.all_world2pix(*fit.map.sky(cx, cy), 0)
        squares.append((px - cx) ** 2 + (py - cy) ** 2)
    real = float(np.sqrt(np.mean(squares, axis=0).max()))
    assert np.mean(said) == pytest.approx(real, rel=0.3)


def test_the_scatter_of_the_stars_counts_more_than_what_is_stated() -> None:
    telescope = scope()
    truth, start = telescope.wcs(80.0, 30.0), rough(telescope, 80.0, 30.0)
    quiet = fit_map(stars(60, truth, noise_px=0.02), start, "cubic")
    loud = fit_map(stars(60, truth, noise_px=0.2), start, "cubic")
    assert np.sqrt(np.median(loud.variance)) == pytest.approx(0.2, rel=0.25)
    assert np.sqrt(np.median(quiet.variance)) == pytest.approx(0.02, rel=0.6)
    assert loud.corner_error_px > 4 * quiet.corner_error_px


def test_what_a_linear_map_leaves_out_is_in_its_error() -> None:
    telescope = scope(5.0)
    pairs = stars(40, telescope.wcs(80.0, 30.0), noise_px=0.02)
    stiff = fit_map(pairs, rough(telescope, 80.0, 30.0), "linear")
    px, py = telescope.wcs(80.0, 30.0).all_world2pix(*stiff.map.sky(0.0, 0.0), 0)
    assert stiff.error_px(0.0, 0.0) * np.sqrt(2) == pytest.approx(np.hypot(px, py), rel=0.3)


def test_a_learnt_distortion_serves_five_stars() -> None:
    telescope = scope(4.0)
    truth, start = telescope.wcs(80.0, 30.0), rough(telescope, 80.0, 30.0)
    rich = fit_map(stars(400, truth, noise_px=0.02), start, "cubic")
    known = Prior(3, rich.numbers, 1e-4 * np.eye(size(3)))
    few = stars(5, truth, seed=9, noise_px=0.02)
    alone, learnt = fit_map(few, start, "linear"), fit_map(few, start, "instrument", prior=known)
    cx, cy = np.array([0, 1499, 1499, 0.0]), np.array([0, 0, 1099, 1099.0])

    def error(fit_of: PlaneMap) -> float:
        px, py = truth.all_world2pix(*fit_of.sky(cx, cy), 0)
        return float(np.hypot(px - cx, py - cy).max())

    assert error(learnt.map) < 0.15 < 1.0 < error(alone.map)
    assert learnt.corner_error_px < 0.2 < 0.5 < alone.corner_error_px


@pytest.mark.parametrize("model", ["linear", "radial", "cubic"])
def test_held_out_residuals_are_those_of_fits_without_the_stars(model: Model) -> None:
    telescope = scope()
    pairs, start = stars(24, telescope.wcs(80.0, 30.0), noise_px=0.1), rough(telescope, 80.0, 30.0)
    fit = fit_map(pairs, start, "radial", clip=False)
    quick, halves = held_out(pairs, fit, model), held_out(pairs, fit, model, folds=2)
    prior = expected(fit.map)
    if model == "linear":
        prior = prior.frozen()
    elif model == "cubic":
        prior = prior.freed(2, 3, 300.0)
    u, v = (pairs.x - fit.map.x0) / fit.map.unit_px, (pairs.y - fit.map.y0) / fit.map.unit_px
    rows = design(u, v, 3)
    plane = np.stack(project(pairs.ra_deg, pairs.dec_deg, fit.map.ra0_deg, fit.map.dec0_deg))
    wanted = np.linalg.inv(similarity(fit.map.cd)) @ plane
    wanted -= np.stack([pairs.x - fit.map.x0, pairs.y - fit.map.y0])
    belief = np.zeros((size(3), SIMILARITY + size(3)))
    belief[:, SIMILARITY:] = np.linalg.cholesky(np.linalg.inv(prior.covariance)).T

    def without(group: np.ndarray) -> np.ndarray:
        weight = np.tile(np.where(group, 0.0, fit.variance**-0.5), 2)
        stacked = np.concatenate([np.concatenate(rows) * weight[:, None], belief])
        right = np.concatenate([wanted.ravel() * weight, np.zeros(size(3))])
        return wanted - rows @ np.linalg.lstsq(stacked, right, rcond=None)[0]

    for i in (0, 7, 23):
        assert np.allclose(quick[:, i], without(np.arange(24) == i)[:, i], rtol=1e-4, atol=1e-6)
    even = np.arange(24) % 2 == 0
    assert np.allclose(halves[:, even], without(even)[:, even], rtol=1e-4, atol=1e-6)


def test_radial_numbers_are_radial() -> None:
    rng = np.random.default_rng(1)
    u, v = rng.uniform(-0.7, 0.7, (2, 20))
    at = design(u, v, 5)[:, :, SIMILARITY:]
    assert np.allclose(at @ radial(5, 3), np.stack([u, v]) * (u * u + v * v))
    assert np.allclose(at @ radial(5, 5), np.stack([u, v]) * (u * u + v * v) ** 2)


@pytest.mark.parametrize("mirrored", [1.0, -1.0])
@pytest.mark.parametrize("order", [3, 5])
def test_a_map_and_its_distortion_are_the_same_thing(order: int, mirrored: float) -> None:
    rng = np.random.default_rng(2)
    numbers = rng.normal(0, 2.0, size(order))
    cd = 5e-4 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]]) @ np.diag([mirrored, 1.0])
    made = as_map(80.0, 30.0, (749.5, 549.5), 930.0, cd, numbers)
    assert np.allclose(of_map(made, order), numbers)
    assert np.allclose(similarity(made.cd), cd)
    x, y = rng.uniform(0, 1000, (2, 30))
    u, v = (x - 749.5) / 930.0, (y - 549.5) / 930.0
    moved = design(u, v, order)[:, :, SIMILARITY:] @ numbers
    assert np.allclose(made.plane(x, y), cd @ (np.stack([x - 749.5, y - 549.5]) + moved))
    assert powers(3) == ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))


def test_a_foreign_wcs_is_followed() -> None:
    telescope = scope()
    found = map_from_cards(telescope.wcs_cards(80.0, 30.0), SHAPE)
    x, y = np.array([0.0, 1499.0, 700.0]), np.array([0.0, 1099.0, 900.0])
    truth = telescope.wcs(80.0, 30.0).all_pix2world(x, y, 0)
    assert np.abs(np.array(found.sky(x, y)) - truth).max() * 3600 < 0.001
    assert found.scale_arcsec == pytest.approx(1.6, rel=1e-3)
