"""The zero point: a robust weighted fit with a colour term and the scatter of one star as unknowns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.photometry.reference import Reference

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MIN_CALIBRATORS = 5
#: Where residuals are cut, in sigma below and above. Above are the stars with company that nobody parted, which
#: makes fluxes too high and never too low: in crowded fields the scatter of the clean side tells where they begin.
CLIP_LOW, CLIP_HIGH = 3.0, 2.3
ENOUGH_FOR_SIDES = 20
#: By how much the uneven cut, whose place is itself measured, raises the variance of what is fitted.
UNEVEN_CUT = 1.4
#: Mean and variance of a standard normal deviate within those limits, and within the lower one on both sides.
CLIPPED_MEAN, CLIPPED_VARIANCE, VARIANCE_WITHIN_LOW = -0.0242, 0.920, 0.973
#: Fewer stars do not measure the slope of the catalogue's counts.
COUNT_STARS = 30
#: d ln N / dm of star counts where the catalogue's own cannot be measured.
USUAL_SLOPE = 0.8
#: Peaks above this share of saturation are tested for bending, peaks above `SATURATED` are not used at all.
SUSPECT, SATURATED = 0.5, 0.85
MIN_BEND_MAG = 0.01


@dataclass(frozen=True)
class ColourTerm:
    """What is known of an instrument's colour term before a frame: mag per mag, and its error."""

    value: float
    error: float


@dataclass(frozen=True)
class ZeroPoint:
    """Magnitude of a star of the reference colour whose total flux is 1 ADU in the exposure.

    Parameters
    ----------
    mag, err
        The zero point and its standard error.
    scatter_mag
        Scatter of one calibrator about the fit.
    intrinsic_mag
        The part of it that the stated errors of the flux and of the catalogue do not explain.
    colour_term, colour_term_err
        ``catalogue - instrumental`` magnitude per magnitude of colour; None without colours.
    used
        Which of the stars that were given carry it, shape ``(n,)``.
    """

    mag: float
    err: float
    scatter_mag: float
    intrinsic_mag: float
    colour_term: float | None
    colour_term_err: float | None
    used: Bools


def fit_zero_point(
    instrumental_mag: Floats,
    instrumental_err: Floats,
    reference: Reference,
    *,
    peak_share: Floats | None = None,
    magnitude_limits: tuple[float, float] | None = None,
    learnt: ColourTerm | None = None,
    crowded: bool = False,
) -> ZeroPoint | None:
    """Fit ``reference - instrumental = zero point + colour term x (colour - reference colour)``.

    Parameters
    ----------
    instrumental_mag, instrumental_err
        ``-2.5 log10`` of the total flux in ADU and its error, shape ``(n,)``.
    reference
        Catalogue magnitudes of the same stars.
    peak_share
        Peak of each star as a share of the saturation level, shape ``(n,)``.
    magnitude_limits
        Faint and bright limit of the *instrumental* magnitude (bright first) within which every star is measured
        well: they are applied to the magnitude that the catalogue predicts.
    learnt
        The instrument's colour term from other frames.
    crowded
        Whether some stars have company that nobody sees: residuals are then cut closer on the side where it shows.

    Returns
    -------
    ZeroPoint or None
        None with fewer than five stars that agree.

    Notes
    -----
    Stars are chosen by what the catalogue says of them and not by what was measured: a limit on measured flux
    keeps the stars whose errors made them bright. Given a catalogue magnitude with error σ, the true one is on
    average fainter by ``σ² d ln N / dm`` (Eddington), as faint stars are more than bright ones; that is added.
    The colour term has a prior (the instrument's, else 0 with the width that `Reference` gives), so that few
    stars, or stars of one colour, leave its uncertainty in the zero point's error. Errors of the colours are taken
    out of the normal equations, where they would flatten the slope.

    References
    ----------
    Eddington 1913, MNRAS 73, 359; Fuller 1987, Measurement Error Models, chapter 1.
    """
    corrected = reference.mag + count_slope(reference.mag) * _noise_variance(reference)
    value = corrected - instrumental_mag
    usable = np.isfinite(value + instrumental_err)
    colour = _colours(reference, usable)
    if colour is not None:
        usable &= np.isfinite(colour)
    if peak_share is not None:
        usable &= ~(peak_share >= SATURATED)
    if usable.sum() < MIN_CALIBRATORS:
        return None
    if magnitude_limits is not None:
        usable = _within(value, corrected, usable, magnitude_limits)
    first = _fit(value, instrumental_err, reference, colour, usable, learnt, crowded)
    if first is None or peak_share is None:
        return first
    bent = first.used & (peak_share > SUSPECT)
    if _is_bent(value - _model(first, reference, colour), first.used, bent):
        straight = _fit(
            value, instrumental_err, reference, colour, usable & ~(peak_share > SUSPECT), learnt, crowded
        )
        return straight or first
    return first


