from __future__ import annotations

import numpy as np
import pytest

from starloom.coadd.match import sky_basis
from starloom.coadd.sky_match import SkySamples, lattice_shape, match_skies

SHAPE = (900, 1200)


def frame(rng, centre, half, terms, *, disc=0.0, noise=0.2, outliers=0.0):
    """Samples of one frame whose sky has ``terms`` over the grid, on a disc that all frames show."""
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 8)))
    angle = rng.uniform(-0.2, 0.2)
    x, y = half * (x * np.cos(angle) - y * np.sin(angle)), half * (x * np.sin(angle) + y * np.cos(angle))
    x, y = x + centre[0], y + centre[1]
    u, v = 2 * x / (SHAPE[1] - 1) - 1, 2 * y / (SHAPE[0] - 1) - 1
    value = terms @ sky_basis(u, v) + disc * (np.hypot(x - 600, y - 450) < 90) + rng.normal(0, noise, x.size)
    bad = rng.random(x.size) < outliers
    value[bad] += rng.exponential(60, bad.sum())
    extent = (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half)
    return SkySamples(x, y, value, np.full(x.size, noise), extent)


def matched(frames, **options):
    side = float(np.median([f.extent[1] - f.extent[0] for f in frames]))
    return match_skies(frames, SHAPE, lattice_shape(SHAPE, side), **options)


def differences(terms, centre=(600, 450), half=200):
    """Return by how much the frames' surfaces differ from their mean around the middle of the grid."""
    x, y = np.meshgrid(np.linspace(-half, half, 9) + centre[0], np.linspace(-half, half, 9) + centre[1])
    basis = sky_basis(2 * x / (SHAPE[1] - 1) - 1, 2 * y / (SHAPE[0] - 1) - 1)
    surfaces = np.tensordot(terms, basis, 1)
    return surfaces - surfaces.mean(axis=0)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_differences_are_found_and_the_common_disc_is_kept(count):
    rng = np.random.default_rng(count)
    truth = np.column_stack([rng.uniform(800, 1500, count), rng.uniform(-80, 80, (count, 5))])
    frames = [
        frame(rng, (600 + rng.uniform(-60, 60), 450 + rng.uniform(-60, 60)), 380, t, disc=10.0, outliers=0.02)
        for t in truth
    ]
    sky = matched(frames)
    assert np.abs(differences(truth) - differences(sky.terms)).max() < 0.5
    # What is left in common is the frames' mean sky: the disc and all.
    mean = truth.mean(axis=0) @ sky_basis(np.zeros(1), np.zeros(1))
    assert sky.level[sky.level.shape[0] // 2, sky.level.shape[1] // 2] == pytest.approx(mean[0] + 5, abs=15)


def test_mosaic_meets_at_its_seams_and_keeps_a_smooth_large_scale():
    rng = np.random.default_rng(4)
    truth, frames, centres = [], [], []
    for cx in (250, 480, 720, 950):
        for cy in (250, 480, 650):
            t = np.array([rng.uniform(900, 1100), rng.uniform(-30, 30), rng.uniform(-30, 30), 0, 0, 0])
            truth.append(t)
            centres.append((cx, cy))
            frames.append(frame(rng, (cx, cy), 230, t))
    sky = matched(frames)
    left = np.array(truth) - sky.terms
    for (cx, cy), own in zip(centres, left, strict=True):
        for (ox, oy), other in zip(centres, left, strict=True):
            if max(abs(cx - ox), abs(cy - oy)) < 260:
                x, y = 0.5 * (cx + ox), 0.5 * (cy + oy)
                basis = sky_basis(np.array([2 * x / (SHAPE[1] - 1) - 1]), np.array([2 * y / (SHAPE[0] - 1) - 1]))
                assert abs(float((own @ basis)[0] - (other @ basis)[0])) < 1.0
    # Offsets of 100 between frames must not leave a bowl or a slope over the whole.
    assert np.ptp(sky.level) < 150


def test_strip_in_common_gives_no_bowl():
    rng = np.random.default_rng(6)
    flat = np.array([1000.0, 0, 0, 0, 0, 0])
    frames = [frame(rng, (300, 450), 260, flat), frame(rng, (780, 450), 260, 1.05 * flat)]
    sky = matched(frames)
    assert np.abs(sky.terms[:, 3:]).max() < 1e-6 * 1000
    at = sky_basis(np.array([-0.1]), np.array([0.0]))
    assert ((sky.terms[1] - sky.terms[0]) @ at)[0] == pytest.approx(50, abs=1.5)


def test_unmatched_frames_keep_their_skies_and_the_common_one_is_their_mean():
    rng = np.random.default_rng(7)
    frames = [frame(rng, (600, 450), 400, np.array([level, 20, 0, 0, 0, 0.0])) for level in (900.0, 1100.0)]
    sky = matched(frames, match=False)
    assert not sky.terms.any()
    assert np.median(sky.level) == pytest.approx(1000, abs=20)


def test_lattice_is_bounded():
    assert lattice_shape((40_000, 50_000), 300.0) == (48, 48)
    assert min(lattice_shape((60, 5), 50.0)) == 2
