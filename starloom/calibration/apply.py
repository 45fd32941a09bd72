"""Calibrating a frame: (raw - overscan - bias - dark * scale) / flat, with variance, mask and saturation level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from starloom.calibration.calibrated_file import MaskBit, Planes
from starloom.calibration.mosaic import mosaic_layout
from starloom.calibration.noise import sampled, sky_sigma
from starloom.calibration.saturation import saturation_from_histogram
from starloom.calibration.sensor import SensorPixels, sensor_pixels

Plane = NDArray[np.float32]

#: Below this response a pixel holds more noise than sky.
LEAST_RESPONSE = 0.05
_MESH_PX = 64


@dataclass(frozen=True)
class MasterSet:
    """The masters of one frame; None: none of that kind.

    Attributes
    ----------
    bias, dark, flat, defects
        As `starloom.calibration.read_planes` returns them; the dark holds its bias.
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
    noise_ratio
        Measured over expected variance of the sky; None: not expected, without a gain.
    """

    planes: Planes
    saturation_adu: float | None
    masked_fraction: float
    gain_e_per_adu: float | None
    read_noise_adu: float | None
    noise_ratio: float | None = None


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
        None where there is nothing to do: no master, no known defect, no overscan.

    Raises
    ------
    BadInput
        ``bad-section``: the header's sections contradict the frame.

    Notes
    -----
    The variance is that of the sky: photons of a smooth sky and read noise, those of the masters, over the squared
    response. It is scaled so that its median is the variance measured in the frame, for a header's gain is often
    that of another readout mode.
    """
    sensor = sensor_pixels(data, header)
    trimmed = sensor.data.shape != data.shape
    if not (masters.corrects or masters.defects is not None or sensor.overscan or trimmed):
        return None
    said = header.get("SATURATE", header.get("SATLEVEL"))
    saturation = saturation_from_histogram(sensor.data, float(said) if isinstance(said, int | float) else None)
    mask = _masked(sensor.data, masters, saturation)
    if not (masters.corrects or sensor.overscan):
        planes = Planes(sensor.data, sensor.header, mask)
        return Calibrated(planes, saturation, _fraction(mask), gain_e_per_adu, read_noise_adu)
    dark, dark_variance = _zero(masters, str(header.get("CALSTAT") or ""), sensor.data.shape)
    flat = _response(masters, mask)
    pixels = sensor.subtracted()
    pixels -= dark
    variance, ratio = _variance(pixels, flat, dark_variance, masters, sensor, gain_e_per_adu, read_noise_adu)
    pixels /= flat
    if saturation is not None:
        saturation = _level_after(saturation, sensor, dark, flat)
    mask[~np.isfinite(pixels)] |= MaskBit.NOT_FINITE
    out = _header(sensor.header, masters, saturation)
    return Calibrated(
        Planes(pixels, out, mask, variance),
        saturation,
        _fraction(mask),
        gain_e_per_adu,
        read_noise_adu,
        ratio,
    )


def _masked(raw: NDArray[Any], masters: MasterSet, saturation: float | None) -> NDArray[np.uint8]:
    mask = np.zeros(raw.shape, np.uint8)
    for master in (masters.bias, masters.dark, masters.flat, masters.defects):
        if master is not None and master.mask is not None:
            mask |= master.mask
    if saturation is not None:
        mask[raw >= saturation] |= MaskBit.SATURATED
    if raw.dtype.kind == "f":
        mask[~np.isfinite(raw)] |= MaskBit.NOT_FINITE
    return mask


def _zero(masters: MasterSet, calstat: str, shape: tuple[int, ...]) -> tuple[Plane, Plane]:
    """Return what a pixel holds without light, and the variance of that."""
    none = np.float32(0)
    bias = none if masters.bias is None else masters.bias.data
    bias_variance = none if masters.bias is None else _known_variance(masters.bias)
    scale = np.float32(masters.dark_scale)
    if masters.dark is None:
        zero, variance = bias, bias_variance
    elif masters.bias is None:
        zero, variance = masters.dark.data, _known_variance(masters.dark)
    else:
        current = (masters.dark.data - bias) * scale
        held = "B" in calstat.upper()  # the bias is off the frame already, and must come off the dark alone
        zero = current if held else bias + current
        share = scale if held else 1 - scale
        variance = scale**2 * _known_variance(masters.dark) + share**2 * bias_variance
    return np.broadcast_to(zero, shape).astype(np.float32), np.broadcast_to(variance, shape).astype(np.float32)


def _known_variance(master: Planes) -> Plane | np.float32:
    return np.float32(0) if master.variance is None else np.nan_to_num(master.variance)


def _response(masters: MasterSet, mask: NDArray[np.uint8]) -> Plane | np.float32:
    """Return the flat; where it says nothing, 1, and the pixel is masked."""
    if masters.flat is None:
        return np.float32(1)
    flat = masters.flat.data.astype(np.float32, copy=False)
    usable = flat > LEAST_RESPONSE
    mask[~usable] |= MaskBit.LOW_RESPONSE
    return np.where(usable, flat, np.float32(1))


