"""Weather and sky of an exposure in SI units: what the header says, and what coordinates and clock say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starloom.photometry.circumstances import Circumstances, circumstances

#: A frame that shows stars was not taken from below the horizon: its site or its clock is wrong.
LOWEST_DEG = 0.0


def _kelvin(celsius: float) -> float:
    return celsius + 273.15


def _pascal(hectopascal: float) -> float:
    return 100.0 * hectopascal


def _same(value: float) -> float:
    return value


#: Quantity of the archive, the normalised header's name for it, and how to get from one to the other.
WEATHER: dict[str, tuple[str, Callable[[float], float]]] = {
    "ambient_temp_k": ("ambient_temp_c", _kelvin),
    "dewpoint_k": ("dewpoint_c", _kelvin),
    "humidity_pct": ("humidity_pct", _same),
    "pressure_pa": ("pressure_hpa", _pascal),
    "wind_speed_m_s": ("wind_speed_m_s", _same),
    "wind_gust_m_s": ("wind_gust_m_s", _same),
    "wind_dir_deg": ("wind_dir_deg", _same),
    "cloud_cover_pct": ("cloud_cover_pct", _same),
    # A difference: one kelvin is one degree.
    "sky_minus_ambient_k": ("sky_minus_ambient_c", _same),
    "sky_brightness_mag_arcsec2": ("sky_brightness_mag_arcsec2", _same),
}


@dataclass(frozen=True)
class Site:
    """Where a telescope stands: geodetic degrees, east positive, and metres."""

    lat_deg: float
    lon_deg: float
    elev_m: float = 0.0


def weather(header: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the weather that a header tells, in SI units (K, Pa, m/s), None for what it does not.

    Parameters
    ----------
    header
        Values of the normalised header by name (°C, hPa, m/s, as the field writes them).
    """
    found: dict[str, float | None] = {}
    for name, (said, convert) in WEATHER.items():
        value = header.get(said)
        found[name] = None if value is None else convert(float(value))
    return found


def sky_conditions(
    header_airmass: float | None,
    site: Site | None,
    middle: datetime | None,
    centre_deg: tuple[float, float],
) -> tuple[dict[str, float | str | None], bool]:
    """Return airmass, altitudes and the Moon, and whether site and clock contradict the stars.

    Parameters
    ----------
    header_airmass
        What the header says: it is often the target's at the start of the run, or that of another site, and is
        believed only where nothing better can be had.
    site
        Of the telescope; None where nobody knows.
    middle
        Of the exposure, aware.
    centre_deg
        Solved centre of the frame, ICRS.
    """
    said: dict[str, float | str | None] = {
        "airmass": header_airmass,
        "airmass_source": None if header_airmass is None else "header",
    }
    if site is None or middle is None:
        return said, False
    seen: Circumstances = circumstances(
        *centre_deg, middle, lat_deg=site.lat_deg, lon_deg=site.lon_deg, elev_m=site.elev_m
    )
    if seen.target_alt_deg < LOWEST_DEG:
        return said, True
    if seen.airmass is not None:
        said = {"airmass": seen.airmass, "airmass_source": "computed"}
    return {
        **said,
        "target_alt_deg": seen.target_alt_deg,
        "sun_alt_deg": seen.sun_alt_deg,
        "moon_alt_deg": seen.moon_alt_deg,
        "moon_sep_deg": seen.moon_sep_deg,
        "moon_lit_fraction": seen.moon_lit_fraction,
    }, False
