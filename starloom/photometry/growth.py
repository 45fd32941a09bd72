"""The curve of growth: what share of a star's light an aperture holds, from the frame's own bright stars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from starloom.photometry.apertures import Apertures
from starloom.photometry.empty_apertures import random_places

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Radii of the curve over the radius of the frame's apertures. The first step is as wide as the PSF's changes over
#: the field reach: beyond it one curve serves all.
STEPS = (1.0, 1.5, 2.0, 2.4, 2.8, 3.4, 4.0, 4.8)
#: Signal-to-noise from which a star speaks of the core, and how many stars are asked at each radius.
CORE_SNR, WING_SNR = 30.0, 60.0
MANY_STARS, BRIGHT_STARS = 400, 100
MIN_STARS = 3
#: Sources of this share of the typical star's light disturb.
DISTURBING_SHARE = 0.03
#: Beyond an aperture a star must be alone for so many FWHM more.
MARGIN_FWHM = 1.8
#: Random places whose sums say what an aperture holds without its star.
PLACES, ENOUGH_PLACES = 300, 30
#: Stars for a correction that changes over the field, by its number of terms: tilted and curved alike in x and y,
#: or a whole quadratic.
FIELD_STARS = {6: 36, 4: 14, 1: 0}
#: What a Moffat profile has beyond the last radius is believed to this share.
BEYOND_ERROR = 0.35
#: Correction and its error before a star is measured: profiles from a Gaussian's to a Moffat's of beta = 2.5.
ASSUMED = (1.09, 0.04)
ASSUMED_SCATTER = 0.02
#: Share of a star's light that the first step adds, about: its photons make noise too.
PHOTONS_ADDED = 0.1
#: No profile is the same everywhere: without it the one brightest star would speak for all.
LEAST_SCATTER = 0.004
#: Values so far above the middle are of stars with company; so far below there are none.
CLEAN_SIGMA = 2.5
#: Median of the square of a normal deviate.
MEDIAN_CHI2 = 0.4549


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
        return self.correction * (field_basis(x, y, self.shape, self.terms.size) @ self.terms)


@dataclass(frozen=True)
class _Stars:
    """Stars of the curve: places, light in the aperture, distance to the nearest neighbour that disturbs."""

    x: Floats
    y: Floats
    flux: Floats
    clear_px: Floats

    def some(self, which: NDArray[np.intp] | Bools, limit: int | None = None) -> _Stars:
        return _Stars(*(column[which][:limit] for column in (self.x, self.y, self.flux, self.clear_px)))

    def __len__(self) -> int:
        return len(self.x)


def measure_growth(
    apertures: Apertures,
    x: Floats,
    y: Floats,
    flux: Floats,
    usable: Bools,
    *,
    noise_adu: float,
    gain_e_per_adu: float,
    radius_px: float,
    fwhm_px: float,
    extrapolate: bool = True,
) -> Growth:
    """Measure the curve of growth.

    Parameters
    ----------
    x, y, flux
        0-based positions of all sources and their light within ``radius_px``, ADU, shape ``(n,)``.
    usable
        Unsaturated stars away from masked pixels and edges, shape ``(n,)``.
    noise_adu
        Noise of an empty aperture of ``radius_px``.
    gain_e_per_adu
        Electrons per ADU, for the stars' own photons.
    radius_px
        The aperture that the corrections are for.
    fwhm_px
        Seeing.
    extrapolate
        Whether stars are points, so that a Moffat profile tells what lies beyond the last radius.

    Notes
    -----
    A chain of steps, each the weighted median over the stars that are alone as far as this step needs: many at
    small radii even in a crowded field, few and bright ones further out. The first step is a polynomial of the
    position. Faint stars around the bright ones make a curve grow for ever (by 7 % in a field of 50 stars per
    100 x 100 px): what apertures of each radius hold at random places that keep as far from the same sources as
    the stars do is subtracted. The chain ends where its own noise and the doubt about what a Moffat profile has
    beyond are least together; that light is added. Where it ends depends on errors alone: ending it at the first
    step that seems to add nothing would end it early whenever noise makes a step small.

    References
    ----------
    Stetson 1990, PASP 102, 932.
    """
    shape = (int(apertures.pixels.shape[0]), int(apertures.pixels.shape[1]))
    radii = radius_px * np.array(STEPS)
    chosen = np.flatnonzero(usable & (flux > CORE_SNR * noise_adu))
    chosen = chosen[np.argsort(-flux[chosen], kind="stable")]
    # One limit for all: were it a share of each star's own light, faint stars would stand cleaner than the places.
    disturbing = flux > DISTURBING_SHARE * (np.median(flux[chosen]) if len(chosen) else np.inf)
    stars = _Stars(x[chosen], y[chosen], flux[chosen], _clear(x, y, chosen, disturbing))
    reach = float(apertures.reach(radii[-1]))
    places = random_places(apertures, x[disturbing], y[disturbing], reach_px=reach, count=PLACES)

    def alone(radius: float) -> Bools:
        clear = stars.clear_px > apertures.reach(radius) + MARGIN_FWHM * fwhm_px
        return clear & ~apertures.over_the_edge(stars.x, stars.y, radius)

    core = stars.some(alone(radii[1]), MANY_STARS)
    blank = _blank(apertures, places, radii[1], MARGIN_FWHM * fwhm_px, noise_adu, radius_px)
    if len(core) < MIN_STARS or blank is None:
        none = np.zeros(0)
        return Growth(ASSUMED[0], ASSUMED[1], ASSUMED_SCATTER, none, shape, none, none, 0)
    ratio = (apertures.sums(core.x, core.y, radii[1]) - blank[0]) / core.flux
    added = np.sqrt(max(apertures.area(radii[1]) / apertures.area(radius_px) - 1, 0.0)) * noise_adu
    photons = (PHOTONS_ADDED / gain_e_per_adu) / core.flux
    terms, scatter, error = over_field(ratio, np.sqrt((added / core.flux) ** 2 + photons), core.x, core.y, shape)
    middle = field_basis(np.array([(shape[1] - 1) / 2]), np.array([(shape[0] - 1) / 2]), shape, terms.size)
    centre = float((middle @ terms)[0])
    curve = [1.0, centre]
    variance = [0.0, (error / centre) ** 2 + (blank[1] / np.median(core.flux)) ** 2]
    for inner, outer in pairwise(radii[1:]):
        bright = stars.some(alone(outer) & (stars.flux > WING_SNR * noise_adu), BRIGHT_STARS)
        # The share in the aperture changes over the field, the light beyond the first step hardly does.
        local = field_basis(bright.x, bright.y, shape, terms.size) @ terms / centre
        bright = replace(bright, flux=bright.flux * local)
        step = _step(apertures, bright, places, inner, outer, MARGIN_FWHM * fwhm_px, noise_adu, radius_px)
        if step is None:
            break
        curve.append(curve[-1] + step[0])
        variance.append(variance[-1] + (step[1] / curve[-1]) ** 2)
    last, beyond = len(curve) - 1, 0.0
    if extrapolate:
        last, beyond = _end(radii, np.array(curve), np.array(variance))
    total, error = curve[last] * (1 + beyond), float(np.sqrt(variance[last] + (BEYOND_ERROR * beyond) ** 2))
    # What every profile has in common is worth as much as a poor measurement, and nothing beside a good one.
    trust = error**-2 / (error**-2 + ASSUMED[1] ** -2)
    total, error = trust * total + (1 - trust) * ASSUMED[0], float(error * np.sqrt(trust))
    return Growth(
        total, error, scatter, terms / centre, shape, radii[: last + 1], np.array(curve[: last + 1]), len(core)
    )


def _clear(x: Floats, y: Floats, chosen: NDArray[np.intp], disturbing: Bools) -> Floats:
    """Return how far the chosen stars are from the nearest other source that disturbs."""
    if disturbing.sum() < 2:
        return np.full(len(chosen), np.inf)
    tree = cKDTree(np.column_stack([x[disturbing], y[disturbing]]))
    # Brighter than the limit themselves, so the nearest is the star.
    distance, _ = tree.query(np.column_stack([x[chosen], y[chosen]]), k=2)
    return np.asarray(distance[:, 1], np.float64)


def _blank(
    apertures: Apertures,
    places: tuple[Floats, Floats, Floats],
    radius: float,
    margin: float,
    noise_adu: float,
    noise_radius: float,
) -> tuple[float, float] | None:
    """Return what an aperture holds without its star, and its error, ADU; None: there are no such places."""
    x, y, clear = places
    free = clear > apertures.reach(radius) + margin
    if free.sum() < ENOUGH_PLACES:
        return None
    noise = noise_adu * np.sqrt(apertures.area(radius) / apertures.area(noise_radius))
    return float(np.median(apertures.sums(x[free], y[free], radius))), float(1.2533 * noise / np.sqrt(free.sum()))


def _step(
    apertures: Apertures,
    stars: _Stars,
    places: tuple[Floats, Floats, Floats],
    inner: float,
    outer: float,
    margin: float,
    noise_adu: float,
    noise_radius: float,
) -> tuple[float, float] | None:
    """Return the light between two radii over the light in the aperture, and its error; None: cannot be had."""
    if len(stars) < MIN_STARS:
        return None
    x, y, clear = places
    free = clear > apertures.reach(outer) + margin
    if free.sum() < ENOUGH_PLACES:
        return None
    area = apertures.area(outer) - apertures.area(inner)
    noise = noise_adu * float(np.sqrt(area / apertures.area(noise_radius)))
    blank = float(np.median(apertures.ring(x[free], y[free], inner, outer)))
    share = (apertures.ring(stars.x, stars.y, inner, outer) - blank) / stars.flux
    # 1 %: no profile is the same everywhere.
    value, error = _weighted_median(share, np.hypot(noise / stars.flux, 0.01))
    return value, float(np.hypot(error, 1.2533 * noise / np.sqrt(free.sum()) / np.median(stars.flux)))


def _weighted_median(values: Floats, sigma: Floats) -> tuple[float, float]:
    """Return the median weighted by ``1/sigma²`` of the clean values, and its standard error by their scatter."""
    weight = sigma**-2
    keep = np.isfinite(values)
    middle = spread = 0.0
    for _ in range(6):
        order = np.argsort(values[keep])
        heavy = weight[keep][order]
        middle = float(np.interp(0.5 * heavy.sum(), np.cumsum(heavy) - 0.5 * heavy, values[keep][order]))
        off = (values - middle) / sigma
        spread = _spread_below(off[keep])
        kept_before, keep = keep, np.isfinite(values) & (off < CLEAN_SIGMA * spread) & (off > -4 * spread)
        if np.array_equal(keep, kept_before):
            break
    return middle, float(1.2533 * max(spread, 0.5) / np.sqrt(weight[keep].sum()))


def _spread_below(off: Floats) -> float:
    """Return the standard deviation by the values below the middle: company that nobody saw only adds light."""
    below = -off[off <= 0]
    return max(1.4826 * float(np.median(below)), 0.3) if below.size else 1.0


def _end(radii: Floats, curve: Floats, variance: Floats) -> tuple[int, float]:
    """Return the radius to end a curve at, by its index, and the share of light a Moffat profile has beyond."""
    if len(curve) < 3:
        last = len(curve) - 1
        return last, _beyond_assumed(radii[last], radii[0])
    fit = _moffat(radii[: len(curve)], curve, variance)
    beyond = np.clip((1 + (radii[: len(curve)] / fit[0]) ** 2) ** (1 - fit[1]), 0.0, 0.1)
    beyond = beyond / (1 - beyond)
    # Not nearer than the second step: the core is no Moffat profile's after pixels and guiding.
    doubt = (variance + (BEYOND_ERROR * beyond) ** 2)[2:]
    last = 2 + int(np.argmin(doubt))
    return last, float(beyond[last])


def _beyond_assumed(radius: float, first: float) -> float:
    """Return the share beyond a radius, of a profile with `ASSUMED` beyond the first one: it falls as r^-4."""
    return float((ASSUMED[0] - 1) * (first / radius) ** 4)


def _moffat(radii: Floats, curve: Floats, variance: Floats) -> tuple[float, float]:
    """Return scale (px) and slope of the Moffat profile whose curve of growth this is."""
    error = np.sqrt(np.maximum(variance, 0.002**2))

    def residual(parameters: Floats) -> Floats:
        alpha, beta, total = parameters
        model = total * (1 - (1 + (radii / alpha) ** 2) ** (1 - beta))
        return np.asarray(np.append((model - curve) / error, (beta - 3.2) / 1.0), np.float64)

    top = max(float(curve.max()), 1.0)
    fitted = least_squares(
        residual,
        x0=(0.7 * radii[0], 3.2, 1.01 * top),
        bounds=((0.1 * radii[0], 2.0, 0.9), (5 * radii[0], 12.0, 1.5 * top)),
        x_scale=(radii[0], 1.0, 0.1),
    )
    return float(fitted.x[0]), float(fitted.x[1])


def field_basis(x: Floats, y: Floats, shape: tuple[int, int], terms: int) -> Floats:
    """Return the columns of a polynomial of 1, 4 or 6 terms at 0-based positions, shape ``(n, terms)``."""
    u, v = 2 * x / (shape[1] - 1) - 1, 2 * y / (shape[0] - 1) - 1
    columns = {1: [], 4: [u, v, u * u + v * v], 6: [u, v, u * u, u * v, v * v]}[terms]
    return np.column_stack([np.ones(len(x)), *columns])


def over_field(
    ratio: Floats, noise: Floats, x: Floats, y: Floats, shape: tuple[int, int]
) -> tuple[Floats, float, float]:
    """Fit a ratio as a polynomial of the position: coefficients, scatter beyond the noise, error of the mean."""
    for count, needed in FIELD_STARS.items():
        if len(ratio) < needed:
            continue
        basis = field_basis(x, y, shape, count)
        terms, scatter = np.append(_weighted_median(ratio, np.hypot(noise, 0.01))[0], np.zeros(count - 1)), 0.01
        for _ in range(6):
            sigma = np.hypot(noise, max(scatter, LEAST_SCATTER))
            off = (ratio - basis @ terms) / sigma
            spread = max(_spread_below(off), 0.7)
            keep = (off < CLEAN_SIGMA * spread) & (off > -4 * spread)
            if keep.sum() < 2 * count + 1:
                break
            weight = np.where(keep, sigma**-2, 0.0)
            terms = np.linalg.solve(basis.T @ (weight[:, None] * basis), basis.T @ (weight * ratio))
            scatter = _excess((ratio - basis @ terms)[keep], noise[keep])
        else:
            return terms, scatter, float(max(spread, 1.0) / np.sqrt(weight.sum()))
    middle, error = _weighted_median(ratio, np.hypot(noise, ASSUMED_SCATTER))
    return np.array([middle]), ASSUMED_SCATTER, error


def _excess(residual: Floats, noise: Floats) -> float:
    """Return the scatter beyond the noise that makes the median of chi-squared what it should be."""
    tries = np.geomspace(1e-3, 0.1, 13)
    chi2 = [float(np.median(residual**2 / (noise**2 + scatter**2))) for scatter in tries]
    return float(tries[min(int(np.searchsorted(-np.array(chi2), -MEDIAN_CHI2)), len(tries) - 1)])
