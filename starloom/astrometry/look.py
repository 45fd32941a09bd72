"""A frame before its stars are looked for: sky and bad pixels taken out, the profile of its stars known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.background import ONE_BELOW, SkyMesh, measure_sky
from starloom.astrometry.bins import Bools, Image, binned, coarser
from starloom.astrometry.centroids import Frame
from starloom.astrometry.gain import estimated_gain
from starloom.astrometry.hot_pixels import repair, repair_lines
from starloom.astrometry.profile import FWHM_PER_SIGMA, Profile
from starloom.astrometry.seams import Unsolved
from starloom.astrometry.shapes import first_look

MESH_PX = 64
#: Stars reach over no more than this share of a cell of the sky's mesh.
MAX_MESH_SHARE = 0.2
#: Change of level across a cell, in units of its noise, that is not noise.
STEEP = 1.0
#: Stars narrower than this (matching Gaussian, pixels included) are looked for in full resolution.
FINE_FWHM_PX = 2.8
#: So are those of small frames, where it costs nothing, up to this width.
SMALL_FRAME, SMALL_FRAME_FWHM_PX = 4_000_000, 5.0
#: Widest that stars may be in the cells they are looked for in.
MAX_CELL_FWHM = 3.2
#: Longest that their trails may be there: the kernel's cost grows with the square.
MAX_CELL_TRAIL = 10.0
# A few hundred thousand pixels stand for all where a median is asked.
SAMPLE_SIDE = 500
PATCH, PATCHES = 64, 4


@dataclass(frozen=True)
class Looked:
    """A frame as stars are looked for in it.

    Parameters
    ----------
    frame
        Its pixels.
    image
        Means of ``step`` × ``step`` pixels less the sky, in units of their noise, bad pixels bridged.
    step
        Pixels a cell of ``image`` and axis.
    profile
        The Gaussian that matches its stars.
    """

    frame: Frame
    image: Image
    step: int
    profile: Profile


def look(data: NDArray[Any], mask: Bools | None, saturation_adu: float | None, gain: float | None) -> Looked:
    """Take out sky and bad pixels, see what the stars look like, and choose the scale to look for them at.

    Parameters
    ----------
    data
        Pixels, shape ``(ny, nx)``, contiguous.
    mask
        True marks pixels that are not to be used.
    saturation_adu
        Level at which a pixel counts as saturated, if known.
    gain
        Electrons per ADU, if known.

    Raises
    ------
    Unsolved
        ``no-sky``: no usable pixels, or pixels that are all alike.
    """
    cell = MESH_PX
    frame, cells, profile = _flattened(data, mask, saturation_adu, gain, cell)
    if profile.extent_px > cell * MAX_MESH_SHARE:
        # Stars that large are taken for sky, so the sky is measured more coarsely.
        while profile.extent_px > cell * MAX_MESH_SHARE and cell < max(data.shape) / 2:
            cell *= 2
        frame, cells, profile = _flattened(data, mask, saturation_adu, gain, cell)
    fwhm = FWHM_PER_SIGMA * (profile.minor_px if profile.trail_px else profile.round_px)
    fine = fwhm < FINE_FWHM_PX or (data.size < SMALL_FRAME and fwhm < SMALL_FRAME_FWHM_PX)
    if fine and profile.trail_px < MAX_CELL_TRAIL:
        image = _full_resolution(frame)
        closer = first_look(image, 1, _bright_limit(frame, image, 1, saturation_adu))
        return Looked(frame, image, 1, closer if closer.stars else profile)
    step = 2
    while fwhm / step > MAX_CELL_FWHM or profile.trail_px / step > MAX_CELL_TRAIL:
        step *= 2
    # Noise falls with the side of a cell.
    image = cells if step == 2 else coarser(cells, step // 2) * np.float32(step // 2)
    return Looked(frame, image, step, profile)


def _flattened(
    data: NDArray[Any], mask: Bools | None, saturation_adu: float | None, gain: float | None, cell_px: int
) -> tuple[Frame, Image, Profile]:
    """Bin a frame by 2, take out its sky and its bad pixels, and look at its bright stars."""
    few = _sample(data, mask)
    base = float(np.median(few))
    cells, unusable = binned(data, 2, base, mask)
    quantum = _quantum(few) / 4
    sky = measure_sky(cells, unusable, cell_px // 2, quantum)
    if sky is None:
        raise Unsolved("the frame has no sky: its pixels are all alike", code="no-sky")
    sky.flatten(cells, unusable)
    if sky.steepness > STEEP:
        # The slope within the cells was taken for noise: it is gone now, and the noise measured on what is left.
        rest = measure_sky(cells, unusable, cell_px // 2, 0.0)
        if rest is not None:
            rest.flatten(cells, unusable)
            sky = sky.corrected(rest)
    pixels = sky.on_grid(0.5)
    lines = repair_lines(data, cells)
    hot = repair(data, mask, cells, pixels, base)
    bad = mask
    if len(hot.y) or lines:
        bad = np.zeros(data.shape, bool) if mask is None else mask.copy()
        bad[hot.y, hot.x] = True
        for line in lines:
            bad[line] = True
    if pixels.typical_noise > 4 * quantum:
        pixels = replace(pixels, noise=pixels.noise * _unsmoothed(data, bad, pixels, base))
    frame = Frame(data, bad, pixels, base, gain or estimated_gain(pixels, base))
    return frame, cells, first_look(cells, 2, _bright_limit(frame, cells, 2, saturation_adu))


def _sample(data: NDArray[Any], mask: Bools | None) -> NDArray[np.float64]:
    """Return usable pixels from all over the frame."""
    every = (
        slice(None, None, max(data.shape[0] // SAMPLE_SIDE, 1)),
        slice(None, None, max(data.shape[1] // SAMPLE_SIDE, 1)),
    )
    few = data[every].astype(np.float64)
    few = few[np.isfinite(few)] if mask is None else few[np.isfinite(few) & ~mask[every]]
    # Where most pixels are clipped there is no sky either, only its absence.
    if few.size == 0 or np.count_nonzero(few >= few.max()) > 0.5 * few.size:
        raise Unsolved("the frame has no sky: it has no usable pixels, or they are all alike", code="no-sky")
    return few


def _quantum(few: NDArray[np.float64]) -> float:
    """Return the step between the levels of digitised pixels, 0 for a continuum."""
    if not np.array_equal(few, np.rint(few)) or np.abs(few).max() > 2**53:
        return 0.0
    return float(np.gcd.reduce((few - few.min()).astype(np.int64)))


def _unsmoothed(data: NDArray[Any], bad: Bools | None, sky: SkyMesh, base: float) -> float:
    """Return a pixel's noise over what its cells' noise stands for: less than 1 where noise is correlated."""
    ny, nx = data.shape
    ratios = []
    for top in np.linspace(0, max(ny - PATCH, 0), PATCHES).astype(int):
        for left in np.linspace(0, max(nx - PATCH, 0), PATCHES).astype(int):
            part = slice(top, top + PATCH), slice(left, left + PATCH)
            raw = data[part].astype(np.float64)
            good = np.isfinite(raw) if bad is None else np.isfinite(raw) & ~bad[part]
            # A border or a dead part of the sensor is no sky.
            if good.sum() < PATCH or np.ptp(raw[good]) == 0:
                continue
            y, x = (at.astype(np.float64) for at in np.nonzero(good))
            level, noise = sky.at(y + top, x + left)
            ordered = np.sort((raw[good] - base - level) / noise)
            ratios.append(float(ordered[len(ordered) // 2] - ordered[int(ONE_BELOW * len(ordered))]))
    if not ratios:
        return 1.0
    # White noise gives 1 within a few percent; only what differs from it clearly is believed.
    ratio = float(np.median(ratios))
    return ratio if ratio < 0.9 else 1.0


def _bright_limit(frame: Frame, image: Image, step: int, saturation_adu: float | None) -> float:
    """Return the value of a flattened image above which a star may be saturated."""
    if saturation_adu is None:
        return 0.8 * float(image.max())
    room = saturation_adu - frame.base - frame.sky.typical_level
    return max(0.6 * room * step / frame.sky.typical_noise, 20.0)


def _full_resolution(frame: Frame) -> Image:
    """Return the frame itself, flattened; bad pixels get their neighbours' mean."""
    image, unusable = binned(frame.data, 1, frame.base, frame.bad)
    frame.sky.flatten(image, unusable)
    bad = frame.bad
    if bad is not None:
        y, x = (at + 1 for at in np.nonzero(bad[1:-1, 1:-1]))
        beside = (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)
        seen = ~np.array([bad[at] for at in beside])
        image[y, x] = (np.array([image[at] for at in beside]) * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return image
