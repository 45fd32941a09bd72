"""Joint registration of made-up star lists, whose WCS errors are known term by term."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy import sparse

from starloom.astrometry.tangent import deproject
from starloom.coadd.group import unit_vectors
from starloom.coadd.joint_fit import Normal, Sightings, group_medians, monomials
from starloom.coadd.registration import Seen, register

POWERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


def surface(terms, x, y, shape):
    """dx and dy of the plan's terms, written out anew, so that the sign and scale of u and v are tested too."""
    ny, nx = shape
    u, v = x / ((nx - 1) / 2) - 1, y / ((ny - 1) / 2) - 1
    return np.stack([sum(c * u**p * v**q for c, (p, q) in zip(axis, POWERS, strict=True)) for axis in terms])


def camera(shape, scale, angle, ra, dec, flip, sip):
    h = fits.Header()
    suffix = "-SIP" if sip else ""
    ny, nx = shape
    c, s, d = np.cos(angle), np.sin(angle), scale / 3600
    h["CTYPE1"], h["CTYPE2"], h["CRVAL1"], h["CRVAL2"] = "RA---TAN" + suffix, "DEC--TAN" + suffix, ra, dec
    h["CRPIX1"], h["CRPIX2"], h["CUNIT1"], h["CUNIT2"] = nx / 2 - 7.0, ny / 2 + 5.0, "deg", "deg"
    flip = 1 if flip else -1
    h["CD1_1"], h["CD1_2"], h["CD2_1"], h["CD2_2"] = flip * d * c, -d * s, flip * d * s, d * c
    if sip:
        h["A_ORDER"] = h["B_ORDER"] = 3
        h["A_2_0"], h["B_1_1"], h["A_3_0"], h["B_0_3"] = sip, -sip, sip * 1e-3, sip * 1e-3
    return WCS(h, fix=False)


class Field:
    """Stars around a place, and frames of unlike cameras that see them through WCS of known errors."""

    def __init__(self, ra=150.0, dec=20.0, *, n_stars=300, width_deg=0.3, seed=1):
        self.rng = np.random.default_rng(seed)
        self.place, self.width = (ra, dec), width_deg
        plane = self.rng.uniform(-width_deg / 2, width_deg / 2, (2, n_stars))
        self.ra, self.dec = deproject(*plane, ra, dec)
        self.err = self.rng.uniform(0.02, 0.1, n_stars)
        self.seen, self.wcs, self.shapes, self.truth, self.errors = [], [], [], [], []

    def frame(self, terms, *, noise=True, wrong=0.0, scale=None, offset_deg=(0.0, 0.0), side=1.1):
        scale = scale or self.rng.choice([0.7, 1.0, 1.5])
        size = side * self.width * 3600 / scale
        shape = (int(size), int(1.2 * size))
        ra, dec = deproject(*(np.array(offset_deg) + self.rng.normal(0, 0.005, 2)), *self.place)
        sip = self.rng.choice([0.0, 1e-6])
        wcs = camera(shape, scale, self.rng.uniform(0, 6.28), float(ra), float(dec), self.rng.random() < 0.5, sip)
        x, y = wcs.all_world2pix(self.ra, self.dec, 0)
        star = np.flatnonzero((x > 0) & (y > 0) & (x < shape[1] - 1) & (y < shape[0] - 1))
        ideal = np.stack([x, y])[:, star]
        at = ideal + surface(terms, *ideal, shape)
        if noise:
            at += self.rng.normal(0, self.err[star], at.shape)
        bad = self.rng.random(len(star)) < wrong
        at[:, bad] += self.rng.uniform(-3, 3, (2, bad.sum()))
        self.seen.append(Seen(at[0], at[1], self.err[star], star.astype(np.intp)))
        self.wcs.append(wcs)
        self.shapes.append(shape)
        self.truth.append(np.asarray(terms))

    def random_terms(self, offset=0.3, affine=0.15, bowl=0.25):
        return self.rng.normal(0, [offset, affine, affine, bowl, bowl, bowl], (2, 6))

    def solve(self):
        return register(self.seen, self.wcs, self.shapes)

    def errors_px(self, result):
        """Per frame: rms over its stars of where it now puts them less the mean of all frames, and that mean."""
        n = len(self.ra)
        axis = unit_vectors(self.ra, self.dec)
        east = np.stack([-np.sin(np.radians(self.ra)), np.cos(np.radians(self.ra)), np.zeros(n)], axis=1)
        north = np.cross(axis, east)
        off = np.full((len(result), n, 2), np.nan)
        for i, (one, seen) in enumerate(zip(result, self.seen, strict=True)):
            star, wcs = seen.star, self.wcs[i]
            ideal = np.stack(wcs.all_world2pix(self.ra[star], self.dec[star], 0))
            where = ideal + surface(self.truth[i] - np.array(one.terms), *ideal, self.shapes[i])
            vectors = unit_vectors(*wcs.all_pix2world(*where, 0))
            arcsec = np.degrees(1) * 3600
            off[i, star, 0] = (vectors * east[star]).sum(axis=1) * arcsec
            off[i, star, 1] = (vectors * north[star]).sum(axis=1) * arcsec
        common = np.isfinite(off[:, :, 0]).sum(axis=0) > 1
        mean = np.nanmean(off[:, common], axis=0)
        scales = [np.sqrt(abs(np.linalg.det(w.pixel_scale_matrix))) * 3600 for w in self.wcs]
        rms = np.sqrt(np.nanmean((off[:, common] - mean) ** 2, axis=(1, 2))) / scales
        return SimpleNamespace(frames=rms, tie=np.hypot(*mean.mean(axis=0)), worst_tie=np.abs(mean).max())


