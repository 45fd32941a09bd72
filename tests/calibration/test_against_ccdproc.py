"""ccdproc is the reference that our combination and our correction are held to (Craig et al., BSD-3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData

from starloom.calibration.apply import MasterSet, calibrate
from starloom.calibration.calibrated_file import Planes
from starloom.calibration.masters import build_dark
from starloom.calibration.noise import spread
from starloom.calibration.sensor import sensor_pixels
from starloom.sky.camera import Camera

ccdproc = pytest.importorskip("ccdproc", reason="ccdproc is not installed (pip install starloom[dev])")

CAMERA = Camera(overscan=32, drift_adu=20.0)
NY, NX = CAMERA.shape
SECTIONS = {"BIASSEC": f"[{NX + 1}:{NX + 32},1:{NY}]", "TRIMSEC": f"[1:{NX},1:{NY}]"}


def combined_by_ccdproc(frames: list[np.ndarray]) -> Any:
    return ccdproc.combine(
        [CCDData(frame.astype("f4"), unit="adu") for frame in frames], method="average", sigma_clip=True,
        sigma_clip_low_thresh=4, sigma_clip_high_thresh=4, sigma_clip_func=np.ma.median,
        sigma_clip_dev_func="mad_std", dtype="f4",
    )  # fmt: skip


@pytest.mark.parametrize("n", [5, 12, 30])
def test_masters_agree_and_ours_know_their_noise(stacked: Any, n: int) -> None:
    camera = Camera()
    frames = camera.series(n, 0.0, 60.0, seed=n)
    ours, theirs = build_dark(stacked(frames), 60.0), combined_by_ccdproc(frames)
    truth = camera.bias_level + camera.dark_current * 60 / camera.gain_e_per_adu
    good = ~camera.hot
    difference = (ours.data - theirs.data)[good]
    # Both are unbiased; where one of them clipped a good value, they differ by a share of the mean's own noise.
    assert abs(difference.mean()) < 0.02
    assert np.median(np.abs(difference)) < 1e-3
    assert np.std((ours.data - truth)[good]) <= np.std((theirs.data - truth)[good]) * 1.01
    pull = (ours.data - truth)[good] / np.sqrt(ours.variance[good])
    assert spread(pull) == pytest.approx(1, abs=0.05)
    if n == 5:
        # Why the combination is ours: the spread of few values about their own median says too little.
        stated = theirs.uncertainty.array[good]
        assert (stated == 0).any()  # of the one value that it left
        told = stated > 0
        assert spread((theirs.data - truth)[good][told] / stated[told]) > 1.15


def test_the_corrected_frame_is_theirs() -> None:
    frame = CAMERA.expose(1500.0, 60.0, np.random.default_rng(1))
    header = fits.Header(SECTIONS)
    bias = (CAMERA.bias_level - CAMERA.bias_adu).astype("f4")
    dark = (bias + CAMERA.dark_current * 120 / CAMERA.gain_e_per_adu).astype("f4")
    flat = CAMERA.flat.astype("f4")
    ours = calibrate(
        frame, header,
        MasterSet(*(Planes(plane, fits.Header()) for plane in (bias, dark, flat)), dark_scale=0.5),
    )  # fmt: skip
    assert ours is not None
    level = sensor_pixels(frame, header).level
    theirs = ccdproc.ccd_process(
        CCDData(frame[:, :NX] - level[:, None], unit="adu"),
        master_bias=CCDData(bias, unit="adu"),
        dark_frame=CCDData(dark - bias, unit="adu"),
        dark_exposure=120 * units.s, data_exposure=60 * units.s, dark_scale=True,
        master_flat=CCDData(flat, unit="adu"),
    )  # fmt: skip
    # ccdproc divides by the flat over its mean.
    assert np.abs(ours.planes.data / (theirs.data / flat.mean()) - 1).max() < 1e-4


def test_the_overscan_is_theirs_to_its_noise() -> None:
    frame = CAMERA.expose(0.0, 0.0, np.random.default_rng(2))
    strip = CCDData(frame[:, NX:].astype("f4"), unit="adu")
    theirs = ccdproc.subtract_overscan(CCDData(frame.astype("f4"), unit="adu"), overscan=strip, median=False)
    ours = sensor_pixels(frame, fits.Header(SECTIONS)).subtracted()
    assert np.abs(ours - theirs.data[:, :NX]).max() < 4 * CAMERA.read_noise_adu / np.sqrt(32)
    assert abs((ours - theirs.data[:, :NX]).mean()) < 0.05
