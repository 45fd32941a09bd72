"""Combining the frames of a tile: rejection against a noise model, then a weighted mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

PSF_TERM = 0.3
"""Share of the local signal that unlike seeing may shift, per clip sigma. Without it bright stars lose ~1 %."""

_SMOOTH_PX = 1.0
_GROW_SIGMA = 1.5
_SEED_SIGMA_SMOOTHED = 6.0
_MESH_PX = 64
_LEAST_WEIGHT = 1e-3
"""Of a pixel within its frame: next to nothing, but where it is all there is, the stack shows it."""


@dataclass(frozen=True)
class FrameNoise:
    """What the combination knows of a frame: noise and weight (output units), seeing (output pixels)."""

    sigma: float
    weight: float
    fwhm_px: float
    gain: float | None = None
    """Electrons per output unit, for the photon noise of bright pixels."""

    @classmethod
    def of(cls, plan: StackPlan, frame: PlanFrame) -> FrameNoise:
        """Describe a frame of a plan."""
        from starloom.coadd.inputs import pixel_scale_arcsec, wcs_from_cards

        scale = pixel_scale_arcsec(
            wcs_from_cards({k: v for k, v in plan.grid.items() if not k.startswith("NAXIS")}), plan.shape
        )
        gain = frame.input.gain_e_per_adu
        per_unit = None if gain is None else gain / frame.scale
        return cls(frame.sigma, frame.weight, frame.input.fwhm_arcsec / scale, per_unit)


@dataclass(frozen=True)
class Combined:
    """Planes of one tile, all of its shape, and each frame's mask of rejected pixels."""

    sci: Plane
    weight: Plane
    coverage: NDArray[np.int16]
    rejected: Plane
    masks: list[Mask]


