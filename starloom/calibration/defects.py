"""Hot, warm and dead pixels learnt from the sky frames themselves: what stays with the pixel, not with the sky."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.calibration.calibrated_file import MaskBit, mark
from starloom.calibration.combining import FrameStack
from starloom.calibration.motion import shifts, star_picture, stars_have_moved
from starloom.calibration.neighbours import filled, neighbour_mean, neighbour_minimum, ring_residual
from starloom.calibration.noise import sampled, spread
from starloom.errors import BadInput

#: Fewer frames are too few for a median to be rid of the stars.
MIN_FRAMES = 6
#: Pixels of all frames together that are held as floats at one time.
_BLOCK_PIXELS = 16_000_000
_SEGMENT = 64


@dataclass(frozen=True)
class DefectOptions:
    """What counts as a defect.

    Attributes
    ----------
    min_sigma
        Least excess over the neighbours, in noise of one frame; never below six times the noise of the median.
    persistence
        Share of the threshold that three quarters of the frames must reach: a star that drifts by does not.
    steadiness
        Least median over the scatter (from the quartiles) of the frames. In a crowded field some star shines on a
        pixel in most frames, but never the same one: 95 % of such pixels stay below 1.1, 99 % of hot ones above 2.
    moved_sharpness, sharpness
        The greatest share of a defect in its four neighbours, where stars move and where they stand still. A star
        of FWHM 1.8 px, as undersampled as they come, has 0.45; two hot pixels side by side have 0.25.
    column_sigma
        Least median excess of a piece of a column or row of 64 pixels.
    column_steadiness
        Its least share of the scatter of those pixels over the frames.
    column_sharpness
        The greatest share of it in the better of the two lines beside it: the edge of a dust mote is wider.
    """

    min_sigma: float = 3.0
    persistence: float = 0.4
    steadiness: float = 1.6
    moved_sharpness: float = 0.6
    sharpness: float = 0.22
    column_sigma: float = 0.6
    column_steadiness: float = 0.45
    column_sharpness: float = 0.35


@dataclass(frozen=True)
class DefectMap:
    """Bad pixels of a sensor.

    Attributes
    ----------
    mask
        `MaskBit.HOT` and `MaskBit.DEAD`, uint8, shape ``(ny, nx)``.
    excess
        Median over the frames of the excess over the neighbours, in noise of one frame, float32.
    moved
        Whether the stars moved enough to tell persistent from celestial by that alone.
    """

    mask: NDArray[np.uint8]
    excess: NDArray[np.float32]
    moved: bool


def learn_defects(
    stack: FrameStack,
    *,
    step: int = 1,
    offsets: NDArray[np.float64] | None = None,
    options: DefectOptions | None = None,
) -> DefectMap:
    """Find the pixels that are off in all frames.

    Parameters
    ----------
    stack
        Light frames of one instrument, at least `MIN_FRAMES`.
    step
        Distance to the next pixel of the same colour: 2 in a Bayer mosaic.
    offsets
        Known shifts of the frames on the sky, px, shape ``(n, 2)``; None: they are measured.
    options
        See `DefectOptions`.

    Raises
    ------
    BadInput
        ``too-few-frames``.

    Notes
    -----
    Per frame, each pixel less the median of its ring, in units of that frame's noise; per pixel, the median over
    the frames. A star of a dithered field is in a pixel now and then, a defect always. If the field stands still,
    both stay, and only the shape tells: light has passed the optics and lies in the neighbours too.
    """
    options = options or DefectOptions()
    if len(stack) < MIN_FRAMES or stack.shape is None:
        raise BadInput(
            f"{len(stack)} frames to learn defects from, at least {MIN_FRAMES} are needed",
            code="too-few-frames",
            hint="Wait for more frames of this instrument.",
        )
    if offsets is None:
        pictures = [star_picture(_one_colour(stack.whole(index), step)) for index in range(len(stack))]
        offsets = shifts(pictures) * step
    moved = stars_have_moved(offsets)
    excess, low, high, mean = _persistent(stack, step)
    noise = spread(sampled(excess))
    least = max(options.min_sigma, 6 * noise)
    hot = (excess > least) & (low > options.persistence * least)
    dead = (excess < -least) & (high < -options.persistence * least)
    around = neighbour_mean(excess, step)
    scatter = (high - low) / np.float32(1.349)
    if moved:
        steady = np.abs(excess) > options.steadiness * scatter
        hot &= steady & (around < options.moved_sharpness * excess + noise)
        dead &= steady
    else:
        hot &= around < options.sharpness * excess + noise
        hot = _without_false_neighbours(hot, mean, step, least, noise, options.sharpness)
        # Between two bright stars a pixel is low as well, but it has a neighbour that is hardly higher.
        dead &= neighbour_minimum(excess, step) - excess > 0.5 * np.abs(excess)
    for direction, whole_only in ((1, not moved), (0, not moved)):
        lines = _lines(excess, scatter, direction, options, whole_only, step)
        hot |= lines & (excess > 0)
        dead |= lines & (excess < 0)
    mask = np.zeros(excess.shape, np.uint8)
    mark(mask, hot, MaskBit.HOT)
    mark(mask, dead, MaskBit.DEAD)
    return DefectMap(mask, excess, moved)


def _one_colour(data: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    return data[::step, ::step]


def _without_false_neighbours(
    hot: NDArray[np.bool_], mean: NDArray[np.float32], step: int, least: float, noise: float, sharpness: float
) -> NDArray[np.bool_]:
    """Look again at hot pixels with the others gone.

    A bright one in a star's flank shifts the rings of the pixels around it, so that the star looks sharp there.
    """
    clean = filled(mean, hot, step)
    residual = ring_residual(clean, step)
    excess = mean - (clean - residual)
    return hot & (excess > least) & (neighbour_mean(residual, step) < sharpness * excess + noise)


def _persistent(
    stack: FrameStack, step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return median, lower and upper quartile over the frames of the excess, and the mean of the pixels.

    All in units of the frames' noise.
    """
    assert stack.shape is not None
    ny, nx = stack.shape
    n, margin = len(stack), 2 * step
    median, low, high, mean = (np.empty(stack.shape, np.float32) for _ in range(4))
    middle = max(0, ny // 2 - 128) // 2 * 2
    noises = [
        max(spread(sampled(ring_residual(stack.rows(i, middle, min(ny, middle + 256)), step))), 1e-6) / 1.08
        for i in range(n)
    ]
    rows = max(32, _BLOCK_PIXELS // (n * nx)) // 2 * 2
    for y0 in range(0, ny, rows):
        y1 = min(ny, y0 + rows)
        a, b = max(0, y0 - margin), min(ny, y1 + margin)
        cube = np.empty((n, y1 - y0, nx), np.float32)
        mean[y0:y1] = 0.0
        for index in range(n):
            pixels = stack.rows(index, a, b)
            cube[index] = ring_residual(pixels, step)[y0 - a : y1 - a] / np.float32(noises[index])
            mean[y0:y1] += pixels[y0 - a : y1 - a] / np.float32(n * noises[index])
        np.nan_to_num(cube, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        cube.sort(axis=0)
        median[y0:y1] = 0.5 * (cube[(n - 1) // 2] + cube[n // 2])
        low[y0:y1], high[y0:y1] = cube[n // 4], cube[n - 1 - n // 4]
    return median, low, high, mean


def _lines(
    excess: NDArray[np.float32],
    scatter: NDArray[np.float32],
    axis: int,
    options: DefectOptions,
    whole_only: bool,
    step: int,
) -> NDArray[np.bool_]:
    """Return the pieces of columns (``axis`` 1) or rows (0) that are off as a whole.

    ``whole_only``: half of a line must be off, as where stars stand still a saturated one's bleeding is a piece.
    """
    plane, spread_of = (excess, scatter) if axis == 1 else (excess.T, scatter.T)
    ny, nx = plane.shape
    pieces = max(1, ny // _SEGMENT)
    edges = np.linspace(0, ny, pieces + 1).astype(int)
    off = np.zeros((pieces, nx), bool)
    for n, (a, b) in enumerate(itertools.pairwise(edges)):
        level = np.median(plane[a:b], axis=0)
        # In a crowded field a piece is lit by some star in most frames, but not steadily.
        least = np.maximum(options.column_steadiness * np.median(spread_of[a:b], axis=0), options.column_sigma)
        off[n] = np.abs(level) > np.maximum(least, 6 * spread(level))
        off[n] &= _flank(level, step) < options.column_sharpness * np.abs(level)
    if whole_only:
        off &= off.mean(axis=0) >= 0.5
    found = np.repeat(off, np.diff(edges), axis=0)
    return found if axis == 1 else found.T


def _flank(level: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return what the lesser of a line's two neighbours of the same colour has of its excess; 0 is none."""
    padded = np.pad(level, step, mode="constant")
    beside = np.stack([padded[: len(level)], padded[2 * step :]])
    return np.asarray(np.clip(beside * np.sign(level), 0, None).min(axis=0))
