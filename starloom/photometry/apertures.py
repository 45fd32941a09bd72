"""Aperture sums: circles, drawn out along the trail where a frame's stars are trailed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

from starloom.photometry.sky_mesh import SkyMesh

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Apertures:
    """A frame made ready for sums in apertures.

    Parameters
    ----------
    pixels
        The frame as sep takes it: C-ordered, native, float32; masked pixels hold any finite value.
    mask
        True marks pixels that do not count, same shape, or None.
    sky
        Level of the sky, which is subtracted.
    trail_px, trail_angle_deg
        Length and direction (from +x towards +y) by which apertures are drawn out; 0 for circles.
    """

    pixels: NDArray[np.float32]
    mask: Bools | None
    sky: SkyMesh
    trail_px: float = 0.0
    trail_angle_deg: float = 0.0

    def area(self, radius_px: float) -> float:
        """Return the area of an aperture, pixels."""
        return float(np.pi * radius_px * (radius_px + self.trail_px / 2))

    def reach(self, radius_px: float) -> float:
        """Return how far an aperture extends from its centre, pixels."""
        return radius_px + self.trail_px / 2

    def sums(self, x: Floats, y: Floats, radius_px: float) -> Floats:
        """Return the light above the sky in apertures around 0-based positions, ADU, shape ``(n,)``.

        Masked pixels are replaced by the mean of the others of their aperture; NaN where none is left.
        """
        if len(x) == 0:
            return np.zeros(0)
        total, flag = self._raw(self.pixels, x, y, radius_px, self.mask)
        flux = total - self.sky.at(x, y) * self.area(radius_px)
        return np.where((flag & sep.APER_ALLMASKED) != 0, np.nan, flux)

    def spoiled(self, x: Floats, y: Floats, radius_px: float) -> Bools:
        """Return which apertures hold masked pixels, shape ``(n,)``."""
        if len(x) == 0 or self.mask is None:
            return np.zeros(len(x), bool)
        _, flag = self._raw(self.pixels, x, y, radius_px, self.mask)
        return np.asarray((flag & (sep.APER_HASMASKED | sep.APER_ALLMASKED)) != 0, bool)

    def over_the_edge(self, x: Floats, y: Floats, radius_px: float) -> Bools:
        """Return which apertures reach over the frame's edge, shape ``(n,)``."""
        ny, nx = self.pixels.shape
        low, high = self.reach(radius_px) - 0.5, self.reach(radius_px) + 0.5
        return np.asarray((x < low) | (y < low) | (x > nx - high) | (y > ny - high), bool)

    def _raw(self, pixels: NDArray[Any], x: Floats, y: Floats, radius_px: float, mask: Bools | None) -> Any:
        # Five sub-pixels: 0.1 % in the smallest apertures; exact overlap costs twice the time.
        if self.trail_px <= 0:
            total, _, flag = sep.sum_circle(pixels, x, y, radius_px, mask=mask, subpix=5)
        else:
            angle = np.radians((self.trail_angle_deg + 90.0) % 180.0 - 90.0)
            total, _, flag = sep.sum_ellipse(
                pixels, x, y, radius_px + self.trail_px / 2, radius_px, angle, r=1.0, mask=mask, subpix=5
            )
        return total, flag


def peaks(pixels: NDArray[np.float32], x: Floats, y: Floats) -> Floats:
    """Return the highest of the nine pixels around each position, ADU, shape ``(n,)``."""
    ny, nx = pixels.shape
    columns, rows = np.rint(x).astype(int), np.rint(y).astype(int)
    highest = np.full(len(x), -np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            value = pixels[np.clip(rows + dy, 0, ny - 1), np.clip(columns + dx, 0, nx - 1)]
            highest = np.maximum(highest, value)
    return highest