PLACES = [(150.0, 20.0), (0.0, -35.0), (10.0, 89.97), (200.0, -90.0)]


@pytest.mark.parametrize("place", PLACES)
def test_unlike_cameras_with_every_kind_of_error_agree(place):
    field = Field(*place)
    for _ in range(6):
        field.frame(field.random_terms(), wrong=0.05)
    result = field.solve()
    # 300 stars of 0.06 px and six terms an axis: 0.06 * sqrt(6 / 300) = 0.009 px.
    assert field.errors_px(result).frames.max() < 0.015
    for one, seen in zip(result, field.seen, strict=True):
        assert 0.85 * len(seen.star) < one.n_stars < 0.99 * len(seen.star)
        assert 0.04 < one.rms_px < 0.08


def test_terms_are_added_to_where_the_wcs_puts_a_star():
    """With no noise, and the errors of all frames cancelling in the tie, the terms are those put in."""
    field = Field()
    for seed in (1, 2):
        terms = Field(seed=seed).random_terms(bowl=0.0)
        for sign in (1, -1):
            field.rng = np.random.default_rng(7)
            field.frame(sign * terms, noise=False, scale=1.0)
    result = field.solve()
    for one, seen, wcs, shape in zip(result, field.seen, field.wcs, field.shapes, strict=True):
        ideal = np.stack(wcs.all_world2pix(field.ra[seen.star], field.dec[seen.star], 0))
        found = ideal + surface(one.terms, *ideal, shape)
        np.testing.assert_allclose(found, [seen.x, seen.y], atol=3e-3)


@pytest.mark.parametrize("noise", [True, False])
def test_perfect_wcs_are_left_alone(noise):
    field = Field()
    for _ in range(8):
        field.frame(np.zeros((2, 6)), noise=noise)
    error = field.errors_px(field.solve())
    # Six terms an axis from a frame's own stars: no more noise than their centroids give.
    statistical = max(np.sqrt(6 / np.sum(1 / seen.err_px**2)) for seen in field.seen)
    assert error.frames.max() < (1.3 * statistical if noise else 1e-4)
    assert error.worst_tie < (2 * statistical if noise else 1e-4)


