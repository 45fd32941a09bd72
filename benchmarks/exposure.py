"""From stars on a detector to the pixels of a frame as a node sends it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.sky.mosaic import mosaic
from starloom.sky.psf import Psf, draw_stars

Floats = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Detector:
    """A sensor and the sky above it; levels in ADU."""

    sky_adu: float = 800.0
    gain: float = 1.0
    read_noise_adu: float = 5.0
    pedestal: float = 100.0
    top: float = 65535.0
    vignetting: float = 0.15
    gradient: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_response: float = 0.01
    hot_share: float = 1e-4
    hot_columns: int = 0
    cosmic_rays: float = 0.0
    bayer: str = ""

    @property
    def noise_adu(self) -> float:
        return float(np.hypot(np.sqrt(self.sky_adu / self.gain), self.read_noise_adu))

    def limit_flux(self, psf: Psf) -> float:
        """Flux of a point source of 5 sigma, from the noise-equivalent area of its profile."""
        stamp = psf.phases[0, 0].astype(float)
        return float(5 * self.noise_adu / np.sqrt((stamp**2).sum()))


@dataclass(frozen=True)
class Streak:
    """A satellite's trail across the frame, ``ridge`` in units of the sky noise."""

    x0: float
    y0: float
    x1: float
    y1: float
    ridge: float = 15.0


def stars_light(shape: tuple[int, int], x: Floats, y: Floats, flux: Floats, psf: Psf, noise_adu: float) -> Image:
    image = np.zeros(shape, np.float32)
    draw_stars(image, x, y, flux, psf, noise_adu=noise_adu)
    return image


def coloured_light(
    shape: tuple[int, int],
    x: Floats,
    y: Floats,
    flux: Floats,
    psf: Psf,
    detector: Detector,
    rng: np.random.Generator,
) -> Image:
    """Light of stars of unlike colours behind a Bayer mosaic, the sky included."""
    colour = rng.normal(0.0, 0.3, len(x))
    weights = {"R": 0.65 * 10 ** (0.4 * colour), "G": np.ones(len(x)), "B": 0.55 * 10 ** (-0.4 * colour)}
    sky = {"R": 0.8, "G": 1.0, "B": 0.6}
    planes = {
        c: stars_light(shape, x, y, flux * weights[c], psf, detector.noise_adu)
        + np.float32(sky[c] * detector.sky_adu)
        for c in "RGB"
    }
    return mosaic(planes, detector.bayer)


def expose(
    light: Image, detector: Detector, rng: np.random.Generator, streaks: tuple[Streak, ...] = ()
) -> NDArray[np.uint16]:
    """Pixels of an exposure; ``light`` holds the stars, and the sky too where the sensor has a mosaic."""
    ny, nx = light.shape
    v, u = np.linspace(-1, 1, ny, dtype=np.float32)[:, None], np.linspace(-1, 1, nx, dtype=np.float32)[None, :]
    glow = np.float32(1) + sum(
        (np.float32(c) * term for c, term in zip(detector.gradient, (u, v, u * u), strict=True)), np.float32(0)
    )
    image = light * (glow if detector.bayer else np.float32(1))
    if not detector.bayer:
        image += np.float32(detector.sky_adu) * glow
    for streak in streaks:
        _add_streak(image, streak, detector.noise_adu)
    image *= 1 - np.float32(detector.vignetting) * (u * u + v * v) / 2
    if detector.pixel_response:
        image *= 1 + np.float32(detector.pixel_response) * rng.standard_normal((ny, nx), np.float32)
    np.clip(image, 0, None, out=image)
    # Gaussian for Poisson: the levels are hundreds of electrons, and it is five times as fast.
    noise = np.sqrt(image / np.float32(detector.gain) + np.float32(detector.read_noise_adu**2))
    image += noise * rng.standard_normal((ny, nx), np.float32)
    _spoil(image, detector, rng)
    image += np.float32(detector.pedestal)
    return np.rint(np.clip(image, 0, detector.top)).astype(np.uint16)


def _add_streak(image: Image, streak: Streak, noise_adu: float) -> None:
    ny, nx = image.shape
    length = np.hypot(streak.x1 - streak.x0, streak.y1 - streak.y0)
    ux, uy = (streak.x1 - streak.x0) / length, (streak.y1 - streak.y0) / length
    dx = np.arange(nx, dtype=np.float32)[None, :] - np.float32(streak.x0)
    dy = np.arange(ny, dtype=np.float32)[:, None] - np.float32(streak.y0)
    across, along = dx * np.float32(uy) - dy * np.float32(ux), dx * np.float32(ux) + dy * np.float32(uy)
    near = (np.abs(across) < 8) & (along > 0) & (along < length)
    image[near] += np.float32(streak.ridge * noise_adu) * np.exp(-0.5 * (across[near] / 1.6) ** 2)


def _spoil(image: Image, detector: Detector, rng: np.random.Generator) -> None:
    ny, nx = image.shape
    n = int(nx * ny * detector.hot_share)
    image[rng.integers(0, ny, n), rng.integers(0, nx, n)] += rng.uniform(500, 30000, n).astype(np.float32)
    for column in rng.integers(0, nx, detector.hot_columns):
        image[:, column] += np.float32(rng.uniform(5, 40) * detector.noise_adu)
    for _ in range(rng.poisson(detector.cosmic_rays * nx * ny / 1e6)):
        steps = np.arange(rng.integers(1, 9))
        angle = rng.uniform(0, 2 * np.pi)
        cx = np.rint(rng.uniform(0, nx) + steps * np.cos(angle)).astype(int)
        cy = np.rint(rng.uniform(0, ny) + steps * np.sin(angle)).astype(int)
        on = (cx >= 0) & (cx < nx) & (cy >= 0) & (cy < ny)
        image[cy[on], cx[on]] += np.float32(rng.uniform(20, 300) * detector.noise_adu)


def random_streak(rng: np.random.Generator, shape: tuple[int, int], ridge: float = 15.0) -> Streak:
    ny, nx = shape
    a, b = rng.uniform(0, 1, 2) * ny
    return Streak(0.0, float(a), float(nx), float(b), ridge)
