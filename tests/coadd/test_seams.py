"""Skies of mosaics whose tiles share only strips: measured on the same sky, of no higher order than it tells."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starloom.coadd import StackOptions
from starloom.coadd.match import SKY_POWERS, sky_basis
from starloom.coadd.seam_fit import fit_seams
from starloom.coadd.seams import Seam, measure_seams, outline, strips_between
from starloom.coadd.sky_match import SkySamples
from starloom.coadd.stack import plan_files

SHAPE = (900, 1200)
CENTRES = [(x, y) for x in (220, 590, 960) for y in (220, 590)]
HALF = 200


def samples(centre, half=HALF):
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-half, half, 8), np.linspace(-half, half, 8)))
    extent = (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half)
    return SkySamples(x + centre[0], y + centre[1], np.zeros(64), np.ones(64), extent)


def surface(terms, x, y):
    return terms @ sky_basis(2 * x / (SHAPE[1] - 1) - 1, 2 * y / (SHAPE[0] - 1) - 1)


def seams_of(truth, rng, *, noise, outliers=0.0):
    """Cells along the strips of 30 px that six tiles share, three by two."""
    found = []
    for i, (xi, yi) in enumerate(CENTRES):
        for j in range(i + 1, len(CENTRES)):
            xj, yj = CENTRES[j]
            if abs(xi - xj) + abs(yi - yj) != 370:
                continue
            along = np.linspace(-180, 180, 12)
            x = np.full(12, 0.5 * (xi + xj)) if yi == yj else xi + along
            y = yi + along if yi == yj else np.full(12, 0.5 * (yi + yj))
            difference = surface(truth[i], x, y) - surface(truth[j], x, y) + rng.normal(0, noise, 12)
            difference[rng.random(12) < outliers] += 50 * noise
            found.append(Seam(i, j, x, y, difference, np.full(12, noise)))
    return found


@pytest.mark.parametrize(("order", "outliers"), [(0, 0.0), (1, 0.0), (1, 0.03), (2, 0.0)])
def test_seams_get_the_order_that_they_have(order, outliers):
    rng = np.random.default_rng(order)
    truth = rng.uniform(-40, 40, (6, 6)) * [sum(p) <= order for p in SKY_POWERS]
    found = fit_seams([samples(c) for c in CENTRES], seams_of(truth, rng, noise=0.3, outliers=outliers), SHAPE)
    assert not found[:, [sum(p) > order for p in SKY_POWERS]].any()
    # Exact where tiles meet; and what no strip tells, a tile's slope away from its only one, is not made up.
    for seam in seams_of(truth - found, rng, noise=1e-9):
        assert np.abs(seam.difference).max() < 0.6
    middle = np.array(
        [surface(t, np.array([x]), np.array([y]))[0] for t, (x, y) in zip(truth, CENTRES, strict=True)]
    )
    assert np.abs([surface(t, *np.array(CENTRES).T) for t in found]).max() < 6 * np.ptp(middle)


def test_noise_bends_no_tile():
    """What strips of pure noise say of 30 gradients and bowls is believed in less than one of 300 mosaics."""
    bent = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = fit_seams([samples(c) for c in CENTRES], seams_of(np.zeros((6, 6)), rng, noise=1.0), SHAPE)
        bent += bool(found[:, 1:].any())
    assert bent <= 1


def test_seams_that_leave_a_tile_alone_tell_nothing():
    rng = np.random.default_rng(1)
    seams = [s for s in seams_of(np.zeros((6, 6)), rng, noise=1.0) if 0 not in (s.first, s.second)]
    assert fit_seams([samples(c) for c in CENTRES], seams, SHAPE) is None


def square(x, y, half=100.0, turn=0.0):
    corners = half * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return corners @ np.array([[c, s], [-s, c]]) + [x, y]


def test_strips_matter_only_between_tiles_that_nothing_else_ties():
    dithers = [square(10.0 * n, 7.0 * n, turn=5.0 * n) for n in range(4)]
    assert strips_between(dithers) == []
    # A third frame on the seam ties both tiles well.
    assert strips_between([square(0, 0), square(90, 0), square(180, 0)]) == []
    assert strips_between([square(0, 0), square(180, 0)]) == [(0, 1)]
    assert strips_between([square(0, 0), square(200, 0)]) == []
    pairs = strips_between([square(180 * k + 2 * n, n) for k in range(3) for n in range(12)])
    # Each tile's twelve frames with each other and the next tile's, without all their 486 pairs.
    for tiles, most in (((0, 0), 29), ((0, 1), 36), ((1, 2), 36), ((0, 2), 0)):
        found = [pair for pair in pairs if (pair[0] // 12, pair[1] // 12) == tiles]
        assert most // 3 <= len(found) <= most


@pytest.fixture
def nebulous(make_sky, tmp_path):
    """Four tiles of 200 px with 24 px in common, slightly turned, on structure far finer than the samples'."""
    sky = make_sky(half_arcmin=5.0)
    rng = np.random.default_rng(5)
    truth, paths = [], []
    for n, (east, north) in enumerate([(-88, -88), (88, -88), (-88, 88), (88, 88)]):
        path = sky.frame(
            tmp_path / f"{n}.fits", size=(200, 200), dra=east, ddec=north, rot=1.5 * n, seed=n, noise=5.0
        )
        level, slopes = rng.uniform(-50, 50), rng.uniform(-20, 20, 2)
        with fits.open(path, mode="update") as hdus:
            y, x = np.indices((200, 200))
            ra, dec = WCS(hdus[0].header).all_pix2world(x, y, 0)
            e, d = (ra - 150.0) * np.cos(np.radians(20.0)) * 3600, (dec - 20.0) * 3600
            nebula = 150 * (np.sin(e / 9 + d / 25) + np.cos(d / 8 - e / 31)) + 400 * np.exp(-(e**2 + d**2) / 60**2)
            hdus[0].data += (nebula + level + slopes[0] * x / 100 + slopes[1] * y / 100).astype(np.float32)
        truth.append((level, slopes))
        paths.append(path)
    return paths, truth


