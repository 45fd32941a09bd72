"""A pixel against its neighbours, and guesses for pixels that are not to be believed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from starloom.calibration.held import HeldPlanes
from starloom.calibration.neighbours import filled, neighbour_mean, neighbour_minimum, ring_residual
from starloom.calibration.sky_noise import smooth_sky, smooth_variance


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", [(70, 50), (131, 64), (9, 9)], ids=str)
def test_the_ring_is_that_of_scipy(step: int, shape: tuple[int, int]) -> None:
    data = np.random.default_rng(1).normal(0, 1, shape).astype("f4")
    ring = np.zeros((4 * step + 1,) * 2, bool)
    ring[:: 2 * step, :: 2 * step] = True
    ring[2 * step, 2 * step] = False

    def middle(values: np.ndarray) -> float:
        return float(np.median(values))

    want = data - ndimage.generic_filter(data, middle, footprint=ring, mode="mirror")
    assert np.abs(ring_residual(data, step) - want).max() < 1e-6


def test_white_noise_grows_by_eight_per_cent() -> None:
    noise = np.random.default_rng(2).normal(0, 1, (400, 400)).astype("f4")
    assert ring_residual(noise).std() == pytest.approx(1.08, abs=0.005)


@pytest.mark.parametrize("step", [1, 2])
def test_mean_and_minimum_of_neighbours(step: int) -> None:
    data = np.arange(400, dtype="f4").reshape(20, 20) ** 1.5
    y, x = 9, 11
    four = [data[y - step, x], data[y + step, x], data[y, x - step], data[y, x + step]]
    assert neighbour_mean(data, step)[y, x] == pytest.approx(np.mean(four))
    assert neighbour_minimum(data, step)[y, x] == data[y - step, x - step]


def test_bad_pixels_are_guessed_from_good_neighbours() -> None:
    slope = np.fromfunction(lambda y, x: 10 * x + y, (40, 50)).astype("f4")
    bad = np.zeros(slope.shape, bool)
    bad[10, 20] = bad[0, 0] = bad[39, 49] = True
    bad[20, :] = True
    bad[30:33, 30:33] = True
    spoilt = np.where(bad, np.float32(1e6), slope)
    spoilt[5, 5] = np.nan
    mended = filled(spoilt, bad)
    assert mended[10, 20] == pytest.approx(slope[10, 20])
    assert np.abs(mended[20] - slope[20])[1:-1].max() < 1e-3
    assert mended[31, 31] == pytest.approx(slope[31, 31], abs=1)
    assert mended[5, 5] == pytest.approx(slope[5, 5])
    assert np.array_equal(mended[~bad & np.isfinite(spoilt)], slope[~bad & np.isfinite(spoilt)])
    assert np.isnan(spoilt[5, 5])  # the given array is untouched
    assert np.isfinite(filled(spoilt, np.ones(spoilt.shape, bool))).all()


def test_in_a_mosaic_only_the_same_colour_counts() -> None:
    data = np.where(np.indices((20, 20))[1] % 2, 1000, 10).astype("f4")
    bad = np.zeros(data.shape, bool)
    bad[10, 10] = True
    assert filled(data, bad, step=2)[10, 10] == 10
    assert filled(data, bad, step=1)[10, 10] > 10


@pytest.mark.parametrize("step", [1, 2])
def test_sky_and_variance_follow_a_gradient_and_no_star(step: int) -> None:
    rng = np.random.default_rng(3)
    ny, nx = 512 * step, 640 * step
    u, v = np.meshgrid(np.linspace(-1, 1, nx), np.linspace(-1, 1, ny))
    truth = 1000 + 300 * u - 150 * v**2
    sigma = 10 * (1 + 0.3 * u)
    data = (truth + sigma * rng.standard_normal((ny, nx))).astype("f4")
    data[100:130, 200:230] += 5000
    assert np.abs(smooth_sky(data, step) - truth).max() < 12
    ratio = smooth_variance(data, step) / sigma**2
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert 0.8 < ratio.min() < ratio.max() < 1.25


@pytest.mark.parametrize("shape", [(5, 5), (40, 300), (64, 10)], ids=str)
def test_frames_smaller_than_a_cell_have_a_sky_too(shape: tuple[int, int]) -> None:
    sky = smooth_sky(np.full(shape, 7.0, "f4"))
    assert sky.shape == shape
    assert np.allclose(sky, 7.0)


def test_held_planes_are_loaded_once_and_let_go() -> None:
    from astropy.io import fits

    from starloom.calibration.calibrated_file import Planes

    loads: list[str] = []

    def load(key: str) -> Planes:
        def now() -> Planes:
            loads.append(key)
            return Planes(np.zeros((10, 10), "f4"), fits.Header(), np.zeros((10, 10), "u1"))

        return held.get(key, now)

    held = HeldPlanes(2 * 500)

    def get(key: str) -> Planes:
        return load(key)

    assert get("a") is get("a")
    get("b")
    get("a")
    get("c")  # b was used longest ago
    get("a")
    assert loads == ["a", "b", "c"]
    get("b")
    assert loads == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="read-only"):
        get("a").data[0, 0] = 1
    tiny = HeldPlanes(10)
    one = tiny.get("x", lambda: Planes(np.zeros((10, 10), "f4"), fits.Header()))
    assert one.data.shape == (10, 10)  # lent, if not held
