"""Master bias, dark and flat from stacks of calibration frames, each with variance and a mask of bad pixels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.calibration.calibrated_file import MaskBit, mark
from starloom.calibration.combining import FrameStack
from starloom.calibration.neighbours import ring_residual
from starloom.calibration.noise import pair_noise, read_noise, sampled, spread, transfer_gain
from starloom.calibration.saturation import saturation_from_histogram
from starloom.errors import BadInput

#: Fewer frames cannot outvote a cosmic ray.
MIN_FRAMES = 3
#: Raised by hand when the same frames would give another master.
MASTER_VERSION = 1
#: A pixel of a dark this far above its neighbours, in noise of one frame, is hot.
HOT_SIGMA = 8.0
#: A pixel of a flat that differs so much from its neighbours, or from the frame, is not trusted.
LOW_RESPONSE, HIGH_RESPONSE, LEAST_RESPONSE = 0.6, 1.5, 0.1


@dataclass(frozen=True)
class MasterFrame:
    """A combined calibration frame.

    Attributes
    ----------
    data, variance
        Value and its variance, float32, shape ``(ny, nx)``: ADU of one exposure for biases and darks (the bias
        in it), 1 on average for flats.
    mask
        `MaskBit` per pixel.
    used
        Indices of the frames that went in.
    stats
        What was measured: ``read_noise_adu``, ``dark_current_adu_s``, ``level_adu``, ``gain_e_per_adu``, ….
    """

    data: NDArray[np.float32]
    mask: NDArray[np.uint8]
    variance: NDArray[np.float32]
    used: list[int]
    stats: dict[str, Any] = field(default_factory=dict)


def build_bias(stack: FrameStack) -> MasterFrame:
    """Combine biases; the read noise comes from pairs.

    Raises
    ------
    BadInput
        ``too-few-frames``: fewer than `MIN_FRAMES` that agree.
    """
    used = _agreeing(stack)
    made = stack.combine(keep=used)
    noise = read_noise([_part(stack, index) for index in used])
    mask = np.zeros(made.mean.shape, np.uint8)
    usual = float(np.median(sampled(made.scatter)))
    if len(used) >= 8 and usual > 0:
        # Telegraph noise: such a pixel is worthless long before its mean shows it.
        mark(mask, made.scatter > 6 * usual, MaskBit.HOT)
    mark(mask, ~np.isfinite(made.mean), MaskBit.NOT_FINITE)
    stats = {"level_adu": float(np.median(sampled(made.mean))), "read_noise_adu": noise}
    return MasterFrame(made.mean, mask, made.variance, used, stats)


def build_dark(
    stack: FrameStack,
    exposure_s: float,
    *,
    bias: NDArray[np.float32] | None = None,
    saturation_adu: float | None = None,
    step: int = 1,
) -> MasterFrame:
    """Combine darks of one exposure; the bias stays in, so that a light of the same exposure needs no other.

    Parameters
    ----------
    stack, exposure_s
        The darks, seconds.
    bias
        Master bias, shape ``(ny, nx)``: gives the dark current.
    saturation_adu
        Pixels that reach it in the dark are of no use.
    step
        2 for a Bayer mosaic.

    Raises
    ------
    BadInput
        ``too-few-frames``.
    """
    used = _agreeing(stack)
    made = stack.combine(keep=used)
    noise = pair_noise(_part(stack, used[0]), _part(stack, used[1]))
    excess = ring_residual(np.nan_to_num(made.mean), step)
    mask = np.zeros(made.mean.shape, np.uint8)
    hot = excess > HOT_SIGMA * max(noise, 1e-3)
    if saturation_adu is not None:
        hot |= made.mean >= 0.9 * saturation_adu
    mark(mask, hot, MaskBit.HOT)
    mark(mask, excess < -HOT_SIGMA * max(noise, 1e-3), MaskBit.DEAD)
    mark(mask, ~np.isfinite(made.mean), MaskBit.NOT_FINITE)
    stats: dict[str, Any] = {
        "level_adu": float(np.median(sampled(made.mean))),
        "noise_adu": noise,
        "hot_pixels": int(hot.sum()),
    }
    if bias is not None and exposure_s > 0:
        current = dark_current(made.mean, bias, exposure_s)
        stats["dark_current_adu_s"] = float(np.median(sampled(current)))
    return MasterFrame(made.mean, mask, made.variance, used, stats)


def dark_current(dark: NDArray[np.float32], bias: NDArray[np.float32], exposure_s: float) -> NDArray[np.float32]:
    """Return the dark current of each pixel (ADU/s) from a master dark, its bias and its exposure."""
    return np.asarray((dark - bias) / np.float32(exposure_s))


def build_flat(
    stack: FrameStack,
    *,
    subtract: NDArray[np.float32] | None = None,
    read_noise_adu: float | None = None,
    saturation_adu: float | None = None,
    mosaic: bool = False,
) -> MasterFrame:
    """Combine flats, each less ``subtract`` and divided by its own level, to a response of 1 on average.

    Parameters
    ----------
    subtract
        Master dark of the flats' exposure, or bias, shape ``(ny, nx)``.
    read_noise_adu
        From the bias; with it the gain is measured by photon transfer.
    saturation_adu
        Flats whose level comes within 10 % of it are left out.
    mosaic
        A Bayer mosaic: each of the four colours is normalised by itself, as the lamp's colour is not the sky's.

    Raises
    ------
    BadInput
        ``too-few-frames``: fewer than `MIN_FRAMES` that are neither dark nor saturated.
    """
    offset = 0.0 if subtract is None else float(np.median(sampled(subtract)))
    used = []
    for index in range(len(stack)):
        level = stack.median_level(index)
        if spread(sampled(stack.stored(index))) == 0:
            continue  # one level throughout: clipped, whatever the level
        bright = level - offset > 20 * max(read_noise_adu or 5.0, 1.0)
        if bright and (saturation_adu is None or level < 0.9 * saturation_adu):
            used.append(index)
    if len(used) < MIN_FRAMES:
        raise _too_few("flat", len(used), "neither dark nor saturated")
    norms = [_level(stack.whole(index), subtract, mosaic) for index in used]
    made = stack.combine(keep=used, subtract=subtract, norms=norms)
    scale = _level(made.mean, None, mosaic)
    reps = (-(-made.mean.shape[0] // 2), -(-made.mean.shape[1] // 2))
    divisor = np.tile(scale, reps)[: made.mean.shape[0], : made.mean.shape[1]] if mosaic else scale
    flat = np.asarray(made.mean / divisor, np.float32)
    variance = np.asarray(made.variance / divisor**2, np.float32)
    local = flat - ring_residual(np.nan_to_num(flat), 2 if mosaic else 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = flat / local
    mask = np.zeros(flat.shape, np.uint8)
    poor = ~(flat > LEAST_RESPONSE) | (relative < LOW_RESPONSE) | (relative > HIGH_RESPONSE)
    mark(mask, poor, MaskBit.LOW_RESPONSE)
    mark(mask, ~np.isfinite(flat), MaskBit.NOT_FINITE)
    stats: dict[str, Any] = {"levels_adu": [float(np.mean(norm)) for norm in norms]}
    if read_noise_adu is not None:
        dark = np.float32(0) if subtract is None else _cut(subtract)
        pairs = [
            (_part(stack, a) - dark, _part(stack, b) - dark) for a, b in zip(used[:-1:2], used[1::2], strict=False)
        ]
        # Colours of a mosaic have levels of their own, so one of them speaks for the sensor.
        cells = [(a[::2, ::2], b[::2, ::2]) for a, b in pairs] if mosaic else pairs
        stats["gain_e_per_adu"] = transfer_gain(cells, read_noise_adu, saturation_adu)
    return MasterFrame(flat, mask, variance, used, stats)


def saturation_of_flats(stack: FrameStack, said: float | None) -> float | None:
    """Return the level at which flats clip: as the header says, as their histogram shows, else their type's.

    Parameters
    ----------
    stack
        Flats; one that is clipped throughout shows a single level, which `build_flat` recognises by itself.
    said
        ``SATURATE`` of the header, ADU.
    """
    found = [saturation_from_histogram(stack.stored(index), said) for index in range(len(stack))]
    levels = [level for level in found if level is not None]
    if levels:
        return float(min(levels))
    kind = stack.stored(0).dtype
    return float(np.iinfo(kind).max) if kind.kind in "ui" else None


def _level(data: NDArray[np.float32], subtract: NDArray[np.float32] | None, mosaic: bool) -> NDArray[np.float32]:
    """Return the clipped mean of a flat, per colour of a 2 x 2 cell for a mosaic."""
    if not mosaic:
        return np.asarray(_clipped(sampled(data if subtract is None else data - subtract)), np.float32)
    taken = data if subtract is None else data - subtract
    return np.array([[_clipped(sampled(taken[y::2, x::2])) for x in (0, 1)] for y in (0, 1)], np.float32)


def _clipped(values: NDArray[np.float64]) -> float:
    centre, width = float(np.median(values)), spread(values)
    near = values[np.abs(values - centre) <= 5 * max(width, 1e-6)]
    return float(near.mean())


def _agreeing(stack: FrameStack) -> list[int]:
    """Return the frames whose level is like most others': a dark with the shutter open is none.

    The tolerance is wide: the level of a good camera drifts by some ADU while it cools, and its dark current by a
    tenth within a degree.
    """
    if len(stack) < MIN_FRAMES:
        raise _too_few("master", len(stack), "there")
    levels = np.array([stack.median_level(index) for index in range(len(stack))])
    noises = [pair_noise(_part(stack, a), _part(stack, b)) for a, b in itertools.pairwise(range(len(stack)))]
    reach = np.maximum(0.05 * np.abs(levels), max(5 * min(noises), 10.0))
    like = np.abs(levels[:, None] - levels[None, :]) <= reach[:, None]
    used = [int(index) for index in np.flatnonzero(like[np.argmax(like.sum(axis=1))])]
    if len(used) < MIN_FRAMES or 2 * len(used) <= len(stack):
        raise _too_few("master", len(used), "of one level")
    return used


def _cut(data: NDArray[Any]) -> NDArray[Any]:
    """Return the middle of a frame: a thousand rows say as much of the noise as all."""
    y0 = max(0, data.shape[0] // 2 - 512) // 2 * 2
    return data[y0 : y0 + 1024]


def _part(stack: FrameStack, index: int) -> NDArray[np.float32]:
    assert stack.shape is not None
    y0 = max(0, stack.shape[0] // 2 - 512) // 2 * 2
    return stack.rows(index, y0, min(stack.shape[0], y0 + 1024))


def _too_few(what: str, found: int, which: str) -> BadInput:
    return BadInput(
        f"{found} frames for a {what} {which}, at least {MIN_FRAMES} are needed",
        code="too-few-frames",
        hint="Take ten of each kind; flats at a third to a half of saturation.",
    )