def _variance(
    signal: Plane,
    flat: Plane | np.float32,
    zero_variance: Plane,
    masters: MasterSet,
    sensor: SensorPixels,
    gain: float | None,
    read_noise_adu: float | None,
) -> tuple[Plane, float | None]:
    """Return the sky's variance after the flat, from pixels less bias and dark but before the flat."""
    step = 2 if mosaic_layout(sensor.header) is not None else 1
    measured = sky_sigma(signal / flat, step) ** 2
    if gain is None or not gain > 0:
        variance = _measured_variance(signal / flat, step)
    else:
        sky = _smooth_sky(signal, step)
        variance = np.asarray(np.maximum(sky, 0) / np.float32(gain), np.float32)
        variance += np.float32((read_noise_adu or 0.0) ** 2)
        variance += zero_variance
        variance /= flat**2
        if masters.flat is not None and masters.flat.variance is not None:
            variance += (sky / flat**2) ** 2 * np.nan_to_num(masters.flat.variance)
    expected = float(np.median(sampled(variance)))
    if not (expected > 0 and measured > 0):
        return np.full(signal.shape, max(measured, 1e-12), np.float32), None
    ratio = measured / expected
    variance *= np.float32(ratio)
    return variance, None if gain is None else ratio


def _cells(data: Plane, statistic: str, step: int) -> Plane:
    """Return a mesh of `_MESH_PX` with the median of each cell (``sky``), or its variance (``variance``)."""
    ny, nx = data.shape
    rows, cols = max(1, round(ny / _MESH_PX)), max(1, round(nx / _MESH_PX))
    y, x = (np.linspace(0, size, n + 1).astype(int) for size, n in ((ny, rows), (nx, cols)))
    out = np.empty((rows, cols), np.float32)
    for j in range(rows):
        for i in range(cols):
            cell = data[y[j] : y[j + 1], x[i] : x[i + 1]]
            if statistic == "sky":
                values = cell[::2, ::2]
                out[j, i] = np.median(values[np.isfinite(values)]) if np.isfinite(values).any() else np.nan
            else:
                out[j, i] = sky_sigma(cell, step) ** 2
    finite = np.isfinite(out)
    out[~finite] = np.median(out[finite]) if finite.any() else 0.0
    return np.asarray(ndimage.median_filter(out, size=3, mode="nearest"))


def _spread_out(mesh: Plane, shape: tuple[int, int]) -> Plane:
    """Interpolate a mesh of cell centres to every pixel, linearly."""
    y = (np.arange(shape[0]) + 0.5) / shape[0] * mesh.shape[0] - 0.5
    x = (np.arange(shape[1]) + 0.5) / shape[1] * mesh.shape[1] - 0.5
    rows = ndimage.map_coordinates(
        mesh, np.meshgrid(y, np.arange(mesh.shape[1]), indexing="ij"), np.float32, order=1, mode="nearest"
    )
    low = np.clip(np.floor(x).astype(int), 0, mesh.shape[1] - 1)
    high, part = np.minimum(low + 1, mesh.shape[1] - 1), np.clip(x - low, 0, 1).astype(np.float32)
    return np.asarray(rows[:, low] * (1 - part) + rows[:, high] * part, np.float32)


def _smooth_sky(signal: Plane, step: int) -> Plane:
    if step == 1:
        return _spread_out(_cells(signal, "sky", 1), (signal.shape[0], signal.shape[1]))
    sky = np.empty(signal.shape, np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            colour = np.ascontiguousarray(signal[dy::2, dx::2])
            sky[dy::2, dx::2] = _spread_out(_cells(colour, "sky", 1), (colour.shape[0], colour.shape[1]))
    return sky


def _measured_variance(pixels: Plane, step: int) -> Plane:
    if step == 1:
        return _spread_out(_cells(pixels, "variance", 1), (pixels.shape[0], pixels.shape[1]))
    out = np.empty(pixels.shape, np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            colour = np.ascontiguousarray(pixels[dy::2, dx::2])
            out[dy::2, dx::2] = _spread_out(_cells(colour, "variance", 1), (colour.shape[0], colour.shape[1]))
    return out


def _level_after(raw: float, sensor: SensorPixels, zero: Plane, flat: Plane | np.float32) -> float:
    """Return a raw level after calibration where it comes out lowest: a pixel is saturated from there on.

    The strongest response counts, but a thousandth of the pixels, among them the flat's own faults.
    """
    response = 1.0 if np.ndim(flat) == 0 else float(np.percentile(sampled(np.asarray(flat)), 99.9))
    return (raw - float(np.median(sensor.level)) - float(np.median(sampled(zero)))) / max(response, LEAST_RESPONSE)


def _fraction(mask: NDArray[np.uint8]) -> float:
    return float(np.count_nonzero(mask)) / max(mask.size, 1)


def _header(header: fits.Header, masters: MasterSet, saturation: float | None) -> fits.Header:
    """Return the header with what was done, and without what no longer holds."""
    out = header.copy()
    letters = {letter for letter in str(header.get("CALSTAT") or "").upper() if letter.isalpha()}
    letters |= {"B"} if masters.bias is not None else set()
    letters |= {"D"} if masters.dark is not None else set()
    letters |= {"F"} if masters.flat is not None else set()
    for card in ("BLANK", "DATAMIN", "DATAMAX", "SATLEVEL", "OFFSET", "BLKLEVEL"):
        out.remove(card, ignore_missing=True)
    if letters:
        out["CALSTAT"] = ("".join(sorted(letters)), "bias, dark, flat: done")
    if saturation is not None:
        out["SATURATE"] = (round(saturation, 2), "[adu] calibrated pixels from here on are clipped")
    else:
        out.remove("SATURATE", ignore_missing=True)
    out["BITPIX"] = -32
    return out
