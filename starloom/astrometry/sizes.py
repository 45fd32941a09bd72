"""Size and shape of stars from their moments under a window, and from them which are stars at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.centroids import Measured
from starloom.astrometry.profile import Profile

Floats = NDArray[np.float64]

# Under the window a source of three times the stars' width has 1.8 of their size squared, a line 2; beyond this
# the window does not see any more how wide a star is.
LARGEST, SMALLEST = 1.9, 0.05


class Sizes:
    """Sizes of stars relative to the window they were measured under.

    Parameters
    ----------
    stars
        As measured.
    profile
        Whose window it was.

    Attributes
    ----------
    least, most
        Size squared along the direction where it is least and most, shape ``(n,)``; 1 for a star like the window.
    mean
        Their geometric mean.
    covariance
        The stars' own, the window's part taken out, px², shape ``(n, 2, 2)``.
    """

    def __init__(self, stars: Measured, profile: Profile) -> None:
        self._profile = profile
        root = np.linalg.cholesky(profile.window)
        inverse = np.linalg.inv(root)
        values, vectors = np.linalg.eigh(2.0 * inverse @ np.nan_to_num(stars.moments) @ inverse.T)
        self.least: Floats = values[:, 0]
        self.most: Floats = values[:, 1]
        self.mean: Floats = np.sqrt(np.maximum(values[:, 0] * values[:, 1], 0.0))
        # Where window and star are seen together their inverse covariances add.
        values = np.clip(values, SMALLEST, LARGEST)
        own = values / (2.0 - values)
        turned = root @ vectors
        self.covariance: Floats = (turned * own[:, None, :]) @ turned.swapaxes(1, 2)

    @property
    def widths(self) -> Floats:
        """Sigma of each star across the trail, or of the round star of its area, pixels."""
        if self._profile.trail_px:
            across = np.array([-np.sin(self._profile.angle), np.cos(self._profile.angle)])
            return np.asarray(np.sqrt(np.einsum("i,nij,j->n", across, self.covariance, across)))
        return np.asarray(np.linalg.det(self.covariance) ** 0.25)

    @property
    def ellipticities(self) -> Floats:
        """``1 - b/a`` of each star."""
        values = np.linalg.eigvalsh(self.covariance)
        return np.asarray(1.0 - np.sqrt(values[:, 0] / values[:, 1]))

    @property
    def theta_deg(self) -> Floats:
        """Direction of each star's long axis from +x towards +y, degrees."""
        c = self.covariance
        return np.asarray(0.5 * np.degrees(np.arctan2(2 * c[:, 0, 1], c[:, 0, 0] - c[:, 1, 1])))
