"""Masters against the camera's truth: level, pattern, noise, gain, dark current, cosmic rays, honest variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.calibration.calibrated_file import MaskBit
from starloom.calibration.combining import clipped_mean
from starloom.calibration.masters import build_bias, build_dark, build_flat, dark_current, saturation_of_flats
from starloom.calibration.noise import pair_noise, read_noise, sky_sigma, spread
from starloom.errors import BadInput
from starloom.sky.camera import Camera

CAMERA = Camera()


def pulls(master: Any, truth: Any, good: Any = True) -> np.ndarray:
    keep = np.isfinite(master.data) & (master.mask == 0) & good
    return ((master.data - truth) / np.sqrt(master.variance))[keep]


@pytest.mark.parametrize("n", [3, 5, 9, 20])
def test_a_master_bias_is_the_offset_and_knows_how_well(stacked: Any, n: int) -> None:
    master = build_bias(stacked(CAMERA.series(n, 0.0, 0.0, seed=n)))
    assert master.used == list(range(n))
    noise = np.hypot(CAMERA.read_noise_adu, 12**-0.5)
    assert master.stats["read_noise_adu"] == pytest.approx(noise, rel=0.03)
    assert master.stats["level_adu"] == pytest.approx(300, abs=0.3)
    z = pulls(master, CAMERA.bias_level)
    assert abs(z.mean()) < 0.02
    assert spread(z) == pytest.approx(1, abs=0.04)
    assert np.std(np.clip(z, -5, 5)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_cosmic_rays_leave_nothing(stacked: Any, n: int) -> None:
    frames = CAMERA.series(n, 0.0, 0.0, seed=4)
    frames[1][100:104, 50:90] += 5000
    master = build_bias(stacked(frames))
    hit = (master.data - CAMERA.bias_level)[100:104, 50:90]
    assert abs(hit.mean()) < 4 * np.sqrt(master.variance[100:104, 50:90].mean() / hit.size)
    assert np.abs(hit).max() < 6 * CAMERA.read_noise_adu
    # Negative control: a plain mean shows them.
    assert np.mean(frames, axis=0)[100:104, 50:90].mean() > CAMERA.bias_level.mean() + 300


def test_a_frame_of_another_level_is_left_out(stacked: Any) -> None:
    frames = CAMERA.series(6, 0.0, 60.0, seed=5)
    frames[2] = CAMERA.expose(3000.0, 60.0, np.random.default_rng(1))  # the shutter was open
    assert build_dark(stacked(frames), 60.0).used == [0, 1, 3, 4, 5]
    with pytest.raises(BadInput) as refused:
        build_dark(stacked(frames[:3]), 60.0)
    assert refused.value.code == "too-few-frames"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_frames_wait(stacked: Any, n: int) -> None:
    for build in (build_bias, build_flat, lambda stack: build_dark(stack, 60.0)):
        with pytest.raises(BadInput) as refused:
            build(stacked(CAMERA.series(n, 0.0, 0.0, seed=6)))
        assert refused.value.code == "too-few-frames"
        assert refused.value.hint


@pytest.mark.parametrize("bayer", ["", "RGGB"])
def test_dark_current_and_hot_pixels(stacked: Any, bayer: str) -> None:
    camera = Camera(bayer=bayer)
    bias = build_bias(stacked(camera.series(20, 0.0, 0.0, seed=7)))
    dark = build_dark(stacked(camera.series(9, 0.0, 120.0, seed=8)), 120.0, bias=bias.data, step=2 if bayer else 1)
    adu_s = camera.dark_current / camera.gain_e_per_adu
    assert dark.stats["dark_current_adu_s"] == pytest.approx(np.median(adu_s), rel=0.02)
    measured = dark_current(dark.data, bias.data, 120.0)
    bright = camera.hot & (camera.dark_current < 100)
    assert np.median(measured[bright] / adu_s[bright]) == pytest.approx(1, abs=0.02)
    hot = (dark.mask & MaskBit.HOT) > 0
    excess = adu_s * 120.0
    sure = excess > 12 * dark.stats["noise_adu"]
    assert hot[sure].mean() > 0.99
    assert hot[~camera.hot].sum() == 0
    truth = camera.bias_level + excess
    z = pulls(dark, truth, ~camera.hot)
    assert abs(z.mean()) < 0.02
    assert spread(z) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("bayer", ["", "RGGB", "GBRG"])
def test_a_flat_is_the_response_and_gives_the_gain(stacked: Any, bayer: str) -> None:
    camera = Camera(bayer=bayer, hot_share=0)
    bias = build_bias(stacked(camera.series(15, 0.0, 0.0, seed=9)))
    levels = [15_000, 22_000, 30_000, 18_000, 26_000, 20_000, 24_000, 28_000]
    frames = [camera.series(1, level, 1.0, seed=20 + k)[0] for k, level in enumerate(levels)]
    flat = build_flat(
        stacked(frames), subtract=bias.data, read_noise_adu=bias.stats["read_noise_adu"], mosaic=bool(bayer)
    )
    assert len(flat.used) == len(levels)
    assert flat.stats["gain_e_per_adu"] == pytest.approx(camera.gain_e_per_adu, rel=0.02)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = np.s_[y::2, x::2]
        ratio = flat.data[part] / camera.flat[part]
        assert np.median(ratio) == pytest.approx(1, abs=1e-3)
    z = pulls(flat, camera.flat)
    assert spread(z) == pytest.approx(1, abs=0.06)
    # Without the bias, the vignetting would be too weak: what `flat-needs-bias` is about.
    wrong = build_flat(stacked([f // 8 for f in frames]), mosaic=bool(bayer))
    assert wrong.data[:8, :8].mean() > flat.data[:8, :8].mean() * 1.001


def test_flats_too_dark_or_clipped_are_left_out(stacked: Any) -> None:
    camera = Camera(top=16383.0, hot_share=0)
    levels = [6000, 7000, 20, 6500, 15900, 40_000, 8000]
    frames = [camera.series(1, level, 1.0, seed=40 + k)[0] for k, level in enumerate(levels)]
    stack = stacked(frames)
    saturation = saturation_of_flats(stack, None)
    assert saturation == 16383
    bias = camera.bias_level.astype("f4")
    flat = build_flat(stack, subtract=bias, read_noise_adu=4.0, saturation_adu=saturation)
    assert flat.used == [0, 1, 3, 6]
    with pytest.raises(BadInput, match="neither dark nor saturated"):
        build_flat(stacked(frames[2:6]), subtract=bias, saturation_adu=saturation)


def test_dust_stays_in_the_flat_and_dead_pixels_are_masked(stacked: Any) -> None:
    camera = Camera(hot_share=0)
    camera.flat[100:110, 200:210] *= 0.9  # a mote
    camera.flat[50, 60] = 0.02
    camera.flat[70, 80] = 0.45
    frames = camera.series(8, 25_000, 1.0, seed=3)
    flat = build_flat(stacked(frames), subtract=camera.bias_level.astype("f4"), read_noise_adu=4.0)
    assert flat.data[100:110, 200:210].mean() == pytest.approx(camera.flat[100:110, 200:210].mean(), rel=2e-3)
    assert not flat.mask[100:110, 200:210].any()
    assert (flat.mask[50, 60], flat.mask[70, 80]) == (MaskBit.LOW_RESPONSE, MaskBit.LOW_RESPONSE)
    assert (flat.mask > 0).sum() == 2


def test_telegraph_noise_is_seen_in_the_scatter(stacked: Any) -> None:
    frames = CAMERA.series(12, 0.0, 0.0, seed=11)
    for k, frame in enumerate(frames):
        frame[30, 40] = 250 if k % 2 else 400
    assert build_bias(stacked(frames)).mask[30, 40] == MaskBit.HOT


def test_overscan_follows_the_drift(stacked: Any) -> None:
    camera = Camera(overscan=24, drift_adu=30.0)
    header = fits.Header({"BIASSEC": "[401:424,1:300]", "TRIMSEC": "[1:400,1:300]"})
    master = build_bias(stacked(camera.series(10, 0.0, 0.0, seed=12), header))
    assert master.data.shape == (300, 400)
    assert master.stats["level_adu"] == pytest.approx(0, abs=0.5)
    # A row's own level is known to the noise of 24 columns, so rows scatter a little more than pixels alone.
    rows = (master.data - (camera.bias_level - 300)).mean(axis=1)
    assert np.std(rows) < 1.5 * 1.2533 * camera.read_noise_adu / np.sqrt(24 * 10)


@pytest.mark.parametrize("n", [2, 3, 4, 6, 10, 30])
def test_the_clipped_mean_is_the_mean_where_nothing_is_wrong(n: int) -> None:
    cube = np.random.default_rng(n).normal(100, 5, (n, 100, 200)).astype(np.float32)
    mean, variance, scatter = clipped_mean(cube.copy())
    assert np.mean(np.abs(mean - cube.mean(axis=0)) > 1e-3) < 0.01
    assert float(variance.mean()) == pytest.approx(25 / n, rel=0.03)
    assert float(np.median(scatter)) == pytest.approx(5, rel=0.08)


def test_pixels_without_a_value_do_not_count() -> None:
    cube = np.random.default_rng(1).normal(100, 5, (6, 40, 50)).astype(np.float32)
    cube[:4, 3, 3] = np.nan
    cube[:, 4, 4] = np.nan
    mean, variance, _ = clipped_mean(cube)
    assert mean[3, 3] == pytest.approx(cube[4:, 3, 3].mean(), abs=1e-3)
    assert variance[3, 3] > 2 * np.median(variance)
    assert np.isnan(mean[4, 4])


def test_noise_measures_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(2)
    slope = np.linspace(0, 5000, 600)[None, :] * np.ones((400, 1))
    a, b = (slope + rng.normal(0, 7, slope.shape) for _ in range(2))
    assert pair_noise(a, b) == pytest.approx(7, rel=0.02)
    assert sky_sigma(a) == pytest.approx(7, rel=0.02)
    checker = a + 900 * (np.indices(a.shape).sum(axis=0) % 2)
    assert sky_sigma(checker, step=2) == pytest.approx(7, rel=0.02)
    assert sky_sigma(checker) > 100
    assert read_noise([a]) is None


def test_a_stack_gives_memory_and_disk_back(stacked: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from starloom.calibration import combining

    frames = CAMERA.series(7, 0.0, 0.0, seed=13)
    whole = build_bias(stacked(frames))
    monkeypatch.setattr(combining, "BLOCK_PIXELS", 7 * 400 * 10)
    in_blocks = build_bias(stacked(frames))
    # The typical scatter is each block's own: pixels near the clip may differ, nothing else does.
    assert np.mean(whole.data != in_blocks.data) < 1e-3
    with combining.FrameStack(tmp_path) as stack:
        stack.add(combining.SensorPixels(frames[0], np.zeros(300, np.float32), fits.Header(), False))
        with pytest.raises(ValueError, match="shape"):
            stack.add(combining.SensorPixels(frames[0][:50], np.zeros(50, np.float32), fits.Header(), False))
        assert list(tmp_path.glob("frame*.npy"))
    assert not list(tmp_path.glob("frame*.npy"))
