"""Which stars may be used for what: isolated ones, blends, the frame's PSF stars, and their catalogue partners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.refcat.provider import CatalogStars

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Neighbours within this many FWHM and of this share of its light spoil a star for the curve of growth; a star is
#: a blend where a neighbour puts this share of the star's own light into its aperture.
ISOLATION_FWHM, ISOLATION_SHARE = 7.0, 0.03
BLEND_APERTURES, BLEND_SHARE = 2.5, 0.01
#: Catalogue stars so much fainter than their neighbour do not matter, mag.
BLEND_MAG = 5.0


@dataclass(frozen=True)
class Neighbours:
    """Which stars have company: none nearby (``isolated``), or light of another in the aperture (``blended``)."""

    isolated: Bools
    blended: Bools


def neighbours(x: Floats, y: Floats, flux: Floats, *, fwhm_px: float, reach_px: float) -> Neighbours:
    """Find the stars that stand alone, and those that do not.

    Parameters
    ----------
    x, y, flux
        Of all detected stars, shape ``(n,)``.
    fwhm_px
        Seeing.
    reach_px
        How far an aperture extends from its centre.
    """
    isolated, blended = np.ones(len(x), bool), np.zeros(len(x), bool)
    if len(x) < 2:
        return Neighbours(isolated, blended)
    near = BLEND_APERTURES * reach_px
    far = max(ISOLATION_FWHM * fwhm_px, near)
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(far, output_type="ndarray")
    distance = np.hypot(*(np.column_stack([x, y])[pairs[:, 0]] - np.column_stack([x, y])[pairs[:, 1]]).T)
    for a, b in ((0, 1), (1, 0)):
        own, other = pairs[:, a], pairs[:, b]
        isolated[own[flux[other] > ISOLATION_SHARE * flux[own]]] = False
        # Of a neighbour just outside the aperture a few per cent come in, at its border half.
        blended[own[(distance < near) & (flux[other] * (reach_px / np.maximum(distance, reach_px)) ** 3
                                         > BLEND_SHARE * flux[own])]] = True  # fmt: skip
    return Neighbours(isolated, blended)


def match(
    ra_deg: Floats,
    dec_deg: Floats,
    usable: Bools,
    catalog: CatalogStars,
    *,
    match_arcsec: float,
    blend_arcsec: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of detected stars and of their catalogue partners, unique both ways.

    Parameters
    ----------
    ra_deg, dec_deg
        Detected stars, degrees ICRS, shape ``(n,)``.
    usable
        Stars that may have a partner, shape ``(n,)``.
    match_arcsec
        How far a star may lie from its catalogue position.
    blend_arcsec
        Catalogue stars with a comparably bright neighbour within this are left out: nobody knows the sum.
    """
    none = np.zeros(0, np.intp)
    places = np.flatnonzero(usable & np.isfinite(ra_deg + dec_deg))
    if len(places) == 0 or len(catalog) == 0:
        return none, none
    known = _vectors(catalog.ra_deg, catalog.dec_deg)
    seen = _vectors(ra_deg[places], dec_deg[places])
    # Only the part of the catalogue that the frame shows.
    middle = seen.mean(axis=0)
    reach = float(np.sqrt(((seen - middle) ** 2).sum(axis=1).max())) + np.radians(match_arcsec / 3600)
    inside = np.flatnonzero(((known - middle) ** 2).sum(axis=1) <= reach**2)
    distance, nearest = cKDTree(seen).query(known[inside], distance_upper_bound=np.radians(match_arcsec / 3600))
    found = np.isfinite(distance)
    star, partner = places[nearest[found]], inside[found]
    _, first, counts = np.unique(star, return_index=True, return_counts=True)
    star, partner = star[first[counts == 1]], partner[first[counts == 1]]
    alone = _alone(known[inside], catalog.mag[inside], np.radians(blend_arcsec / 3600))
    keep = alone[np.searchsorted(inside, partner)]
    return star[keep], partner[keep]


def _alone(vectors: Floats, mag: Floats, radius: float) -> Bools:
    alone = np.ones(len(mag), bool)
    if len(mag) < 2:
        return alone
    pairs = cKDTree(vectors).query_pairs(radius, output_type="ndarray")
    for a, b in ((0, 1), (1, 0)):
        own, other = pairs[:, a], pairs[:, b]
        alone[own[mag[other] < mag[own] + BLEND_MAG]] = False
    return alone


def _vectors(ra_deg: Floats, dec_deg: Floats) -> Floats:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
