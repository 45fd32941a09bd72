"""Which kernel resamples a frame, how far it reaches, and what it does to the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.plan import Kernel

PHASES = 1024
"""Sub-pixel positions in the Lanczos table: off by 0.0005 px at most; 32 kB, which the first-level cache holds."""

LANES = 8
"""Weights in a row of the table: six or eight taps, zeros behind them, one vector register of float32."""

DEGREE = 2
"""Of the polynomials that stand for Lanczos-3: weights are right to 4e-6, where the table's phases leave 7e-4."""

_MAX_RATIO = 1.3
"""Frame pixels per output pixel (linear) beyond which a point kernel skips flux that it should average."""

_MAX_RATIO_SAMPLED = 1.6
"""The same for bilinear and stars of FWHM >= 4 frame pixels: fluxes scatter by 0.3 % there, 5 % at 1.8 px."""

_WELL_SAMPLED_FWHM = 4.0

_LEAST_STRETCH = 1.02
"""Coarser outputs stretch Lanczos-3, by at most 4/3, which its eight taps hold."""

NEAREST, BILINEAR, LANCZOS3, STRETCHED, OVERLAP = 0, 1, 2, 3, 4
"""What the compiled code calls the kernels; area and drizzle are both exact overlaps."""


@dataclass(frozen=True)
class Sampling:
    """A kernel as the compiled code takes it.

    Attributes
    ----------
    kind
        `NEAREST`, `BILINEAR`, `LANCZOS3`, `STRETCHED` (Lanczos-3 on a coarser output) or `OVERLAP`.
    drop
        Side of the square that carries a frame pixel's flux, frame pixels: 1 for area, pixfrac for drizzle.
    reach
        Distance (frame pixels, per axis) from the output pixel's centre, or from its edges for overlaps, to the
        farthest pixel that counts.
    half_side
        Half the side of what is integrated over, output pixels: 0.5 for overlaps, 0 for point kernels.
    stretch
        How much wider Lanczos-3 is than on its own grid.
    """

    kind: int
    drop: float
    reach: float
    half_side: float
    stretch: float = 1.0

    @classmethod
    def of(cls, kernel: Kernel, area: float, pixfrac: float) -> Sampling:
        """Return the sampling of a kernel.

        Parameters
        ----------
        area
            Frame pixels per output pixel; only Lanczos-3 asks.
        pixfrac
            Side of a drop over a frame pixel; only drizzle asks.
        """
        if kernel == "nearest":
            return cls(NEAREST, 1.0, 0.5, 0.0)
        if kernel == "bilinear":
            return cls(BILINEAR, 1.0, 1.0, 0.0)
        if kernel == "lanczos3":
            stretch = _stretch(area)
            return cls(LANCZOS3, 1.0, 3.0, 0.0) if stretch == 1 else cls(STRETCHED, 1.0, 4.0, 0.0, stretch)
        drop = pixfrac if kernel == "drizzle" else 1.0
        return cls(OVERLAP, drop, 0.5 + drop / 2, 0.5)


def choose_kernel(kernel: Kernel, area: float, fwhm_frame_px: float) -> Kernel:
    """Return the kernel for one frame: the one asked for, or ``area`` where a point kernel would alias.

    Parameters
    ----------
    kernel
        What the options ask for; nearest, area and drizzle are taken at their word.
    area
        Frame pixels per output pixel.
    fwhm_frame_px
        Seeing in frame pixels.

    Notes
    -----
    A point kernel looks at a fixed number of frame pixels whatever the output's pixel is: beyond 1.3 frame pixels
    it skips flux that poorly sampled stars have nowhere else, and at 2 white noise folds down to all scales.
    """
    if kernel not in ("lanczos3", "bilinear"):
        return kernel
    sampled = kernel == "bilinear" and fwhm_frame_px >= _WELL_SAMPLED_FWHM
    return "area" if math.sqrt(area) > (_MAX_RATIO_SAMPLED if sampled else _MAX_RATIO) else kernel


def _stretch(area: float) -> float:
    """Return how much wider Lanczos-3 is made for an output coarser than the frame.

    Unstretched, what it leaves of the spectrum's copies folds onto the star: fluxes of single stars scatter by
    0.6 % (FWHM 2.5 frame pixels) to 0.9 % (1.8) where an output pixel is 1.25 frame pixels wide.
    """
    ratio = math.sqrt(area)
    # In steps, so that the frames of a camera share a table (32 kB).
    return 1.0 if ratio < _LEAST_STRETCH else min(math.ceil(ratio * 64) / 64, 4 / 3)


