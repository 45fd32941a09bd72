"""Where a telescope stands is its owner's to tell: coordinates of a site as they may leave the hub.

Unless a node's owner agrees, latitude and longitude are rounded to a tenth of a degree (11 km) and the elevation
to a hundred metres: enough for airmass, Moon and weather, not for a burglar. The raw file keeps what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astropy.io import fits

from starloom.frames.reading import HeaderView, angle, as_number

DEGREES, METRES = 0.1, 100.0
#: Entries of a normalised header that say where the telescope stands.
_ENTRIES = {"site_lat_deg": DEGREES, "site_lon_deg": DEGREES, "site_elev_m": METRES}
#: Header cards that do, as the capture programs and observatories write them, and how coarse they become.
_CARDS = {
    **dict.fromkeys(
        (
            "SITELAT", "SITELONG", "SITELON", "LAT-OBS", "LONG-OBS", "LON-OBS", "OBSLAT", "OBSLONG", "OBS-LAT",
            "OBS-LONG", "OBSGEO-B", "OBSGEO-L", "LATITUDE", "LONGITUD", "GEOLAT", "GEOLON", "GEO_LAT", "GEO_LONG",
            "TELLAT", "TELLONG", "OBSERVAT-LAT", "OBSERVAT-LONG",
        ),
        DEGREES,
    ),
    **dict.fromkeys(("SITEELEV", "SITEALT", "ALT-OBS", "OBSGEO-H", "OBSALT", "OBSELEV", "ELEVATIO"), METRES),
    # Geocentric, metres: a tenth of a degree is 11 km.
    **dict.fromkeys(("OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z"), 10_000.0),
}  # fmt: skip


def coarse(value: float | None, step: float = DEGREES) -> float | None:
    """Return a coordinate rounded to a step."""
    return None if value is None else round(round(value / step) * step, 6) + 0.0


def rounded_site(header: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a normalised header, as the archive keeps it, with the site rounded."""
    found = {name: dict(entry) for name, entry in header.items()}
    for name, step in _ENTRIES.items():
        if name in found:
            found[name]["value"] = coarse(found[name].get("value"), step)
    return found


def rounded_cards(header: fits.Header) -> dict[str, float | str]:
    """Return the cards of a header that give the site away, with rounded values, to be written over the originals.

    A value that cannot be read as a number or an angle is blanked.
    """
    view = HeaderView(header)
    cards: dict[str, float | str] = {}
    for keyword, step in _CARDS.items():
        raw = view.raw(keyword)
        if raw is not None:
            number = angle(raw, 360.0) if step == DEGREES else as_number(raw)
            cards[keyword] = "" if number is None else float(coarse(number, step) or 0.0)
    return cards
