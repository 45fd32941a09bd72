"""Centroids: where the truth is, and as far off as they say."""

from __future__ import annotations

import numpy as np
import pytest

from starloom.astrometry import StarList, detect_stars
from starloom.sky.psf import draw_stars, make_psf

SKY, GAIN, READ_NOISE = 700.0, 1.6, 4.0
SIDE = 24


def starry(
    fwhm: float, snr: float, seed: int, beta: float = 3.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Stars apart from each other, of one signal-to-noise: image, true places, and the best error possible."""
    rng = np.random.default_rng(seed)
    psf = make_psf(fwhm, beta)
    pitch = max(int(12 * fwhm), 24)
    size = SIDE * pitch
    # Light falls off towards the corners, which tells the gain.
    v, u = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lit = 1 - 0.15 * (u * u + v * v)
    j, i = (g.ravel() for g in np.mgrid[0:SIDE, 0:SIDE])
    x, y = (pitch * (g + 0.5) + rng.uniform(-0.2, 0.2, SIDE**2) * pitch for g in (i, j))
    noise = np.hypot(np.sqrt(SKY / GAIN), READ_NOISE)
    stamp = psf.phases[0, 0].astype(float)
    flux = np.full(SIDE**2, snr * noise / np.sqrt((stamp**2).sum()))
    image = np.zeros((size, size), np.float32)
    draw_stars(image, x, y, flux, psf, noise_adu=noise)
    level = (image + SKY) * lit
    level += np.sqrt(level / GAIN + READ_NOISE**2) * rng.standard_normal(level.shape)
    # Cramér-Rao: what any unbiased estimate of a place has at least.
    slope = 16 * (psf.phases[0, 1].astype(float) - stamp) * flux[0] / 2
    bound = 1 / np.sqrt((slope**2 / (noise**2 + flux[0] * stamp / GAIN)).sum())
    return np.rint(level + 300).astype(np.uint16), x, y, float(bound)


def errors(found: StarList, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors in x and y and what was stated, of every true star that was found."""
    distance = np.hypot(found.x[None] - x[:, None], found.y[None] - y[:, None])
    best = distance.argmin(axis=1)
    seen = distance.min(axis=1) < 2.0
    return (found.x[best] - x)[seen], (found.y[best] - y)[seen], found.centroid_err_px[best][seen]


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0, 5.0])
def test_bright_stars_are_placed_as_well_as_their_light_allows(fwhm: float) -> None:
    image, x, y, bound = starry(fwhm, 250.0, seed=1)
    dx, dy, _ = errors(detect_stars(image), x, y)
    assert len(dx) == len(x)
    rms = np.sqrt(np.mean(dx**2 + dy**2) / 2)
    assert rms < np.hypot(1.15 * bound, 0.004)
    assert abs(dx.mean()) < 0.002
    assert abs(dy.mean()) < 0.002


@pytest.mark.parametrize("fwhm", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("snr", [10.0, 30.0, 100.0, 1000.0])
def test_stated_errors_are_the_real_ones(fwhm: float, snr: float) -> None:
    image, x, y, _ = starry(fwhm, snr, seed=2)
    dx, dy, stated = errors(detect_stars(image, max_stars=4000), x, y)
    # The faint and undersampled ones are at the limit of detection.
    assert len(dx) > (0.75 if snr * fwhm < 20 else 0.9) * len(x)
    pull = np.sqrt(np.mean((dx / stated) ** 2 + (dy / stated) ** 2) / 2)
    # At a thousand the floor for what a real detector adds is larger than anything these stars suffer.
    assert 0.85 < pull < 1.2 if snr < 1000 else 0.3 < pull < 1.2


def test_a_given_gain_is_used() -> None:
    image, _, _, _ = starry(3.0, 300.0, seed=3)
    few, many = (np.median(detect_stars(image, gain_e_per_adu=g).centroid_err_px[:200]) for g in (0.2, 5.0))
    assert few > 1.5 * many


@pytest.mark.parametrize("fwhm", [1.5, 2.0, 3.0])
def test_the_place_within_a_pixel_does_not_matter(fwhm: float) -> None:
    """Without noise to speak of, the error as a function of the pixel's phase stays below a hundredth."""
    image, x, y, _ = starry(fwhm, 1500.0, seed=4)
    dx, _, _ = errors(detect_stars(image), x, y)
    assert len(dx) == len(x)
    phase = x - np.rint(x)
    for low in np.linspace(-0.5, 0.25, 4):
        part = (phase >= low) & (phase < low + 0.25)
        assert abs(dx[part].mean()) < 0.01
