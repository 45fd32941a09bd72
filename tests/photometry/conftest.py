"""Painted fields: stars of a given profile at known places with known fluxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList, detect_stars
from starloom.sky.psf import Psf, draw_stars, make_psf

SKY, NOISE = 500.0, 10.0


@dataclass(frozen=True)
class Field:
    """A frame without Poisson noise, and the truth about it."""

    image: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    psf: Psf

    def listed(self, x: Any = None, y: Any = None) -> StarList:
        """The stars as they are, or others at given places, with what the detection says of the frame."""
        found = detect_stars(self.image)
        x, y = (self.x, self.y) if x is None else (x, y)
        one = np.ones(len(x))
        columns = dict.fromkeys(("flux", "peak", "fwhm_px", "ellipticity", "theta_deg", "centroid_err_px"), one)
        if len(x) == len(self.x):
            columns |= {"flux": self.flux, "peak": self.flux * self.psf.peak}
        columns["fwhm_px"] = one * found.frame_fwhm_px
        return replace(found, x=x, y=y, saturated=np.zeros(len(x), bool), **columns)


@pytest.fixture(scope="session")
def paint() -> Callable[..., Field]:
    def paint(
        fwhm: float = 3.0,
        beta: float = 3.0,
        *,
        stars: int = 120,
        size: int = 700,
        seed: int = 1,
        snr: tuple[float, float] = (50.0, 2000.0),
        wider: float = 0.0,
        **shape: float,
    ) -> Field:
        """Draw stars with S/N between two values in an aperture of 1.25 FWHM; seeing grows to the corners."""
        rng = np.random.default_rng(seed)
        x, y = rng.uniform(15, size - 16, (2, stars))
        flux = np.exp(rng.uniform(*np.log(snr), stars)) * NOISE * np.sqrt(np.pi) * 1.25 * fwhm
        light = np.zeros((size, size), np.float32)
        off = np.hypot(x - size / 2, y - size / 2) / (size / np.sqrt(2))
        psf = make_psf(fwhm, beta, **shape)
        for inner in np.arange(6) / 6:
            ring = (off >= inner) & (off < inner + 1 / 6)
            here = make_psf(fwhm * (1 + wider * (inner + 1 / 12) ** 2), beta, **shape) if wider else psf
            draw_stars(light, x[ring], y[ring], flux[ring], here, noise_adu=NOISE / 100)
        image = (light + SKY + rng.normal(0, NOISE, light.shape)).astype(np.float32)
        return Field(image, x, y, flux, psf)

    return paint
