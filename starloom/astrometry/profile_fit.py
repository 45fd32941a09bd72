"""The true width of a frame's profile, from its stars stacked: a peak's half maximum or the rim of a ring."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from starloom.astrometry.centroids import Frame, bridged, stamps
from starloom.astrometry.profile import FWHM_PER_SIGMA, Profile

Floats = NDArray[np.float64]

# Stars stacked at most, and the radius to which they are looked at, in FWHM of the matching Gaussian.
STACKED = 120
REACH_FWHM = 1.6
BINS = 24
# Of a peak, the radius where 80 % of the maximum are left is less than half of that where 30 % are: 0.43 of it for
# a Gaussian, 0.39 for a Moffat profile of beta 2.5. Of a disc both lie at its rim.
FLAT_TOP = 0.58
DIP = 0.9
MIN_DEFOCUSED_PX = 4.0

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)


class Width(NamedTuple):
    """Full width at half maximum (px), and whether it is a disc's or a ring's."""

    fwhm_px: float
    defocused: bool


def frame_width(frame: Frame, profile: Profile, x: Floats, y: Floats, light: Floats, level: Floats) -> Width:
    """Measure the width of the stacked stars.

    Parameters
    ----------
    frame
        Where they are.
    profile
        The Gaussian that matches them.
    x, y, light, level
        Centroids, light under the window and sky of well-exposed stars, shape ``(n,)``.

    Returns
    -------
    Width
        Before the pixels widened it: a Moffat profile averaged over pixels is fitted to the stack. Across the
        trail where there is one.
    """
    x, y, light, level = (a[:STACKED] for a in (x, y, light, level))
    sigma = profile.minor_px if profile.trail_px else profile.round_px
    reach = REACH_FWHM * FWHM_PER_SIGMA * sigma
    half = int(np.ceil(reach)) + 1
    row, column = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    values, hidden = stamps(frame, row, column, half, level)
    if hidden is not None:
        values = bridged(values, hidden)
    grid = np.arange(-half, half + 1.0)
    dx = grid[None, None, :] - (x - column)[:, None, None]
    dy = grid[None, :, None] - (y - row)[:, None, None]
    if profile.trail_px:
        c, s = np.cos(profile.angle), np.sin(profile.angle)
        radius = np.abs(c * dy - s * dx)
        near = (radius < reach) & (np.abs(c * dx + s * dy) < max(profile.trail_px / 4, 0.75))
    else:
        radius = np.hypot(dx, dy)
        near = radius < reach
    share = (values / light[:, None, None])[near]
    r, height, count = _stacked(radius[near], share, reach)
    if len(r) < 6 or height.max() <= 0:
        return Width(FWHM_PER_SIGMA * sigma, False)
    if _is_flat(r, height) and FWHM_PER_SIGMA * sigma > MIN_DEFOCUSED_PX:
        return Width(2.0 * _crossing(r, height, 0.5), True)
    return Width(_moffat_fwhm(r, height, count, sigma, profile.trail_px > 0), False)


def _stacked(radius: Floats, share: Floats, reach: float) -> tuple[Floats, Floats, Floats]:
    """Return radius, mean and number of the values in rings, outliers left out."""
    ring = np.minimum((radius * BINS / reach).astype(int), BINS - 1)
    weight = np.ones_like(share)
    for _ in range(2):
        count = np.bincount(ring, weight, BINS)
        mean = np.bincount(ring, weight * share, BINS) / np.maximum(count, 1)
        spread = np.sqrt(np.bincount(ring, weight * (share - mean[ring]) ** 2, BINS) / np.maximum(count, 1))
        weight = (np.abs(share - mean[ring]) < 3.0 * spread[ring] + 1e-12).astype(float)
    count = np.bincount(ring, weight, BINS)
    known = count > 3
    mean = np.bincount(ring, weight * share, BINS)[known] / count[known]
    # A ring's mean is its profile's where the mean square of the radius is.
    r = np.sqrt(np.bincount(ring, weight * radius**2, BINS)[known] / count[known])
    return np.asarray(r, np.float64), np.asarray(mean, np.float64), count[known].astype(np.float64)


def _is_flat(r: Floats, height: Floats) -> bool:
    top = float(np.sort(height)[-3:].mean())
    if float(height[:3].mean()) < DIP * top and r[int(height.argmax())] > 0.15 * r[-1]:
        return True
    return _crossing(r, height, 0.8) > FLAT_TOP * _crossing(r, height, 0.3)


def _crossing(r: Floats, height: Floats, share: float) -> float:
    """Return the radius beyond which a profile stays below a share of its maximum."""
    limit = share * float(np.sort(height)[-2:].mean())
    above = np.flatnonzero(height >= limit)
    last = int(above[-1]) if len(above) else 0
    if last + 1 >= len(r):
        return float(r[-1])
    drop = height[last] - height[last + 1]
    return float(r[last] + (r[last + 1] - r[last]) * (height[last] - limit) / drop)


def _moffat_fwhm(r: Floats, height: Floats, count: Floats, sigma: float, drawn_out: bool) -> float:
    weight = np.sqrt(np.minimum(count, 200.0))
    # A pixel at radius r sees its part of the profile; its direction to the centre is any, so two stand for all.
    u, v = (g.ravel() / 2 for g in np.meshgrid(_NODES, _NODES))
    w = np.outer(_WEIGHTS, _WEIGHTS).ravel() / 8
    turned = (u + v) / np.sqrt(2), (u - v) / np.sqrt(2)
    squares = np.concatenate(
        [(r[:, None] + u) ** 2 + v**2, (r[:, None] + turned[0]) ** 2 + turned[1] ** 2], axis=1
    )
    w = np.tile(w, 2)
    top = float(height.max())

    def model(p: Floats) -> Floats:
        scale, beta = np.exp(p[1]), np.exp(p[2])
        # Written with the half width, not with alpha, which for a Gaussian runs away with beta.
        heights = np.exp(-beta * np.log1p(squares / scale**2 * (2 ** (1 / beta) - 1))) @ w
        return np.asarray(top * p[0] * heights, np.float64)

    start = (1.1, np.log(0.5 * FWHM_PER_SIGMA * sigma * 0.92), np.log(3.5))
    bounds = ((0.3, np.log(0.15), np.log(1.3)), (30.0, np.log(4 * FWHM_PER_SIGMA * sigma), np.log(60.0)))
    fit = least_squares(lambda p: weight * (model(p) - height) / top, start, bounds=bounds)
    width, beta = 2.0 * np.exp(fit.x[1]), np.exp(fit.x[2])
    if drawn_out:
        # Across a trail lies the profile's integral along a line: a Moffat profile too, of beta less one half.
        width *= np.sqrt((2 ** (1 / (beta + 0.5)) - 1) / (2 ** (1 / beta) - 1))
    return float(width)
