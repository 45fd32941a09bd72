"""Combining the frames of a tile: rejection against a noise model, then a weighted mean."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.fused import BASE, BLOCK, CENTRE, CONTRAST, LEVEL
from starloom.coadd.fused.gate import candidates
from starloom.coadd.fused.median import medians
from starloom.coadd.fused.network import merging
from starloom.coadd.fused.reject import FLOOD_PX, WIDEN_PX, flood, scan
from starloom.coadd.fused.signal import signals
from starloom.coadd.fused.sums import sums
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, Tile

Plane = NDArray[np.float32]

_LEAST_WEIGHT = np.float32(1e-3)
"""Of a pixel within its frame: next to nothing, but where it is all there is, the stack shows it."""
_FLOOD_SIGMA = 2.0
_REACH_FWHM = 1.5
"""Half side of the window, in FWHM of the poorest frame, within which a star's peak opens the clip."""

_UNLIKE = 1.3
"""Margin over the difference of two Gaussians' peaks, for wings and shapes that no Gaussian has."""
_MIXED = 0.4
"""Share of the contrast by which the median may not be the middle PSF: between a sharp and a wide one, some way
from the centre, the middle PSF is above both."""


@dataclass(frozen=True)
class FrameNoise:
    """What the combination knows of a frame: noise and weight (output units), seeing (output pixels)."""

    sigma: float
    weight: float
    fwhm_px: float
    gain: float | None = None
    """Electrons per output unit, for the photon noise of bright pixels."""
    poorest_px: float = 0.0
    """FWHM of the plan's poorest frame: windows must be alike in all tiles, whatever frames touch them."""
    inverse_variance: float | None = None
    """Of the sky in one output pixel's area; None: the weight."""

    @classmethod
    def of_plan(cls, plan: StackPlan) -> tuple[FrameNoise, ...]:
        """Describe all used frames of a plan, in plan order."""
        poorest = max((frame.fwhm_px for frame in plan.used), default=0.0)
        return tuple(cls._of(plan, frame, poorest) for frame in plan.used)

    @classmethod
    def _of(cls, plan: StackPlan, frame: PlanFrame, poorest_px: float) -> FrameNoise:
        gain = frame.input.gain_e_per_adu
        per_unit = None if gain is None else gain / frame.scale
        known = plan.inverse_variance(frame)
        return cls(frame.sigma, frame.weight, frame.fwhm_px, per_unit, poorest_px, known)

    @property
    def spent(self) -> float:
        """Square of the weight over the inverse variance: what it adds to the variance of a weighted sum."""
        if self.inverse_variance is None or self.inverse_variance == self.weight:
            return self.weight  # not its square over itself, which differs in the last bit
        return self.weight**2 / self.inverse_variance

    @property
    def alike(self) -> float:
        """Share of a star's contrast by which frames of like seeing may differ.

        Seeing that changes over the field, 0.1 px of misregistration; and of undersampled stars, where
        in its pixel the star falls: the share grows steeply below 2 px.
        """
        return 0.18 + 0.5 * (1.6 / self.fwhm_px) ** 4


@dataclass(frozen=True)
class Combined:
    """Planes of the inner part of one tile, and what each frame gave to it."""

    sci: Plane
    weight: Plane
    coverage: NDArray[np.int16]
    rejected: Plane
    """Share of a pixel's values that the clip took."""
    clipped: NDArray[np.int64]
    """Values rejected, one per frame."""
    offered: NDArray[np.int64]
    """Values of each frame before the rejection."""


def _window_px(noises: Sequence[FrameNoise]) -> int:
    poorest = max((max(noise.fwhm_px, noise.poorest_px) for noise in noises), default=1.0)
    return math.ceil(_REACH_FWHM * poorest)


def reach_px(noises: Sequence[FrameNoise]) -> int:
    """Return the margin (px) with which a tile's inner part is the same as in any larger tile.

    A pixel hangs on what is followed and widened to it, whose bounds hang on the window of a smoothed median.
    """
    return FLOOD_PX + WIDEN_PX + _window_px(noises) + 1


