"""The curve of growth: what share of a star's light an aperture holds, from the frame's own bright stars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from starloom.photometry.apertures import Apertures
from starloom.photometry.empty_apertures import ENOUGH, empty_places

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Radii of the curve, in FWHM.
RADII_FWHM = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
#: Where the curve of the many stars ends and that of the brightest begins: the PSF's changes over the field are in
#: its core, so that beyond this radius one curve serves all.
MIDDLE_FWHM = 2.5
#: The curve is flat where the next step adds less than this share of the light.
FLAT = 0.001
BRIGHT_STARS = 100
MANY_STARS = 500
#: Stars for a correction that changes over the field: linear, quadratic.
FIELD_STARS = (20, 60)
#: Correction from 1.25 FWHM of a Moffat profile of β = 3, and how unsure it is, without stars to measure.
ASSUMED = (1.16, 0.04)


@dataclass(frozen=True)
class Growth:
    """Total light over the light in the frame's apertures.

    Parameters
    ----------
    correction
        Factor at the middle of the frame.
    error
        Relative standard error of the factor, the same for all stars.
    scatter
        Relative scatter of one star about the corrections, beyond its noise: what the PSF's changes leave.
    terms
        Coefficients of the relative change over the field (see `at`); empty for none.
    shape
        ``(ny, nx)`` of the frame.
    radii_px, curve
        The measured curve: light within each radius over the light within the aperture.
    stars
        Stars it was measured with.
    """

    correction: float
    error: float
    scatter: float
    terms: Floats
    shape: tuple[int, int]
    radii_px: Floats
    curve: Floats
    stars: int

    def at(self, x: Floats, y: Floats) -> Floats:
        """Return the factor at 0-based positions, shape ``(n,)``."""
        if not self.terms.size:
            return np.full(len(x), self.correction)
        return self.correction * (_basis(x, y, self.shape, self.terms.size) @ self.terms)


def _basis(x: Floats, y: Floats, shape: tuple[int, int], terms: int) -> Floats:
    u, v = 2 * x / shape[1] - 1, 2 * y / shape[0] - 1
    columns = [np.ones(len(x)), u, v, u * u, u * v, v * v]
    return np.column_stack(columns[:terms])


def measure_growth(
    apertures: Apertures,
    x: Floats,
    y: Floats,
    flux: Floats,
    noise_adu: float,
    usable: Bools,
    *,
    isolation_px: float,
    isolation_share: float,
    radius_px: float,
    fwhm_px: float,
    extrapolate: bool = True,
) -> Growth:
    """Measure the curve of growth.

    Parameters
    ----------
    x, y, flux
        Positions (0-based) and light within ``radius_px`` of all stars, shape ``(n,)``.
    noise_adu
        Noise of an empty aperture of ``radius_px``.
    usable
        Unsaturated, isolated stars, away from edges, shape ``(n,)``.
    isolation_px, isolation_share
        What isolated means: no neighbour of this share of a star's light within this distance.
    radius_px
        The aperture that the corrections are for.
    fwhm_px
        Seeing; sets the scale of the radii.
    extrapolate
        Whether stars are points, so that a Moffat profile tells what lies beyond the last radius.

    Notes
    -----
    The curve is a chain of medians: from the aperture to 2.5 FWHM of up to 500 stars, fitted with a polynomial of
    the position where there are enough; from there outwards of the hundred brightest, as far as it grows. What a
    Moffat profile through the curve has beyond the last radius is added, half of it as uncertainty: with β = 2.5
    there is still 0.7 % beyond 4.5 FWHM. Faint stars around the bright ones make a curve grow for ever (by 7 % in
    a field of 50 stars per 100 x 100 px): what apertures of each radius hold at random places that are as isolated
    as the stars is subtracted.

    References
    ----------
    Stetson 1990, PASP 102, 932.
    """
    shape = (int(apertures.pixels.shape[0]), int(apertures.pixels.shape[1]))
    order = np.argsort(-np.where(usable, flux, -np.inf), kind="stable")[: int(usable.sum())]
    many = order[flux[order] > 30 * noise_adu][:MANY_STARS]
    bright = many[flux[many] > 60 * noise_adu][:BRIGHT_STARS]
    if len(bright) < 3:
        shortfall = 1.0 + (ASSUMED[0] - 1.0) * (1.25 * fwhm_px / radius_px) ** 4
        none = np.zeros(0)
        return Growth(shortfall, ASSUMED[1], 0.02, none, shape, none, none, len(bright))
    radii = radius_px / RADII_FWHM[0] * np.array(RADII_FWHM)
    middle = RADII_FWHM.index(MIDDLE_FWHM)
    blank = _blank(
        apertures, x, y, flux, isolation_px, isolation_share * float(np.median(flux[bright])), float(radii[-1])
    )

    def light(which: NDArray[np.intp], radius: float) -> Floats:
        return apertures.sums(x[which], y[which], radius) - blank(radius)

    core = light(many, float(radii[middle])) / flux[many]
    area = apertures.area(radii[middle]) / apertures.area(radius_px)
    terms, scatter, core_err = _over_field(core, noise_adu * np.sqrt(area) / flux[many], x[many], y[many], shape)
    start = _basis(x[bright], y[bright], shape, terms.size) @ terms
    middle_flux = flux[bright] * start
    curve, steps_err = [1.0], 0.0
    ratios = [light(bright, float(r)) / middle_flux for r in radii[middle + 1 :]]
    last = middle
    for step, ratio in enumerate(ratios, start=1):
        value, error = _robust(ratio)
        # Beyond the radius where a step is lost in the noise of the sky's level there is nothing left to measure.
        if value - curve[-1] < max(FLAT, error):
            if value > curve[-1]:
                curve.append(value)
                steps_err, last = error, middle + step
            break
        curve.append(value)
        steps_err, last = error, middle + step
    centre = float(_basis(np.array([shape[1] / 2]), np.array([shape[0] / 2]), shape, terms.size)[0] @ terms)
    inner = [
        float(np.median(apertures.sums(x[bright], y[bright], float(r)) / flux[bright])) for r in radii[:middle]
    ]
    whole = np.array([*inner, *(centre * value for value in curve)])
    beyond = _beyond(radii[: last + 1], whole, fwhm_px) if extrapolate else 0.0
    total = curve[-1] * (1.0 + beyond)
    error = float(np.sqrt(core_err**2 + (steps_err / curve[-1]) ** 2 + (0.5 * beyond) ** 2))
    return Growth(centre * total, error, scatter, terms / centre, shape, radii[: last + 1], whole, len(many))


def _blank(
    apertures: Apertures, x: Floats, y: Floats, flux: Floats, isolation_px: float, limit: float, reach: float
) -> Callable[[float], float]:
    """Return what an aperture of a radius holds at a place as isolated as the stars of the curve, ADU."""
    bright = flux > limit
    px, py = empty_places(apertures, x[bright], y[bright], reach_px=apertures.reach(reach), clear_px=isolation_px)

    def level(radius: float) -> float:
        if len(px) < ENOUGH:
            return 0.0
        return float(np.nanmedian(apertures.sums(px, py, radius)))

    return level


def _robust(values: Floats) -> tuple[float, float]:
    """Return the median and its standard error."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 1.0, 1.0
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle, float(1.2533 * spread / np.sqrt(values.size))


