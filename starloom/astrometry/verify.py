"""Verification: whether a WCS may be believed. One rule for every solver, because a wrong WCS is unforgivable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from starloom.astrometry.detect import StarList
from starloom.astrometry.fitting import FREE_STARS
from starloom.astrometry.refine import WcsFit, on_frame
from starloom.astrometry.tangent import project
from starloom.astrometry.wcs import PlaneMap

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What a WCS must satisfy.

    Parameters
    ----------
    log10_false_alarm
        Highest decimal logarithm of the probability that chance alone matches this many stars, after the stars
        that the fit swallows are taken off.
    min_matches
        Fewest matched stars.
    completeness
        Least fraction of the catalogue's brighter stars on the frame that must have a partner.
    rms_px
        Largest residual.
    axis_ratio, skew_deg
        Largest ratio of the plate scales of the two axes, and largest deviation of their angle from 90°.
    distortion
        Largest displacement by distortion, as a fraction of the half diagonal.
    stretch
        Largest relative change of the local pixel area against the centre.
    corner_error_px
        Largest expected error of the WCS at a corner.
    spread
        Least rms extent of the matched stars along either principal axis, as a fraction of the frame's side that a
        uniform field would fill to 0.29.
    """

    log10_false_alarm: float = -9.0
    min_matches: int = 6
    completeness: float = 0.5
    rms_px: float = 1.5
    axis_ratio: float = 1.05
    skew_deg: float = 1.5
    distortion: float = 0.05
    stretch: float = 0.25
    corner_error_px: float = 2.5
    spread: float = 0.10


@dataclass(frozen=True)
class Verdict:
    """Whether a WCS is believed, and why.

    Parameters
    ----------
    accepted
        Whether every test passed.
    faults
        The tests that failed, in words; empty when accepted.
    log10_false_alarm
        Decimal logarithm of the probability of such a match by chance.
    expected_by_chance
        Mean number of stars that a random WCS would match.
    completeness
        Fraction of the brighter catalogue stars on the frame that have a partner.
    axis_ratio, skew_deg
        Shape of the pixels on the sky.
    distortion_px
        Largest displacement by distortion on the frame's border.
    """

    accepted: bool
    faults: tuple[str, ...]
    log10_false_alarm: float
    expected_by_chance: float
    completeness: float
    axis_ratio: float
    skew_deg: float
    distortion_px: float


def judge(fit: WcsFit, stars: StarList, *, limits: Limits | None = None) -> Verdict:
    """Judge a refined WCS at the centre and in the corners.

    Parameters
    ----------
    fit
        The WCS and its matches.
    stars
        All detected stars of the frame.
    limits
        What to demand.
    """
    limits = limits or Limits()
    inside = _catalog_on_frame(fit, stars.shape)
    log_alarm, expected = _false_alarm(fit, stars, len(inside))
    completeness = _completeness(fit, inside)
    axis_ratio, skew = pixel_shape(fit.map.cd)
    distortion, stretch = _distortion(fit.map, stars.shape)
    half_diagonal = float(np.hypot(*stars.shape)) / 2
    spread = _spread(fit, stars)
    checks = {
        f"only {fit.matches} matches": fit.matches >= limits.min_matches,
        f"chance explains the matches (10^{log_alarm:.1f})": log_alarm <= limits.log10_false_alarm,
        f"only {completeness:.0%} of the bright catalogue stars matched": completeness >= limits.completeness,
        f"residuals of {fit.rms_px:.2f} px": fit.rms_px <= limits.rms_px,
        f"axes differ in scale by a factor of {axis_ratio:.3f}": axis_ratio <= limits.axis_ratio,
        f"axes are {skew:.2f} deg off square": skew <= limits.skew_deg,
        f"distortion of {distortion:.0f} px": distortion <= limits.distortion * half_diagonal,
        f"pixel area changes by {stretch:.0%} over the frame": stretch <= limits.stretch,
        f"corners uncertain by {fit.corner_error_px:.1f} px": fit.corner_error_px <= limits.corner_error_px,
        f"matches cover {spread:.0%} of the frame only": spread >= limits.spread,
    }
    faults = tuple(fault for fault, passed in checks.items() if not passed)
    return Verdict(
        accepted=not faults,
        faults=faults,
        log10_false_alarm=log_alarm,
        expected_by_chance=expected,
        completeness=completeness,
        axis_ratio=axis_ratio,
        skew_deg=skew,
        distortion_px=distortion,
    )