def kernel_1d(kernel: Kernel, offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a point kernel at ``offset`` pixels from the sample."""
    if kernel == "nearest":
        return np.where((offset >= -0.5) & (offset < 0.5), 1.0, 0.0)
    if kernel == "bilinear":
        return np.asarray(np.clip(1 - np.abs(offset), 0, None))
    return np.asarray(np.where(np.abs(offset) < 3, np.sinc(offset) * np.sinc(offset / 3), 0.0))


@lru_cache(maxsize=64)
def lanczos_table(stretch: float = 1.0) -> NDArray[np.float32]:
    """Return Lanczos-3 weights of unit sum, flat: `PHASES` + 1 rows of `LANES`.

    Taps -2 to 3 and zeros; stretched, up to 4/3, taps -3 to 4.
    """
    phase = np.arange(PHASES + 1)[:, None] / PHASES
    taps = np.arange(-2, 4) if stretch == 1 else np.arange(-3, 5)
    weights = kernel_1d("lanczos3", (phase - taps) / stretch)
    # sinc is not exactly 0 at whole pixels; a tap without weight may lie outside the frame.
    weights[np.abs(weights) < 1e-12] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    table = np.zeros((PHASES + 1, LANES), np.float32)
    table[:, : taps.size] = weights
    return table.ravel()


@lru_cache(maxsize=1)
def lanczos_polynomials() -> NDArray[np.float32]:
    """Return Lanczos-3 weights of unit sum as six polynomials: `DEGREE` + 1 coefficients each, low powers first.

    With f the fraction of a pixel, g = f - 1/2 and h = f (1 - f), the weights of taps -2 and 3, -1 and 2 are
    h (e ∓ g o), those of taps 0 and 1 are 1/2 + h e ∓ g (1 + h o). The pairs' e and o, in turn, are polynomials in
    h. Whole pixels and sums of the weights come out exact by form: skies have no ripple.
    """
    fraction = (1 - np.cos(np.pi * (np.arange(400) + 0.5) / 400)) / 2
    weights = kernel_1d("lanczos3", fraction[:, None] - np.arange(-2, 4))
    weights /= weights.sum(axis=1, keepdims=True)
    g, h = fraction - 0.5, fraction * (1 - fraction)
    powers = h[:, None] ** np.arange(1, DEGREE + 2)
    found = []
    for pair, whole in enumerate((0.0, 0.0, 1.0)):
        before, after = weights[:, pair], weights[:, 5 - pair]
        found.append(np.linalg.lstsq(powers, (before + after - whole) / 2)[0])
        found.append(np.linalg.lstsq(powers * g[:, None], (after - before) / 2 - g * whole)[0])
    return np.concatenate(found).astype(np.float32)


def noise_factor(kernel: Kernel, area: float, pixfrac: float = 1.0) -> float:
    """Return sd of a resampled pixel over that of a pixel of white noise of the same area.

    The mean over sub-pixel phases of the summed squared weights: at equal scales 0.67 for bilinear and area, 0.90
    for Lanczos-3, 1 for nearest. What is missing sits in the correlation of neighbours. ``area`` is frame pixels
    per output pixel, ``pixfrac`` the side of a drizzled drop. Rotation between the grids is left out.
    """
    ratio = math.sqrt(area)
    taps = np.arange(-5, math.ceil(ratio) + 6)
    points = (np.arange(256) + 0.5)[:, None] / 256 - taps
    if kernel in ("area", "drizzle"):
        drop = pixfrac if kernel == "drizzle" else 1.0
        left, right = points - ratio / 2, points + ratio / 2
        weights = np.clip(np.minimum(right, drop / 2) - np.maximum(left, -drop / 2), 0, None)
        weights = weights[weights.sum(axis=1) > 0]
    else:
        weights = kernel_1d(kernel, points / (_stretch(area) if kernel == "lanczos3" else 1.0))
    weights = weights / weights.sum(axis=1, keepdims=True)
    # The flux of a pixel is area times a mean; per axis white noise of that length has variance `ratio`.
    return float(np.mean(np.sum(weights**2, axis=1)) * ratio)
