from __future__ import annotations

import numpy as np
import pytest

from starloom.coadd.group import unit_vectors
from starloom.coadd.growth import total_factors
from starloom.coadd.match import StarFluxes, flux_scales, match_stars, shared_counts


def night(n_frames, *, per_frame=60, stars=400, seed=1, error=0.01, jitter_arcsec=0.1):
    """Frames that each see a random part of one field, on scales of their own."""
    rng = np.random.default_rng(seed)
    ra, dec = 10 + rng.uniform(-0.3, 0.3, stars), rng.uniform(-0.3, 0.3, stars)
    flux, scale = 10 ** rng.uniform(3, 5, stars), rng.uniform(0.3, 3.0, n_frames)
    frames = []
    for k in range(n_frames):
        seen = rng.choice(stars, per_frame, replace=False)
        off = rng.normal(0, jitter_arcsec / 3600, (2, per_frame))
        measured = flux[seen] / scale[k] * (1 + rng.normal(0, error, per_frame))
        frames.append(
            StarFluxes(
                unit_vectors(ra[seen] + off[0], dec[seen] + off[1]),
                measured,
                error * measured,
                np.ones(per_frame, bool),
            )
        )
    return frames, scale


def solved(frames, zero_points=None, **options):
    numbers = match_stars([f.vectors for f in frames], 1.5)
    zero_points = zero_points or [(None, None)] * len(frames)
    return flux_scales(frames, numbers, zero_points, min_stars=3, output_zero_point=25.0, **options)


def test_scales_are_those_that_made_the_fluxes():
    frames, truth = night(12)
    got = np.exp(solved(frames).log_scale)
    np.testing.assert_allclose(got / got.mean(), truth / truth.mean(), rtol=0.006)


def test_variable_stars_and_wrong_matches_do_not_shift_a_scale():
    frames, truth = night(8, error=0.003)
    rng = np.random.default_rng(5)
    for f in frames[::2]:
        some = rng.random(len(f.flux)) < 0.15
        f.flux[some] *= rng.uniform(1.3, 4.0, some.sum())
    got = np.exp(solved(frames).log_scale)
    np.testing.assert_allclose(got / np.median(got / truth), truth, rtol=0.01)


def test_blended_stars_tie_nothing_while_others_do():
    frames, truth = night(6, error=0.002)
    for k, f in enumerate(frames):
        f.flux[:20] *= 1 + 0.2 * k
        f.alone[:20] = False
    result = solved(frames)
    got = np.exp(result.log_scale)
    np.testing.assert_allclose(got / np.median(got / truth), truth, rtol=0.003)
    for f in frames:
        f.alone[:] = False
    assert (solved(frames).n_stars > result.n_stars).all()  # where every star has a neighbour, all count


def test_groups_without_common_stars_are_tied_by_their_own_zero_points():
    (a, _), (b, _) = night(3, seed=1), night(3, seed=2)
    far = [StarFluxes(unit_vectors(np.full(60, 50.0), np.linspace(0, 1, 60)), f.flux, f.error, f.alone) for f in b]
    zero_points = [(24.0, 0.01), (None, None), (None, None), (23.0, 0.01), (None, None), (None, None)]
    result = solved(a + far, zero_points)
    assert np.isfinite(result.log_scale).all()
    assert result.log_scale[0] == pytest.approx(0.4 * np.log(10))
    assert result.log_scale[3] == pytest.approx(0.8 * np.log(10))
    assert np.isnan(solved(a + far, zero_points[:3] + [(None, None)] * 3).log_scale[3:]).all()


def test_frames_tie_to_a_group_that_no_single_frame_of_it_shares_enough_with():
    """Each of three frames has two of its stars: less than three with any, six with all."""
    frames, _ = night(3, stars=90, per_frame=30, error=0.001)
    some = [np.array([0, 1]) for _ in frames]
    newcomer = StarFluxes(
        np.concatenate([f.vectors[i] for f, i in zip(frames, some, strict=True)]),
        np.concatenate([f.flux[i] for f, i in zip(frames, some, strict=True)]),
        np.full(6, 1.0),
        np.ones(6, bool),
    )
    assert np.isfinite(solved([*frames, newcomer]).log_scale).all()


def test_union_numbers_name_the_same_star_and_drop_the_ambiguous():
    ra = np.array([1.0, 1.1, 1.2])
    first, second = unit_vectors(ra, np.zeros(3)), unit_vectors(ra[[2, 0]] + 0.2 / 3600, np.zeros(2))
    close = unit_vectors(np.array([1.0, 1.0 + 0.3 / 3600]), np.zeros(2))
    numbers = match_stars([first, second, close], 1.0)
    assert numbers[1].tolist() == [numbers[0][2], numbers[0][0]]
    assert numbers[2].tolist() == [-1, -1]
    assert shared_counts(numbers).tolist() == [2, 2, 0]


def test_matching_grows_with_the_number_of_frames_not_its_square(monkeypatch):
    """Counted, not timed: points that go into trees, the costly part."""
    from starloom.coadd import match

    built: list[int] = []
    tree = match.cKDTree
    monkeypatch.setattr(match, "cKDTree", lambda points: built.append(len(points)) or tree(points))
    counts = []
    for n in (40, 160):
        frames, _ = night(n, stars=500, per_frame=100)
        built.clear()
        match_stars([f.vectors for f in frames], 1.0)
        counts.append(sum(built))
    assert counts[1] < 4.6 * counts[0]


def with_growth(growth, error, node="A"):
    nothing = np.zeros(0)
    return StarFluxes(np.zeros((0, 3)), nothing, nothing, np.zeros(0, bool), growth, error, node)


def test_growth_is_drawn_to_the_telescopes_median_as_far_as_it_is_uncertain():
    own = [with_growth(1.02, 0.001) for _ in range(4)]
    sure, unsure, unknown = with_growth(1.04, 1e-5), with_growth(1.04, 0.009), with_growth(1.0, np.inf)
    factors = total_factors([*own, sure, unsure, unknown])
    assert factors[4] > factors[5] > factors[6] == pytest.approx(factors[0], abs=1e-6)
    assert factors[5] - factors[0] < 0.1 * (factors[4] - factors[0])


def test_growth_tells_the_wings_of_a_moffat_profile():
    for beta in (2.5, 3.5, 6.0):
        core = 2 ** (1 / (beta - 1)) - 1
        inside, twice = (1 - (1 + r * r * core) ** (1 - beta) for r in (3, 6))
        frames = [with_growth(twice / inside, 1e-5) for _ in range(3)]
        np.testing.assert_allclose(total_factors(frames), 1 / inside, rtol=2e-4)
    assert total_factors([with_growth(1.0, np.inf)])[0] == pytest.approx(1.035, abs=0.003)  # nobody knows: a model
