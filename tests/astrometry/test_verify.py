"""A wrong WCS is the one fault that nothing later repairs: here it is tried to be smuggled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from starloom.astrometry import (
    Candidate,
    Hint,
    SeizaSolver,
    StarList,
    Unsolved,
    WcsFit,
    detect_stars,
    judge,
    refine_wcs,
)
from starloom.astrometry.tangent import project
from starloom.astrometry.verify import _log10_tail, pixel_shape
from starloom.frames import read_frame
from starloom.refcat import default_refcat
from starloom.sky import tres1_frames

TRES1 = (286.0408, 36.6326)
SCALE = 2.375


@pytest.fixture(scope="module")
def stars() -> StarList:
    return detect_stars(read_frame(tres1_frames()[0])[0])


@pytest.fixture(scope="module")
def fit(stars: StarList) -> WcsFit:
    found = SeizaSolver().solve(stars, Hint(*TRES1, 1.0, SCALE, 0.1), default_refcat())
    return refine_wcs(found, stars, default_refcat())


def random_stars(rng: np.random.Generator, n: int, shape: tuple[int, int] = (736, 1092)) -> StarList:
    flux = np.sort(rng.pareto(1.2, n) + 1)[::-1] * 1000
    one = np.ones(n)
    x, y = rng.uniform(0, shape[1], n), rng.uniform(0, shape[0], n)
    return StarList(x, y, flux, flux / 10, 2.5 * one, 0.1 * one, np.zeros(n, bool), shape, 1000.0, 20.0, 2.5, 0.1)


def test_the_true_wcs_is_believed(fit: WcsFit, stars: StarList) -> None:
    verdict = judge(fit, stars)
    assert verdict.accepted, verdict.faults
    assert verdict.log10_false_alarm < -40
    assert verdict.completeness > 0.7
    assert verdict.axis_ratio < 1.001
    assert verdict.expected_by_chance < 0.5


def moved(fit: WcsFit, **cards: float) -> Candidate:
    return Candidate(fit.cards | cards, fit.matches, "smuggler")


@pytest.mark.parametrize("arcmin", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("axis", ["CRVAL1", "CRVAL2"])
def test_a_shifted_wcs_is_refused(fit: WcsFit, stars: StarList, axis: str, arcmin: float) -> None:
    wrong = moved(fit, **{axis: fit.cards[axis] + arcmin / 60})
    assert_refused(wrong, stars)


@pytest.mark.parametrize("axis", ["CRVAL1", "CRVAL2"])
def test_a_wcs_shifted_by_little_is_put_right(fit: WcsFit, stars: StarList, axis: str) -> None:
    again = refine_wcs(moved(fit, **{axis: fit.cards[axis] + 5 / 3600}), stars, default_refcat())
    assert judge(again, stars).accepted
    assert np.abs(np.array(again.map.sky(500.0, 300.0)) - fit.map.sky(500.0, 300.0)).max() * 3600 < 0.1


def test_a_mirrored_or_turned_wcs_is_refused(fit: WcsFit, stars: StarList) -> None:
    cd = {key: fit.cards[key] for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")}
    assert_refused(moved(fit, CD1_1=-cd["CD1_1"], CD2_1=-cd["CD2_1"]), stars)
    assert_refused(moved(fit, **{key: -value for key, value in cd.items()}), stars)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_wcs_of_another_scale_is_refused(fit: WcsFit, stars: StarList, factor: float) -> None:
    wrong = {key: fit.cards[key] * factor for key in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")}
    assert_refused(moved(fit, **wrong), stars)


def assert_refused(candidate: Candidate, stars: StarList) -> None:
    try:
        fit = refine_wcs(candidate, stars, default_refcat())
    except Unsolved:
        return
    verdict = judge(fit, stars)
    assert not verdict.accepted
    assert verdict.faults


def test_the_true_wcs_on_shuffled_stars_is_refused(fit: WcsFit, stars: StarList) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        assert_refused(moved(fit), replace(stars, y=rng.permutation(stars.y)))


def test_the_best_of_many_wrong_candidates_is_refused() -> None:
    # Thousands of pairs of bright stars laid upon pairs of catalogue stars; the ones that match most are refined.
    rng = np.random.default_rng(7)
    catalog = default_refcat().cone(*TRES1, 0.5)
    xi, eta = project(catalog.ra_deg, catalog.dec_deg, *TRES1)
    sky = (xi + 1j * eta) * 3600 / SCALE
    refined = 0
    for n in (40, 150, 600):
        fake = random_stars(rng, n)
        at = fake.x + 1j * fake.y
        best: list[tuple[int, dict[str, Any]]] = []
        for _ in range(1500):
            a, b = rng.choice(20, 2, replace=False)
            i, j = rng.choice(min(n, 30), 2, replace=False)
            turn = (at[j] - at[i]) / (sky[b] - sky[a])
            turn /= abs(turn)
            where = at[i] + turn * (sky - sky[a])
            hits = np.abs(where[:, None] - at[None, :120]).min(axis=1) < 4
            origin = at[i] - turn * sky[a]
            cd = SCALE / 3600 / turn
            cards = {
                "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": TRES1[0], "CRVAL2": TRES1[1],
                "CRPIX1": origin.real + 1, "CRPIX2": origin.imag + 1,
                "CD1_1": cd.real, "CD1_2": -cd.imag, "CD2_1": cd.imag, "CD2_2": cd.real,
            }  # fmt: skip
            best.append((int(hits.sum()), cards))
        best.sort(key=lambda entry: -entry[0])
        for hits_count, cards in best[:15]:
            assert_refused(Candidate(cards, hits_count, "adversary"), fake)
            refined += 1
    assert refined == 45


@pytest.mark.parametrize("seed", range(6))
def test_random_stars_never_solve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fake = random_stars(rng, int(rng.integers(30, 800)))
    for scale in (1.0, 2.0, 4.0):
        try:
            found = SeizaSolver().solve(fake, Hint(343.9, 55.8, 1.0, scale, 0.12), default_refcat())
        except Unsolved:
            continue
        assert_refused(found, fake)


def test_too_free_a_distortion_is_refused(fit: WcsFit, stars: StarList) -> None:
    terms = np.zeros((10, 2))
    terms[:3] = fit.map.terms[:3]
    powers = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
    terms[6] = -1.2 * fit.map.terms[1]
    folded = replace(fit, map=replace(fit.map, powers=powers, terms=terms))
    verdict = judge(folded, stars)
    assert not verdict.accepted
    assert any("pixel area" in fault for fault in verdict.faults)
    assert any("distortion" in fault for fault in verdict.faults)


def test_oblong_or_slanted_pixels_are_refused(fit: WcsFit, stars: StarList) -> None:
    for change in ([1.08, 1.0], [1.0, 1.08]):
        terms = fit.map.terms.copy()
        terms[1:3] *= np.array(change)[:, None]
        verdict = judge(replace(fit, map=replace(fit.map, terms=terms)), stars)
        assert any("axes differ" in fault for fault in verdict.faults)
    terms = fit.map.terms.copy()
    terms[2] += 0.05 * terms[1]
    assert any("off square" in f for f in judge(replace(fit, map=replace(fit.map, terms=terms)), stars).faults)


def test_pixel_shape() -> None:
    ratio, skew = pixel_shape(np.array([[-2.0, 0.0], [0.0, 1.0]]))
    assert ratio == pytest.approx(2.0)
    assert skew == pytest.approx(0.0)
    assert pixel_shape(np.array([[1.0, np.sin(0.1)], [0.0, np.cos(0.1)]]))[1] == pytest.approx(np.degrees(0.1))


def test_matches_in_one_corner_are_refused(fit: WcsFit, stars: StarList) -> None:
    keep = np.argsort(stars.x[fit.star_index] + stars.y[fit.star_index])[:7]
    corner = replace(fit, star_index=fit.star_index[keep], catalog_index=fit.catalog_index[keep])
    assert judge(replace(corner, corner_error_px=9.0), stars).faults


@pytest.mark.parametrize("half", ["left", "bottom"])
def test_stars_behind_a_cloud_are_not_missed(fit: WcsFit, stars: StarList, half: str) -> None:
    ny, nx = stars.shape
    clear = stars.x > nx / 2 if half == "left" else stars.y > ny / 2
    rest = stars.take(np.flatnonzero(clear))
    again = refine_wcs(moved(fit), rest, default_refcat())
    verdict = judge(again, rest)
    assert verdict.accepted, verdict.faults
    assert verdict.completeness > 0.6


def test_a_map_right_in_one_third_only_is_refused(fit: WcsFit, stars: StarList) -> None:
    # The other stars stay, but where chance would have them.
    rng = np.random.default_rng(3)
    elsewhere = stars.x < 0.62 * stars.shape[1]
    y = np.where(elsewhere, rng.permutation(stars.y), stars.y)
    spoiled = replace(stars, y=y)
    keep = ~elsewhere[fit.star_index]
    partly = replace(
        fit,
        star_index=fit.star_index[keep],
        catalog_index=fit.catalog_index[keep],
        within=fit.catalog_index[keep],
        corner_error_px=0.1,
    )
    assert partly.matches >= 6
    faults = judge(partly, spoiled).faults
    assert any("third of the frame" in fault or "bright catalogue stars" in fault for fault in faults), faults


def test_a_crowd_in_which_everything_finds_a_partner_is_no_evidence(fit: WcsFit, stars: StarList) -> None:
    even = judge(fit, stars)
    rng = np.random.default_rng(4)
    # A thousand detections in a clump around every match, brighter than it.
    dx, dy = rng.normal(0, 12, (2, fit.matches, 60))
    x = np.concatenate([(stars.x[fit.star_index][:, None] + dx).ravel(), stars.x])
    y = np.concatenate([(stars.y[fit.star_index][:, None] + dy).ravel(), stars.y])
    more = np.concatenate([np.zeros(dx.size, int), np.arange(len(stars))])
    crowded = replace(stars.take(more), x=x, y=y)
    verdict = judge(replace(fit, star_index=fit.star_index + dx.size), crowded)
    assert verdict.expected_by_chance > 10 * even.expected_by_chance
    assert verdict.log10_false_alarm > even.log10_false_alarm + 20


def test_brightness_is_a_witness(fit: WcsFit, stars: StarList) -> None:
    flux = stars.flux.copy()
    flux[fit.star_index] = flux[fit.star_index[::-1]]
    turned = judge(fit, replace(stars, flux=flux)).log10_false_alarm
    assert judge(fit, stars).log10_false_alarm < turned - 2
    # Exactly the wrong order is a correlation of -1, at which Student's formula has no value.
    mag = fit.catalog.mag.copy()
    mag[fit.catalog_index] = np.argsort(np.argsort(stars.flux[fit.star_index])).astype(float)
    opposed = replace(fit, catalog=replace(fit.catalog, mag=mag))
    assert np.isfinite(judge(opposed, replace(stars, saturated=np.zeros(len(stars), bool))).log10_false_alarm)


def test_many_trials_ask_for_better_evidence(fit: WcsFit, stars: StarList) -> None:
    once, often = judge(fit, stars), judge(fit, stars, trials=1000)
    assert often.log10_false_alarm == pytest.approx(once.log10_false_alarm + 3)


def test_degenerate_scales_are_refused(fit: WcsFit, stars: StarList) -> None:
    for factor in (1e-4, 1e4):
        shrunk = replace(fit, map=replace(fit.map, terms=fit.map.terms * factor))
        verdict = judge(shrunk, stars)
        assert not verdict.accepted
        assert "plate scale" in verdict.faults[0]


def test_the_bound_is_never_below_the_truth() -> None:
    rng = np.random.default_rng(5)
    for chance in (rng.uniform(0.001, 0.05, 60), rng.uniform(0.2, 0.6, 30), np.full(40, 0.1)):
        exact = np.array([1.0])
        for p in chance:
            exact = np.convolve(exact, [1 - p, p])
        for successes in range(int(chance.sum()) + 1, len(chance)):
            tail = np.log10(exact[successes:].sum())
            bound = _log10_tail(chance, successes)
            assert tail - 1e-9 <= bound
            assert bound < tail + 1.5
    assert _log10_tail(np.full(10, 0.5), 3) == 0.0
