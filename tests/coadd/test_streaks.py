from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from starloom.coadd.inputs import InputFrame
from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, Tile
from starloom.coadd.streaks import find_streaks
from starloom.coadd.streaks.levels import levelled
from starloom.coadd.streaks.loops import halved, sorting_network
from starloom.coadd.streaks.radon import brightest_segment
from starloom.coadd.streaks.significance import tile_significance

SIZE = 512


def plan_of(n: int, *, fwhm=(2.5, 4.5), sigma: float = 1.0, size: int = SIZE) -> StackPlan:
    frames = tuple(
        PlanFrame(
            input=InputFrame(
                id=str(i), path=Path(f"{i}.fits"), band="r", node="n", exposure_s=1, sky_sigma_adu=1, fwhm_arcsec=1
            ),
            shape=(size, size),
            wcs_cards={},
            sigma=sigma,
            weight=1.0,
            fwhm_px=fwhm[0] + (fwhm[1] - fwhm[0]) * i / max(n - 1, 1),
        )
        for i in range(n)
    )
    grid = {"NAXIS1": size, "NAXIS2": size}
    return StackPlan(band="r", pointing=1, grid=grid, frames=frames, options=StackOptions(), tiles=())


def across(line, size: int = SIZE):
    y, x = np.mgrid[:size, :size]
    x0, y0, angle = line
    c, s = math.cos(angle), math.sin(angle)
    return (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s


def trail(line, peak: float, fwhm: float):
    return peak * np.exp(-4 * math.log(2) * (across(line)[1] / fwhm) ** 2)


def simulated(plan: StackPlan, seed: int = 1):
    """Sky noise and stars of each frame's own seeing, shape ``(n, SIZE, SIZE)``."""
    rng = np.random.default_rng(seed)
    m = 150
    x, y = rng.integers(0, SIZE, m), rng.integers(0, SIZE, m)
    points = np.zeros((SIZE, SIZE))
    np.add.at(points, (y, x), 50 * (1 + rng.pareto(1.2, m)).clip(0, 500))
    cube = np.empty((len(plan.frames), SIZE, SIZE), np.float32)
    for plane, frame in zip(cube, plan.frames, strict=True):
        plane[:] = ndimage.gaussian_filter(points, frame.fwhm_px / 2.3548) + rng.normal(
            0, frame.sigma, plane.shape
        )
    return cube


def warp_of(cube):
    def warp(frame: PlanFrame, tile: Tile):
        return cube[int(frame.input.id)][tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx]

    return warp


def covered(streaks):
    out = np.zeros((SIZE, SIZE), bool)
    for s in streaks:
        length = math.hypot(s.x1 - s.x0, s.y1 - s.y0)
        t, u = across((s.x0, s.y0, math.atan2(s.y1 - s.y0, s.x1 - s.x0)))
        out |= (np.abs(u) <= s.half_width) & (t >= -s.half_width) & (t <= length + s.half_width)
    return out


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 13])
def test_the_network_sorts(n):
    values = np.random.default_rng(n).normal(size=(n, 200))
    expected = np.sort(values, axis=0)
    for i, j in sorting_network(n):
        low, high = np.minimum(values[i], values[j]), np.maximum(values[i], values[j])
        values[i], values[j] = low, high
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf, ABSENT])
def test_means_of_blocks_leave_out_what_is_not_there(nothing):
    pixels = np.arange(24, dtype=np.float32).reshape(4, 6)
    pixels[0, 0] = nothing
    pixels[0:2, 2] = nothing
    pixels[2, 0:2] = pixels[3, 0] = nothing
    expected = pixels.reshape(2, 2, 3, 2).swapaxes(1, 2).reshape(2, 3, 4)
    expected = np.where(np.abs(expected) < 1e38, expected, np.nan)
    means = np.nanmean(expected, axis=2)
    means[1, 0] = ABSENT
    np.testing.assert_allclose(halved(pixels), means, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_a_frame_is_compared_with_the_median_of_the_others(n):
    plan = plan_of(n, size=32)
    rng = np.random.default_rng(n)
    # Of little contrast, so that the noise alone sets the scale; one frame has less than the others.
    cube = rng.normal(0, 0.01, (n, 32, 32)).astype(np.float32)
    if n > 3:
        cube[0, :16] = np.nan
    _, found = tile_significance(plan, plan.frames, warp_of(cube), Tile(x0=0, y0=0, nx=32, ny=32), 8, 3.0)
    blocks = cube.reshape(n, 16, 2, 16, 2).mean(axis=(2, 4))
    for i, z in enumerate(found):
        others = np.delete(blocks, i, axis=0)
        difference = blocks[i] - np.nanmedian(others, axis=0)
        there = np.isfinite(others).sum(axis=0)
        variance = 0.25 + 0.25 / there * np.where(there > 2, 1.4, 1.0)
        signal = (difference / variance).reshape(4, 4, 4, 4).sum(axis=(1, 3))
        expected = signal / np.sqrt((1 / variance).reshape(4, 4, 4, 4).sum(axis=(1, 3)))
        np.testing.assert_allclose(z, expected, atol=2e-4)


@pytest.mark.parametrize("angle", [0, 20, 45, 71, 90, 110, 135, 160])
def test_the_brightest_segment_lies_on_the_line(angle):
    rng = np.random.default_rng(angle)
    values = rng.normal(0, 1, (90, 140)).astype(np.float32)
    y, x = np.mgrid[:90, :140]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, t = (y - 40) * c - (x - 60) * s, (x - 60) * c + (y - 40) * s
    values += 2.0 * ((np.abs(u) < 0.7) & (np.abs(t) < 30))
    found = brightest_segment(values, np.ones(values.shape, bool))
    assert found.significance > 8
    for px, py in ((found.x0, found.y0), (found.x1, found.y1)):
        assert abs((py - 40) * c - (px - 60) * s) < 2.5


def test_empty_sky_has_no_significant_segment():
    values = np.random.default_rng(3).normal(0, 1, (200, 200)).astype(np.float32)
    assert brightest_segment(values, np.ones(values.shape, bool)).significance < 6
    assert brightest_segment(np.zeros((20, 20), np.float32), np.zeros((20, 20), bool)) is None


def test_levelling_removes_gradients_and_errors_of_the_flux_scale():
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:128, :128]
    nebula = (200 * np.sin(x / 4.0) * np.cos(y / 5.0)).astype(np.float32)
    z = (1.7 * rng.normal(0, 1, (128, 128)) + x / 20 + 0.04 * nebula).astype(np.float32)
    z[:, 50] = np.nan
    values, known = levelled(z, nebula)
    assert not known[:, 50].any()
    assert np.all(values[:, 50] == 0)
    flat = np.abs(nebula) < 10
    assert np.std(values[flat & known]) == pytest.approx(1.0, abs=0.1)
    assert np.abs(values[np.abs(nebula) > 150]).mean() < 1.0
    assert abs(np.corrcoef(values[known], nebula[known])[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("n", "peak", "line"),
    [
        (2, 1.5, (250, 200, 0.4)),
        (3, 1.5, (200, 300, math.pi / 2)),
        (3, 6.0, (256, 256, 2.2)),
        (5, 1.5, (100, 300, 0.0)),
        (5, 50.0, (256, 256, math.pi / 4)),
    ],
)
def test_a_trail_is_found_and_measured(n, peak, line):
    plan = plan_of(n)
    cube = simulated(plan)
    fwhm = plan.frames[0].fwhm_px
    cube[0] += trail(line, peak, fwhm)
    found = find_streaks(plan, warp_of(cube))
    assert all(not frame.streaks for frame in found.frames[1:])
    streak, *rest = found.frames[0].streaks
    assert math.hypot(streak.x1 - streak.x0, streak.y1 - streak.y0) > 250
    for s in (streak, *rest):
        for x, y in ((s.x0, s.y0), (s.x1, s.y1)):
            assert abs((y - line[1]) * math.cos(line[2]) - (x - line[0]) * math.sin(line[2])) < 1.0
    mask = covered([streak, *rest])
    left = np.where(mask, 0, trail(line, peak, fwhm))
    u = np.abs(across(line)[1])
    assert max(left[(u >= r) & (u < r + 1)].mean() for r in range(20)) < 0.1
    assert fwhm <= streak.half_width < 6 * fwhm


@pytest.mark.parametrize("n", [2, 4])
def test_clean_frames_of_unlike_seeing_have_no_trails(n):
    plan = plan_of(n, fwhm=(2.0, 5.0))
    cube = simulated(plan, seed=7)
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:SIZE, :SIZE]
    # An edge-on galaxy, seen through each frame's own seeing, cosmic rays, and a frame that ends within the grid.
    galaxy = 60 * np.exp(-np.hypot(x - 300 + 2 * (y - 200), 4 * (2 * (x - 300) - (y - 200))) / 80)
    for plane, frame in zip(cube, plan.frames, strict=True):
        plane += ndimage.gaussian_filter(galaxy, frame.fwhm_px / 2.3548)
        for _ in range(30):
            cx, cy, dx, dy = rng.integers(10, SIZE - 10), rng.integers(10, SIZE - 10), *rng.integers(-6, 7, 2)
            plane[np.linspace(cy, cy + dy, 9).astype(int), np.linspace(cx, cx + dx, 9).astype(int)] += 100
    cube[1] += 0.15
    cube[1, :, 300:] = np.nan
    found = find_streaks(plan, warp_of(cube))
    assert [frame.streaks for frame in found.frames] == [()] * n


