"""Defects learnt from the sky: found where they are, and no star taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from starloom.calibration.calibrated_file import MaskBit
from starloom.calibration.defects import DefectMap, learn_defects
from starloom.calibration.motion import shifts, star_picture, stars_have_moved
from starloom.errors import BadInput
from starloom.sky.camera import Camera
from starloom.sky.mosaic import mosaic

SHAPE = (400, 500)
SKY_E, EXPOSURE_S = 800.0, 60.0


def starry(rng: np.random.Generator, dx: float, dy: float, fwhm: float, n: int, seed: int = 7) -> np.ndarray:
    """Electrons of a field of stars, moved by (dx, dy) px."""
    field = np.random.default_rng(seed)
    light = np.full(SHAPE, SKY_E)
    core = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    y, x = np.indices((31, 31)) - 15
    for cx, cy, magnitude in zip(
        field.uniform(-60, SHAPE[1] + 60, n),
        field.uniform(-60, SHAPE[0] + 60, n),
        field.uniform(0, 6, n),
        strict=True,
    ):
        px, py = cx + dx, cy + dy
        ix, iy = round(px), round(py)
        if not (15 <= ix < SHAPE[1] - 15 and 15 <= iy < SHAPE[0] - 15):
            continue
        star = (1 + ((x - px + ix) ** 2 + (y - py + iy) ** 2) / core**2) ** -3
        light[iy - 15 : iy + 16, ix - 15 : ix + 16] += 4e5 * 10 ** (-0.4 * magnitude) * star / star.sum()
    return light


def night(
    camera: Camera, *, n: int = 10, step_px: float = 15.0, fwhm: float = 3.0, stars: int = 150, drift: Any = None
) -> list[np.ndarray]:
    rng = np.random.default_rng(99)
    frames = []
    for k in range(n):
        dx, dy = (drift(k) if drift else rng.uniform(-step_px, step_px, 2)) if step_px or drift else (0.0, 0.0)
        light = starry(rng, dx, dy, fwhm, stars)
        if camera.bayer:
            light32 = light.astype("f4")
            light = mosaic({"R": light32 * 0.6, "G": light32, "B": light32 * 0.4}, camera.bayer).astype(float)
            light /= camera.colours  # `expose` puts the filter in front again
        frames.append(camera.expose(light, EXPOSURE_S, np.random.default_rng(k), cosmic_rays=60))
    return frames


def scored(camera: Camera, found: DefectMap, least_sigma: float = 5.0) -> tuple[float, float]:
    """Share of hot pixels of at least ``least_sigma`` that was found, and share of finds that are good pixels."""
    noise_adu = np.hypot(np.sqrt(SKY_E), camera.read_noise_e) / camera.gain_e_per_adu
    excess = camera.dark_current * EXPOSURE_S / camera.gain_e_per_adu / noise_adu
    hot = (found.mask & MaskBit.HOT) > 0
    false = hot & ~camera.hot
    return float(hot[camera.hot & (excess > least_sigma)].mean()), float(false.sum() / max(hot.sum(), 1))


def camera_of(**changes: Any) -> Camera:
    # From 3 to 300 sigma of a frame's noise.
    return Camera(shape=SHAPE, hot_share=2e-3, hot_e_s=(1.5, 150.0), **changes)


@pytest.mark.parametrize(
    ("fwhm", "stars"), [(3.0, 150), (3.0, 1500), (1.8, 300), (6.0, 150)], ids=["usual", "crowded", "sharp", "soft"]
)
def test_ten_dithered_frames_give_the_map(stacked: Any, fwhm: float, stars: int) -> None:
    camera = camera_of()
    found = learn_defects(stacked(night(camera, fwhm=fwhm, stars=stars)))
    assert found.moved
    complete, false = scored(camera, found)
    assert complete >= 0.95
    assert false <= 0.01
    assert found.mask.mean() < 0.02


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_in_a_mosaic_each_colour_has_its_own_neighbours(stacked: Any, pattern: str) -> None:
    camera = camera_of(bayer=pattern)
    found = learn_defects(stacked(night(camera)), step=2)
    complete, false = scored(camera, found)
    assert complete >= 0.95
    assert false <= 0.01


def test_a_drift_is_as_good_as_a_dither(stacked: Any) -> None:
    camera = camera_of()
    found = learn_defects(stacked(night(camera, drift=lambda k: (4.0 * k, -3.0 * k))))
    complete, false = scored(camera, found)
    assert complete >= 0.95
    assert false <= 0.01


@pytest.mark.parametrize("fwhm", [1.9, 2.5, 4.0])
def test_in_a_field_that_stands_still_no_star_is_a_defect(stacked: Any, fwhm: float) -> None:
    camera = camera_of()
    found = learn_defects(stacked(night(camera, step_px=0.0, fwhm=fwhm, stars=400)))
    assert not found.moved
    complete, false = scored(camera, found)
    assert complete >= 0.85  # what lies in a star cannot be told from it
    assert false <= 0.01


def test_columns_and_rows_are_found(stacked: Any) -> None:
    camera = camera_of()
    frames = night(camera)
    for frame in frames:
        frame[:, 123] += 30  # 1.5 sigma: no pixel of it would be found by itself
        frame[200:330, 321] = 305
        frame[77, :] += 40
    found = learn_defects(stacked(frames))
    assert ((found.mask[:, 123] & MaskBit.HOT) > 0).mean() > 0.95
    assert ((found.mask[210:320, 321] & MaskBit.DEAD) > 0).mean() > 0.95
    assert ((found.mask[77] & MaskBit.HOT) > 0).mean() > 0.95
    beside = np.delete(found.mask, [77], axis=0)[:, [110, 140, 300]]
    assert (beside > 0).mean() < 0.02


def test_dead_pixels_are_found(stacked: Any) -> None:
    camera = camera_of()
    dead = np.random.default_rng(5).random(SHAPE) < 5e-4
    dead &= ~camera.hot
    camera.flat[dead] *= 0.2
    found = learn_defects(stacked(night(camera)))
    assert ((found.mask[dead] & MaskBit.DEAD) > 0).mean() > 0.95
    assert ((found.mask[~dead] & MaskBit.DEAD) > 0).mean() < 1e-4


def test_a_good_sensor_has_no_defects(stacked: Any) -> None:
    found = learn_defects(stacked(night(Camera(shape=SHAPE, hot_share=0.0))))
    assert (found.mask > 0).sum() <= 2


def test_too_few_frames_teach_nothing(stacked: Any) -> None:
    with pytest.raises(BadInput) as refused:
        learn_defects(stacked(night(camera_of(), n=5)))
    assert refused.value.code == "too-few-frames"


def test_shifts_are_those_of_the_stars() -> None:
    camera = camera_of()
    truth = np.array([[0, 0], [12, -7], [-31, 4], [0.4, 55.2]])
    rng = np.random.default_rng(1)
    frames = [camera.expose(starry(rng, dx, dy, 3.0, 150), EXPOSURE_S, rng) for dx, dy in truth]
    found = shifts([star_picture(frame.astype("f4")) for frame in frames])
    assert np.abs(found - truth).max() <= 1.0  # hot pixels stay where they are, and do not vote
    without = Camera(shape=SHAPE, hot_share=0.0)
    blank = [without.expose(SKY_E, EXPOSURE_S, rng) for _ in range(3)]
    assert np.isnan(shifts([star_picture(frame.astype("f4")) for frame in blank])[1:]).all()


def test_what_counts_as_moved() -> None:
    rng = np.random.default_rng(2)
    assert stars_have_moved(rng.uniform(-40, 40, (10, 2)))
    assert not stars_have_moved(np.zeros((10, 2)))
    assert not stars_have_moved(None)
    assert not stars_have_moved(np.full((10, 2), np.nan))
    two_places = np.repeat([[0.0, 0.0], [50.0, 0.0]], 5, axis=0)
    assert stars_have_moved(two_places)
    assert not stars_have_moved(np.vstack([np.zeros((7, 2)), [[50.0, 0.0]] * 3]))
