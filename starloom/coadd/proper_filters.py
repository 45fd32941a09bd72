"""The filters of proper co-addition: what each frame is correlated with, and what whitens their sum.

Zackay & Ofek (2017, ApJ 836, 188) show that all that a set of background-limited frames knows of the sky is kept
by one image, whose noise is white::

    R = sum_j w_j conj(P_j) M_j / sqrt(sum_j w_j |P_j|²)        (their eq. 7; Fourier transforms, w_j = 1 / σ_j²)

Here frames come on one flux scale (their F_j are 1), and R is divided by ``sqrt(sum_j w_j)``, so that a star keeps
its flux and the sky its level. Two things are done about what a finite tile and a measured PSF cannot give:

* Where no PSF passes anything, its phase is noise, and a filter made of it rings across the whole tile. Each PSF
  gets a core of `CORE` times its flux, so that such frequencies enter as a plain weighted mean. The noise stays
  white; the loss is that of a slightly wrong matched filter, 0.03 % of the signal-to-noise ratio for six
  telescopes of 2 to 6 px.
* The whitening kernel ends at a finite radius. A pixel then depends on a bounded neighbourhood, and tiles join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Plane = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

CORE = 0.005
"""Flux of the core that each PSF gets. At 1e-3 the noise of measured PSFs makes kernels of 100 px and more."""

_LEAST_RADIUS_PX, _WIDER_PX = 24, 8
_SPREAD_PX = 8


def whitening_radius_px(psfs: Sequence[NDArray[Any]]) -> int:
    """Return the radius at which the whitening kernel ends, pixels."""
    return max(_LEAST_RADIUS_PX, *(int(max(psf.shape)) // 2 + _WIDER_PX for psf in psfs))


def placed(kernel: NDArray[Any], shape: tuple[int, int]) -> Spectrum:
    """Return the transform of a small odd-sized kernel on a plane of ``shape``, its middle at pixel (0, 0).

    The kernel has few rows: transforming only those along x first halves the cost. It is done in the kernel's own
    precision.
    """
    ny, nx = shape
    ky, kx = kernel.shape
    rows = np.zeros((ky, nx), kernel.dtype)
    rows[:, :kx] = kernel
    rows = np.roll(rows, -(kx // 2), axis=1)
    columns = np.zeros((ny, nx // 2 + 1), np.result_type(kernel.dtype, np.complex64))
    columns[:ky] = fft.rfft(rows, axis=1)
    columns = np.roll(columns, -(ky // 2), axis=0)
    return np.asarray(fft.fft(columns, axis=0, overwrite_x=True), dtype=np.complex64)


class Filters:
    """The filters of one set of PSFs: a frame's own, and the whitening kernel for any choice of weights.

    Parameters
    ----------
    psfs
        Unit sum, odd sides, one per frame.
    """

    def __init__(self, psfs: Sequence[NDArray[Any]]) -> None:
        self.psfs = [np.asarray(psf, np.float32) for psf in psfs]
        self.radius_px = whitening_radius_px(psfs)
        side = fft.next_fast_len(4 * self.radius_px + 2, real=True)
        self._grid = (side, side)
        self._power = np.stack([np.abs(self.own(i, self._grid)) ** 2 for i in range(len(psfs))])
        far = np.abs(fft.fftfreq(side, 1 / side))
        r = np.hypot(far[:, None], far[None, :])
        # Flat to half of the radius, then down to nothing, without a step.
        ramp = np.clip(2 * r / self.radius_px - 1, 0, 1)
        self._window = 0.5 + 0.5 * np.cos(np.pi * ramp)

    def own(self, index: int, shape: tuple[int, int]) -> Spectrum:
        """Return the transform of a frame's PSF with its core, shape ``(ny, nx // 2 + 1)``."""
        spectrum = placed(self.psfs[index], shape)
        spectrum += np.float32(CORE)
        return spectrum

    def whitening(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the kernel that turns ``sum_j w_j conj(own_j) M_j`` into the co-add.

        Parameters
        ----------
        weights
            ``1 / σ_j²``, shape ``(n,)``; 0 leaves a frame out.

        Returns
        -------
        ndarray
            Odd sides; with it the co-add has unit response to a flat sky and noise of variance ``1 / sum_j w_j``.
            It passes the finest structure up to ``1 / CORE`` times better than a flat sky, which would cost single
            precision the stars' fluxes (1e-5).
        """
        total = float(weights.sum())
        power = np.tensordot(weights, self._power, 1)
        kernel = fft.irfft2(1 / np.sqrt(power * total), s=self._grid) * self._window
        side = self.radius_px
        kernel = np.roll(kernel, (side, side), (0, 1))[: 2 * side + 1, : 2 * side + 1]
        return np.asarray(kernel / (kernel.sum() * total * (1 + CORE)))

    def spread(self, weights: NDArray[np.float64]) -> Plane:
        """Return over which pixels of the frames the information of one co-added pixel is spread; unit sum.

        The sum over frames of the squared filters, each over its weight: what a hole takes from its neighbours.
        """
        whitening = placed(self.whitening(weights), self._grid)
        total = np.zeros(self._grid)
        for index, weight in enumerate(weights):
            if weight > 0:
                passed = fft.irfft2(self.own(index, self._grid) * whitening, s=self._grid)
                total += weight * passed**2
        total = np.roll(total, (_SPREAD_PX, _SPREAD_PX), (0, 1))[: 2 * _SPREAD_PX + 1, : 2 * _SPREAD_PX + 1]
        return np.asarray(total / total.sum(), dtype=np.float32)

    def response(self, weights: NDArray[np.float64], side: int) -> Plane:
        """Return what a star of unit flux looks like in the co-add, ``side`` (odd) pixels square."""
        reach = 2 * self.radius_px + max(max(psf.shape) // 2 for psf in self.psfs)
        full = fft.next_fast_len(max(side, 2 * reach + 1), real=True)
        total = np.zeros((full, full // 2 + 1), np.complex128)
        for index, (psf, weight) in enumerate(zip(self.psfs, weights, strict=True)):
            total += weight * np.conj(self.own(index, (full, full))) * placed(psf, (full, full))
        plane = fft.irfft2(total * placed(self.whitening(weights), (full, full)), s=(full, full))
        half = side // 2
        return np.asarray(np.roll(plane, (half, half), (0, 1))[:side, :side], dtype=np.float32)
