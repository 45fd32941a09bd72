"""The Gaussian that stands for a frame's stars: the window they are measured under."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FWHM_PER_SIGMA = 2.3548
# A star of FWHM 1.5 px is then placed to 0.002 px whatever its place within a pixel; under its own width to 0.02.
MIN_WINDOW_PX = 1.15


@dataclass(frozen=True)
class Profile:
    """The Gaussian that matches a frame's stars best.

    Parameters
    ----------
    major_px, minor_px
        Its sigmas along the long and the short axis, pixels.
    angle
        Direction of the long axis from +x towards +y, radians.
    trail_px
        Length of the common trail, 0 if none.
    stars
        Stars it was measured on; with 0 it is a guess.
    """

    major_px: float
    minor_px: float
    angle: float
    trail_px: float = 0.0
    stars: int = 0

    @property
    def round_px(self) -> float:
        """Sigma of the round Gaussian of the same area."""
        return float(np.sqrt(self.major_px * self.minor_px))

    @property
    def extent_px(self) -> float:
        """Full width of the round star of the same area, or the trail's length."""
        return max(FWHM_PER_SIGMA * self.round_px, self.trail_px / 2)

    @property
    def window(self) -> Floats:
        """Covariance of the window to measure stars under, in x and y, shape ``(2, 2)``, px².

        Round where there is no trail. Never so narrow that sums over pixels no longer stand for integrals.
        """
        if self.trail_px == 0:
            return max(self.round_px, MIN_WINDOW_PX) ** 2 * np.eye(2)
        c, s = np.cos(self.angle), np.sin(self.angle)
        turn = np.array([[c, -s], [s, c]])
        axes = np.maximum([self.major_px, self.minor_px], MIN_WINDOW_PX)
        return np.asarray(turn @ np.diag(axes**2) @ turn.T)


GUESS = Profile(1.3, 1.3, 0.0)
