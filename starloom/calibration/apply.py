"""Calibrating a frame: (raw - overscan - bias - dark * scale) / flat, with variance, mask and saturation level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.calibration.calibrated_file import MaskBit, Planes, mark
from starloom.calibration.mosaic import mosaic_layout
from starloom.calibration.noise import sampled, sky_sigma, spread
from starloom.calibration.saturation import saturation_from_histogram
from starloom.calibration.sensor import SensorPixels, is_cut, sensor_pixels
from starloom.calibration.sky_noise import smooth_sky, smooth_variance
from starloom.errors import BadInput

Plane = NDArray[np.float32]

#: Raised by hand when the same masters would give other pixels.
CALIBRATION_VERSION = 1
#: Below this response a pixel holds more noise than sky.
LEAST_RESPONSE = 0.05
#: Rows that are worked on at one time: temporary planes of 64 rows stay in the processor's cache.
_ROWS = 64


@dataclass(frozen=True)
class MasterSet:
    """The masters of one frame; None: none of that kind.

    Attributes
    ----------
    bias, dark, flat, defects
        As `starloom.calibration.calibrated_file.read_planes` returns them; the dark holds its bias.
    dark_scale
        Factor of the dark current, exposure over the dark's; other than 1 it needs the bias.
    """

    bias: Planes | None = None
    dark: Planes | None = None
    flat: Planes | None = None
    defects: Planes | None = None
    dark_scale: float = 1.0

    @property
    def corrects(self) -> bool:
        """Whether pixels change, beyond being masked."""
        return self.bias is not None or self.dark is not None or self.flat is not None

    @property
    def all(self) -> tuple[Planes, ...]:
        """The masters there are."""
        return tuple(m for m in (self.bias, self.dark, self.flat, self.defects) if m is not None)


@dataclass(frozen=True)
class Calibrated:
    """A calibrated frame and what is known of it.

    Attributes
    ----------
    planes
        Pixels, header, mask, variance.
    saturation_adu
        Level in the calibrated pixels from which none is to be trusted; None: nothing clips.
    masked_fraction
        Pixels with any bit set.
    gain_e_per_adu, read_noise_adu
        As they were given.
    noise_ratio
        Measured over expected variance of the sky; None: not expected, without a gain.
    """

    planes: Planes
    saturation_adu: float | None
    masked_fraction: float
    gain_e_per_adu: float | None
    read_noise_adu: float | None
    noise_ratio: float | None = None


def has_work(header: fits.Header, shape: tuple[int, ...], masters: MasterSet) -> bool:
    """Tell whether `calibrate` would do anything to a frame of this header and shape."""
    return bool(masters.all) or is_cut(header, shape)


def calibrate(
    data: NDArray[Any],
    header: fits.Header,
    masters: MasterSet,
    *,
    gain_e_per_adu: float | None = None,
    read_noise_adu: float | None = None,
) -> Calibrated | None:
    """Calibrate one frame.

    Parameters
    ----------
    data, header
        The raw frame as `starloom.frames.read_frame` returns it.
    masters
        What is to be applied; see `starloom.calibration.matching.match`.
    gain_e_per_adu, read_noise_adu
        For the variance; without a gain it is measured, patch by patch.

    Returns
    -------
    Calibrated or None
        None where there is nothing to do: no master, no overscan, nothing to trim.

    Raises
    ------
    BadInput
        ``bad-mosaic``: the header names a mosaic that does not exist. ``master-size``: a master has another shape.

    Notes
    -----
    The variance is that of the sky: photons of a smooth sky and of the dark current, read noise, and the masters'
    own, over the squared response. It is scaled so that its median is the variance measured in the frame, for a
    header's gain is often that of another readout mode.

    Not on ``ccdproc.ccd_process``, which agrees with it (tests/calibration/test_against_ccdproc.py) at several
    times the CPU time and memory, and knows neither the smooth variance nor masks with a meaning; see
    docs/calibration.md for the figures.
    """
    if not has_work(header, data.shape, masters):
        return None
    sensor = sensor_pixels(data, header)
    _check_sizes(masters, sensor.data.shape)
    said = header.get("SATURATE", header.get("SATLEVEL"))
    saturation = saturation_from_histogram(sensor.data, float(said) if isinstance(said, int | float) else None)
    mask = _masked(sensor.data, masters, saturation)
    if not (masters.corrects or sensor.overscan):
        out = sensor.header
        if "PEDESTAL" in header:
            out["PEDESTAL"] = header["PEDESTAL"]  # it is in the pixels still
        _say_saturation(out, saturation)
        return Calibrated(
            Planes(sensor.data, out, mask), saturation, _fraction(mask), gain_e_per_adu, read_noise_adu
        )
    zero, zero_variance = zero_level(masters, str(header.get("CALSTAT") or ""))
    flat = _response(masters, mask)
    pixels = np.empty(sensor.data.shape, np.float32)
    for rows in _blocks(pixels.shape):
        pixels[rows] = sensor.data[rows]
        pixels[rows] -= sensor.level[rows, None]
        pixels[rows] -= _rows(zero, rows)
    variance = None
    if gain_e_per_adu is not None and gain_e_per_adu > 0:
        light = _light_variance(masters, zero, zero_variance, gain_e_per_adu, read_noise_adu or 0.0)
        variance = _expected_variance(pixels, flat, light, masters, sensor, gain_e_per_adu)
    for rows in _blocks(pixels.shape):
        pixels[rows] /= _rows(flat, rows)
        mark(mask[rows], ~np.isfinite(pixels[rows]), MaskBit.NOT_FINITE)
    step = _step(sensor.header)
    expected = variance is not None
    if variance is None:
        variance = smooth_variance(pixels, step)
    ratio = _hold_to_the_frame(variance, pixels, step)
    if saturation is not None:
        saturation = _level_after(saturation, sensor, zero, flat)
    return Calibrated(
        Planes(pixels, _header(sensor.header, masters, saturation), mask, variance),
        saturation,
        _fraction(mask),
        gain_e_per_adu,
        read_noise_adu,
        ratio if expected else None,
    )


def _check_sizes(masters: MasterSet, shape: tuple[int, ...]) -> None:
    for master in masters.all:
        if master.data.shape != shape:
            raise BadInput(
                f"a master of shape {master.data.shape} for a frame of {shape}",
                code="master-size",
                hint="Their section cards (TRIMSEC, BIASSEC) differ; calibration frames are read out like lights.",
            )


def _step(header: fits.Header) -> int:
    return 1 if mosaic_layout(header) is None else 2


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    return (slice(y, min(y + _ROWS, shape[0])) for y in range(0, shape[0], _ROWS))


def _rows(plane: Plane | np.float32, rows: slice) -> Plane | np.float32:
    return plane[rows] if isinstance(plane, np.ndarray) else plane


def _masked(raw: NDArray[Any], masters: MasterSet, saturation: float | None) -> NDArray[np.uint8]:
    mask = np.zeros(raw.shape, np.uint8)
    for master in masters.all:
        if master.mask is not None:
            mask |= master.mask
    if saturation is not None:
        mark(mask, raw >= saturation, MaskBit.SATURATED)
    if raw.dtype.kind == "f":
        mark(mask, ~np.isfinite(raw), MaskBit.NOT_FINITE)
    return mask


def zero_level(masters: MasterSet, calstat: str = "") -> tuple[Plane | np.float32, Plane | np.float32]:
    """Return what a pixel holds without light, and the variance of that, ADU and ADU².

    Parameters
    ----------
    masters
        Bias and dark; with both, the dark current is scaled.
    calstat
        What was done before: where the bias is off already, it comes off the dark too.
    """
    none = np.float32(0)
    bias = none if masters.bias is None else masters.bias.data
    bias_variance = none if masters.bias is None else _known_variance(masters.bias)
    scale = np.float32(masters.dark_scale)
    if masters.dark is None:
        return bias, bias_variance
    if masters.bias is None:
        return masters.dark.data, _known_variance(masters.dark)
    current = (masters.dark.data - bias) * scale
    held = "B" in calstat.upper()
    zero = current if held else bias + current
    share = scale if held else 1 - scale
    return zero, scale**2 * _known_variance(masters.dark) + share**2 * bias_variance


def _known_variance(master: Planes) -> Plane | np.float32:
    return np.float32(0) if master.variance is None else np.nan_to_num(master.variance)


def _response(masters: MasterSet, mask: NDArray[np.uint8]) -> Plane | np.float32:
    """Return the flat; where it says nothing, 1, and the pixel is masked."""
    if masters.flat is None:
        return np.float32(1)
    flat: Plane = masters.flat.data
    poor = ~(flat > LEAST_RESPONSE)
    if not poor.any():
        return flat
    mark(mask, poor, MaskBit.LOW_RESPONSE)
    return np.where(poor, np.float32(1), flat)


def _light_variance(
    masters: MasterSet,
    zero: Plane | np.float32,
    zero_variance: Plane | np.float32,
    gain: float,
    read_noise_adu: float,
) -> Plane | np.float32:
    """Return the variance of a pixel before any sky: read noise, the masters', and the photons of dark current."""
    base = zero_variance + np.float32(read_noise_adu**2)
    if masters.dark is None or not isinstance(zero, np.ndarray):
        return base
    if masters.bias is not None:
        current = masters.dark.data - masters.bias.data
        current = current * np.float32(masters.dark_scale)
    else:
        # Of a dark alone nobody knows how much is bias: only pixels that stand out have current for certain.
        some = sampled(zero)
        current = zero - np.float32(np.median(some) + 3 * spread(some))
    return np.asarray(base + np.maximum(np.nan_to_num(current), 0) / np.float32(gain), np.float32)


