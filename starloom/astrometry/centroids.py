"""Centroids, widths and their errors under a window of the frame's own profile, for thousands of stars at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.background import SkyMesh
from starloom.astrometry.bins import Bools

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

# Stars measured at a time: their stamps stay in the processor's cache.
CHUNK = 400
# The window reaches this many sigma before its stamp ends: beyond lie 0.2 % of its weight.
REACH_SIGMA = 3.5
MAX_ROUNDS = 15
SETTLED_PX = 2e-3
# What remains where flat field, pixel structure and the optics' asymmetry are what they are, pixels.
FLOOR_PX = 0.004
# The pixels above, below and beside, of stamps padded by one pixel.
_FIRST, _MIDDLE, _LAST = slice(None, -2), slice(1, -1), slice(2, None)
BESIDE = ((..., _FIRST, _MIDDLE), (..., _LAST, _MIDDLE), (..., _MIDDLE, _FIRST), (..., _MIDDLE, _LAST))


@dataclass(frozen=True)
class Frame:
    """A frame's pixels with what is known of them.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``, contiguous, any real type.
    bad
        True marks pixels to be bridged, same shape; None if there are none.
    sky
        Sky above ``base``, in pixels.
    base
        Level the sky counts from, ADU.
    gain_e_per_adu
        Electrons per ADU.
    """

    data: NDArray[Any]
    bad: Bools | None
    sky: SkyMesh
    base: float
    gain_e_per_adu: float


@dataclass(frozen=True)
class Measured:
    """Stars under the window, each field of shape ``(n,)`` unless said otherwise.

    Parameters
    ----------
    x, y
        Centroids, 0-based pixel centres; NaN where nothing converged.
    error_px
        1-sigma error per axis.
    light
        Sum of the light under the window, ADU.
    snr
        Signal-to-noise of ``light`` against the sky alone.
    sureness
        The same against the sky and the light's own photons: where a frame counts single photons a few of them
        are no star, however far they stand out of the empty sky.
    moments
        Second moments of the light under the window, px², shape ``(n, 2, 2)``; those of a Gaussian star that
        matches the window are half of the window's covariance.
    peak
        Highest pixel of the core above the sky, ADU.
    hidden
        Share of the window's weight on bad or missing pixels.
    level, noise
        Sky above the frame's base, and noise of one pixel, ADU.
    """

    x: Floats
    y: Floats
    error_px: Floats
    light: Floats
    snr: Floats
    sureness: Floats
    moments: Floats
    peak: Floats
    hidden: Floats
    level: Floats
    noise: Floats


def windowed(
    frame: Frame, x: Floats, y: Floats, covariance: Floats, core_px: float, *, scale: Floats | None = None
) -> Measured:
    """Measure stars under a Gaussian window.

    Parameters
    ----------
    frame
        Where they are.
    x, y
        First guesses, good to about the window's sigma, shape ``(n,)``.
    covariance
        Of the window, px², shape ``(2, 2)``.
    core_px
        Radius within which the peak is looked for.
    scale
        Factor on the window's sigma for each star, shape ``(n,)``.

    Notes
    -----
    The centroid is where the weighted first moment vanishes, found by steps of twice that moment. Its variance is
    ``sum(w² d² var) / (sum(w I) - sum(w d² I) / s²)²`` along each axis, ``var`` being sky noise and photons; to it
    comes a floor for what more light does not better, which grows where the pixels undersample the profile.

    References
    ----------
    Bertin 2010, SExtractor manual 2.13, section 9.1.2 (XWIN_IMAGE and its error).
    """
    n = len(x)
    scale = np.ones(n) if scale is None else scale
    level, noise = frame.sky.at(y, x) if n else (np.zeros(0), np.zeros(0))
    parts = []
    for first in range(0, n, CHUNK):
        part = slice(first, first + CHUNK)
        parts.append(_chunk(frame, x[part], y[part], covariance, scale[part], level[part], noise[part], core_px))
    if not parts:
        nothing = np.zeros(0)
        return Measured(
            x=nothing, y=nothing, error_px=nothing, light=nothing, snr=nothing, sureness=nothing,
            moments=np.zeros((0, 2, 2)), peak=nothing, hidden=nothing, level=nothing, noise=nothing,
        )  # fmt: skip
    px, py, error, light, snr, sureness, moments, peak, hidden = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Measured(px, py, error, light, snr, sureness, moments, peak, hidden, level, noise)


def stamps(
    frame: Frame, row: NDArray[np.intp], column: NDArray[np.intp], half: int, level: Floats
) -> tuple[Image, Bools | None]:
    """Cut squares out of a frame, less the sky.

    Parameters
    ----------
    frame
        Where from.
    row, column
        Their middle pixels, shape ``(n,)``.
    half
        Pixels from the middle to the edge.
    level
        Sky at each, ADU above the frame's base.

    Returns
    -------
    values
        Shape ``(n, 2 half + 1, 2 half + 1)``; pixels that are bad or off the frame are 0 here.
    hidden
        Which those are, None where there are none.
    """
    ny, nx = frame.data.shape
    grid = np.arange(-half, half + 1)
    rows, columns = row[:, None] + grid, column[:, None] + grid
    off = (rows[:, 0] < 0) | (rows[:, -1] >= ny) | (columns[:, 0] < 0) | (columns[:, -1] >= nx)
    at = np.clip(rows, 0, ny - 1)[:, :, None] * nx + np.clip(columns, 0, nx - 1)[:, None, :]
    raw = np.take(frame.data, at)
    with np.errstate(invalid="ignore", over="ignore"):
        if raw.dtype.itemsize > 2:
            values = (raw.astype(np.float64) - (frame.base + level)[:, None, None]).astype(np.float32)
        else:
            values = raw.astype(np.float32) - (frame.base + level).astype(np.float32)[:, None, None]
    hidden = np.take(frame.bad, at) if frame.bad is not None else None
    if off.any():
        outside = np.zeros(at.shape, bool)
        outside[off] = ((rows < 0) | (rows >= ny))[off][:, :, None] | ((columns < 0) | (columns >= nx))[off][
            :, None, :
        ]
        hidden = outside if hidden is None else hidden | outside
    if raw.dtype.kind == "f":
        broken = ~np.isfinite(values)
        if broken.any():
            hidden = broken if hidden is None else hidden | broken
    if hidden is None or not hidden.any():
        return values, None
    values[hidden] = 0.0
    return values, hidden


def bridged(values: Image, hidden: Bools) -> Image:
    """Fill hidden pixels of stamps with the mean of their seen neighbours, line by line inwards."""
    touched = np.flatnonzero(hidden.any(axis=(1, 2)))
    some, gap = values[touched], hidden[touched]
    for _ in range(3):
        if not gap.any():
            break
        light, seen = np.pad(some, ((0, 0), (1, 1), (1, 1))), np.pad(~gap, ((0, 0), (1, 1), (1, 1)))
        light = np.where(seen, light, np.float32(0))
        total, count = np.zeros(some.shape, np.float32), np.zeros(some.shape, np.float32)
        for part in BESIDE:
            total += light[part]
            count += seen[part]
        new = gap & (count >= 2)
        some[new] = total[new] / count[new]
        gap = gap & ~new
    values[touched] = some
    return values


def _chunk(
    frame: Frame,
    x: Floats,
    y: Floats,
    covariance: Floats,
    scale: Floats,
    level: Floats,
    noise: Floats,
    core_px: float,
) -> tuple[Floats, ...]:
    """Measure a few hundred stars: the columns of `Measured` up to ``hidden``."""
    widest = float(scale.max())
    half = int(np.ceil(REACH_SIGMA * widest * np.sqrt(np.linalg.eigvalsh(covariance)[-1]) + 0.5))
    row, column = np.rint(y).astype(np.intp), np.rint(x).astype(np.intp)
    cut, hidden = stamps(frame, row, column, half, level)
    if hidden is not None:
        cut = bridged(cut, hidden)
    n, side = len(x), 2 * half + 1
    flat = cut.reshape(n, side * side)
    powers = _monomials(half)
    inverse = np.linalg.inv(covariance) / scale[:, None, None] ** 2
    dx, dy = x - column, y - row
    good = np.ones(n, bool)
    for _ in range(MAX_ROUNDS):
        sums = (_window(inverse, dx, dy, powers) * flat) @ powers.T
        good &= sums[:, 0] > 0
        total = np.where(good, sums[:, 0], 1.0)
        # Twice the offset of a star from its window's middle is the way to go where both are of one width.
        step_x = np.where(good, 2.0 * (sums[:, 1] / total - dx), 0.0)
        step_y = np.where(good, 2.0 * (sums[:, 2] / total - dy), 0.0)
        dx, dy = dx + np.clip(step_x, -2.0, 2.0), dy + np.clip(step_y, -2.0, 2.0)
        good &= (np.abs(dx) < half) & (np.abs(dy) < half)
        dx, dy = np.where(good, dx, 0.0), np.where(good, dy, 0.0)
        moving = np.hypot(step_x, step_y) > SETTLED_PX * np.maximum(scale, 1.0)
        if not (moving & good).any():
            break
    good &= ~(np.hypot(step_x, step_y) > 0.1 * scale)
    window = _window(inverse, dx, dy, powers)
    lit = window * flat
    sums = lit @ powers.T
    light = sums[:, 0]
    total = np.where(good & (light > 0), light, 1.0)
    mean = sums[:, 1:3] / total[:, None]
    moments = sums[:, [3, 4, 4, 5]].reshape(n, 2, 2) / total[:, None, None] - mean[:, :, None] * mean[:, None, :]
    variance = noise[:, None].astype(np.float32) ** 2 + np.maximum(flat, 0) / np.float32(frame.gain_e_per_adu)
    spread = (window * window * variance) @ powers.T
    error = _error(spread, dx, dy, inverse, moments, total)
    sky_sum = np.sqrt(np.einsum("ij,ij->i", window, window))
    reach = min(max(int(np.ceil(core_px)), 1), half)
    middle = slice(half - reach, half + reach + 1)
    peak = cut[:, middle, middle].max(axis=(1, 2)).astype(float)
    lost = np.zeros(n)
    if hidden is not None:
        lost = np.einsum("ij,ij->i", window, hidden.reshape(n, -1).astype(np.float32)) / window.sum(axis=1)
    x, y = np.where(good, column + dx, np.nan), np.where(good, row + dy, np.nan)
    snr, sureness = light / (noise * sky_sum), light / np.sqrt(spread[:, 0])
    return x, y, error, light.astype(float), snr, sureness, moments, peak, lost.astype(float)


def _error(sums: Floats, dx: Floats, dy: Floats, inverse: Floats, moments: Floats, total: Floats) -> Floats:
    """Return the error per axis from the moments of ``window² variance``, see `windowed`."""
    xx = sums[:, 3] - 2 * dx * sums[:, 1] + dx**2 * sums[:, 0]
    yy = sums[:, 5] - 2 * dy * sums[:, 2] + dy**2 * sums[:, 0]
    xy = sums[:, 4] - dx * sums[:, 2] - dy * sums[:, 1] + dx * dy * sums[:, 0]
    spread = np.stack([xx, xy, xy, yy], axis=1).reshape(-1, 2, 2)
    # How fast the weighted moment changes as the window moves: 1 - C⁻¹ M, one half for a star like the window.
    slope = np.eye(2) - inverse @ moments
    determinant = slope[:, 0, 0] * slope[:, 1, 1] - slope[:, 0, 1] * slope[:, 1, 0]
    sound = (determinant > 0.01) & (slope[:, 0, 0] > 0)
    back = np.linalg.inv(np.where(sound[:, None, None], slope, 0.5 * np.eye(2)))
    covariance = back.swapaxes(1, 2) @ spread @ back
    variance_px = 0.5 * np.trace(covariance, axis1=1, axis2=2) / total**2
    phase = _pixel_phase(np.clip(0.5 * np.trace(moments, axis1=1, axis2=2), 0.1, None))
    return np.asarray(np.sqrt(np.maximum(variance_px, 0.0) + FLOOR_PX**2 + phase**2))


def _pixel_phase(variance_px: Floats) -> Floats:
    """Return the rms error that the place of a star within a pixel makes.

    A sum over pixels stands for an integral but for a term ``exp(-2 pi² s²)`` of the sampling theorem, s² being
    the variance of what is summed, the star under its window; for a first moment it is ``4 pi s²`` times that.
    """
    return np.asarray(np.sqrt(2.0) * 4.0 * np.pi * variance_px * np.exp(-2.0 * np.pi**2 * variance_px))


def _window(inverse: Floats, dx: Floats, dy: Floats, powers: Image) -> Image:
    """Return ``exp(-½ dᵀ C⁻¹ d)`` on stamps: the exponent is a sum of monomials, and so one matrix product."""
    a, b, d = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    u, v = a * dx + b * dy, b * dx + d * dy
    factors = np.stack([-0.5 * (dx * u + dy * v), u, v, -0.5 * a, -b, -0.5 * d], axis=1)
    exponent = factors.astype(np.float32) @ powers
    np.exp(exponent, out=exponent)
    return np.asarray(exponent)


def _monomials(half: int) -> Image:
    """Return 1, x, y, x², xy, y² over a stamp, shape ``(6, (2 half + 1)²)``."""
    y, x = (g.ravel().astype(np.float32) for g in np.mgrid[-half : half + 1, -half : half + 1])
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