def test_the_tie_is_the_mean_of_the_frames():
    """One camera, never turned: the terms of any order must have mean 0 over frames, whatever the errors."""
    field = Field()
    errors = [field.random_terms() for _ in range(7)]
    for terms in errors:
        field.rng = np.random.default_rng(5)
        field.frame(terms, scale=1.0)
    found = np.array([one.terms for one in field.solve()])
    # Wide wings weigh the frames, so that the mean is not quite the plain one.
    assert np.abs(found.mean(axis=0)).max() < 0.06
    expected = np.array(errors) - np.mean(errors, axis=0)
    np.testing.assert_allclose(found - found.mean(axis=0), expected, atol=0.03)


def test_one_frame_pixels_off_does_not_drag_the_others():
    field = Field()
    for i in range(5):
        terms = field.random_terms(0.05, 0.02, 0.02)
        terms[:, 0] += 2.0 * (i == 2)
        field.frame(terms, scale=1.0)
    error = field.errors_px(field.solve())
    assert error.frames.max() < 0.02
    # The mean of all would be 0.57 px off.
    assert error.tie < 0.1


@pytest.mark.parametrize(("n_stars", "bound"), [(3, 0.15), (8, 0.08), (40, 0.04)])
def test_few_stars_bend_no_frame(n_stars, bound):
    """Offsets of 0.3 px with hardly any stars: better than left alone, also away from the stars."""
    worst = []
    for seed in range(6):
        field = Field(n_stars=n_stars, seed=seed)
        for _ in range(5):
            field.frame(field.random_terms(0.3, 0.03, 0.02), scale=1.0, side=1.3)
        result = field.solve()
        assert all(one.terms is not None and one.n_stars <= n_stars for one in result)
        # Everywhere on the frames, not only at the stars: the judgement is on a second set of stars.
        other = Field(n_stars=200, seed=99)
        field.ra, field.dec = other.ra, other.dec
        for i, (wcs, shape) in enumerate(zip(field.wcs, field.shapes, strict=True)):
            x, y = wcs.all_world2pix(field.ra, field.dec, 0)
            inside = (x > 0) & (y > 0) & (x < shape[1] - 1) & (y < shape[0] - 1)
            field.seen[i] = SimpleNamespace(star=np.flatnonzero(inside))
        worst.append(np.sqrt(np.mean(field.errors_px(result).frames ** 2)))
    assert np.sqrt(np.mean(np.square(worst))) < bound


def test_groups_without_common_stars_are_tied_apart():
    near, far = Field(150.0, 20.0, seed=2), Field(151.0, -60.0, seed=3)
    for field in (near, far):
        for _ in range(4):
            field.frame(field.random_terms(0.2, 0.05, 0.05))
    lonely = Field(30.0, 10.0, seed=4)
    lonely.frame(lonely.random_terms())

    def numbered(seen, first):
        return [Seen(s.x, s.y, s.err_px, s.star + first) for s in seen]

    result = register(
        numbered(near.seen, 0) + numbered(lonely.seen, 1000) + numbered(far.seen, 2000),
        near.wcs + lonely.wcs + far.wcs,
        near.shapes + lonely.shapes + far.shapes,
    )
    assert result[4].terms is None
    assert result[4].rms_px is None
    assert result[4].n_stars == 0
    assert result[:4] == near.solve()
    assert result[5:] == far.solve()


def test_two_common_stars_connect_nothing():
    field = Field(n_stars=2)
    for _ in range(4):
        field.frame(field.random_terms())
    assert all(one.terms is None for one in field.solve())


