from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from starloom.astrometry import Unsolved, detect_stars
from starloom.errors import BadInput
from starloom.frames import read_frame
from starloom.sky import NetworkTruth, field_sky, tres1_frames
from starloom.sky.render import Rendered, render, star_pixels
from starloom.sky.telescope import Telescope

START = datetime(2026, 10, 8, 21, 0, tzinfo=UTC)
FIELD = (343.91, 55.85)
SCOPE = Telescope(
    "T1", 2.0, 700, 500, fwhm_px=(2.8, 2.8), gradient=0.2, vignetting=0.05, cosmic_rays=200.0, read_noise_e=4.0
)


@pytest.fixture(scope="module")
def frame() -> Rendered:
    return render(SCOPE, field_sky(*FIELD, 0.4, seed=3), FIELD, seed=5, start=START)


def true_stars(frame: Rendered, brighter: float, margin: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    x, y, mag = star_pixels(SCOPE, field_sky(*FIELD, 0.4, seed=3), frame.truth.to_wcs(), margin)
    return x[mag < brighter], y[mag < brighter]


def nearest(x: np.ndarray, y: np.ndarray, to_x: np.ndarray, to_y: np.ndarray) -> np.ndarray:
    return np.hypot(x[:, None] - to_x[None], y[:, None] - to_y[None]).min(axis=1)


@pytest.mark.parametrize("dtype", ["uint16", "int32", ">i2", "float32", "float64", ">f4"])
def test_finds_the_true_stars_whatever_the_pixel_type(frame: Rendered, dtype: str) -> None:
    found = detect_stars(frame.image.clip(0, 32767).astype(dtype))
    x, y = true_stars(frame, 13.0, -8.0)
    assert len(x) > 30
    assert np.mean(nearest(x, y, found.x, found.y) < 0.5) > 0.95
    assert np.median(nearest(x, y, found.x, found.y)) < 0.06


def test_few_detections_are_no_stars(frame: Rendered) -> None:
    found = detect_stars(frame.image)
    x, y = true_stars(frame, 17.0)
    assert np.mean(nearest(found.x, found.y, x, y) < 1.5) > 0.97


def test_measures_seeing_sky_and_noise(frame: Rendered) -> None:
    found = detect_stars(frame.image)
    assert found.frame_fwhm_px == pytest.approx(2.8, rel=0.03)
    assert found.frame_ellipticity < 0.2
    assert found.background_adu == pytest.approx(SCOPE.sky_adu + SCOPE.pedestal_adu, rel=0.05)
    assert found.noise_adu == pytest.approx(frame.truth.noise_adu, rel=0.15)
    assert found.fault is None
    assert not found.trailed


def test_list_is_sorted_and_can_be_cut(frame: Rendered) -> None:
    found = detect_stars(frame.image)
    assert (np.diff(found.flux) <= 0).all()
    few = detect_stars(frame.image, max_stars=10)
    assert len(few) == 10
    assert np.array_equal(few.x, found.balanced(10).x)
    assert len(found.brightest(7)) == 7
    assert found.brightest(7).shape == frame.image.shape


def test_not_a_number_is_masked_not_believed(frame: Rendered) -> None:
    holed = frame.image.astype(np.float32)
    holed[100:180, 200:300] = np.nan
    holed[:, 650:] = np.inf
    found = detect_stars(holed)
    inside = (found.x > 200) & (found.x < 299) & (found.y > 100) & (found.y < 179)
    assert not inside.any()
    assert (found.x < 650).all()
    whole = detect_stars(frame.image)
    away = (whole.x < 180) & (whole.flux > 500)
    assert np.median(nearest(whole.x[away], whole.y[away], found.x, found.y)) < 0.02


def test_hot_pixels_and_columns_are_no_stars(frame: Rendered) -> None:
    rng = np.random.default_rng(8)
    hot = frame.image.astype(np.float32)
    hy, hx = rng.integers(5, 495, 400), rng.integers(5, 695, 400)
    hot[hy, hx] += rng.uniform(200, 20000, 400)
    hot[:, 333] += 3000
    hot[rng.integers(0, 500, 250), 444] += 4000
    clean, found = detect_stars(frame.image), detect_stars(hot)
    x, y = true_stars(frame, 17.0)
    false = nearest(found.x, found.y, x, y) > 2.0
    assert false.mean() < 0.02
    assert (np.abs(found.x - 444) < 1.5).sum() < 3
    assert len(found) > 0.8 * len(clean)
    assert found.frame_fwhm_px == pytest.approx(clean.frame_fwhm_px, abs=0.2)


def test_hot_pixels_may_outnumber_the_stars() -> None:
    sky = field_sky(*FIELD, 0.4, seed=3)
    clean = render(replace(SCOPE, cosmic_rays=0.0), sky, FIELD, seed=6, start=START)
    rng = np.random.default_rng(9)
    image = clean.image.astype(np.float32)
    image[rng.integers(5, 495, 1200), rng.integers(5, 695, 1200)] += rng.uniform(500, 30000, 1200)
    found = detect_stars(image)
    x, y, _ = star_pixels(SCOPE, sky, clean.truth.to_wcs(), 5.0)
    assert len(found) > 80
    assert np.mean(nearest(found.x, found.y, x, y) < 1.5) > 0.99


def test_saturated_stars_are_flagged(frame: Rendered) -> None:
    clipped = np.minimum(frame.image, 5000)
    found = detect_stars(clipped)
    assert found.saturated.any()
    assert not found.saturated.all()
    assert np.array_equal(found.saturated, detect_stars(clipped, saturation_adu=4995).saturated)
    assert not detect_stars(frame.image, saturation_adu=1e9).saturated.any()


@pytest.mark.parametrize(
    "data",
    [
        np.full((64, 64), np.nan),
        np.full((64, 64), 65535, np.uint16),
        np.zeros((64, 64), np.float32),
        np.ones((8, 8)),
        np.ones((3, 64, 64)),
    ],
    ids=["nan", "saturated", "zero", "tiny", "cube"],
)
def test_no_sky_is_said_so(data: np.ndarray) -> None:
    with pytest.raises(Unsolved) as caught:
        detect_stars(data)
    assert caught.value.code == "no-sky"


def test_noise_alone_holds_too_few_stars() -> None:
    found = detect_stars(np.random.default_rng(1).normal(1000, 10, (400, 400)))
    assert found.fault == "too-few-stars"


def trailed(image: np.ndarray, length: int) -> np.ndarray:
    """Smear an image along a diagonal, as a mount without tracking does."""
    out = np.zeros(image.shape)
    for step in range(length):
        out += np.roll(image.astype(float), (step // 2, step), axis=(0, 1)) / length
    return out


@pytest.mark.parametrize("index", [0, 4, 8, 12])
def test_real_stars_are_found_again_in_the_next_frame(index: int) -> None:
    first, second = (detect_stars(read_frame(path)[0]) for path in tres1_frames()[index : index + 2])
    # Both show the same sky a few pixels apart: the shift that most pairs of bright stars agree on.
    a, b = first.brightest(60), second.brightest(60)
    dx, dy = (b.x[None] - a.x[:, None]).ravel(), (b.y[None] - a.y[:, None]).ravel()
    votes = [np.count_nonzero(np.hypot(dx - u, dy - v) < 2) for u, v in zip(dx, dy, strict=True)]
    u, v = dx[np.argmax(votes)], dy[np.argmax(votes)]
    x, y = first.x + u, first.y + v
    on = (x > 10) & (y > 10) & (x < 1080) & (y < 725)
    bright = np.arange(len(first)) < len(first) // 2
    assert np.mean(nearest(x[on & bright], y[on & bright], second.x, second.y) < 2) > 0.97


def test_a_mask_hides_what_it_covers(frame: Rendered) -> None:
    mask = np.zeros(frame.image.shape, bool)
    mask[200:300, 250:400] = True
    spoiled = frame.image.copy()
    spoiled[mask] = np.random.default_rng(3).integers(0, 65535, mask.sum())
    found = detect_stars(spoiled, mask=mask)
    assert not ((found.x > 250) & (found.x < 399) & (found.y > 200) & (found.y < 299)).any()
    clean = detect_stars(frame.image)
    away = (clean.x < 240) & (clean.flux > 500)
    assert np.median(nearest(clean.x[away], clean.y[away], found.x, found.y)) < 0.01
    with pytest.raises(BadInput) as caught:
        detect_stars(frame.image, mask=mask[:-1])
    assert caught.value.code == "bad-mask"


def test_a_masked_column_does_not_move_the_stars_on_it(frame: Rendered) -> None:
    clean = detect_stars(frame.image)
    bright = clean.brightest(12)
    mask = np.zeros(frame.image.shape, bool)
    mask[:, np.rint(bright.x).astype(int) + 1] = True
    spoiled = np.where(mask, 60000, frame.image).astype(np.uint16)
    found = detect_stars(spoiled, mask=mask, saturation_adu=65000)
    assert np.median(nearest(bright.x, bright.y, found.x, found.y)) < 0.15


def test_trailed_stars_are_recognised(frame: Rendered) -> None:
    found = detect_stars(trailed(frame.image, 14))
    assert found.trailed
    assert found.fault == "trailed"
    assert found.frame_ellipticity > 0.45


def test_satellite_trail_is_no_row_of_stars(network: NetworkTruth) -> None:
    data, _ = read_frame(network.trail[0])
    trail = network.frames[network.trail[0]].trail
    assert trail is not None
    found = detect_stars(data)
    slope = (trail.y1 - trail.y0) / (trail.x1 - trail.x0)
    off = np.abs(found.y - trail.y0 - slope * (found.x - trail.x0)) / np.hypot(1, slope)
    assert (off < 4).sum() < 0.05 * len(found)
    assert not found.trailed


@pytest.mark.parametrize("index", [0, 5, 13])
def test_real_frames(index: int) -> None:
    data: Any = read_frame(tres1_frames()[index])[0]
    found = detect_stars(data)
    assert 300 < len(found) < 1500
    assert 1.6 < found.frame_fwhm_px < 3.2
    assert not found.trailed


def test_line_in_a_real_frame_is_no_row_of_stars() -> None:
    # It runs from (604.3, 0) to (605, 330) (TRUTH_trails.csv); a column of true stars there is two or three.
    (path,) = (p for p in tres1_frames() if "081" in p.name)
    x = 604.7
    found = detect_stars(read_frame(path)[0])
    assert (np.abs(found.x - x) < 2).sum() < 8