def test_trails_that_cross_are_told_apart():
    plan = plan_of(3)
    cube = simulated(plan)
    lines = (250, 250, 0.5), (250, 250, 2.0)
    for i, line in enumerate(lines):
        cube[i] += trail(line, 4.0, plan.frames[i].fwhm_px)
    found = find_streaks(plan, warp_of(cube))
    for frame, line in zip(found.frames, lines, strict=False):
        mask = covered(frame.streaks)
        assert mask[np.abs(across(line)[1]) < 0.7].mean() > 0.99
        assert mask[np.abs(across(line)[1]) > 30].mean() < 1e-3
    assert found.frames[2].streaks == ()


def test_a_tumbling_trail_is_masked_whole_and_an_ending_one_to_its_end():
    plan = plan_of(3)
    cube = simulated(plan)
    tumbling, ending = (250, 150, 0.3), (250, 250, 1.8)
    fwhm = plan.frames[0].fwhm_px
    cube[0] += trail(tumbling, 5.0, fwhm) * (across(tumbling)[0] % 150 < 75)
    cube[1] += trail(ending, 3.0, plan.frames[1].fwhm_px) * (across(ending)[0] < 0)
    found = find_streaks(plan, warp_of(cube))
    assert covered(found.frames[0].streaks)[np.abs(across(tumbling)[1]) < 0.7].mean() > 0.99
    mask, (t, u) = covered(found.frames[1].streaks), across(ending)
    assert mask[(np.abs(u) < 0.7) & (t < 0)].mean() > 0.99
    assert not mask[(np.abs(u) < 0.7) & (t > 160)].any()