def test_a_mosaic_on_a_nebula_is_levelled_and_keeps_it(nebulous):
    paths, truth = nebulous
    (plan,) = plan_files(paths, StackOptions(scale_arcsec=1.0, streaks=False))
    ny, nx = plan.shape
    grid = WCS({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")})
    left = []
    for frame, (level, slopes) in zip(plan.frames, truth, strict=True):
        y, x = np.mgrid[5:195:10, 5:195:10]
        ra, dec = WCS(fits.getheader(frame.input.path)).all_pix2world(x, y, 0)
        gx, gy = grid.all_world2pix(ra, dec, 0)
        own = 500 + level + slopes[0] * x / 100 + slopes[1] * y / 100
        rest = own * frame.scale - np.tensordot(
            frame.sky, sky_basis(2 * gx / (nx - 1) - 1, 2 * gy / (ny - 1) - 1), 1
        )
        left.append((gx.ravel(), gy.ravel(), rest.ravel()))
    gx, gy, rest = (np.concatenate(a) for a in zip(*left, strict=True))
    # One surface for all, the one that nobody can tell, and hardly more: 5 is the noise of a pixel.
    design = sky_basis(2 * gx / (nx - 1) - 1, 2 * gy / (ny - 1) - 1)[:3]
    rest = rest - np.linalg.lstsq(design.T, rest, rcond=None)[0] @ design
    assert np.std(rest) < 3.0
    assert np.abs(rest).max() < 10.0


def test_seams_are_measured_on_the_same_sky(nebulous):
    paths, truth = nebulous
    (plan,) = plan_files(paths, StackOptions(scale_arcsec=1.0, streaks=False, match_sky=False))
    grid = WCS({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")})
    wcs = [WCS(fits.getheader(path)) for path in paths]
    outlines = [outline(w, f.shape, grid) for w, f in zip(wcs, plan.frames, strict=True)]
    pairs = strips_between(outlines)
    assert {(0, 1), (0, 2), (1, 3), (2, 3)} <= set(pairs)
    for seam in measure_seams(plan.frames, wcs, grid, outlines, pairs):
        sky = grid.all_pix2world(seam.x, seam.y, 0)
        expected = 0.0
        for sign, k in ((1, seam.first), (-1, seam.second)):
            x, y = wcs[k].all_world2pix(*sky, 0)
            level, slopes = truth[k]
            own = 500 + level + slopes[0] * x / 100 + slopes[1] * y / 100
            expected = expected + sign * plan.frames[k].scale * own
        # The nebula's 150 on scales of 9 px are gone from the differences.
        pull = (seam.difference - expected) / seam.error
        assert np.abs(pull).max() < 8
        assert np.median(seam.error) < 1.0
