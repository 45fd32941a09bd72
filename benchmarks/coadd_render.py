"""Pixels of the simulated frames: stars of a Gaussian or a Moffat profile, cosmic rays, trails, diffuse light."""

from __future__ import annotations

import math
from collections.abc import Callable

import numba
import numpy as np
from astropy.wcs import WCS

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_FAINTEST_ADU = 0.2
"""A Moffat wing is followed to this surface brightness: far below the noise of any frame."""


@numba.njit(cache=True, fastmath=True)
def add_gaussians(image, x, y, flux, sigma):
    """Add round Gaussian stars, integrated exactly over the pixels; ``sigma`` in pixels, for all."""
    ny, nx = image.shape
    reach = int(6.0 * sigma + 2.0)
    share_x, share_y = np.empty(2 * reach + 1), np.empty(2 * reach + 1)
    unit = 1.0 / (sigma * math.sqrt(2.0))
    for star in range(x.size):
        column, row = math.floor(x[star] + 0.5), math.floor(y[star] + 0.5)
        if column < -reach or row < -reach or column >= nx + reach or row >= ny + reach:
            continue
        for share, centre, first in ((share_x, x[star], column - reach), (share_y, y[star], row - reach)):
            below = math.erf((first - 0.5 - centre) * unit)
            for j in range(share.size):
                above = math.erf((first + j + 0.5 - centre) * unit)
                share[j] = 0.5 * (above - below)
                below = above
        for j in range(max(0, reach - row), min(share_y.size, ny - row + reach)):
            for i in range(max(0, reach - column), min(share_x.size, nx - column + reach)):
                image[row - reach + j, column - reach + i] += flux[star] * share_y[j] * share_x[i]


@numba.njit(cache=True, fastmath=True)
def add_moffats(image, x, y, flux, alpha, beta, e1, e2):
    """Add elliptical Moffat stars, each with its own core radius (pixels), slope and ellipticity.

    The squared radius is (1 + e1) dx² + (1 − e1) dy² + 2 e2 dx dy over √(1 − e1² − e2²): ellipses of the area of
    the circle, so that the flux within a radius is nearly that of the round profile. Pixels are integrated by
    sub-pixels where the core is, by their centre in the wings.
    """
    ny, nx = image.shape
    for star in range(x.size):
        a2, b = alpha[star] * alpha[star], beta[star]
        peak = flux[star] * (b - 1.0) / (math.pi * a2)
        reach = 8.0 * alpha[star]
        if peak > _FAINTEST_ADU:
            reach = max(reach, 1.3 * alpha[star] * math.sqrt((peak / _FAINTEST_ADU) ** (1.0 / b) - 1.0))
        reach = min(reach, 250.0)
        norm = 1.0 / math.sqrt(1.0 - e1[star] ** 2 - e2[star] ** 2)
        p, q, r = (1.0 + e1[star]) * norm, (1.0 - e1[star]) * norm, 2.0 * e2[star] * norm
        n_core = math.ceil(12.0 / max(alpha[star], 0.5))
        for row in range(max(0, int(y[star] - reach)), min(ny, int(y[star] + reach) + 2)):
            for column in range(max(0, int(x[star] - reach)), min(nx, int(x[star] + reach) + 2)):
                dx0, dy0 = column - x[star], row - y[star]
                distance2 = dx0 * dx0 + dy0 * dy0
                if distance2 > reach * reach:
                    continue
                n = n_core if distance2 < 4.0 * a2 + 2.0 else (3 if distance2 < 25.0 * a2 + 9.0 else 1)
                total = 0.0
                for j in range(n):
                    dy = dy0 + (j + 0.5) / n - 0.5
                    for i in range(n):
                        dx = dx0 + (i + 0.5) / n - 0.5
                        total += (1.0 + (p * dx * dx + q * dy * dy + r * dx * dy) / a2) ** (-b)
                image[row, column] += peak * total / (n * n)


def moffat_alpha(fwhm, beta):
    """Core radius of a Moffat profile, in the unit of its FWHM."""
    return fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))


def moffat_within(radius, fwhm, beta):
    """Share of a Moffat star's flux within ``radius``, in the unit of its FWHM."""
    return 1.0 - (1.0 + (radius / moffat_alpha(fwhm, beta)) ** 2) ** (1.0 - beta)


def gaussian_within(radius, fwhm):
    """Share of a Gaussian star's flux within ``radius``, in the unit of its FWHM."""
    return 1.0 - 2.0 ** (-4.0 * (radius / fwhm) ** 2)


