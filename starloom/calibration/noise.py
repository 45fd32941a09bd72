"""Read noise, gain and sky noise, measured from the pixels themselves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAMPLE = 400_000
#: Values looked at for a lattice, and the steps of one that a spread must have to be fine without shaking.
_LATTICE_SAMPLE, _FINE = 4000, 40.0


def spread(values: NDArray[Any]) -> float:
    """Return the standard deviation that the median absolute deviation stands for.

    Notes
    -----
    Values on a lattice (differences of integers, say) have a coarse median: of a noise of 4 it makes 4.45 or 5.93.
    So they are spread evenly over their steps, from a fixed table of random numbers, and what that adds is taken
    off again.
    """
    if not values.size:
        return 0.0
    some = np.unique(values[:_LATTICE_SAMPLE])
    step = float(np.min(np.diff(some))) if some.size > 1 else 0.0
    deviation = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    if step == 0.0 or deviation > _FINE * step:
        return deviation
    if deviation == 0.0 and some.size < 3:
        return 0.0
    shaken = values + np.random.default_rng(1).uniform(-step / 2, step / 2, values.shape)
    deviation = 1.4826 * float(np.median(np.abs(shaken - np.median(shaken))))
    return float(np.sqrt(max(deviation**2 - step**2 / 12, 0.0)))


def sampled(data: NDArray[Any], limit: int = _SAMPLE) -> NDArray[np.float64]:
    """Return at most about ``limit`` finite pixels, evenly spread, float64."""
    flat = data.ravel()[:: max(1, data.size // limit)].astype(np.float64)
    return flat[np.isfinite(flat)]


def sky_sigma(data: NDArray[Any], step: int = 1) -> float:
    """Return the standard deviation of the sky in one pixel, gradients and stars apart.

    Parameters
    ----------
    data
        Pixels, ADU, shape ``(ny, nx)``.
    step
        Distance to the next pixel of the same colour: 2 in a Bayer mosaic.

    Notes
    -----
    From the second differences along a row, ``a - 2 b + c``, whose variance is six times a pixel's. A gradient has
    none, and a star touches few.
    """
    rows = data[:: max(1, data.size // _SAMPLE)].astype(np.float64)
    second = rows[:, : -2 * step] - 2 * rows[:, step:-step] + rows[:, 2 * step :]
    return spread(second[np.isfinite(second)]) / float(np.sqrt(6.0))


def pair_noise(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the noise of one frame from two that show the same, ADU; fixed patterns and levels cancel."""
    a, b = first.ravel(), second.ravel()
    every = max(1, a.size // _SAMPLE)
    return spread(a[::every].astype(np.float64) - b[::every]) / float(np.sqrt(2.0))


def read_noise(frames: Sequence[NDArray[Any]]) -> float | None:
    """Return the read noise (ADU) from biases: the median over pairs of neighbours in time; None below two.

    Notes
    -----
    Quantisation (1/12 ADU²) is part of it, as it is of every frame.
    """
    pairs = [pair_noise(a, b) for a, b in itertools.pairwise(frames)]
    return float(np.median(pairs)) if pairs else None


def transfer_gain(
    pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], read_noise_adu: float, saturation_adu: float | None = None
) -> float | None:
    """Return the gain (e-/ADU) by photon transfer from pairs of flats; None where they do not tell.

    Parameters
    ----------
    pairs
        Two flats each of about the same level, bias subtracted, shape ``(ny, nx)``.
    read_noise_adu
        Of one frame.
    saturation_adu
        Flats within 20 % of it are left out: blooming lowers their variance.

    Notes
    -----
    In patches of 64 pixels a side, whose gain is ``(m1 + m2) / (var(f1 - r f2) - …)`` with ``r`` the
    ratio of levels, so that vignetting and gradients do not enter (Janesick 2007, Photon Transfer, ch. 5).
    """
    found: list[float] = []
    for first, second in pairs:
        ny, nx = first.shape
        for y in np.linspace(0, max(0, ny - 64), 8).astype(int):
            for x in np.linspace(0, max(0, nx - 64), 8).astype(int):
                a = first[y : y + 64, x : x + 64].astype(np.float64)
                b = second[y : y + 64, x : x + 64].astype(np.float64)
                level_a, level_b = float(np.median(a)), float(np.median(b))
                if min(level_a, level_b) <= 10 * read_noise_adu:
                    continue
                if saturation_adu is not None and max(level_a, level_b) > 0.8 * saturation_adu:
                    continue
                ratio = level_a / level_b
                difference = a - ratio * b
                shot = spread(difference) ** 2 - (1 + ratio**2) * read_noise_adu**2
                # The photons of `ratio * b` have the variance of ratio² b.
                if shot > 0:
                    found.append((level_a + ratio**2 * level_b) / shot)
    return float(np.median(found)) if len(found) >= 8 else None
