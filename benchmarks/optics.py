"""The true map of a simulated camera, with distortions that no FITS polynomial holds exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.tangent import project
from starloom.astrometry.wcs import astropy_wcs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Optics:
    """Where a camera puts the sky.

    ``cubic`` and ``quintic`` are the radial displacement in pixels at the corner, ``tilt`` the two terms of a
    tilted or decentred lens, pixels at the corner too (Brown 1966). Pixels are 0-based.
    """

    ra_deg: float
    dec_deg: float
    scale_arcsec: float
    rotation_deg: float
    mirrored: bool
    width: int
    height: int
    cubic: float = 0.0
    quintic: float = 0.0
    tilt: tuple[float, float] = (0.0, 0.0)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def radius_deg(self) -> float:
        return float(np.hypot(self.width, self.height) / 2 * self.scale_arcsec / 3600)

    def pixels(self, ra_deg: Floats, dec_deg: Floats) -> tuple[Floats, Floats]:
        """Where points on the sky fall on the frame (they must lie in its hemisphere)."""
        xi, eta = project(np.asarray(ra_deg, float), np.asarray(dec_deg, float), self.ra_deg, self.dec_deg)
        t = np.radians(self.rotation_deg)
        step = self.scale_arcsec / 3600
        flip = 1.0 if self.mirrored else -1.0
        u = flip * (xi * np.cos(t) + eta * np.sin(t)) / step
        v = (-xi * np.sin(t) + eta * np.cos(t)) / step
        corner = np.hypot(self.width, self.height) / 2
        a, b = u / corner, v / corner
        r2 = a * a + b * b
        radial = (self.cubic * r2 + self.quintic * r2**2) / corner
        p, q = self.tilt
        du = p * (r2 + 2 * a * a) / 3 + 2 * q * a * b
        dv = q * (r2 + 2 * b * b) / 3 + 2 * p * a * b
        return u * (1 + radial) + du + (self.width - 1) / 2, v * (1 + radial) + dv + (self.height - 1) / 2

    def on_frame(
        self, ra_deg: Floats, dec_deg: Floats, margin_px: float = 0.0
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        x, y = self.pixels(ra_deg, dec_deg)
        inside = (x > -margin_px) & (x < self.width - 1 + margin_px)
        return x, y, inside & (y > -margin_px) & (y < self.height - 1 + margin_px)

    def errors_px(self, cards: dict[str, object], x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """How far a WCS misses the truth at pixels, x and y: true place of the sky it names less the pixel.

        Infinite where it names a place more than a frame away, which is another field altogether.
        """
        ra, dec = astropy_wcs(cards).all_pix2world(x, y, 0)
        cosine = np.sin(np.radians(self.dec_deg)) * np.sin(np.radians(dec))
        cosine += np.cos(np.radians(self.dec_deg)) * np.cos(np.radians(dec)) * np.cos(np.radians(ra - self.ra_deg))
        if not np.all(cosine > np.cos(np.radians(min(3 * self.radius_deg + 0.1, 80.0)))):
            return np.full(np.shape(x), np.inf), np.full(np.shape(x), np.inf)
        found_x, found_y = self.pixels(ra, dec)
        return found_x - x, found_y - y


def grid(shape: tuple[int, int], n: int = 15) -> tuple[Floats, Floats]:
    """n × n points over a frame, its corner pixels included."""
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, n), np.linspace(0, ny - 1, n))
    return x.ravel(), y.ravel()