def add_cosmic_rays(image, rng: np.random.Generator, n: int) -> None:
    """Add short bright tracks of one pixel's width."""
    ny, nx = image.shape
    for _ in range(n):
        x, y = rng.uniform(5, nx - 5), rng.uniform(5, ny - 5)
        length, angle, peak = rng.integers(1, 12), rng.uniform(0, np.pi), 10 ** rng.uniform(2.7, 4.3)
        for step in np.arange(0, length, 0.7):
            row, column = int(y + step * np.sin(angle)), int(x + step * np.cos(angle))
            if 0 <= row < ny and 0 <= column < nx:
                image[row, column] += peak * rng.uniform(0.5, 1)


@numba.njit(cache=True, fastmath=True)
def _add_line(image, x0, y0, angle, peak, sigma):
    ny, nx = image.shape
    for row in range(ny):
        for column in range(nx):
            d = ((column - x0) * math.sin(angle) - (row - y0) * math.cos(angle)) / sigma
            if abs(d) < 6.0:
                image[row, column] += peak * math.exp(-0.5 * d * d)


def add_trail(image, rng: np.random.Generator, peak_adu: float = 600.0, sigma_px: float = 2.2) -> None:
    """Add a satellite's trail right across the frame."""
    ny, nx = image.shape
    angle, x0, y0 = rng.uniform(0.2, 1.2), rng.uniform(0.3, 0.7) * nx, rng.uniform(0.3, 0.7) * ny
    _add_line(image, x0, y0, angle, peak_adu, sigma_px)


def sky_offsets(wcs: WCS, shape: tuple[int, int], centre: tuple[float, float], step: int = 16):
    """Return tangent-plane offsets (arcmin) from ``centre`` (deg) of every pixel: two arrays of ``shape``.

    Exact at nodes ``step`` pixels apart, bilinear between: diffuse light asks for no more.
    """
    ny, nx = shape
    gx, gy = np.meshgrid(np.arange(-(-nx // step) + 1) * step, np.arange(-(-ny // step) + 1) * step)
    ra, dec = (np.radians(a) for a in wcs.all_pix2world(gx, gy, 0))
    ra0, dec0 = np.radians(centre[0]), np.radians(centre[1])
    depth = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
    xi = np.cos(dec) * np.sin(ra - ra0) / depth
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / depth
    return tuple(_between(np.degrees(a) * 60, step, shape) for a in (xi, eta))


def _between(nodes, step: int, shape: tuple[int, int]):
    ny, nx = shape
    i, fx = np.divmod(np.arange(nx), step)
    j, fy = np.divmod(np.arange(ny), step)
    fx, fy = (fx / step).astype(np.float32), (fy / step).astype(np.float32)[:, None]
    rows = nodes[:, i].astype(np.float32) * (1 - fx) + nodes[:, i + 1].astype(np.float32) * fx
    return rows[j] * (1 - fy) + rows[j + 1] * fy


Diffuse = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Surface brightness, units per arcsec², at tangent-plane offsets (arcmin)."""


def disc(radius_arcmin: float, brightness: float) -> Diffuse:
    """A flat disc, soft over 0.1 arcmin at its rim."""

    def at(xi, eta):
        return brightness * np.clip((radius_arcmin - np.hypot(xi, eta)) / 0.1 + 0.5, 0, 1)

    return at


def nebula(brightness: float) -> Diffuse:
    """Three overlapping clouds of 4 to 12 arcmin with filaments 5 arcmin apart in them."""
    clouds = ((0.0, 0.0, 5.0, 1.0), (4.0, 3.0, 2.0, 0.7), (-6.0, 2.0, 3.0, -0.4))

    def at(xi, eta):
        light = sum(a * np.exp(-0.5 * ((xi - x) ** 2 + (eta - y) ** 2) / s**2) for x, y, s, a in clouds)
        return brightness * np.maximum(light, 0) * (1 + 0.3 * np.sin(1.25 * xi + 2 * np.sin(0.4 * eta)))

    return at


def sersic_points(rng: np.random.Generator, n_points: int, index: float, half_light: float, axis_ratio: float):
    """Draw points of a Sersic galaxy, offsets in the unit of ``half_light``: equal shares of its flux.

    The flux within a radius of a Sersic profile is a gamma distribution of 2n degrees in b (r/r_e)^(1/n).
    """
    b = 2.0 * index - 1.0 / 3.0
    radius = half_light * np.minimum((rng.gamma(2.0 * index, 1.0, n_points) / b) ** index, 8.0)
    along, turn = rng.uniform(0, 2 * np.pi, n_points), rng.uniform(0, np.pi)
    u, v = radius * np.cos(along), axis_ratio * radius * np.sin(along)
    return u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
