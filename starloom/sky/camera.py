"""A camera whose every fault is known: bias pattern, dark current, hot pixels, vignetting, response, noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from starloom.sky.mosaic import mosaic

Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A sensor and its truth. Levels are in ADU, light and dark current in electrons.

    Attributes
    ----------
    shape
        ``(ny, nx)`` of the light-sensitive area.
    gain_e_per_adu, read_noise_e
        The read-out.
    bias_adu, pattern_adu
        Offset, and the spread of its fixed pattern over the columns.
    dark_e_s
        Dark current of a good pixel.
    hot_share, hot_e_s
        Share of hot pixels, and the range of their dark current (log-uniform).
    vignetting
        Light lost in the corners, a share.
    response
        Spread of the pixels' response.
    top
        Level at which the converter clips, ADU.
    overscan
        Columns without light, to the right of the picture; they follow `drift_adu`.
    drift_adu
        By how much the offset drifts over the rows.
    bayer
        Pattern of a colour mosaic; its colours have unlike responses.
    seed
        Of the faults, which stay with the camera.
    """

    shape: tuple[int, int] = (300, 400)
    gain_e_per_adu: float = 1.5
    read_noise_e: float = 6.0
    bias_adu: float = 300.0
    pattern_adu: float = 2.0
    dark_e_s: float = 0.3
    hot_share: float = 1e-3
    hot_e_s: tuple[float, float] = (5.0, 500.0)
    vignetting: float = 0.2
    response: float = 0.01
    top: float = 65535.0
    overscan: int = 0
    drift_adu: float = 0.0
    bayer: str = ""
    seed: int = 1

    @property
    def read_noise_adu(self) -> float:
        """Read noise of one frame, ADU."""
        return self.read_noise_e / self.gain_e_per_adu

    @cached_property
    def bias_level(self) -> Plane:
        """Offset of each pixel without drift, ADU, `shape`."""
        rng = np.random.default_rng([self.seed, 1])
        columns = rng.normal(0, self.pattern_adu, self.shape[1])
        return np.asarray(self.bias_adu + np.broadcast_to(columns, self.shape))

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """Which pixels are hot, `shape`."""
        return np.random.default_rng([self.seed, 2]).random(self.shape) < self.hot_share

    @cached_property
    def dark_current(self) -> Plane:
        """Dark current of each pixel, e-/s, `shape`."""
        rng = np.random.default_rng([self.seed, 3])
        current = self.dark_e_s * rng.uniform(0.8, 1.2, self.shape)
        low, high = np.log(self.hot_e_s)
        current[self.hot] += np.exp(rng.uniform(low, high, int(self.hot.sum())))
        return current

    @cached_property
    def flat(self) -> Plane:
        """Response of each pixel, 1 on average (of each colour in a mosaic), `shape`."""
        rng = np.random.default_rng([self.seed, 4])
        v, u = (np.linspace(-1, 1, size) for size in self.shape)
        response = (1 - self.vignetting * (u[None, :] ** 2 + v[:, None] ** 2) / 2) * (
            1 + self.response * rng.standard_normal(self.shape)
        )
        if not self.bayer:
            return np.asarray(response / response.mean())
        for dy in (0, 1):
            for dx in (0, 1):
                response[dy::2, dx::2] /= response[dy::2, dx::2].mean()
        return response

    @cached_property
    def colours(self) -> Plane:
        """Share of a white light that the colour of each pixel lets through, `shape`; 1 without a mosaic."""
        if not self.bayer:
            return np.ones(self.shape)
        ones = np.ones(self.shape, np.float32)
        return np.asarray(mosaic({"R": ones * 0.6, "G": ones, "B": ones * 0.4}, self.bayer), np.float64)

    def expose(
        self,
        light_e: Plane | float,
        exposure_s: float,
        rng: np.random.Generator,
        *,
        cosmic_rays: int = 0,
    ) -> NDArray[np.uint16]:
        """Return an exposure, ADU, with its overscan.

        Parameters
        ----------
        light_e
            Electrons that an evenly sensitive sensor would count, broadcast to `shape`.
        exposure_s
            For the dark current.
        rng
            Of this frame's noise.
        cosmic_rays
            Pixels hit, by 300 to 20,000 electrons.
        """
        ny, nx = self.shape
        electrons = np.asarray(light_e) * self.flat * self.colours + self.dark_current * exposure_s
        counted = rng.poisson(electrons).astype(np.float64)
        if cosmic_rays:
            y, x = rng.integers(0, ny, cosmic_rays), rng.integers(0, nx, cosmic_rays)
            counted[y, x] += rng.uniform(300, 20_000, cosmic_rays)
        level = self.bias_level
        if self.overscan:
            counted = np.hstack([counted, np.zeros((ny, self.overscan))])
            level = np.hstack([level, np.full((ny, self.overscan), self.bias_adu)])
        image = level + counted / self.gain_e_per_adu
        image += self.drift_adu * np.sin(np.linspace(0, 6, ny) + rng.uniform(0, 6))[:, None]
        image += rng.normal(0, self.read_noise_adu, image.shape)
        return np.rint(np.clip(image, 0, self.top)).astype(np.uint16)

    def series(self, n: int, light_adu: float, exposure_s: float, seed: int) -> list[NDArray[np.uint16]]:
        """Return ``n`` frames of an even light: 0 for biases and darks, the level of a flat in ADU."""
        light = light_adu * self.gain_e_per_adu
        return [
            self.expose(light, exposure_s, np.random.default_rng([seed, k]), cosmic_rays=self.shape[0] // 20)
            for k in range(n)
        ]
