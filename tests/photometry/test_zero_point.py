"""The fit of the zero point against truth that was drawn: bias, honesty of the error, outliers, curvature."""

from __future__ import annotations

import numpy as np
import pytest

from starloom.photometry.reference import Reference
from starloom.photometry.zero_point import MIN_CALIBRATORS, SATURATED, ColourTerm, count_slope, fit_zero_point

TRUE, TERM = 21.3, -0.07


def drawn(rng, n=60, *, intrinsic=0.02, err=0.015, colour_err=0.03, colours=True, term=TERM):
    """Catalogue and instrumental magnitudes of n stars of evenly spread brightness."""
    mag = rng.uniform(9, 12, n)
    colour = rng.normal(0.1, 0.35, n)
    blue = rng.normal(0, colour_err, n)
    own = rng.normal(0, err, n)
    instrumental = mag - TRUE - term * colour + rng.normal(0, intrinsic, n) + rng.normal(0, 0.01, n)
    reference = Reference(
        mag=mag + own, err=np.full(n, err), band="V", relation="drawn",
        # The red band's error is in the magnitude and, with the other sign, in the colour.
        colour=colour + 0.7 + blue - own if colours else None, colour_err=np.full(n, np.hypot(colour_err, err)),
        colour_name="B-V" if colours else None, colour_ref=0.7 if colours else None,
        covariance=np.full(n, -(err**2)), colour_term_sigma=0.1,
    )  # fmt: skip
    return instrumental, np.full(n, 0.01), reference


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("crowded", [False, True])
def test_zero_point_and_colour_term_are_unbiased_and_their_errors_honest(n, crowded):
    rng = np.random.default_rng(n)
    off, pull, term_off, term_pull = [], [], [], []
    for _ in range(300):
        found = fit_zero_point(*drawn(rng, n), crowded=crowded)
        off.append(found.mag - TRUE)
        pull.append(off[-1] / found.err)
        term_off.append(found.colour_term - TERM)
        term_pull.append(term_off[-1] / found.colour_term_err)
    # The counts of these stars do not rise, so a correction for that would show here: 0.8 x 0.015² = 0.2 mmag.
    assert np.mean(off) == pytest.approx(0, abs=3 * np.std(off) / np.sqrt(300) + 0.001)
    assert 0.75 < np.sqrt(np.mean(np.square(pull))) < 1.25
    # The prior of 0.1 mag per mag draws it a little towards 0 where there are few stars.
    assert np.mean(term_off) == pytest.approx(0, abs=0.012)
    assert 0.7 < np.sqrt(np.mean(np.square(term_pull))) < 1.25


def test_without_colours_the_term_is_in_the_scatter():
    found = fit_zero_point(*drawn(np.random.default_rng(1), 400, colours=False))
    assert (found.colour_term, found.colour_term_err) == (None, None)
    assert found.mag == pytest.approx(TRUE + TERM * 0.1, abs=4 * found.err)
    assert found.scatter_mag == pytest.approx(np.sqrt(0.02**2 + 0.015**2 + 0.01**2 + (TERM * 0.35) ** 2), rel=0.15)


def test_a_fifth_of_wrong_stars_moves_nothing():
    rng = np.random.default_rng(2)
    instrumental, err, reference = drawn(rng, 80)
    wrong = rng.choice(80, 16, replace=False)
    instrumental[wrong] += rng.choice([-1, 1], 16) * rng.uniform(0.4, 3.0, 16)
    found = fit_zero_point(instrumental, err, reference)
    assert not found.used[wrong].any()
    assert found.mag == pytest.approx(TRUE, abs=3.5 * found.err)
    assert found.err < 0.008


def test_company_that_nobody_sees_is_cut_closer_in_crowded_fields():
    off: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        instrumental, err, reference = drawn(rng, 100)
        instrumental[:30] -= rng.uniform(0.02, 0.25, 30)
        for crowded, found in off.items():
            found.append(fit_zero_point(instrumental, err, reference, crowded=crowded).mag - TRUE)
    assert np.mean(off[True]) < 0.6 * np.mean(off[False])


def test_too_few_calibrators_give_none():
    instrumental, err, reference = drawn(np.random.default_rng(3), MIN_CALIBRATORS)
    assert fit_zero_point(instrumental, err, reference) is not None
    instrumental[0] = np.nan
    assert fit_zero_point(instrumental, err, reference) is None


def test_saturated_stars_never_calibrate_and_bending_ones_do_not_where_it_shows():
    rng = np.random.default_rng(4)
    instrumental, err, reference = drawn(rng, 80)
    peak = np.linspace(0.05, 1.0, 80)
    clipped, bent = peak >= SATURATED, (peak > 0.5) & (peak < SATURATED)
    instrumental[clipped] += 0.6
    instrumental[bent] += 0.08
    found = fit_zero_point(instrumental, err, reference, peak_share=peak)
    assert not found.used[clipped].any()
    assert not found.used[bent].any()
    assert found.mag == pytest.approx(TRUE, abs=3 * found.err)
    straight = drawn(np.random.default_rng(5), 80)
    assert fit_zero_point(*straight, peak_share=peak).used[bent].sum() > 0.8 * bent.sum()


def test_an_instrument_s_own_colour_term_serves_where_few_stars_tell_it():
    errors = {None: [], 0.005: []}
    for seed in range(80):
        case = drawn(np.random.default_rng(seed), 8, colour_err=0.15)
        for known, off in errors.items():
            learnt = None if known is None else ColourTerm(TERM, known)
            off.append(fit_zero_point(*case, learnt=learnt).colour_term - TERM)
    assert np.std(errors[0.005]) < 0.006 < np.std(errors[None])


def test_count_slope_is_that_of_the_counts():
    rng = np.random.default_rng(6)
    mag = 12 + np.log(rng.random(4000)) / 0.83
    assert count_slope(mag) == pytest.approx(0.83, abs=0.05)
    assert 0 < count_slope(mag[:5]) < 1.5


def test_faint_limits_act_on_the_predicted_magnitude():
    instrumental, err, reference = drawn(np.random.default_rng(7), 60)
    found = fit_zero_point(instrumental, err, reference, magnitude_limits=(9.5 - TRUE, 11.0 - TRUE))
    assert found.used.sum() > 15
    assert (reference.mag[found.used] < 11.05).all()
    assert (reference.mag[found.used] > 9.45).all()