def test_a_trail_that_bends_is_followed():
    plan = plan_of(3)
    cube = simulated(plan)
    t, u = across((250, 250, 0.2))
    u = u - 10 * (t / 250) ** 2
    cube[2] += 3 * np.exp(-0.5 * (u / 1.6) ** 2)
    streaks = find_streaks(plan, warp_of(cube)).frames[2].streaks
    assert len(streaks) > 1
    assert covered(streaks)[np.abs(u) < 2.5].mean() > 0.99
    assert max(s.half_width for s in streaks) < 10


def test_a_trail_over_a_bright_nebula_is_seen_against_the_other_frames():
    plan = plan_of(3)
    rng = np.random.default_rng(11)
    nebula = ndimage.gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 12)
    cube = simulated(plan) + (10 * nebula / nebula.std()).astype(np.float32)
    line = (250, 250, 0.9)
    cube[1] += trail(line, 3.0, plan.frames[1].fwhm_px)
    found = find_streaks(plan, warp_of(cube))
    mask = covered(found.frames[1].streaks)
    assert mask[np.abs(across(line)[1]) < 0.7].mean() > 0.99
    assert mask.mean() < 0.1
    assert found.frames[0].streaks == found.frames[2].streaks == ()


def test_a_trail_is_followed_to_where_no_other_frame_is():
    plan = plan_of(3)
    cube = simulated(plan)
    line = (250, 250, 0.6)
    cube[0] += trail(line, 3.0, plan.frames[0].fwhm_px)
    cube[1:, :, 330:] = np.nan
    found = find_streaks(plan, warp_of(cube))
    mask = covered(found.frames[0].streaks)
    assert mask[np.abs(across(line)[1]) < 0.7].mean() > 0.98
    assert mask[np.abs(across(line)[1]) > 30].mean() < 1e-3


def test_neither_tiles_nor_threads_change_what_is_found():
    plan = plan_of(3)
    cube = simulated(plan)
    cube[0] += trail((250, 200, 0.7), 1.5, 3.0)
    cube[1, :, :70] = np.nan
    cube[1] += trail((250, 200, 2.7), 1.5, 3.0)
    steps = []
    whole = find_streaks(plan, warp_of(cube), progress=lambda done, total: steps.append((done, total)))
    parts = find_streaks(plan, warp_of(cube), threads=2, memory_bytes=3_000_000)
    assert whole.frames == parts.frames
    assert sum(bool(frame.streaks) for frame in whole.frames) == 2
    assert steps[-1] == (len(steps), len(steps))


def test_frames_without_weight_and_lone_frames_are_left_alone():
    plan = plan_of(2)
    cube = simulated(plan)
    cube[0] += trail((250, 200, 0.7), 5.0, 3.0)
    alone = plan.model_copy(
        update={"frames": (plan.frames[0], plan.frames[1].model_copy(update={"weight": 0.0}))},
    )
    assert find_streaks(alone, warp_of(cube)) == alone


def test_frames_that_lie_off_a_tile_may_say_so():
    plan = plan_of(3)
    cube = simulated(plan)
    line = (300, 250, 1.2)
    cube[0] += trail(line, 3.0, 3.0)
    everything = warp_of(cube)

    def warp(frame: PlanFrame, tile: Tile):
        if frame.input.id == "2":
            return None
        return everything(frame, tile)

    found = find_streaks(plan, warp)
    assert covered(found.frames[0].streaks)[np.abs(across(line)[1]) < 0.7].mean() > 0.99
    assert found.frames[2].streaks == ()
