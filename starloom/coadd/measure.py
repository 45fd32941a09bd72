"""Sky, noise, seeing and stars of the rows read of a frame (apertures: SEP, Barbary 2016, JOSS 1, 58)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.coadd.apertures import APERTURE_FWHM, BLENDED, RADII, TOTAL_RADIUS, Stars
from starloom.coadd.jit import ABSENT
from starloom.coadd.peaks import BRIGHT_SIGMA, Peaks
from starloom.coadd.sky_cells import Cells, SkyCells
from starloom.coadd.strip import Floats, Strip, absent_pixels, inside_band
from starloom.coadd.strip_kernels import subtract_sky
from starloom.errors import BadInput

_LEAST_SNR = 20.0
_GROWTH_STARS, _MIN_GROWTH_STARS, _GROWTH_FLOOR = 60, 7, 0.003
PEDESTAL = 0.015
"""What unseen neighbours and the sky may leave in a pixel, over its noise."""
_FWHM_STARS = 60
_PIXEL_FWHM2 = 8 * np.log(2) / 12
"""Square of the FWHM of the Gaussian that is as wide as a pixel."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a strip tells: noise (ADU per pixel), seeing (px), saturation (ADU), sky, stars.

    ``growth`` is the flux within `TOTAL_RADIUS` apertures over that within one, with its standard error; an error
    of infinity where too few stars tell.
    """

    sigma_adu: float
    fwhm_px: float
    sky: SkyCells
    stars: Stars
    growth: float
    growth_error: float


_NOTHING = np.zeros(0)
_NO_FLUXES = np.zeros((0, len(RADII)), np.float32)
_NO_STARS = Stars(*(_NOTHING,) * 5, np.zeros(0, bool), _NO_FLUXES, _NO_FLUXES, 0.0)

DEFAULT_FWHM_PX = 2.0
"""Of a frame without usable stars, which makes the frame's own pixels the scale."""


def measure_strip(
    strip: Strip, *, saturation_adu: float | None, gain_e_per_adu: float | None, max_stars: int
) -> Measured:
    """Measure everything that planning asks of a frame, in one pass over what was read of it.

    Parameters
    ----------
    strip
        Its pixels are used up: the sky is subtracted in place.
    saturation_adu, gain_e_per_adu
        None where unknown.
    max_stars
        The brightest are kept.

    Raises
    ------
    BadInput
        ``bad-noise`` for a frame with hardly any finite pixels or no noise at all.
    """
    pixels = strip.pixels
    absent = absent_pixels(strip)
    if absent is not None:
        pixels[absent] = ABSENT
    cells = Cells.of(strip)
    level, sigma = cells.sky(strip.pixels)
    if not sigma > 0:
        raise BadInput(
            f"{strip.path} has no sky noise", code="bad-noise", hint="Is it blank or cut out around an object?"
        )
    smooth = cells.smooth(level)
    subtract_sky(pixels, strip.rows, smooth, cells.y, cells.x)
    if absent is not None:
        pixels[absent] = 0
    limit = np.inf if saturation_adu is None else 0.8 * saturation_adu - float(np.median(smooth))
    peaks = Peaks.of(strip, sigma, limit)
    # Again without the stars: their wings lift the sky that is to be told from them.
    more, better = cells.sky_between_stars(strip, absent, peaks, sigma)
    more = np.where(np.isfinite(more), more, 0.0)
    more[~np.isfinite(level)] = np.nan
    subtract_sky(pixels, strip.rows, cells.smooth(more), cells.y, cells.x)
    sky = SkyCells(cells.calm(level) + cells.calm(more), cells.y, cells.x, cells.pixels)
    return _stars(strip, absent, sky, better if better > 0 else sigma, peaks, gain_e_per_adu, max_stars)


