"""Which stars may be used for what: those that stand alone, blends, and their catalogue partners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.refcat.provider import CatalogStars

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: A neighbour of this share of a star's light disturbs its shape; a star is a blend where a neighbour puts
#: this share of the star's own light into its aperture.
DISTURBING_SHARE, BLEND_SHARE = 0.03, 0.01
BLEND_APERTURES = 2.5
#: Catalogue stars so much fainter than their neighbour do not matter, mag.
BLEND_MAG = 5.0


@dataclass(frozen=True)
class Neighbours:
    """Who stands near a star: distance to the nearest that disturbs (px, inf for none), and blends, ``(n,)``."""

    clear_px: Floats
    blended: Bools


def neighbours(x: Floats, y: Floats, flux: Floats, *, far_px: float, reach_px: float) -> Neighbours:
    """Find how far each star stands alone, and the stars whose apertures hold light of others.

    Parameters
    ----------
    x, y, flux
        Of all detected stars, shape ``(n,)``.
    far_px
        How far to look.
    reach_px
        How far an aperture extends from its centre.
    """
    clear, blended = np.full(len(x), np.inf), np.zeros(len(x), bool)
    if len(x) < 2:
        return Neighbours(clear, blended)
    near = BLEND_APERTURES * reach_px
    places = np.column_stack([x, y])
    pairs = cKDTree(places).query_pairs(max(far_px, near), output_type="ndarray")
    distance = np.hypot(*(places[pairs[:, 0]] - places[pairs[:, 1]]).T)
    # Of a neighbour just outside the aperture a few per cent come in, at its border half.
    entering = (reach_px / np.maximum(distance, reach_px)) ** 3
    for a, b in ((0, 1), (1, 0)):
        own, other = pairs[:, a], pairs[:, b]
        disturbed = flux[other] > DISTURBING_SHARE * flux[own]
        np.minimum.at(clear, own[disturbed], distance[disturbed])
        blended[own[(distance < near) & (flux[other] * entering > BLEND_SHARE * flux[own])]] = True
    return Neighbours(clear, blended)


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
