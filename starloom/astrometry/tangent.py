"""The gnomonic (TAN) projection, in degrees on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def project(ra_deg: ArrayLike, dec_deg: ArrayLike, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Return the standard coordinates (ξ east, η north; degrees) of points near a tangent point.

    Points 90° or more from the tangent point have no image and come out as NaN.

    References
    ----------
    Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3.
    """
    dra = np.radians(np.asarray(ra_deg, np.float64) - ra0_deg)
    dec, dec0 = np.radians(np.asarray(dec_deg, np.float64)), np.radians(dec0_deg)
    cosine = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(dra)
    cosine = np.where(cosine > 1e-9, cosine, np.nan)
    xi = np.cos(dec) * np.sin(dra) / cosine
    eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(dra)) / cosine
    return np.degrees(xi), np.degrees(eta)


def deproject(xi_deg: ArrayLike, eta_deg: ArrayLike, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Return right ascension (0 to 360) and declination, degrees, of standard coordinates: undoes `project`."""
    xi, eta = np.radians(np.asarray(xi_deg, np.float64)), np.radians(np.asarray(eta_deg, np.float64))
    dec0 = np.radians(dec0_deg)
    across = np.cos(dec0) - eta * np.sin(dec0)
    ra = ra0_deg + np.degrees(np.arctan2(xi, across))
    dec = np.degrees(np.arctan2(np.sin(dec0) + eta * np.cos(dec0), np.hypot(xi, across)))
    return np.asarray(ra % 360.0, np.float64), np.asarray(dec, np.float64)
