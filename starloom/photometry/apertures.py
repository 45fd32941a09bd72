"""Aperture sums: circles, drawn out along the trail where a frame's stars are trailed."""

from __future__ import annotations

from dataclasses import dataclass

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
        The frame as sep takes it: C-ordered, native, float32, finite; bad pixels are filled (`filled`).
    mask
        True marks pixels that are not to be trusted, same shape, or None.
    sky
        Level of the sky, which is subtracted.
    trail_px, trail_angle_deg
        Length and direction (from +x towards +y) by which apertures are drawn out; 0 for circles.

    Notes
    -----
    The sums are sep's with exact overlap of circle and pixels: the same numbers as photutils' ``method="exact"``
    to one part in 10^6 (the tests hold them to it) in an eighth of its time. photutils would take half of what a
    frame has for all of its photometry for the first radius of fourteen.
    """

    pixels: NDArray[np.float32]
    mask: Bools | None
    sky: SkyMesh
    trail_px: float = 0.0
    trail_angle_deg: float = 0.0

    def area(self, radius_px: float) -> float:
        """Return the area of an aperture, pixels."""
        return float(np.pi * radius_px * self.reach(radius_px))

    def reach(self, radius_px: float) -> float:
        """Return how far an aperture extends from its centre, pixels."""
        return radius_px + self.trail_px / 2

    def sums(self, x: Floats, y: Floats, radius_px: float) -> Floats:
        """Return the light above the sky in apertures around 0-based positions, ADU, shape ``(n,)``.

        Of an aperture over the frame's edge, what is inside.
        """
        if len(x) == 0:
            return np.zeros(0)
        if self.trail_px <= 0:
            total, _, _ = sep.sum_circle(self.pixels, x, y, radius_px, subpix=0)
        else:
            angle = np.radians((self.trail_angle_deg + 90.0) % 180.0 - 90.0)
            total, _, _ = sep.sum_ellipse(
                self.pixels, x, y, self.reach(radius_px), radius_px, angle, r=1.0, subpix=0
            )
        return np.asarray(total - self.sky.at(x, y) * self.area(radius_px), np.float64)

    def ring(self, x: Floats, y: Floats, inner_px: float, outer_px: float) -> Floats:
        """Return the light above the sky between two radii around 0-based positions, ADU, shape ``(n,)``."""
        if len(x) == 0:
            return np.zeros(0)
        if self.trail_px > 0:  # its two ellipses are of different shape
            return self.sums(x, y, outer_px) - self.sums(x, y, inner_px)
        total, _, _ = sep.sum_circann(self.pixels, x, y, inner_px, outer_px, subpix=0)
        area = self.area(outer_px) - self.area(inner_px)
        return np.asarray(total - self.sky.at(x, y) * area, np.float64)

    def masked_pixels(self, x: Floats, y: Floats, radius_px: float) -> NDArray[np.intp]:
        """Return how many masked pixels have their centre in each aperture, shape ``(n,)``."""
        if self.mask is None or len(x) == 0:
            return np.zeros(len(x), np.intp)
        ny, nx = self.mask.shape
        half = int(np.ceil(self.reach(radius_px)))
        across = np.arange(-half, half + 1)
        angle = np.radians(self.trail_angle_deg)
        columns = np.rint(x).astype(np.intp)[:, None] + across
        rows = np.rint(y).astype(np.intp)[:, None] + across
        inside = ((columns >= 0) & (columns < nx))[:, None, :] & ((rows >= 0) & (rows < ny))[:, :, None]
        bad = self.mask[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]] & inside
        star, j, i = np.nonzero(bad)
        dx, dy = columns[star, i] - x[star], rows[star, j] - y[star]
        along, aside = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        within = (along / self.reach(radius_px)) ** 2 + (aside / radius_px) ** 2 <= 1
        return np.bincount(star[within], minlength=len(x))

    def over_the_edge(self, x: Floats, y: Floats, radius_px: float) -> Bools:
        """Return which apertures reach over the frame's edge, shape ``(n,)``."""
        ny, nx = self.pixels.shape
        low, high = self.reach(radius_px) - 0.5, self.reach(radius_px) + 0.5
        return np.asarray((x < low) | (y < low) | (x > nx - high) | (y > ny - high), bool)


def filled(pixels: NDArray[np.float32], mask: Bools) -> NDArray[np.float32]:
    """Return a copy in which each masked pixel is the mean of its good neighbours.

    A lone hot pixel in a star's wing then costs a few per cent of the little light it stands for, where leaving it
    out and scaling the rest up, as aperture programs do, adds several times as much light as was there.

    Parameters
    ----------
    pixels
        float32, shape ``(ny, nx)``.
    mask
        True marks the pixels to fill, same shape. Those without a good neighbour get the median of the others.
    """
    ny, nx = pixels.shape
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return pixels
    total, count = np.zeros(len(rows)), np.zeros(len(rows), np.intp)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            j, i = np.clip(rows + dy, 0, ny - 1), np.clip(columns + dx, 0, nx - 1)
            good = ~mask[j, i]
            total[good] += pixels[j[good], i[good]]
            count += good
    some = pixels[::7, ::7][~mask[::7, ::7]]
    otherwise = float(np.median(some)) if some.size else 0.0
    out = pixels.copy()
    out[rows, columns] = np.where(count > 0, total / np.maximum(count, 1), otherwise)
    return out


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