def count_slope(mag: Floats) -> float:
    """Return d ln N / dm of a magnitude-limited sample of stars, by maximum likelihood, between 0 and 1.4."""
    finite = mag[np.isfinite(mag)]
    if finite.size < COUNT_STARS:
        return USUAL_SLOPE
    # The faintest tenth is where the catalogue runs out: the counts are measured down to there.
    limit = float(np.quantile(finite, 0.9))
    bright = finite[finite < limit]
    return float(np.clip(1.0 / max(float(np.mean(limit - bright)), 1e-3), 0.0, 1.4))


def _noise_variance(reference: Reference) -> Floats:
    # The scatter of a relation between bands is no error of measurement and selects nothing.
    measured = np.maximum(reference.err**2 - reference.relation_scatter**2, 0.0)
    return np.where(np.isfinite(measured), np.minimum(measured, 0.09), 0.0)


def _colours(reference: Reference, usable: Bools) -> Floats | None:
    """Return colours less the reference colour; None where too few of the stars have one."""
    if reference.colour is None or reference.colour_ref is None:
        return None
    colour: Floats = reference.colour - reference.colour_ref
    with np.errstate(invalid="ignore"):
        # Colours of no star are errors, and have leverage.
        colour = np.where(np.abs(colour) < 2.5, colour, np.nan)
    known = int((usable & np.isfinite(colour)).sum())
    return colour if known >= max(MIN_CALIBRATORS, 0.5 * usable.sum()) else None


def _within(value: Floats, mag: Floats, usable: Bools, limits: tuple[float, float]) -> Bools:
    """Keep the stars that the catalogue predicts between two instrumental magnitudes, if they are enough."""
    middle = float(np.median(value[usable]))
    spread = 1.4826 * float(np.median(np.abs(value[usable] - middle)))
    bright, faint = limits
    predicted = mag - middle
    # Two deviations from the limit where stars go missing; on the faint side the limit is well above detection.
    inside = usable & (predicted > bright + 2 * spread) & (predicted < faint - spread)
    return inside if inside.sum() >= 2 * MIN_CALIBRATORS else usable


def _model(found: ZeroPoint, reference: Reference, colour: Floats | None) -> Floats:
    if colour is None or found.colour_term is None:
        return np.full(len(reference.mag), found.mag)
    return found.mag + found.colour_term * np.where(np.isfinite(colour), colour, 0.0)


def _is_bent(residual: Floats, used: Bools, bent: Bools) -> bool:
    """Tell whether stars of high peaks are measured too faint (the sensor bends) against the others."""
    others = used & ~bent
    if bent.sum() < 3 or others.sum() < 2 * MIN_CALIBRATORS:
        return False
    spread = 1.4826 * float(np.median(np.abs(residual[others] - np.median(residual[others]))))
    shift = float(np.median(residual[bent]) - np.median(residual[others]))
    noise = 1.2533 * spread * float(np.sqrt(1 / bent.sum() + 1 / others.sum()))
    return abs(shift) > max(3 * noise, MIN_BEND_MAG)