def _stars(
    strip: Strip,
    absent: NDArray[np.bool_] | None,
    sky: SkyCells,
    sigma: float,
    found: Peaks,
    gain: float | None,
    max_stars: int,
) -> Measured:
    peaks, usable, guess, x, y = found.table, found.usable, found.guess, found.x, found.y
    if not usable.any():
        return Measured(sigma, DEFAULT_FWHM_PX, sky, _NO_STARS, 1.0, np.inf)
    fwhm = _half_light_fwhm(strip, absent, x, y, usable & (peaks[:, 2] > BRIGHT_SIGMA * sigma), guess)
    thin = np.minimum(peaks[:, 4], peaks[:, 5])
    # A cosmic ray's track is thin one way, a galaxy is wide both ways.
    shaped = (thin > 0.55 * guess) & (thin < 1.6 * guess)
    radius = APERTURE_FWHM * fwhm
    chosen = np.flatnonzero(usable & shaped & inside_band(strip, x, y, radius + 1))[:max_stars]
    if len(chosen) == 0:
        return Measured(sigma, fwhm, sky, _NO_STARS, 1.0, np.inf)
    sx, sy, _ = sep.winpos(strip.pixels, x[chosen], y[chosen], np.full(len(chosen), fwhm / 2.3548), subpix=0)
    flux, error, flag = sep.sum_circle(strip.pixels, sx, sy, radius, err=sigma, mask=absent, subpix=0)
    moved = np.hypot(sx - x[chosen], sy - y[chosen])
    good = (flag == 0) & (flux > _LEAST_SNR * error) & (moved < max(1.0, 0.5 * fwhm))
    chosen, sx, sy, flux, error = (a[good] for a in (chosen, sx, sy, flux, error))
    photons = np.zeros(len(flux)) if gain is None else np.clip(flux, 0, None) / gain
    company = _company(peaks, chosen, radius * np.array(RADII) + 0.5 * fwhm)
    fluxes = _within(strip, absent, sx, sy, flux, radius)
    growth, growth_error = _growth(fluxes, company, flux, error, radius)
    sky_error = float(np.median(error)) if len(error) else 0.0
    error = np.sqrt(error**2 + photons)
    order = np.argsort(-flux, kind="stable")
    band = np.clip(np.rint(sy).astype(np.int64), 0, len(strip.rows) - 1)
    frame_y = strip.rows[band] + (sy - band)
    stars = Stars(
        sx[order],
        frame_y[order],
        _position_error(flux, fwhm, sigma, gain)[order],
        flux[order],
        error[order],
        (company[:, 0] <= BLENDED)[order],
        fluxes[order],
        company[order],
        sky_error,
    )
    return Measured(sigma, fwhm, sky, stars, growth, growth_error)


def _position_error(flux: Floats, fwhm: float, sigma: float, gain: float | None) -> Floats:
    """Return the error of a Gaussian's fitted centre along one axis, pixels (King 1983, PASP 95, 163)."""
    width = fwhm / 2.3548
    variance = 8 * np.pi * width**4 * sigma**2 / flux**2
    if gain is not None:
        variance = variance + width**2 / (flux * gain)
    return np.sqrt(variance)


def _half_light_fwhm(
    strip: Strip,
    absent: NDArray[np.bool_] | None,
    x: Floats,
    y: Floats,
    bright: NDArray[np.bool_],
    guess: float,
) -> float:
    """Return twice the half-light radius, which is a Gaussian's FWHM and robust where moments catch neighbours."""
    reach = 2.5 * guess + 2
    some = np.flatnonzero(bright & inside_band(strip, x, y, reach))
    if len(some) == 0:
        return guess
    near = cKDTree(np.column_stack([x, y])).query_ball_point(
        np.column_stack([x, y])[some], reach, return_length=True
    )
    if (near == 1).sum() >= 5:
        some = some[near == 1]
    some = some[:_FWHM_STARS]
    sx, sy, _ = sep.winpos(strip.pixels, x[some], y[some], np.full(len(some), guess / 2.3548), subpix=0)
    radius, flag = sep.flux_radius(strip.pixels, sx, sy, np.full(len(some), reach), 0.5, mask=absent, subpix=5)
    good = (flag == 0) & np.isfinite(radius) & (radius > 0.4)
    if not good.any():
        return guess
    measured = 2.0 * float(np.median(radius[good]))
    # An aperture takes a pixel's light as spread over it, which widens the star once more: by 2.6 % at 3 px.
    return float(np.sqrt(max(measured**2 - _PIXEL_FWHM2, 0.25 * measured**2)))


