"""The level at which pixels clip, from the histogram: converters of 8 to 20 bits, full wells, smeared ceilings."""

from __future__ import annotations

import numpy as np
import pytest

from starloom.calibration.saturation import saturation_from_histogram

SHAPE = (400, 500)


def field(seed: int = 1, *, sky: float = 800.0, brightest: float = 4e6, faint: bool = False) -> np.ndarray:
    """Stars of FWHM 3 px over a sky, ADU, not clipped."""
    rng = np.random.default_rng(seed)
    image = rng.normal(sky, np.sqrt(sky), SHAPE)
    y, x = np.indices((41, 41)) - 20
    for _ in range(60):
        flux = 10 ** rng.uniform(3.0, np.log10(brightest if not faint else 2e4))
        cx, cy = rng.uniform(25, SHAPE[1] - 25), rng.uniform(25, SHAPE[0] - 25)
        ix, iy = int(cx), int(cy)
        star = flux / (2 * np.pi * 1.3**2) * (1 + ((x - cx + ix) ** 2 + (y - cy + iy) ** 2) / 12.0) ** -2.5
        image[iy - 20 : iy + 21, ix - 20 : ix + 21] += star
    return image


@pytest.mark.parametrize(
    ("ceiling", "step", "dtype"),
    [
        (65535, 1, "u2"), (16383, 1, "u2"), (4095, 1, "u2"),
        (65532, 4, "u2"), (65520, 16, "u2"), (255, 1, "u1"), (1_048_575, 1, "i4"), (50_000.0, 1, "f4"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_converters_ceiling_is_found(ceiling: float, step: int, dtype: str, seed: int) -> None:
    image = field(seed, brightest=60 * ceiling, sky=max(20.0, ceiling / 80))
    image = np.minimum(np.floor(image / step) * step, ceiling)
    assert saturation_from_histogram(image.astype(dtype)) == ceiling


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_full_well_below_the_converters_end_is_found(seed: int) -> None:
    image = np.minimum(field(seed), 41_000).astype("u2")
    image[3, 3] = 65_535  # a hot pixel, or a cosmic ray, knows no full well
    found = saturation_from_histogram(image)
    assert found is not None
    assert 40_500 < found <= 41_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_ceiling_smeared_by_flat_and_dark_is_found_from_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.minimum(field(seed), 60_000) - rng.normal(300, 5, SHAPE)
    image = (image / rng.normal(1, 0.01, SHAPE)).astype("f4")
    found = saturation_from_histogram(image)
    assert found is not None
    assert 54_000 < found < 60_000


@pytest.mark.parametrize("seed", range(8))
def test_a_frame_in_which_nothing_clips_has_no_level(seed: int) -> None:
    image = field(seed, faint=True)
    assert saturation_from_histogram(np.rint(image).astype("u2")) is None
    assert saturation_from_histogram(image.astype("f4")) is None


@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_has_no_level(seed: int) -> None:
    image = np.random.default_rng(seed).normal(1000, 30, SHAPE)
    assert saturation_from_histogram(np.rint(image).astype("u2")) is None
    assert saturation_from_histogram((np.rint(image / 64) * 64).astype("u2")) is None
    assert saturation_from_histogram(np.rint(image / 64).astype("u1")) is None


def test_the_header_is_believed_unless_the_pixels_speak_against_it() -> None:
    free, clipped = np.rint(field(1, faint=True)).astype("u2"), np.minimum(field(1), 41_000).astype("u2")
    assert saturation_from_histogram(free, 60_000.0) == 60_000
    assert saturation_from_histogram(clipped, 60_000.0) == 41_000  # they clip lower
    assert saturation_from_histogram(clipped, 20_000.0) == 41_000  # pixels stand above it
    assert saturation_from_histogram(clipped, 41_200.0) == 41_200
    assert saturation_from_histogram(free, -1.0) is None


def test_odd_frames_are_no_trouble() -> None:
    assert saturation_from_histogram(np.full(SHAPE, 7, "u2")) is None
    assert saturation_from_histogram(np.full(SHAPE, np.nan, "f4")) is None
    assert saturation_from_histogram(np.zeros((0, 5), "f4"), 100.0) is None
    some = field(2).astype("f4")
    some[:50] = np.nan
    assert saturation_from_histogram(np.minimum(some, np.float32(30_000))) == 30_000
