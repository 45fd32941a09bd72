"""Point spread functions of any shape, and drawing thousands of stars with one: Moffat, trailed, out of focus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from starloom.errors import BadInput

Floats = NDArray[np.float64]

# Cells of the fine grid per pixel; even, so that a pixel's edges fall on cells' edges for every phase.
CELLS = 8


@dataclass(frozen=True)
class Psf:
    """A point spread function, integrated over the pixels.

    Parameters
    ----------
    phases
        Share of the light in each pixel for a star ``(j, i) / CELLS`` pixels off a pixel's centre in y and x,
        ``j, i = 0 … CELLS``; shape ``(CELLS + 1, CELLS + 1, 2 half + 1, 2 half + 1)``.
    half
        Pixels from the centre of the stamp to its edge.
    fwhm_px
        Full width of the seeing disc at half maximum, before trailing and defocus.
    extent_px
        Radius within which stars of any brightness show their core: the seeing, half the trail, the donut.
    """

    phases: NDArray[np.float32]
    half: int
    fwhm_px: float
    extent_px: float

    @property
    def peak(self) -> float:
        """Share of the light in the brightest pixel of a star centred on a pixel."""
        return float(self.phases[0, 0].max())


def make_psf(
    fwhm_px: float,
    beta: float = 3.5,
    *,
    trail_px: float = 0.0,
    trail_angle_deg: float = 0.0,
    donut_px: float = 0.0,
    obstruction: float = 0.35,
) -> Psf:
    """Build a point spread function: a Moffat profile, drawn along a line, spread over a ring.

    Parameters
    ----------
    fwhm_px, beta
        Full width at half maximum and slope of the Moffat profile; at least 1 px.
    trail_px, trail_angle_deg
        Length of the star's path during the exposure and its direction from +x towards +y.
    donut_px
        Outer diameter of the out-of-focus image of the aperture.
    obstruction
        Diameter of the central obstruction as a share of the aperture's.

    Raises
    ------
    BadInput
        ``bad-psf``: a width below 1 px, a slope of 1 or less, or a negative length.
    """
    if fwhm_px < 1 or beta <= 1 or trail_px < 0 or donut_px < 0 or not 0 <= obstruction < 1:
        raise BadInput(
            f"no such profile: FWHM {fwhm_px} px, beta {beta}, trail {trail_px} px, donut {donut_px} px",
            code="bad-psf",
        )
    extent = fwhm_px + max(trail_px, donut_px) / 2
    half = int(np.ceil(min(11 * fwhm_px, 45.0) + max(trail_px, donut_px) / 2))
    # One pixel beyond the stamp on every side, for the phases; cells' centres lie between multiples of 1/CELLS.
    edge = (half + 2) * CELLS
    at = (np.arange(-edge, edge) + 0.5) / CELLS
    alpha = fwhm_px / 2 / np.sqrt(2 ** (1 / beta) - 1)
    fine: Floats = (1 + (at[:, None] ** 2 + at[None, :] ** 2) / alpha**2) ** -beta
    if trail_px:
        fine = fftconvolve(fine, _line(trail_px * CELLS, np.radians(trail_angle_deg)), mode="same")
    if donut_px:
        fine = fftconvolve(fine, _ring(donut_px * CELLS / 2, obstruction), mode="same")
    fine = np.clip(fine / fine.sum(), 0.0, None)
    summed = np.pad(fine.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = 2 * half + 1
    phases = np.empty((CELLS + 1, CELLS + 1, n, n), np.float32)
    for j in range(CELLS + 1):
        for i in range(CELLS + 1):
            rows = edge - half * CELLS - CELLS // 2 - j + CELLS * np.arange(n + 1)
            columns = edge - half * CELLS - CELLS // 2 - i + CELLS * np.arange(n + 1)
            corners = summed[np.ix_(rows, columns)]
            phases[j, i] = np.diff(np.diff(corners, axis=0), axis=1)
    return Psf(phases, half, fwhm_px, extent)


def draw_stars(
    image: NDArray[np.float32], x: Floats, y: Floats, flux: Floats, psf: Psf, *, noise_adu: float
) -> None:
    """Add stars to an image, in place.

    Parameters
    ----------
    image
        float32, shape ``(ny, nx)``.
    x, y, flux
        0-based positions, on the image or off it, and fluxes in ADU.
    psf
        Their profile.
    noise_adu
        Noise of one sky pixel: stars are cut where they have sunk well below it.

    Notes
    -----
    Between the phases the stamp is interpolated linearly, which keeps the centroid exactly: that of a weighted sum
    is the weighted sum of the centroids. The width grows by less than 0.1 % at a FWHM of 2 px.
    """
    ny, nx = image.shape
    core = int(np.ceil(2.5 * psf.extent_px))
    # A faint star's wings beyond the core hold a few percent of light that the noise hides.
    bright = flux * psf.peak > 30 * noise_adu
    halves = np.where(bright, psf.half, min(core, psf.half))
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    for cx, cy, fx, fy, light, half in zip(left, low, x - left, y - low, flux, halves, strict=True):
        x0, x1, y0, y1 = max(cx - half, 0), min(cx + half + 1, nx), max(cy - half, 0), min(cy + half + 1, ny)
        if x0 >= x1 or y0 >= y1:
            continue
        i, j = min(int(fx * CELLS), CELLS - 1), min(int(fy * CELLS), CELLS - 1)
        u, v = fx * CELLS - i, fy * CELLS - j
        part = (slice(y0 - cy + psf.half, y1 - cy + psf.half), slice(x0 - cx + psf.half, x1 - cx + psf.half))
        stamps = psf.phases[j : j + 2, i : i + 2, part[0], part[1]]
        above = np.float32((1 - v) * (1 - u)) * stamps[0, 0] + np.float32((1 - v) * u) * stamps[0, 1]
        below = np.float32(v * (1 - u)) * stamps[1, 0] + np.float32(v * u) * stamps[1, 1]
        image[y0:y1, x0:x1] += np.float32(light) * (above + below)


def _line(length: float, angle: float) -> Floats:
    """Kernel of a straight path of ``length`` cells, odd-sized and centred."""
    half = int(np.ceil(length / 2)) + 1
    along = np.linspace(-length / 2, length / 2, max(int(8 * length), 3))
    return _deposited(along * np.cos(angle), along * np.sin(angle), half)


def _ring(radius: float, obstruction: float) -> Floats:
    """Kernel of an evenly lit aperture with a central hole, ``radius`` cells."""
    half = int(np.ceil(radius)) + 1
    fine = (np.arange(-4 * half, 4 * half + 1)) / 4
    x, y = np.meshgrid(fine, fine)
    r = np.hypot(x, y)
    lit = (r <= radius) & (r >= radius * obstruction)
    return _deposited(x[lit], y[lit], half)


def _deposited(x: Floats, y: Floats, half: int) -> Floats:
    """Points shared among the four cells around each, normalised; symmetric points give a symmetric kernel."""
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    for di in (0, 1):
        for dj in (0, 1):
            weight = np.abs(1 - di - (x - i)) * np.abs(1 - dj - (y - j))
            np.add.at(kernel, (j + dj + half, i + di + half), weight)
    kernel /= kernel.sum()
    return kernel
