"""Verification: whether a WCS may be believed. One rule for every solver, because a wrong WCS is unforgivable.

The rule asks in what a *wrong* map would have to be lucky.

**Chance.** Under a wrong map the catalogue's stars fall on the frame without regard to the detections. Star i then
has a partner within the tolerance r with probability p_i = 1 - exp(-π r² n_i), where n_i is the density of
detections: that of the frame, or that around star i where it is higher, so that a globular's core or a column of
hot pixels, in which everything finds a partner, is no evidence. A map of f free stars is bent until f of them fit;
of the k matches, k - f are evidence. The probability of as many successes among the stars on the frame is bounded
from above by Chernoff's inequality for a sum of unlike Bernoulli variables,

    P(X ≥ k - f) ≤ min over t > 0 of exp(-t (k - f)) Π (1 - p_i + p_i exp(t)),

and multiplied by the number of candidates that were judged for the frame. The solvers look at millions of
alignments of three or four stars to find one, which is why the limit is 10^-9 after those stars are taken off, and
not 10^-3.

**Brightness.** Stars that truly match rank alike in the catalogue and on the frame; chance pairs bright with
faint. The one-sided probability of the rank correlation (Spearman, Student's approximation) is a second,
independent witness. It is believed to 10^-4 at most and combined with the first by Fisher's method: P = q (1 - ln
q) with q the product of the two.

**Completeness.** A true map finds most of the catalogue's brighter stars. Where a circle that should hold a dozen
detections holds none, the frame shows no sky (a cloud, the dome, a tree): stars there are not missed. The frame as
a whole must be served, and each third of it in either direction: a map that is right in one corner only is wrong.

**Optics.** Pixels are square, distortions small, corners foretold to a few pixels, and the matches spread over the
frame.

References
----------
Lang et al. 2010, AJ 139, 1782, section 2.3 (the same question in Bayesian words); Hoeffding 1963, JASA 58, 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import stdtr

from starloom.astrometry.detect import StarList
from starloom.astrometry.fitting import FREE_STARS
from starloom.astrometry.refine import WcsFit
from starloom.astrometry.tangent import project
from starloom.astrometry.wcs import PlaneMap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A circle in which this many detections are expected: large enough to tell an empty one from a poor one.
CIRCLE_STARS = 12.0
# The local density is believed where it is this much above the frame's: less is the scatter of counts.
CROWDED = 1.5
# Rank correlation is no better a witness than this, because filters and catalogues disagree on colours.
RANK_FLOOR = 1e-4
MIN_RANKED = 5
# A third of the frame speaks only where the catalogue has this many bright stars on it.
THIRD_STARS = 6
DOUBTFUL = -6.0


@dataclass(frozen=True)
class Limits:
    """What a WCS must satisfy.

    Parameters
    ----------
    log10_false_alarm
        Highest decimal logarithm of the probability that chance alone matches as well.
    min_matches
        Fewest matched stars.
    completeness
        Least fraction of the catalogue's brighter stars on the frame that must have a partner.
    completeness_third
        The same in every third of the frame, left to right and bottom to top.
    rms_px
        Largest residual, for stars as sharp as they should be; wider ones may have as much more.
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
    scale_arcsec
        Smallest and largest plate scale that a telescope or lens may have.
    """

    log10_false_alarm: float = -9.0
    min_matches: int = 6
    completeness: float = 0.5
    completeness_third: float = 0.2
    rms_px: float = 1.5
    axis_ratio: float = 1.05
    skew_deg: float = 1.5
    distortion: float = 0.05
    stretch: float = 0.25
    corner_error_px: float = 2.5
    spread: float = 0.08
    scale_arcsec: tuple[float, float] = (0.02, 200.0)


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
        Decimal logarithm of the probability of such a match by chance, a bound from above.
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

    @property
    def doubtful(self) -> bool:
        """Whether it was refused although chance hardly explains it: worth a look by a person."""
        return not self.accepted and self.log10_false_alarm <= DOUBTFUL


def judge(fit: WcsFit, stars: StarList, *, limits: Limits | None = None, trials: int = 1) -> Verdict:
    """Judge a refined WCS at the centre and in the corners.

    Parameters
    ----------
    fit
        The WCS and its matches.
    stars
        All detected stars of the frame.
    limits
        What to demand.
    trials
        How many candidates of this frame have been judged, this one included.
    """
    limits = limits or Limits()
    axis_ratio, skew = pixel_shape(fit.map.cd)
    low, high = limits.scale_arcsec
    scale = fit.map.scale_arcsec
    if fit.matches < limits.min_matches or not low <= scale <= high:
        # Nothing else need be looked at, and most wrong candidates end here.
        fault = (
            f"only {fit.matches} matches" if low <= scale <= high else f"a plate scale of {scale:.3g} arcsec/px"
        )
        return Verdict(False, (fault,), 0.0, 0.0, 0.0, axis_ratio, skew, 0.0)
    sight = _Sight.of(fit, stars)
    log_alarm, expected = _false_alarm(fit, stars, sight, trials)
    completeness, thirds = _completeness(fit, sight, stars.shape)
    distortion, stretch = _distortion(fit.map, stars.shape)
    half_diagonal = float(np.hypot(*stars.shape)) / 2
    spread = _spread(fit, stars)
    softness = max(1.0, stars.frame_fwhm_px / 5.0) if np.isfinite(stars.frame_fwhm_px) else 1.0
    checks = {
        f"chance explains the matches (10^{log_alarm:.1f})": log_alarm <= limits.log10_false_alarm,
        f"only {completeness:.0%} of the bright catalogue stars matched": completeness >= limits.completeness,
        f"a third of the frame has {thirds:.0%} of its bright catalogue stars": thirds
        >= limits.completeness_third,
        f"residuals of {fit.rms_px:.2f} px": fit.rms_px <= limits.rms_px * softness,
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


@dataclass(frozen=True)
class _Sight:
    """The catalogue's stars on the frame, brightest first, and the detections around them.

    ``index`` into the catalogue, ``x`` and ``y`` where the map puts them (pixels); ``density`` of the detections
    that took part, per pixel around each; ``dark``, whether the frame shows no sky there. All of shape ``(n,)``.
    """

    index: Ints
    x: Floats
    y: Floats
    density: Floats
    dark: NDArray[np.bool_]

    @classmethod
    def of(cls, fit: WcsFit, stars: StarList) -> _Sight:
        ny, nx = stars.shape
        xi, eta = project(fit.catalog.ra_deg, fit.catalog.dec_deg, fit.map.ra0_deg, fit.map.dec0_deg)
        # By the linear part, as good as a tenth of a percent of the frame: enough to count what is around.
        x, y = np.linalg.inv(fit.map.cd) @ np.stack([xi, eta])
        x, y = x + fit.map.x0, y + fit.map.y0
        with np.errstate(invalid="ignore"):
            index = np.flatnonzero((x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1)).astype(np.int64)
        x, y = x[index], y[index]
        at = np.column_stack([stars.x, stars.y])
        # Detections fainter than the faintest match had no part in it, but they show where the sky is to be seen.
        used = int(fit.star_index.max()) + 1
        around, area = _around(at[:used], x, y, stars.shape)
        everywhere = used / (nx * ny)
        density = np.where(around / area > CROWDED * everywhere, around / area, everywhere)
        around, area = _around(at, x, y, stars.shape)
        dark = (around == 0) & (area * len(at) / (nx * ny) > CIRCLE_STARS / 2)
        return cls(index, x, y, density, dark)


def _around(at: Floats, x: Floats, y: Floats, shape: tuple[int, int]) -> tuple[Ints, Floats]:
    """Count the detections around each place, in a circle that would hold a dozen of an even spread.

    Returns the numbers and the areas (square pixels) of what of the circles lies on the frame, each of shape
    ``(n,)``.
    """
    ny, nx = shape
    radius = float(np.sqrt(CIRCLE_STARS * nx * ny / (np.pi * len(at))))
    count = cKDTree(at).query_ball_point(np.column_stack([x, y]), radius, return_length=True)
    width = np.minimum(x + radius, nx) - np.maximum(x - radius, 0)
    height = np.minimum(y + radius, ny) - np.maximum(y - radius, 0)
    return np.asarray(count, np.int64), np.pi / 4 * width * height


def _false_alarm(fit: WcsFit, stars: StarList, sight: _Sight, trials: int) -> tuple[float, float]:
    """Return the decimal logarithm of the odds of such a match by chance, and the mean number of such matches."""
    chance = -np.expm1(-np.pi * fit.tolerance_px**2 * sight.density)
    expected = float(chance.sum())
    log_places = _log10_tail(chance, fit.matches - FREE_STARS[fit.model])
    log_ranks = _log10_ranks(fit, stars)
    log_both = log_places + log_ranks
    # Fisher: two independent witnesses agree by chance with q (1 - ln q).
    log_alarm = log_both + float(np.log10(1.0 - log_both * np.log(10.0)))
    return min(log_alarm + float(np.log10(max(trials, 1))), 0.0), expected


def _log10_tail(chance: Floats, successes: float) -> float:
    """Chernoff's bound of the probability of so many successes or more among unlike trials, decimal logarithm."""
    if successes <= chance.sum() or not len(chance):
        return 0.0
    if successes >= len(chance):
        return max(float(np.log10(np.maximum(chance, 1e-300)).sum()), -300.0)
    # The bound is convex in t: its slope, the mean of the tilted trials less the successes, is zero at the best t.
    low, high = 0.0, 60.0
    odds = chance / np.maximum(1.0 - chance, 1e-12)
    for _ in range(50):
        t = (low + high) / 2
        tilted = odds * np.exp(t)
        if float((tilted / (1.0 + tilted)).sum()) < successes:
            low = t
        else:
            high = t
    t = (low + high) / 2
    bound = float(np.log1p(chance * np.expm1(t)).sum()) - t * successes
    return max(float(bound / np.log(10.0)), -300.0)


