"""What the stars of a frame look like: how wide, drawn out along which line, a peak or a ring."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from starloom.astrometry.background import ONE_BELOW
from starloom.astrometry.bins import Image, coarser
from starloom.astrometry.extract import extract
from starloom.astrometry.profile import GUESS, Profile

Floats = NDArray[np.float64]

# Stars looked at, and the least that say anything about all.
LOOK_AT = 80
LOOK_AT_LEAST = 5
ENOUGH = 25
# Share of the sizes that their densest stretch holds, and how wide (log of the size to the fourth) it is at least.
MODE_SHARE, MIN_SPAN = 0.35, 0.5
# A stretch this narrow is that of single stars.
CONVINCING = 0.5
# Half the width of the stamps of the first look, in its own pixels.
HALF = 16
ROUNDS = 9
# Half the variance, in pixels, below which one pixel holds all of a star and the sums say nothing.
SHARPEST = 0.05
# Stamps twice as coarse are looked at where stars reach this sigma, so that a window always holds them.
LARGE, LONG = 3.2, 5.1
COARSEST = 32
# A wider view is believed where it shows stars longer by this factor.
GROWN = 1.15
NARROWEST_PX = 0.4
# Optics draw stars out too, by up to a third, and towards the corners in all directions.
TRAILED_ELLIPTICITY = 0.3
TRAILED_ALIGNMENT = 0.6


class Look(NamedTuple):
    """How to look for lone stars.

    Cells a spot and axis, its threshold (sigma), the cells around it that hold no other, and the window that its
    moments are first taken under (sigma, cells).
    """

    step: int
    threshold: float
    lonely: int
    window: float


# First for all that may be large. Faint and sharp stars drown in spots of that size; bright ones in a crowd hang
# together unless one looks at their peaks alone, and through small windows.
LOOKS = (
    Look(4, 4.0, HALF, 3.5),
    Look(2, 4.0, HALF, 3.5),
    Look(2, 4.0, HALF // 2, 1.5),
    Look(2, 64.0, HALF // 2, 1.5),
    Look(2, 1000.0, HALF // 2, 1.5),
)


def first_look(cells: Image, step: int, is_bright: float) -> Profile:
    """Measure the common profile of a frame's bright stars before they are looked for.

    Parameters
    ----------
    cells
        Means of ``step`` × ``step`` pixels less the sky, in units of their noise; hot pixels are gone.
    step
        Pixels a cell and axis.
    is_bright
        Cells above this are saturated and say nothing about shape.

    Returns
    -------
    Profile
        ``GUESS`` where there are too few stars.

    Notes
    -----
    The frame is seen so coarsely at first that a trail or an out-of-focus ring is one spot and not many. Around
    each spot the moments under a Gaussian window are taken, the window given the star's own shape, and again,
    until it matches (adaptive moments); the frame's profile is their median, blends left
    out.

    References
    ----------
    Bernstein & Jarvis 2002, AJ 123, 583, section 3.1.
    """
    seen, scale = GUESS, 1
    while scale * step <= COARSEST and min(cells.shape) >= 4 * HALF * scale:
        found, held = _seen_at(cells, step, scale, is_bright)
        if found.stars < LOOK_AT_LEAST:
            break
        if seen.stars and found.major_px < GROWN * seen.major_px:
            # Coarser cells show nothing more: what was seen more finely was all there is.
            break
        if seen.stars and found.minor_px < 0.5 * found.major_px:
            # What is long and thin was seen best across where it was seen finest.
            found = replace(found, minor_px=min(found.minor_px, seen.minor_px))
        seen = found
        if held:
            break
        scale *= 2
    return seen if seen.trail_px == 0 else replace(seen, trail_px=trail_length(seen.major_px, seen.minor_px))


def _seen_at(cells: Image, step: int, scale: int, is_bright: float) -> tuple[Profile, bool]:
    """Return the profile seen in cells ``scale`` times as coarse, and whether the stamps hold it whole."""
    image = cells if scale == 1 else coarser(cells, scale)
    best, least = np.zeros((0, 2, 2)), np.inf
    for look in LOOKS if scale == 1 else LOOKS[:1]:
        y, x = _spots(image, look)
        moments = _adaptive_moments(image, y, x, look, is_bright) if len(y) else best[:0]
        if len(moments) < LOOK_AT_LEAST:
            continue
        alike, spread = _alike(moments)
        # A handful may be alike by chance.
        spread *= 1 + 5 / len(alike)
        if spread < least:
            best, least = moments[alike], spread
        if len(alike) >= ENOUGH and spread < CONVINCING:
            break
    moments = best
    if len(moments) < LOOK_AT_LEAST:
        return GUESS, True
    values, vectors = np.linalg.eigh(np.median(moments, axis=0))
    held = (values[0] * values[1]) ** 0.25 < LARGE and values[1] ** 0.5 < LONG
    # The cells widen the stars by one twelfth of their size squared; the frame's own pixels stay in.
    pixel = step * scale
    minor, major = np.sqrt(np.maximum(values * pixel**2 - (pixel**2 - 1) / 12, NARROWEST_PX**2))
    angle = float(np.arctan2(vectors[1, 1], vectors[0, 1]) + np.pi / 2) % np.pi - np.pi / 2
    drawn_out = minor < (1 - TRAILED_ELLIPTICITY) * major and _agreement(moments) > TRAILED_ALIGNMENT
    return Profile(float(major), float(minor), angle, float(major) if drawn_out else 0.0, len(moments)), bool(held)


def _spots(image: Image, look: Look) -> tuple[Floats, Floats]:
    """Find spots that stand alone."""
    step = look.step
    coarse = coarser(image, step)
    if min(coarse.shape) < 8:
        return np.zeros(0), np.zeros(0)
    ordered = np.sort(coarse[:: max(coarse.size // 200_000, 1)], axis=None)
    noise = float(ordered[len(ordered) // 2] - ordered[int(ONE_BELOW * len(ordered))])
    if noise <= 0:
        return np.zeros(0), np.zeros(0)
    spots = extract(coarse, None, look.threshold * noise, deblend=1.0)
    spots = spots[(spots["flag"] == 0) & (spots["npix"] < 200)]
    spots = spots[: 4 * LOOK_AT]
    y, x = step * spots["y"] + (step - 1) / 2, step * spots["x"] + (step - 1) / 2
    ny, nx = image.shape
    reach = HALF + 1
    within = (y > reach) & (y < ny - 1 - reach) & (x > reach) & (x < nx - 1 - reach)
    apart = np.hypot(y[:, None] - y, x[:, None] - x)
    flux = spots["flux"]
    disturbed = ((apart < look.lonely) & (flux > 0.2 * flux[:, None]) & ~np.eye(len(y), dtype=bool)).any(axis=1)
    keep = np.flatnonzero(within & ~disturbed)
    return y[keep], x[keep]


def _adaptive_moments(image: Image, y: Floats, x: Floats, look: Look, is_bright: float) -> Floats:
    """Return the covariances of matching Gaussians, shape ``(n, 2, 2)``, of unsaturated spots that have one."""
    grid = np.arange(-HALF, HALF + 1)
    j, i = np.rint(y).astype(int), np.rint(x).astype(int)
    stamps = image[j[:, None, None] + grid[:, None], i[:, None, None] + grid].astype(float)
    clear = stamps[:, HALF // 2 : -HALF // 2, HALF // 2 : -HALF // 2].max(axis=(1, 2)) < is_bright
    if clear.sum() < LOOK_AT_LEAST:
        # All as bright as the brightest: saturated or not, they are what there is.
        clear[:] = True
    stamps = stamps[clear][:LOOK_AT].reshape(-1, (2 * HALF + 1) ** 2)
    # Moments as sums over the grid's monomials: 1, x, y, x², xy, y².
    gx, gy = (g.ravel().astype(float) for g in np.meshgrid(grid, grid))
    powers = np.stack([np.ones_like(gx), gx, gy, gx * gx, gx * gy, gy * gy])
    n = len(stamps)
    centre = np.zeros((n, 2))
    shape = np.tile(look.window**2 * np.eye(2), (n, 1, 1))
    alive = np.ones(n, bool)
    for _ in range(ROUNDS):
        inverse = np.linalg.inv(shape)
        # -1/2 (r - c)ᵀ C⁻¹ (r - c), expanded in the same monomials.
        a, b, d = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
        cx, cy = centre.T
        linear = np.stack([a * cx + b * cy, b * cx + d * cy])
        constant = -0.5 * (cx * linear[0] + cy * linear[1])
        exponent = np.stack([constant, linear[0], linear[1], -0.5 * a, -b, -0.5 * d], axis=1) @ powers
        sums = (np.exp(np.minimum(exponent, 0.0)) * stamps) @ powers.T
        total = sums[:, 0]
        alive &= total > 0
        safe = np.where(alive, total, 1.0)
        mean = sums[:, 1:3] / safe[:, None]
        second = (
            np.stack([sums[:, 3], sums[:, 4], sums[:, 4], sums[:, 5]], axis=1).reshape(n, 2, 2)
            / safe[:, None, None]
        )
        second -= mean[:, :, None] * mean[:, None, :]
        values, axes = np.linalg.eigh(second)
        second = (axes * np.maximum(values, SHARPEST)[:, None, :]) @ axes.swapaxes(1, 2)
        alive &= np.abs(mean).max(axis=1) < HALF / 2
        # Under the window the star's moments are half of its own once both are alike.
        centre = np.where(alive[:, None], mean, 0.0)
        shape = np.where(alive[:, None, None], 2.0 * second, look.window**2 * np.eye(2))
    return shape[alive]


def _alike(moments: Floats) -> tuple[NDArray[np.intp], float]:
    """Return which sizes crowd together, and how closely: single stars are alike, blends are of all sizes."""
    size = np.log(np.linalg.det(moments))
    order = np.argsort(size)
    share = max(int(MODE_SHARE * len(size)), min(LOOK_AT_LEAST, len(size)))
    spans = size[order][share - 1 :] - size[order][: len(size) - share + 1]
    first = int(np.argmin(spans))
    middle = float(np.median(size[order][first : first + share]))
    return np.flatnonzero(np.abs(size - middle) < max(4 * spans[first], MIN_SPAN)), float(spans[first])


def _agreement(moments: Floats) -> float:
    """Return how well the long axes agree, 0 to 1, stars that are drawn out further counting for more."""
    stretch = (moments[:, 0, 0] - moments[:, 1, 1] + 2j * moments[:, 0, 1]) / np.trace(moments, axis1=1, axis2=2)
    total = float(np.abs(stretch).sum())
    return float(np.abs(stretch.sum()) / total) if total > 0 else 0.0


def trail_length(major_px: float, minor_px: float) -> float:
    """Return the length of the path that draws a star of matching sigma ``minor_px`` out to ``major_px``.

    Notes
    -----
    The matching Gaussian of a line of length L is no L²/12 wider: the window dims its ends. The relation is found
    by matching a window to the drawn-out profile as it is matched to stars.
    """
    if major_px <= minor_px:
        return 0.0
    return float(brentq(lambda length: _matched(length, minor_px) - major_px, 0.0, 12.0 * major_px, xtol=1e-3))


def _matched(length: float, sigma: float) -> float:
    """Return the sigma of the matching Gaussian along a line of ``length`` blurred by ``sigma``."""
    at = np.linspace(0.0, length / 2 + 6 * sigma, 500)
    offsets = np.linspace(-length / 2, length / 2, 61)
    light = np.exp(-0.5 * ((at[:, None] - offsets) / sigma) ** 2).sum(axis=1)
    width = sigma**2 + length**2 / 8
    for _ in range(60):
        window = light * np.exp(-0.5 * at**2 / width)
        width = 2.0 * float((window * at**2).sum() / window.sum())
    return float(np.sqrt(width))