def _centre(cube: Plane) -> Plane:
    """Return the reference level of each pixel: the median, or of two values the lower one.

    With two values the outlier is nearly always the higher one (cosmic rays, satellites, aircraft).
    """
    count = np.isfinite(cube).sum(axis=0)
    # Sorting puts NaN last, so the middle of the finite ones is found by index.
    ordered = np.sort(cube, axis=0)
    low = np.clip((count - 1) // 2, 0, None)
    high = np.where(count == 2, low, np.clip(count // 2, 0, None))
    high = np.minimum(high, len(cube) - 1)
    pick = np.take_along_axis(ordered, np.stack([low, high]), axis=0)
    return np.asarray(pick.mean(axis=0), dtype=np.float32)


def _smooth_sky(centre: Plane) -> Plane:
    """Return the sky under a tile: a clipped mesh, so that gradients do not pass for signal."""
    import sep

    finite = np.isfinite(centre)
    if not finite.any():
        return np.zeros_like(centre)
    mesh = min(_MESH_PX, *centre.shape)
    filled = np.ascontiguousarray(np.where(finite, centre, np.float32(0)))
    return np.asarray(sep.Background(filled, mask=~finite, bw=mesh, bh=mesh).back(), dtype=np.float32)


def _signal(centre: Plane, noise: Plane, fwhm_px: float) -> Plane:
    """Return the greatest signal within 1.5 FWHM: where a worse PSF can put flux the median lacks."""
    above = centre - _smooth_sky(centre)
    above = np.where(np.isfinite(above), np.abs(above) - 3 * noise, 0)
    size = 2 * math.ceil(1.5 * fwhm_px) + 1
    # Real PSFs have wings; one lone noise peak should not open the clip around it.
    core = ndimage.gaussian_filter(np.clip(above, 0, None), 0.6)
    return np.asarray(ndimage.maximum_filter(core, size=size), dtype=np.float32)


def _grown(significance: Plane, clip_sigma: float, fwhm_px: float) -> Mask:
    """Return rejected pixels: seeds above the clip, followed along connected excess, then widened.

    Clipping pixel by pixel leaves the faint skirts of a trail; hysteresis (Canny 1986) takes them with it.
    """
    finite = np.isfinite(significance)
    filled = np.where(finite, significance, np.float32(0))
    smooth = ndimage.gaussian_filter(filled, _SMOOTH_PX)
    if not finite.any():
        return np.zeros(finite.shape, bool)
    # The interpolation's correlation makes the smoothed noise wider than theory; its own spread tells.
    spread = 1.4826 * float(np.median(np.abs(smooth[finite] - np.median(smooth[finite]))))
    smooth /= max(spread, 0.25)
    out = np.zeros(finite.shape, bool)
    for sign in (1, -1):
        seeds = (sign * filled > clip_sigma) | (sign * smooth > max(clip_sigma, _SEED_SIGMA_SMOOTHED))
        if not seeds.any():
            continue
        labels, _ = ndimage.label((sign * smooth > _GROW_SIGMA) | seeds, structure=np.ones((3, 3), bool))
        hit = np.zeros(int(labels.max()) + 1, bool)
        hit[labels[seeds]] = True
        hit[0] = False
        out |= hit[labels]
    if out.any():
        radius = max(1.0, fwhm_px)
        out = ndimage.distance_transform_edt(~out) <= radius
    return np.asarray(out & finite, dtype=bool)


def reject(
    cube: Plane,
    noises: Sequence[FrameNoise],
    clip_sigma: float,
    weights: Sequence[Plane | None] | None = None,
) -> list[Mask]:
    """Find outliers against the noise model; works from two frames on.

    Parameters
    ----------
    cube
        Sky-matched frames in output units, shape ``(n, ny, nx)``, NaN where a frame has nothing.
    noises
        One per frame.
    weights
        Relative weight within each frame, shape ``(ny, nx)``, whose inverse raises its variance; None: 1.

    Returns
    -------
    list of ndarray
        Boolean masks of rejected pixels, one per frame, each ``(ny, nx)``.

    Notes
    -----
    ``z = (x - c) / sqrt(s² + s_c² + |signal| / gain + (0.3 signal)²)`` with ``c`` the median. Never the
    sample's own deviation: the largest one possible is (n - 1) / sqrt(n), so that a 3-sigma clip of that
    kind rejects nothing below n = 11.
    """
    none = [np.zeros(cube.shape[1:], bool) for _ in noises]
    if len(noises) < 2:
        return none
    finite = np.isfinite(cube)
    count = np.maximum(finite.sum(axis=0), 1).astype(np.float32)
    inside = [None] * len(noises) if weights is None else list(weights)
    variances = [_variance(noise, weight) for noise, weight in zip(noises, inside, strict=True)]
    # Summed over the frames that are there: at the edge of a dithered set two overlap where twelve do inside.
    total = np.zeros(cube.shape[1:], np.float32)
    for variance, there in zip(variances, finite, strict=True):
        total += variance * there
    # Efficiency of the median 64 %; the lower of two values scatters like one frame.
    variance_c = total / count * np.where(count > 2, np.float32(math.pi / 2) / count, np.float32(1))
    fwhm = max(n.fwhm_px for n in noises)
    centre = _centre(cube)
    signal = _signal(centre, np.sqrt(variance_c), fwhm)
    # The lower of two lies 0.40 of their difference's deviation low, which would count good pixels as excess.
    centre = centre + np.where(count == 2, np.float32(0.4) * np.sqrt(total), np.float32(0))
    masks = []
    for plane, noise, own in zip(cube, noises, variances, strict=True):
        variance = own + variance_c + (PSF_TERM * signal) ** 2
        if noise.gain:
            variance = variance + signal / noise.gain
        masks.append(_grown((plane - centre) / np.sqrt(variance, dtype=np.float32), clip_sigma, noise.fwhm_px))
    # Where everything disagrees nothing is known: keep all rather than leave a hole.
    alone = np.isfinite(cube).sum(axis=0) <= np.sum(masks, axis=0)
    return [mask & ~alone for mask in masks]


def _variance(noise: FrameNoise, weight: Plane | None) -> Plane | np.float32:
    if weight is None:
        return np.float32(noise.sigma**2)
    return np.asarray(np.float32(noise.sigma**2) / np.maximum(weight, _LEAST_WEIGHT))


def combine(
    planes: Sequence[Plane],
    noises: Sequence[FrameNoise],
    options: StackOptions,
    shape: tuple[int, int],
    weights: Sequence[Plane | None] | None = None,
) -> Combined:
    """Combine the frames of a tile.

    Parameters
    ----------
    planes
        Frames in output units, each of ``shape`` (ny, nx), NaN where there is nothing; in plan order.
    noises
        One per plane.
    weights
        Relative weight within each frame, of ``shape``; None: 1 everywhere.

    Returns
    -------
    Combined
        ``sci`` is NaN and ``weight`` 0 where no frame has a pixel; ``weight`` is the summed inverse variance.
    """
    if not planes:
        empty = np.zeros(shape, np.float32)
        return Combined(np.full(shape, np.nan, np.float32), empty, empty.astype(np.int16), empty.copy(), [])
    cube = np.stack(planes)
    finite = np.isfinite(cube)
    offered = finite.sum(axis=0)
    if options.combine == "clipped":
        masks = reject(cube, noises, options.clip_sigma, weights)
    else:
        masks = [np.zeros(shape, bool) for _ in planes]
    total, weight = np.zeros(shape), np.zeros(shape)
    coverage = np.zeros(shape, np.int16)
    # One frame after the other in plan order: the sum, and so every bit, is the same on any machine.
    inside = [None] * len(planes) if weights is None else weights
    for plane, noise, mask, valid, own in zip(cube, noises, masks, finite, inside, strict=True):
        good = valid & ~mask
        part = noise.weight if own is None else noise.weight * np.maximum(own[good], _LEAST_WEIGHT).astype(float)
        total[good] += part * plane[good].astype(np.float64)
        weight[good] += part
        coverage += good
    sci = np.full(shape, np.nan, np.float32)
    some = weight > 0
    if options.combine == "median":
        ordered = np.sort(cube, axis=0)
        low, high = np.clip((offered - 1) // 2, 0, None), np.minimum(offered // 2, len(cube) - 1)
        sci[some] = np.take_along_axis(ordered, np.stack([low, high]), axis=0).mean(axis=0)[some]
    else:
        sci[some] = total[some] / weight[some]
    rejected = np.zeros(shape, np.float32)
    np.divide(np.sum(masks, axis=0), offered, out=rejected, where=offered > 0)
    return Combined(sci, weight.astype(np.float32), coverage, rejected, masks)