def _company(peaks: NDArray[np.float32], chosen: NDArray[np.intp], radii: Floats) -> NDArray[np.float32]:
    """Return the light of neighbours within each of ``radii`` over a star's own, shape ``(n, len(radii))``."""
    places, light = peaks[:, :2].astype(float), peaks[:, 3].astype(float)
    near = cKDTree(places[chosen]).sparse_distance_matrix(cKDTree(places), float(radii[-1]), output_type="ndarray")
    near = near[chosen[near["i"]] != near["j"]]
    ring = np.searchsorted(radii, near["v"])
    total = np.bincount(near["i"] * len(radii) + ring, light[near["j"]], len(chosen) * len(radii))
    rings = total.reshape(len(chosen), len(radii))
    return np.asarray(np.cumsum(rings, axis=1) / light[chosen, None], np.float32)


def _within(
    strip: Strip, absent: NDArray[np.bool_] | None, x: Floats, y: Floats, flux: Floats, radius: float
) -> NDArray[np.float32]:
    """Return the fluxes within all apertures; NaN where one leaves the band or meets an absent pixel."""
    fluxes = np.full((len(x), len(RADII)), np.nan, np.float32)
    fluxes[:, 0] = flux
    left = np.arange(len(x))
    for k, factor in enumerate(RADII[1:], 1):
        left = left[inside_band(strip, x[left], y[left], factor * radius + 1)]
        inside, _, flag = sep.sum_circle(strip.pixels, x[left], y[left], factor * radius, mask=absent, subpix=0)
        left = left[flag == 0]
        fluxes[left, k] = inside[flag == 0]
    return fluxes


def _growth(
    fluxes: NDArray[np.float32], company: NDArray[np.float32], flux: Floats, error: Floats, radius: float
) -> tuple[float, float]:
    """Return the flux within twice the aperture over that within it, and its error (Stetson 1990, PASP 102, 932).

    Without it the scales of frames of 4.5 and 7.5 arcsec were 2.5 % apart. What neighbours too faint to be seen
    and the sky leave in the ring is alike for all stars: it is told from the growth, which goes with the flux.
    """
    twice = RADII.index(TOTAL_RADIUS)
    full = fluxes[:, twice].astype(float)
    # S/N from the sky alone, whatever the gain: it is the sky that widens the larger aperture's error.
    some = np.flatnonzero((company[:, twice + 1] < 0.5 * BLENDED) & np.isfinite(full) & (flux > 100 * error))
    some = some[np.argsort(-flux[some], kind="stable")[:_GROWTH_STARS]]
    if len(some) < _MIN_GROWTH_STARS:
        return 1.0, np.inf
    x, ratio, noise = flux[some], full[some] / flux[some], error[some] / flux[some]
    error_of = np.hypot(TOTAL_RADIUS * noise, _GROWTH_FLOOR)
    pedestal = PEDESTAL * (TOTAL_RADIUS**2 - 1) * np.sqrt(np.pi) * radius * float(np.median(error[some]))
    # Last row: how well the ring's pedestal is known beforehand.
    terms = np.column_stack([np.append(np.ones(len(some)), 0.0), np.append(pedestal / x, 1.0)])
    values, errors = np.append(ratio, 0.0), np.append(error_of, 1.0)
    weight = 1 / errors
    for _ in range(8):
        found, *_ = np.linalg.lstsq(weight[:, None] * terms, weight * values, rcond=None)
        pull = np.abs(values - terms @ found) / errors
        spread = max(1.0, 1.4826 * float(np.median(pull)))
        weight = 1 / errors / np.sqrt(np.maximum(1, pull / (1.5 * spread)))
    covariance = np.linalg.inv((terms / errors[:, None]).T @ (terms / errors[:, None]))
    return float(found[0]), 1.1 * spread * float(np.sqrt(covariance[0, 0]))