def _log10_ranks(fit: WcsFit, stars: StarList) -> float:
    """Decimal logarithm of the chance of so good an agreement in brightness; 0 with too few stars to compare."""
    flux, mag = stars.flux[fit.star_index], fit.catalog.mag[fit.catalog_index]
    # Saturated cores say nothing of the light.
    sound = ~stars.saturated[fit.star_index] & np.isfinite(flux) & np.isfinite(mag)
    n = int(sound.sum())
    if n < MIN_RANKED:
        return 0.0
    a = np.argsort(np.argsort(-flux[sound], kind="stable"), kind="stable").astype(np.float64)
    b = np.argsort(np.argsort(mag[sound], kind="stable"), kind="stable").astype(np.float64)
    rho = float(np.clip(1.0 - 6.0 * ((a - b) ** 2).sum() / (n * (n * n - 1.0)), -1.0 + 1e-9, 1.0 - 1e-9))
    tail = float(stdtr(n - 2, -rho * np.sqrt((n - 2) / (1.0 - rho * rho))))
    return float(np.log10(np.clip(tail, RANK_FLOOR, 1.0)))


def _completeness(fit: WcsFit, sight: _Sight, shape: tuple[int, int]) -> tuple[float, float]:
    """Fraction of the catalogue stars brighter than the median match that have a partner: all, and worst third."""
    middle = float(np.median(fit.catalog.mag[fit.catalog_index]))
    bright = (fit.catalog.mag[sight.index] <= middle) & ~sight.dark
    if not bright.any():
        return 0.0, 0.0
    found = np.isin(sight.index[bright], fit.within)
    thirds = [1.0]
    for position, size in ((sight.x[bright], shape[1]), (sight.y[bright], shape[0])):
        third = np.clip((3.0 * position / size).astype(int), 0, 2)
        thirds += [float(found[third == n].mean()) for n in range(3) if (third == n).sum() >= THIRD_STARS]
    return float(found.mean()), min(thirds)


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
