"""Refinement against cameras whose distortion is known, without pixels: every star is where the truth says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from starloom.astrometry import Unsolved, held_out_residual, judge, refine_wcs
from starloom.astrometry.refine import residual_map, softness, star_errors
from starloom.astrometry.wcs import astropy_wcs, map_from_cards

PLACES = [(80.0, 30.0), (359.95, 10.0), (0.02, -20.0), (200.0, 89.3), (120.0, -88.5), (10.0, 85.5)]


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_sky_is_found_wherever_it_is(
    camera_type: Any, exposure_type: Any, at: tuple[float, float], mirrored: bool
) -> None:
    exposure = exposure_type(camera_type(), at, stars=80, strangers=200, mirrored=mirrored)
    fit = exposure.refined()
    assert np.abs(exposure.errors(fit)).max() < 0.1
    assert fit.matches >= 76
    assert judge(fit, exposure.stars).accepted


@pytest.mark.parametrize("scale", [20.0, 36.0])
def test_a_lens_of_fifteen_degrees_takes_more_powers(camera_type: Any, exposure_type: Any, scale: float) -> None:
    camera = camera_type(scale_arcsec=scale, cubic=15.0, quintic=-3.0, tilt=(2.0, -1.0))
    exposure = exposure_type(camera, stars=300, catalog_arcsec=0.3)
    fit = exposure.refined()
    assert fit.order == 5
    assert np.abs(exposure.errors(fit)).max() < 0.15
    x, y = np.array([0.0, 1499.0]), np.array([0.0, 1099.0])
    ra, dec = astropy_wcs(fit.cards).all_pix2world(x, y, 0)
    truth = camera.sky(x, y, exposure.at, exposure.turn_deg)
    assert np.abs(ra - truth[0]).max() * 3600 < 0.2 * scale
    assert np.abs(dec - truth[1]).max() * 3600 < 0.2 * scale


def test_optics_without_distortion_stay_linear(camera_type: Any, exposure_type: Any) -> None:
    models = [
        exposure_type(camera_type(cubic=0.0, tilt=(0.0, 0.0)), stars=n, seed=n).refined()
        for n in (7, 14, 20, 40, 150)
    ]
    assert [fit.model for fit in models] == ["linear"] * 5
    assert all(fit.cards["CTYPE1"] == "RA---TAN" for fit in models)


def test_the_choice_does_not_hang_on_the_number_of_stars(camera_type: Any, exposure_type: Any) -> None:
    # The same twelve stars: optics that need a radial term get it, others do not.
    strong = exposure_type(camera_type(cubic=6.0), stars=14).refined()
    none = exposure_type(camera_type(cubic=0.0, tilt=(0.0, 0.0)), stars=14).refined()
    assert (strong.model, none.model) == ("radial", "linear")


def test_unusual_optics_are_followed_where_stars_demand_it(camera_type: Any, exposure_type: Any) -> None:
    # A tilt a hundred times what is expected of any camera: few stars free the powers, many overrule the belief.
    camera = camera_type(tilt=(25.0, -12.0))
    some, many = (exposure_type(camera, stars=n, noise_px=0.1).refined() for n in (60, 400))
    assert some.model in ("quadratic-radial", "cubic")
    exposure = exposure_type(camera, stars=400, noise_px=0.1)
    assert np.abs(exposure.errors(many)).max() < 0.15


@pytest.mark.parametrize(("stars", "stated"), [(9, None), (15, None), (30, 0.1), (120, 0.1)])
def test_errors_are_as_large_as_stated(
    camera_type: Any, exposure_type: Any, stars: int, stated: float | None
) -> None:
    rng = np.random.default_rng(stars)
    ratios = []
    for seed in range(60):
        cubic, a, b = rng.normal(0, 2.0), *rng.normal(0, 0.3, 2)
        camera = camera_type(cubic=float(cubic), tilt=(float(a), float(b)))
        exposure = exposure_type(camera, stars=stars, catalog_arcsec=0.1, stated_arcsec=stated, seed=seed)
        fit = exposure.refined()
        x = np.array([(camera.width - 1) / 2, 0, camera.width - 1, camera.width - 1, 0])
        y = np.array([(camera.height - 1) / 2, 0, 0, camera.height - 1, camera.height - 1])
        ratios.append((exposure.errors(fit) ** 2).mean(axis=0) / fit.error_px(x, y) ** 2)
    centre, corners = np.sqrt(np.mean(ratios, axis=0)[0]), np.sqrt(np.mean(ratios, axis=0)[1:].mean())
    # 60 frames tell such a ratio to a tenth.
    assert 0.75 < centre < 1.25
    assert 0.75 < corners < 1.25


def test_stated_errors_of_the_catalogue_weigh_its_stars(camera_type: Any, exposure_type: Any) -> None:
    # Half of the catalogue is many times worse than the rest: whoever says so is heard.
    deaf, told = [], []
    for seed in range(6):
        exposure = exposure_type(camera_type(), stars=60, catalog_arcsec=0.0, noise_px=0.01, seed=seed)
        bad = np.arange(60) % 2 == 0
        exposure.catalogue.dec_deg[bad] += np.random.default_rng(seed).normal(0, 0.6, 30) / 3600
        deaf.append(exposure.errors(exposure.refined()))
        exposure.catalogue = replace(exposure.catalogue, position_err_arcsec=np.where(bad, 0.6, 0.02))
        told.append(exposure.errors(exposure.refined()))
    assert np.sqrt(np.mean(np.square(told))) < 0.6 * np.sqrt(np.mean(np.square(deaf)))


@pytest.mark.parametrize(("fwhm", "noise"), [(10.0, 0.4), (12.0, 0.7)])
def test_trails_and_rings_refine_within_wider_tolerances(
    camera_type: Any, exposure_type: Any, fwhm: float, noise: float
) -> None:
    exposure = exposure_type(camera_type(cubic=4.0), stars=60, strangers=60, noise_px=noise, fwhm_px=fwhm)
    fit = exposure.refined()
    assert softness(exposure.stars) >= fwhm / 5
    assert fit.matches >= 55
    assert np.sqrt(np.mean(exposure.errors(fit) ** 2)) < noise
    assert judge(fit, exposure.stars).accepted


def test_the_catalogue_is_asked_for_the_frames_epoch(camera_type: Any, exposure_type: Any) -> None:
    exposure = exposure_type(camera_type())
    fit = exposure.refined(epoch=2026.4)
    assert exposure.asked == [2026.4]
    assert fit.sample["epoch"] == 2026.4


def test_fewer_than_five_partners_are_no_match(camera_type: Any, exposure_type: Any) -> None:
    exposure = exposure_type(camera_type(), stars=4)
    with pytest.raises(Unsolved) as caught:
        exposure.refined()
    assert caught.value.code == "no-match"


def test_what_it_says_of_itself_is_fit_for_json(camera_type: Any, exposure_type: Any) -> None:
    fit = exposure_type(camera_type(), stars=100).refined()
    assert json.loads(json.dumps(fit.residuals)) == fit.residuals
    assert json.loads(json.dumps(fit.sample)) == fit.sample
    assert [row["where"] for row in fit.residuals] == ["centre", "(0, 0)", "(nx, 0)", "(nx, ny)", "(0, ny)"]
    assert sum(row["n"] for row in fit.residuals) < fit.matches
    assert not fit.model_used


def test_the_residual_map_tells_a_shifted_corner() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 900, 500), rng.uniform(0, 600, 500)
    residual = rng.normal(0, 0.01, (2, 500))
    residual[0, (x > 600) & (y > 400)] += 0.5
    rows = {row["where"]: row for row in residual_map(x, y, residual, (600, 900))}
    assert rows["(nx, ny)"]["dx_px"] == pytest.approx(0.5, abs=0.01)
    assert rows["(nx, ny)"]["rms_px"] == pytest.approx(0.5, abs=0.02)
    assert abs(rows["centre"]["dx_px"]) < 0.01
    assert rows["centre"]["n"] == int(((x >= 300) & (x < 600) & (y >= 200) & (y < 400)).sum())
    empty = residual_map(x[:0], y[:0], residual[:, :0], (600, 900))
    assert empty[0] == {"where": "centre", "n": 0, "dx_px": None, "dy_px": None, "rms_px": None}


def test_stars_held_out_lie_further_off_than_stars_fitted(camera_type: Any, exposure_type: Any) -> None:
    exposure = exposure_type(camera_type(), stars=20)
    fit = exposure.refined()
    alone = held_out_residual(fit, exposure.stars)
    halves = held_out_residual(fit, exposure.stars, folds=2)
    fitted = fit.rms_arcsec
    assert len(alone) == fit.matches
    assert fitted < np.sqrt(np.mean(alone**2)) < np.sqrt(np.mean(halves**2))


def test_saturated_stars_count_little(camera_type: Any, exposure_type: Any) -> None:
    stars = exposure_type(camera_type()).stars
    before = star_errors(stars)
    stars.saturated[:3] = True
    after = star_errors(stars)
    assert (after[:3] >= 0.1).all()
    assert (after[3:] == before[3:]).all()


def test_plain_cards_need_no_astropy(camera_type: Any) -> None:
    # The quick way and WCSLIB's agree; cards that are not plain take the latter.
    cards = camera_type().cards((359.9, 88.0), 33.0)
    quick = map_from_cards(cards, (1100, 1500))
    slow = map_from_cards(cards | {"LONPOLE": 180.0}, (1100, 1500))
    x, y = np.array([0.0, 700.0, 1499.0]), np.array([0.0, 900.0, 1099.0])
    assert np.abs(np.stack(quick.plane(x, y)) - np.stack(slow.plane(x, y))).max() * 3600 < 1e-6
    assert quick.ra0_deg == pytest.approx(slow.ra0_deg, abs=1e-9)
    turned = map_from_cards(cards | {"LONPOLE": 90.0}, (1100, 1500))
    assert abs(turned.dec0_deg - quick.dec0_deg) < 1e-6
    assert np.abs(turned.cd - quick.cd).max() > 1e-5


def test_a_candidate_half_a_dozen_pixels_off_comes_right(camera_type: Any, exposure_type: Any) -> None:
    exposure = exposure_type(camera_type(), stars=60, strangers=100)
    cards = exposure.candidate().cards
    off = exposure.candidate(CRPIX1=cards["CRPIX1"] + 4.0, CRPIX2=cards["CRPIX2"] - 3.0)
    fit = refine_wcs(off, exposure.stars, exposure)
    assert np.abs(exposure.errors(fit)).max() < 0.1
