"""Electrons per ADU from a single frame: where its sky is brighter it is noisier, as photons make it."""

from __future__ import annotations

import numpy as np

from starloom.astrometry.background import SkyMesh

#: Electrons of the sky in a pixel where nothing tells, in whatever unit the frame is: few, so that photon noise is
#: rather overstated.
CAUTIOUS_SKY_E = 100.0
#: The slope of variance over level must stand out of its error by this factor.
MIN_SIGNIFICANCE = 8.0
MIN_PAIRS = 20


def estimated_gain(sky: SkyMesh, base: float) -> float:
    """Estimate the gain of a frame.

    Parameters
    ----------
    sky
        Its sky, per pixel, above ``base``.
    base
        Level the sky counts from, ADU.

    Returns
    -------
    float
        Electrons per ADU.

    Notes
    -----
    Vignetting, gradients and glow make cells of unlike level, whose variance grows by ``1/gain`` a unit of level
    (photon transfer) whatever the pedestal. In a flat-fielded frame the levels are alike and the pedestal is gone:
    there the gain is level over variance, too small if anything, because read noise is in the variance too.

    References
    ----------
    Janesick 2007, Photon Transfer (SPIE), chapter 5; Sen 1968, JASA 63, 1379.
    """
    level = sky.level[1:-1, 1:-1][sky.known] + base
    variance = sky.noise[1:-1, 1:-1][sky.known] ** 2
    order = np.argsort(level)
    third = len(order) // 3
    if third >= MIN_PAIRS:
        # Slopes between the darkest and the brightest cells (Theil & Sen): their median heeds no odd cell.
        low, high = order[:third], order[-third:]
        rise = level[high] - level[low]
        slopes = (variance[high] - variance[low])[rise > 0] / rise[rise > 0]
        if len(slopes) >= MIN_PAIRS:
            slope = float(np.median(slopes))
            error = 1.4826 * float(np.median(np.abs(slopes - slope))) / np.sqrt(len(slopes))
            if slope > MIN_SIGNIFICANCE * error:
                return 1.0 / slope
    middle = float(np.median(level))
    cautious = float(np.sqrt(CAUTIOUS_SKY_E / np.median(variance)))
    return max(middle / float(np.median(variance)), cautious) if middle > 0 else cautious