def _expected_variance(
    signal: Plane,
    flat: Plane | np.float32,
    light: Plane | np.float32,
    masters: MasterSet,
    sensor: SensorPixels,
    gain: float,
) -> Plane:
    """Return the sky's variance after the flat, from pixels less bias and dark but before the flat."""
    sky = smooth_sky(signal, _step(sensor.header))
    known = None if masters.flat is None else masters.flat.variance
    variance = sky  # worked on in place, block by block
    for rows in _blocks(signal.shape):
        above = np.maximum(sky[rows], 0)
        part = above / np.float32(gain) + _rows(light, rows)
        response2 = _rows(flat, rows) ** 2
        if known is not None:
            part += above**2 * np.nan_to_num(known[rows]) / response2
        variance[rows] = part / response2
    return variance


def _hold_to_the_frame(variance: Plane, pixels: Plane, step: int) -> float:
    """Scale a variance so that its median is what the frame shows; return by how much."""
    ratios = []
    for dy in range(step):
        for dx in range(step):
            colour = np.s_[dy::step, dx::step]  # each with a sky, and a share of read noise, of its own
            measured = sky_sigma(pixels[colour]) ** 2
            expected = float(np.median(sampled(variance[colour])))
            if expected > 0 and measured > 0:
                variance[colour] *= np.float32(measured / expected)
                ratios.append(measured / expected)
            else:
                variance[colour] = max(measured, 1e-12)
    return float(np.mean(ratios)) if ratios else 1.0


