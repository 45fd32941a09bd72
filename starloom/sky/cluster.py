"""A globular cluster: thousands of stars that no catalogue of bright stars has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.sky.field import offset_position

Floats = NDArray[np.float64]

# Luminosity function of a globular's giants and horizontal branch, the magnitudes below its brightest stars.
GIANTS_SLOPE = 0.35


def globular(
    ra_deg: float,
    dec_deg: float,
    n: int,
    half_light_deg: float,
    brightest_mag: float,
    *,
    seed: int,
    depth_mag: float = 5.0,
) -> tuple[Floats, Floats, Floats]:
    """Draw the stars of a globular cluster.

    Parameters
    ----------
    ra_deg, dec_deg
        Its centre, degrees.
    n
        Number of stars.
    half_light_deg
        Radius of the circle on the sky that holds half of them, degrees.
    brightest_mag, depth_mag
        Magnitude of the brightest giants, and how much fainter the faintest drawn star is.
    seed
        Seed of the draw.

    Returns
    -------
    tuple
        ``ra_deg, dec_deg, mag``, each of shape ``(n,)``.

    References
    ----------
    Plummer 1911, MNRAS 71, 460: on the sky, the share of stars within R is ``R² / (R² + a²)`` with the
    half-light radius a.
    """
    rng = np.random.default_rng(seed)
    share = rng.random(n) * 0.98  # the last 2 % lie without bound
    radius = half_light_deg * np.sqrt(share / (1 - share))
    ra, dec = offset_position(ra_deg, dec_deg, radius, rng.uniform(0, 2 * np.pi, n))
    growth = 10 ** (GIANTS_SLOPE * depth_mag) - 1
    mag = brightest_mag + np.log10(1 + rng.random(n) * growth) / GIANTS_SLOPE
    return ra, dec, mag