def _over_field(
    ratio: Floats, noise: Floats, x: Floats, y: Floats, shape: tuple[int, int]
) -> tuple[Floats, float, float]:
    """Fit a ratio as a polynomial of the position: coefficients, scatter beyond the noise, error of the mean."""
    good = np.isfinite(ratio)
    ratio, noise, x, y = ratio[good], noise[good], x[good], y[good]
    if not ratio.size:
        return np.ones(1, np.float64), 0.02, ASSUMED[1]
    count = 6 if len(ratio) >= FIELD_STARS[1] else 3 if len(ratio) >= FIELD_STARS[0] else 1
    basis = _basis(x, y, shape, count)
    keep = np.abs(ratio - np.median(ratio)) < max(6 * 1.4826 * np.median(np.abs(ratio - np.median(ratio))), 1e-3)
    scatter, error = 0.003, 0.0
    terms: Floats = np.ones(count, np.float64)
    for _ in range(4):
        if keep.sum() < 2 * count + 1:
            break
        variance = noise**2 + scatter**2
        weight = np.where(keep, 1 / variance, 0.0)
        normal = basis.T @ (weight[:, None] * basis)
        terms = np.asarray(np.linalg.solve(normal, basis.T @ (weight * ratio)), np.float64)
        residual = ratio - basis @ terms
        spread = 1.4826 * float(np.median(np.abs(residual[keep] / np.sqrt(variance[keep]))))
        excess = np.median(np.square(residual[keep])) / 0.4549 - np.median(np.square(noise[keep]))
        scatter = float(np.sqrt(max(excess, 1e-6)))
        keep = np.abs(residual) < 4 * max(spread, 0.3) * np.sqrt(variance)
        error = float(spread * np.sqrt(1 / weight[keep].sum())) if keep.any() else ASSUMED[1]
    else:
        return terms, scatter, error
    middle, error = _robust(ratio)
    return np.array([middle]), 0.02, max(error, 0.003)


def _beyond(radii: Floats, curve: Floats, fwhm_px: float) -> float:
    """Return the share of light beyond the last radius, by a Moffat profile through the curve; at most 3 %."""

    def model(parameters: Floats) -> Floats:
        alpha, beta, total = parameters
        return np.asarray(total * (1 - (1 + (radii / alpha) ** 2) ** (1 - beta)), np.float64)

    if len(radii) < 4:
        return 0.0
    fitted = least_squares(
        lambda p: model(p) - curve,
        x0=(0.9 * fwhm_px, 3.0, curve[-1] * 1.01),
        bounds=((0.1 * fwhm_px, 1.6, 0.9 * curve[-1]), (10 * fwhm_px, 12.0, 1.3 * curve[-1])),
        x_scale=(fwhm_px, 1.0, 1.0),
    )
    alpha, beta, _ = fitted.x
    return float(np.clip((1 + (radii[-1] / alpha) ** 2) ** (1 - beta), 0.0, 0.03))