def combine_tile(
    cube: Plane,
    noises: Sequence[FrameNoise],
    relative: Plane | None,
    options: StackOptions,
    sky_level: Plane,
    tile: Tile,
    inner: tuple[slice, slice],
) -> Combined:
    """Combine the frames of a tile.

    Parameters
    ----------
    cube
        Sky-matched frames in output units, in plan order, shape ``(n, tile.ny, tile.nx)``, `ABSENT` where a
        frame has nothing. Overwritten: rejected values become `ABSENT`. ``n`` may be 0.
    noises
        One per frame.
    relative
        Weight within each frame over its weight, on the lattice, shape ``(n, gy, gx)``; None: 1 everywhere.
    options
        ``combine`` (clipped, median or mean) and ``clip_sigma``.
    sky_level
        Level that the matched frames have in common, output units, on the lattice, ``(gy, gx)``.
    tile
        Place of the cube on the output grid, which the lattice (nodes at multiples of 32 px) is tied to.
    inner
        Rows and columns of the cube that are wanted; `reach_px` from its edges they do not hang on the tiling.

    Returns
    -------
    Combined
        ``sci`` is NaN and ``weight`` 0 where no frame has a pixel; ``weight`` is the summed inverse variance.

    Notes
    -----
    A value v of frame n is an outlier where, with c the median, S the contrast and L the level of its
    surroundings (`fused.signal.signals`), F the FWHM of the frame and F_c that of the median,

    ``(v - c)² > k² (s_n² + s_c² + L / gain_n) + (a_n S)²``,
    ``a_n = alike_n + 1.3 max(F_c² / F² - 1, 1 - F_c² / F²) + 0.4 (1 - F_1² / F_3²)``

    with F_1 and F_3 the quartiles of the frames' FWHM.

    Never the sample's own deviation: the largest one possible is (n - 1) / sqrt(n), so that a 3-sigma clip of
    that kind rejects nothing below n = 11. The last term is the difference of two PSFs of the same flux, whose
    peaks go as 1 / F²: without it bright stars lose ~1 % among frames of unlike seeing.
    """
    n, ny, nx = cube.shape
    values = np.ascontiguousarray(cube).reshape(n, ny * nx)
    place = (tile.y0, tile.x0, nx)
    (y0, y1, _), (x0, x1, _) = inner[0].indices(ny), inner[1].indices(nx)
    part = (y0, y1, x0, x1)
    nothing = np.zeros((0, 0, 0), np.float32)
    shares = nothing if relative is None else np.maximum(relative, _LEAST_WEIGHT)
    shape = (y1 - y0, x1 - x0)
    hit, clipped = np.zeros(ny * nx, np.int16), np.zeros(n, np.int64)
    centre = np.empty(0, np.float32)
    if n > 0 and options.combine == "median":
        centre = _SCRATCH.planes(ny * nx)[0][CENTRE]
        medians(values, merging(n), _variances(noises), centre)
    elif n > 1 and options.combine == "clipped":
        _reject(values, noises, shares, options.clip_sigma, sky_level, place, part, hit, clipped)
    offered = clipped.copy()
    planes = _planes(shape)
    own = np.array([x.weight for x in noises], np.float32)
    sums(values, own, shares, place, part, hit, planes, offered)
    sci, weight, coverage, rejected = planes
    if any(noise.spent != noise.weight for noise in noises):
        # Weights that follow more than the noise: the variance of the mean is what they make of it.
        aside = _planes(shape)
        own = np.array([x.spent for x in noises], np.float32)
        sums(values, own, shares, place, part, hit, aside, offered.copy())
        np.divide(weight**2, aside[1], out=weight, where=aside[1] > 0)
    if centre.size:
        sci = centre.reshape(ny, nx)[inner].copy()
        sci[coverage == 0] = np.nan
    return Combined(sci, weight, coverage, rejected, clipped, offered)


def _planes(shape: tuple[int, int]) -> tuple[Plane, Plane, NDArray[np.int16], Plane]:
    sci, weight, rejected = (np.empty(shape, np.float32) for _ in range(3))
    return sci, weight, np.empty(shape, np.int16), rejected


def _variances(noises: Sequence[FrameNoise]) -> Plane:
    return np.array([noise.sigma**2 for noise in noises], np.float32)


class _Scratch(threading.local):
    """Planes of one thread, reused for all tiles: fresh memory costs as much as what is done with it."""

    def __init__(self) -> None:
        self._room = (np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.uint64))

    def planes(self, npix: int) -> tuple[Plane, NDArray[np.int32], NDArray[np.uint64]]:
        """Return eight planes, one of counts and one of steps, each of ``npix``, with anything in them."""
        if self._room[1].size < npix:
            self._room = (np.empty(8 * npix, np.float32), np.empty(npix, np.int32), np.empty(npix, np.uint64))
        floats, counts, steps = self._room
        return floats[: 8 * npix].reshape(8, npix), counts[:npix], steps[:npix]


_SCRATCH = _Scratch()


def _reject(
    values: Plane,
    noises: Sequence[FrameNoise],
    shares: Plane,
    clip_sigma: float,
    sky_level: Plane,
    place: tuple[int, int, int],
    part: tuple[int, int, int, int],
    hit: NDArray[np.int16],
    clipped: NDArray[np.int64],
) -> None:
    # Between nodes it is the variance that is bilinear here, not its inverse: an upper bound, without a division.
    spreads = np.asarray(1 / shares, np.float32)
    (n, npix), nx = values.shape, place[2]
    planes, count, steps = _SCRATCH.planes(npix)
    variance, square = _variances(noises), np.float32(clip_sigma**2)
    size = np.array([noise.fwhm_px**2 for noise in noises], np.float32)
    order = np.argsort(size, kind="stable").astype(np.int32)
    psfs = (order, size[order], (_UNLIKE, _MIXED))
    state = np.zeros(-(-npix // BLOCK), np.uint8)
    crowded = np.zeros((state.size, n), np.bool_)
    centre, base = planes[CENTRE], planes[BASE]
    listed = candidates(
        values, merging(n), variance, spreads, place, square, order, centre, base, count, steps, state, crowded
    )
    image, errors, level, contrast = (planes[row].reshape(-1, nx) for row in (CENTRE, BASE, LEVEL, CONTRAST))
    signals(image, errors, sky_level[np.newaxis], place, _window_px(noises), level, contrast)
    models = np.array(
        [(x.fwhm_px**-2, x.alike / _UNLIKE, 1 / x.gain if x.gain else 0) for x in noises], np.float32
    )
    common = (planes, count, psfs, steps, state, variance, models, spreads, place, square)
    frames, places, k = scan(values, *common, crowded, listed)
    if k:
        share = np.float32(min(_FLOOD_SIGMA / clip_sigma, 1.0) ** 2)
        flood(values, *common, share, frames[:k], places[:k], part, hit, clipped)