def _fit(
    value: Floats,
    value_err: Floats,
    reference: Reference,
    colour: Floats | None,
    usable: Bools,
    learnt: ColourTerm | None,
    crowded: bool,
) -> ZeroPoint | None:
    prior = learnt or ColourTerm(0.0, reference.colour_term_sigma)
    mean = np.array([float(np.median(value[usable])), prior.value])
    spread = 1.4826 * float(np.median(np.abs(value[usable] - mean[0])))
    intrinsic = max(spread, 0.003)
    x = np.zeros(len(value)) if colour is None else np.where(np.isfinite(colour), colour, 0.0)
    # Not NaN: what is not used has weight 0, and 0 x NaN is NaN.
    y = np.where(usable, value, 0.0)
    variance_x = np.where(usable & (colour is not None), reference.colour_err**2, 0.0)
    covariance_xy = np.where(usable & (colour is not None), reference.covariance, 0.0)
    own = np.where(usable, value_err**2 + reference.err**2, 1.0)
    keep = usable.copy()
    one_sided = crowded and usable.sum() >= ENOUGH_FOR_SIDES
    covariance = np.eye(2)
    for _ in range(25):
        noise = own + mean[1] ** 2 * variance_x - 2 * mean[1] * covariance_xy
        noise = np.maximum(noise, 0.0) + intrinsic**2
        weight = np.where(keep, 1.0 / noise, 0.0)
        mean_before = mean
        # What the uneven cut takes from the mean is given back.
        level = y - CLIPPED_MEAN * np.sqrt(noise) if one_sided else y
        mean, covariance = _solve(x, level, weight, variance_x, covariance_xy, prior, colour is not None)
        residual = y - mean[0] - mean[1] * x
        deviate = (residual / np.sqrt(noise))[usable]
        high = CLIP_HIGH * _spread_below(deviate) if one_sided else CLIP_LOW
        keep_now = usable & (residual < high * np.sqrt(noise)) & (residual > -CLIP_LOW * np.sqrt(noise))
        if keep_now.sum() < MIN_CALIBRATORS:
            return None
        keep, kept_before = keep_now, keep
        share = CLIPPED_VARIANCE if one_sided else VARIANCE_WITHIN_LOW
        intrinsic = _intrinsic(residual[keep], (noise - intrinsic**2)[keep], 1 if colour is None else 2, share)
        if np.array_equal(keep, kept_before) and np.allclose(mean, mean_before, atol=1e-5, rtol=0):
            break
    freedom = int(keep.sum()) - (1 if colour is None else 2)
    # The scatter itself is estimated from few stars: Student's distribution, by its variance.
    student = freedom / (freedom - 2) if freedom > 2 else 3.0
    if one_sided:
        student *= UNEVEN_CUT
    scatter = float(np.sqrt(np.sum(residual[keep] ** 2) / max(freedom, 1)))
    return ZeroPoint(
        mag=float(mean[0]),
        err=float(np.sqrt(covariance[0, 0] * student)),
        scatter_mag=scatter,
        intrinsic_mag=intrinsic,
        colour_term=None if colour is None else float(mean[1]),
        colour_term_err=None if colour is None else float(np.sqrt(covariance[1, 1] * student)),
        used=keep,
    )


def _solve(
    x: Floats,
    y: Floats,
    weight: Floats,
    variance_x: Floats,
    covariance_xy: Floats,
    prior: ColourTerm,
    with_colour: bool,
) -> tuple[Floats, Floats]:
    """Return zero point and colour term, and their covariance."""
    total = weight.sum()
    if not with_colour:
        return np.array([(weight * y).sum() / total, 0.0]), np.array([[1 / total, 0.0], [0.0, 0.0]])
    middle = (weight * x).sum() / total
    dx = x - middle
    measured = (weight * dx * dx).sum()
    true = measured - (weight * variance_x).sum()
    product = (weight * dx * y).sum()
    # Fuller's correction needs a spread of true colours to speak of.
    if true > 0.3 * measured:
        product -= (weight * covariance_xy).sum()
    else:
        true = measured
    precision = true + prior.error**-2
    slope = (product + prior.value * prior.error**-2) / precision
    slope_variance = measured / max(true, 1e-12) / precision
    mean = (weight * y).sum() / total - slope * middle
    variance = 1 / total + middle**2 * slope_variance
    return np.array([mean, slope]), np.array(
        [[variance, -middle * slope_variance], [-middle * slope_variance, slope_variance]]
    )


def _spread_below(deviates: Floats) -> float:
    """Return the standard deviation of what lies below 0, the clean side's; 0.5 to 1."""
    below = -deviates[deviates <= 0]
    return float(np.clip(1.4826 * np.median(below), 0.5, 1.0)) if below.size else 1.0


def _intrinsic(residual: Floats, known: Floats, parameters: int, share: float) -> float:
    """Return the scatter beyond the known variances that makes chi-squared equal the degrees of freedom.

    ``share`` of the variance is left in residuals that have been cut.
    """
    freedom = max(len(residual) - parameters, 1) * share
    low, high = 0.0, float(np.max(np.abs(residual))) + 1e-3
    if np.sum(residual**2 / np.maximum(known, 1e-10)) <= freedom:
        return 0.001
    for _ in range(40):
        middle = 0.5 * (low + high)
        if np.sum(residual**2 / (known + middle**2)) > freedom:
            low = middle
        else:
            high = middle
    return max(high, 0.001)