def test_stars_of_no_use_change_nothing():
    """Stars marked -1, seen twice on a frame, not finite, or without an error."""
    field = Field()
    for _ in range(4):
        field.frame(field.random_terms())
    clean = field.solve()
    padded = [
        Seen(
            np.concatenate([s.x, [10.0, 50.0, 70.0, np.nan, 30.0]]),
            np.concatenate([s.y, [10.0, 50.0, 70.0, 40.0, 30.0]]),
            np.concatenate([s.err_px, [0.1, 0.1, 0.1, 0.1, 0.0]]),
            np.concatenate([s.star, [-1, 1000, 1000, 1001, 1002]]),
        )
        for s in field.seen
    ]
    assert register(padded, field.wcs, field.shapes) == clean


def test_no_frames_and_no_stars():
    nobody = Seen(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, np.intp))
    wcs = camera((100, 100), 1.0, 0.0, 10.0, 10.0, False, 0.0)
    assert register([], [], []) == []
    assert [one.terms for one in register([nobody, nobody], [wcs, wcs], [(100, 100)] * 2)] == [None, None]


def test_the_same_stars_give_the_same_bits():
    field = Field()
    for _ in range(5):
        field.frame(field.random_terms(), wrong=0.05)
    assert field.solve() == field.solve()


def test_a_mosaic_of_a_chain_of_frames_hangs_together():
    """Each frame overlaps its neighbours alone: neighbours agree, and the chain does not wander."""
    field = Field(n_stars=2500, width_deg=1.5)
    for k in range(12):
        field.frame(field.random_terms(0.3, 0.1, 0.05), offset_deg=((k - 5.5) * 0.1, 0.0), side=0.15, scale=1.0)
    error = field.errors_px(field.solve())
    assert error.frames.max() < 0.04
    assert error.worst_tie < 1.0


def test_conjugate_gradients_give_the_dense_solution():
    rng = np.random.default_rng(3)
    n, n_stars = 4, 30
    frame, star = (a.ravel() for a in np.meshgrid(np.arange(n), np.arange(n_stars), indexing="ij"))
    m = len(frame)
    u, v = rng.uniform(-1, 1, (2, m))
    slope = rng.normal(0, 1, (m, 2, 2)) + 2 * np.eye(2)
    place = rng.normal(0, 1, (m, 2))
    weight = rng.uniform(1, 100, m)
    prior = rng.uniform(0.1, 2, (n, 6))
    seen = Sightings(frame, star, place, slope, np.zeros((1, n_stars, 2)))
    products = monomials(u, v)
    normal = Normal(seen, products, weight, prior)
    found = normal.solve(np.zeros((n, 6, 2)), seen.shared_terms(products))
    basis = np.zeros((2 * m, 12 * n + 2 * n_stars))
    for k in range(m):
        for a in (0, 1):
            for t, (p, q) in enumerate(POWERS):
                basis[2 * k + a, 12 * frame[k] + 2 * t + a] = u[k] ** p * v[k] ** q
            basis[2 * k + a, 12 * n + 2 * star[k] : 12 * n + 2 * star[k] + 2] = slope[k, a]
    root = np.sqrt(np.repeat(weight, 2))
    beliefs = sparse.diags(np.sqrt(np.repeat(prior.ravel(), 2))).toarray()
    beliefs = np.concatenate([beliefs, np.zeros((12 * n, 2 * n_stars))], axis=1)
    rows = np.concatenate([basis * root[:, None], beliefs])
    wanted = np.concatenate([place.ravel() * root, np.zeros(12 * n)])
    dense = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    error = np.sqrt(np.diag(np.linalg.inv(rows.T @ rows)))[: 12 * n]
    assert np.abs((found.ravel() - dense[: 12 * n]) / error).max() < 0.02
    left = (place.ravel() - basis @ dense).reshape(m, 2)
    np.testing.assert_allclose(normal.residual(dense[: 12 * n].reshape(n, 6, 2)), left, atol=1e-9)


def test_group_medians():
    rng = np.random.default_rng(0)
    values, group = rng.normal(size=(50, 2)), rng.permutation(np.arange(50) % 7)
    expected = [np.median(values[group == g], axis=0) for g in range(7)]
    np.testing.assert_allclose(group_medians(values, group.astype(np.intp), 7), expected)