def _level_after(raw: float, sensor: SensorPixels, zero: Plane | np.float32, flat: Plane | np.float32) -> float:
    """Return a raw level after calibration where it comes out lowest: a pixel is saturated from there on.

    The strongest response counts, but a thousandth of the pixels, among them the flat's own faults.
    """
    response = 1.0 if np.ndim(flat) == 0 else float(np.percentile(sampled(np.asarray(flat)), 99.9))
    held = float(np.median(sampled(np.atleast_1d(np.asarray(zero)))))
    return (raw - float(np.median(sensor.level)) - held) / max(response, LEAST_RESPONSE)


def _fraction(mask: NDArray[np.uint8]) -> float:
    return float(np.count_nonzero(mask)) / max(mask.size, 1)


def _say_saturation(header: fits.Header, saturation: float | None) -> None:
    header.remove("SATLEVEL", ignore_missing=True)
    if saturation is None:
        header.remove("SATURATE", ignore_missing=True)
    else:
        header["SATURATE"] = (round(saturation, 2), "[adu] pixels from here on are clipped")


def _header(header: fits.Header, masters: MasterSet, saturation: float | None) -> fits.Header:
    """Return the header with what was done, and without what no longer holds."""
    out = header.copy()
    letters = {letter for letter in str(header.get("CALSTAT") or "").upper() if letter.isalpha()}
    letters |= {"B"} if masters.bias is not None else set()
    letters |= {"D"} if masters.dark is not None else set()
    letters |= {"F"} if masters.flat is not None else set()
    for card in ("BLANK", "DATAMIN", "DATAMAX", "OFFSET", "BLKLEVEL"):
        out.remove(card, ignore_missing=True)
    if letters:
        out["CALSTAT"] = ("".join(sorted(letters)), "bias, dark, flat: done")
    _say_saturation(out, saturation)
    out["BITPIX"] = -32
    return out
