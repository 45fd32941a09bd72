"""Pixels and the sky, whatever celestial system a WCS speaks: ICRS unit vectors in between."""

from __future__ import annotations

import numpy as np
from astropy import units as u
from astropy.coordinates import ICRS, BaseCoordinateFrame, SkyCoord, UnitSphericalRepresentation
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float64]


def unit_vectors(longitude_deg: ArrayLike, latitude_deg: ArrayLike) -> Vectors:
    """Return unit vectors of directions in degrees, shape of the input with an axis of 3 behind."""
    lon, lat = np.radians(longitude_deg), np.radians(latitude_deg)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def sky_vectors(wcs: WCS, x: ArrayLike, y: ArrayLike) -> Vectors:
    """Return where pixels look, as ICRS unit vectors.

    Parameters
    ----------
    wcs
        Celestial, in any system and with its axes in either order.
    x, y
        0-based pixels, of one shape.

    Returns
    -------
    ndarray
        Of that shape with an axis of 3 behind; NaN where the WCS has no value.
    """
    with np.errstate(all="ignore"):
        world = wcs.all_pix2world(x, y, 0)
    vectors = unit_vectors(world[wcs.wcs.lng], world[wcs.wcs.lat])
    system = _other_system(wcs)
    return vectors if system is None else _turned(vectors, system, ICRS())


def sky_pixels(wcs: WCS, vectors: Vectors) -> tuple[Floats, Floats]:
    """Return the 0-based pixels, x and y, that look at ICRS unit vectors; the inverse of `sky_vectors`.

    Where distortions do not converge the result is that of the last iteration, or NaN.
    """
    system = _other_system(wcs)
    if system is not None:
        vectors = _turned(vectors, ICRS(), system)
    longitude = np.degrees(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360
    latitude = np.degrees(np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1])))
    world = (longitude, latitude) if wcs.wcs.lng == 0 else (latitude, longitude)
    with np.errstate(all="ignore"):
        x, y = wcs.all_world2pix(*world, 0, quiet=True)
    return np.asarray(x, float), np.asarray(y, float)


def _other_system(wcs: WCS) -> BaseCoordinateFrame | None:
    """Return the celestial system of a WCS; None for ICRS, which needs no conversion."""
    if wcs.wcs.lngtyp == "RA" and wcs.wcs.radesys == "ICRS":
        return None
    system = wcs_to_celestial_frame(wcs)
    return None if isinstance(system, ICRS) else system


def _turned(vectors: Vectors, source: BaseCoordinateFrame, target: BaseCoordinateFrame) -> Vectors:
    out = np.full(vectors.shape, np.nan)
    known = np.isfinite(vectors).all(axis=-1)
    if known.any():
        lon = np.arctan2(vectors[known][:, 1], vectors[known][:, 0]) * u.rad
        lat = np.arctan2(vectors[known][:, 2], np.hypot(vectors[known][:, 0], vectors[known][:, 1])) * u.rad
        found = SkyCoord(UnitSphericalRepresentation(lon, lat), frame=source).transform_to(target).spherical
        out[known] = unit_vectors(found.lon.deg, found.lat.deg)
    return out
