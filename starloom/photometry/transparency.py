"""How clear the sky was: a frame's zero point against the best that its instrument has shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.photometry.bands import band_info

#: Frames below this share of the light of a clear night are flagged ``cloudy``.
CLOUDY_BELOW = 0.6
#: Frames of the history that are looked at, the newest first, and those needed to speak of a best.
HISTORY, MIN_HISTORY = 200, 5
BEST_PERCENTILE = 95.0
#: A frame whose header says no airmass is taken to look this high.
USUAL_AIRMASS = 1.3
#: Extinction, mag per airmass, at wavelengths in nm: a clean site at 1000 m.
_EXTINCTION = (
    (330.0, 0.65),
    (370.0, 0.50),
    (440.0, 0.27),
    (550.0, 0.16),
    (640.0, 0.11),
    (800.0, 0.06),
    (1000.0, 0.05),
)


@dataclass(frozen=True)
class PastZeroPoint:
    """One earlier frame of the same instrument and band: zero point of one second (mag), and airmass."""

    zero_point_mag: float
    airmass: float | None


def zero_point_of_one_second(zero_point_mag: float, exposure_s: float) -> float:
    """Return the magnitude that gives 1 ADU per second."""
    return zero_point_mag - 2.5 * float(np.log10(exposure_s))


def extinction(band: str | None) -> float:
    """Return the usual extinction in a band, mag per airmass."""
    info = band_info(band)
    middle = 550.0 if info is None else 0.5e9 * (info.em_min_m + info.em_max_m)
    return float(np.interp(middle, *np.transpose(_EXTINCTION)))


def transparency(
    zero_point_mag: float,
    airmass: float | None,
    history: Sequence[PastZeroPoint],
    *,
    extinction_mag: float = 0.16,
) -> float | None:
    """Return the share of light that came through, 1 for the instrument's own clear sky.

    Parameters
    ----------
    zero_point_mag
        The frame's, for one second.
    airmass
        Of the frame; None: a usual one.
    history
        Earlier frames, their zero points for one second in the same catalogue band.
    extinction_mag
        Mag per airmass, see `extinction`.

    Returns
    -------
    float or None
        Against the 95th percentile of the history and this frame, all at airmass 0; at most 1.2, as dust on the
        optics makes old frames better than new ones and a cleaning the reverse. None with fewer than five frames.
    """
    if len(history) < MIN_HISTORY:
        return None

    def above(mag: float, at: float | None) -> float:
        return mag + extinction_mag * (USUAL_AIRMASS if at is None else max(at, 1.0))

    own = above(zero_point_mag, airmass)
    known = [above(past.zero_point_mag, past.airmass) for past in history]
    best = float(np.percentile([*known, own], BEST_PERCENTILE))
    return float(min(10 ** (0.4 * (own - best)), 1.2))
