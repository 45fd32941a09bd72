"""Where target, Sun and Moon stood over the telescope, from coordinates and the clock alone.

Positions are geometric, of date, with the Moon seen from the site and not from the Earth's centre: good to a few
arcminutes, for which no tables of the Earth's rotation have to be fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import erfa  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: TT - UTC, s: 32.184 and the 37 leap seconds since 2017. It moves the Moon by half an arcsecond a second.
TT_MINUS_UTC_S = 69.184
EARTH_RADIUS_AU = 4.2635e-5


@dataclass(frozen=True)
class Circumstances:
    """The sky over a site.

    Parameters
    ----------
    target_alt_deg, sun_alt_deg, moon_alt_deg
        Altitudes without refraction.
    airmass
        Of the target; None less than a degree above the horizon.
    moon_sep_deg
        Angle between target and Moon.
    moon_lit_fraction
        Share of the Moon's disc that is lit, 0 to 1.
    """

    target_alt_deg: float
    airmass: float | None
    sun_alt_deg: float
    moon_alt_deg: float
    moon_sep_deg: float
    moon_lit_fraction: float


def circumstances(
    ra_deg: float, dec_deg: float, moment: datetime, *, lat_deg: float, lon_deg: float, elev_m: float = 0.0
) -> Circumstances:
    """Return where target, Sun and Moon stood.

    Parameters
    ----------
    ra_deg, dec_deg
        Target, ICRS.
    moment
        Middle of the exposure, aware.
    lat_deg, lon_deg, elev_m
        Site: geodetic, east positive.

    References
    ----------
    IAU SOFA by ERFA (``pnm06a``, ``gst06a``, ``epv00``, ``moon98``); Pickering 2002, DIO 12, 20 (airmass).
    """
    day, clock = _julian(moment)
    tt = clock + TT_MINUS_UTC_S / 86400
    to_date = np.asarray(erfa.pnm06a(day, tt))
    sidereal = float(erfa.gst06a(day, clock, day, tt)) + np.radians(lon_deg)
    lat = np.radians(lat_deg)
    up = np.array([np.cos(lat) * np.cos(sidereal), np.cos(lat) * np.sin(sidereal), np.sin(lat)])
    target = np.array(erfa.s2c(np.radians(ra_deg), np.radians(dec_deg)))
    heliocentric, _ = erfa.epv00(day, tt)
    sun = -np.asarray(heliocentric["p"])
    moon = to_date @ np.asarray(erfa.moon98(day, tt)["p"])
    # From the place that looks, to a fifth of a degree's share of the Earth's flattening: 0.003 deg.
    moon = moon - up * EARTH_RADIUS_AU * (1 + elev_m / 6.378e6)
    moon_distance, sun_distance = float(np.linalg.norm(moon)), float(np.linalg.norm(sun))
    sun_of_date, target_of_date = to_date @ sun / sun_distance, to_date @ target
    moon = moon / moon_distance
    elongation = _angle(sun_of_date, moon)
    phase = np.arctan2(
        sun_distance * np.sin(elongation), moon_distance - sun_distance * np.cos(elongation)
    )  # Meeus, Astronomical Algorithms, 48.3
    altitude = _altitude(target_of_date, up)
    return Circumstances(
        target_alt_deg=altitude,
        airmass=airmass(altitude),
        sun_alt_deg=_altitude(sun_of_date, up),
        moon_alt_deg=_altitude(moon, up),
        moon_sep_deg=float(np.degrees(_angle(target_of_date, moon))),
        moon_lit_fraction=float((1 + np.cos(phase)) / 2),
    )


def airmass(altitude_deg: float) -> float | None:
    """Return the airmass at an altitude, None less than a degree above the horizon (Pickering 2002)."""
    if altitude_deg < 1:
        return None
    return float(1 / np.sin(np.radians(altitude_deg + 244 / (165 + 47 * altitude_deg**1.1))))


def _julian(moment: datetime) -> tuple[float, float]:
    """Return a time as a Julian day and the fraction of it that keeps the precision."""
    since = moment.astimezone(UTC) - datetime(2000, 1, 1, 12, tzinfo=UTC)
    return 2_451_545.0, since.total_seconds() / 86400


def _altitude(direction: Floats, up: Floats) -> float:
    return float(np.degrees(np.arcsin(np.clip(direction @ up, -1, 1))))


def _angle(a: Floats, b: Floats) -> float:
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))