def pixel_shape(cd: Floats) -> tuple[float, float]:
    """Return the ratio of the plate scales along x and y (≥ 1) and the deviation of the axes from 90°, degrees."""
    sx, sy = np.hypot(*cd[:, 0]), np.hypot(*cd[:, 1])
    cosine = float(np.clip(cd[:, 0] @ cd[:, 1] / (sx * sy), -1, 1))
    return float(max(sx, sy) / min(sx, sy)), abs(float(np.degrees(np.arcsin(cosine))))


def _catalog_on_frame(fit: WcsFit, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return the catalogue stars on the frame, brightest first."""
    xi, eta = project(fit.catalog.ra_deg, fit.catalog.dec_deg, fit.map.ra0_deg, fit.map.dec0_deg)
    return np.flatnonzero(on_frame(fit.map, xi, eta, shape)).astype(np.int64)


def _false_alarm(fit: WcsFit, stars: StarList, on_frame_count: int) -> tuple[float, float]:
    """Binomial odds that ``matches`` of the catalogue's stars find a partner by chance.

    A random position has a partner within the tolerance with probability ``1 - exp(-π r² density)``. The
    detections count down to the faintest that was matched: what lies below had no part in it.
    """
    if not fit.matches:
        return 0.0, 0.0
    used = int(fit.star_index.max()) + 1
    ny, nx = stars.shape
    chance = -np.expm1(-np.pi * fit.tolerance_px**2 * used / (nx * ny))
    spent = FREE_STARS[fit.model]
    trials = max(on_frame_count, fit.matches) - spent
    successes = fit.matches - spent
    if successes <= 0:
        return 0.0, float(on_frame_count * chance)
    # P(X >= k) of a binomial, continued to real numbers; underflows to 0 for good matches.
    tail = float(betainc(successes, max(trials - successes, 0.0) + 1.0, chance))
    return float(np.log10(max(tail, 1e-300))), float(on_frame_count * chance)


def _completeness(fit: WcsFit, inside: NDArray[np.int64]) -> float:
    """Fraction of the catalogue stars brighter than the median match that have a partner."""
    if not fit.matches or not len(inside):
        return 0.0
    middle = float(np.median(fit.catalog.mag[fit.catalog_index]))
    bright = inside[fit.catalog.mag[inside] <= middle]
    return float(np.isin(bright, fit.within).mean()) if len(bright) else 0.0


def _distortion(found: PlaneMap, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the largest displacement (px) and relative change of pixel area on a grid reaching the corners."""
    ny, nx = shape
    x, y = np.meshgrid(np.linspace(0, nx - 1, 17), np.linspace(0, ny - 1, 17))
    du, dv = found.displacement_px(x, y)
    step = 0.5

    def slope(ax: float, ay: float) -> tuple[Floats, Floats]:
        ahead, behind = found.plane(x + ax, y + ay), found.plane(x - ax, y - ay)
        return ahead[0] - behind[0], ahead[1] - behind[1]

    xx, yx = slope(step, 0.0)
    xy, yy = slope(0.0, step)
    area = (xx * yy - xy * yx) / np.linalg.det(found.cd)
    # A sign change means that the map folds back on itself: infinitely wrong.
    stretch = float("inf") if (area <= 0).any() else float(np.abs(area - 1.0).max())
    return float(np.hypot(du, dv).max()), stretch


def _spread(fit: WcsFit, stars: StarList) -> float:
    """Rms extent of the matches along the narrower principal axis, in units of the frame's shorter side."""
    if fit.matches < 3:
        return 0.0
    at = np.stack([stars.x[fit.star_index], stars.y[fit.star_index]])
    narrow = float(np.linalg.eigvalsh(np.cov(at))[0])
    return float(np.sqrt(max(narrow, 0.0))) / min(stars.shape)
