"""Stars of a frame and their fluxes within apertures, from which those of any radius on the sky follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.strip import Floats

APERTURE_FWHM = 1.5
"""Radius of the smallest aperture over the frame's own FWHM."""

TOTAL_RADIUS = 2.0
"""Radius out to which the growth of the flux is measured, over that of the smallest aperture."""

RADII = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2)
"""Radii of the apertures over that of the smallest: frames are compared at one radius on the sky between these."""

BLENDED = 0.02
"""Neighbours' light over a star's own up to which they do not spoil it."""

_FEW = 12
"""A frame with no more stars than these spares none for a larger aperture."""
_RING, _LEAST_RING = 1.6, 1.2
"""Outer radius of the ring of sky over that of the aperture; with less room the frame's own sky must do."""
_RING_BLENDED = 0.1


@dataclass(frozen=True, eq=False)
class Light:
    """Fluxes of a frame's stars within one radius and their errors, ADU; NaN of stars that have none.

    ``radius`` is over that of the smallest aperture; ``alone`` tells which no neighbour spoils there; ``share`` is
    what of each aperture's flux is in it, shape ``(len(RADII),)``.
    """

    radius: float
    flux: Floats
    error: Floats
    alone: NDArray[np.bool_]
    share: Floats


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars of a frame, brightest first; all of shape ``(n,)``.

    0-based frame pixels and their error (one axis), flux within `APERTURE_FWHM` and its error (ADU), and which of
    them no neighbour spoils. ``fluxes``, shape ``(n, len(RADII))``, are those within all apertures, NaN where one
    leaves what was read; ``company``, alike, is neighbours' light in and at the rim of each over the star's own.
    The sky's part of ``flux_error`` is ``sky_error``.
    """

    x: Floats
    y: Floats
    error_px: Floats
    flux: Floats
    flux_error: Floats
    alone: NDArray[np.bool_]
    fluxes: NDArray[np.float32]
    company: NDArray[np.float32]
    sky_error: float

    def __len__(self) -> int:
        return len(self.x)

    def within(self, radius_fwhm: float) -> Light:
        """Return the fluxes within a radius, given over the frame's FWHM.

        A radius beyond the apertures, or one at which half of the stars would be lost or, of more, fewer than a
        dozen be left, is replaced by the nearest that is not. Between the apertures fluxes are linear in area.
        The sky is the mean of the ring out to 1.6 times the radius, whatever lies in it: frames of unlike pixels
        tell a crowded or nebulous sky unlike, by up to 3 % of a star's flux, but the ring is of one sky for all.
        """
        have = np.isfinite(self.fluxes).mean(axis=0) if len(self) else np.ones(len(RADII))
        least = max(0.5, min(1.0, _FEW / max(len(self), 1)))
        most = max(k for k in range(len(RADII)) if have[k] >= least or k == 0)
        wanted = float(np.clip(radius_fwhm / APERTURE_FWHM, 1.0, RADII[most]))
        ring = min(_RING * wanted, RADII[most])
        share, annulus = _shares(wanted), 0.0
        if ring > _LEAST_RING * wanted:
            annulus = wanted**2 / (ring**2 - wanted**2)
            share = share - annulus * (_shares(ring) - share)
        used = np.flatnonzero(share)
        flux = self.fluxes[:, used].astype(float) @ share[used]
        # The sky's part of the error grows with the radius; the photons' does not.
        photons = np.maximum(self.flux_error**2 - self.sky_error**2, 0.0)
        error = np.sqrt((wanted * self.sky_error) ** 2 * (1 + annulus) + photons)
        inside = int(np.searchsorted(RADII, wanted))
        alone = (self.company[:, inside] <= BLENDED) & (self.company[:, used[-1]] <= _RING_BLENDED)
        return Light(wanted, flux, error, alone, share)


def _shares(radius: float) -> Floats:
    """Return the shares of the apertures in a flux within ``radius``: linear in area."""
    area = np.array(RADII) ** 2
    return np.array([np.interp(radius**2, area, unit) for unit in np.eye(len(RADII))])
