"""Filter names as capture programs write them, the standard bands they mean, and the light those pass."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from starloom.loading import shipped_yaml

_IGNORED = re.compile(r"[\s_\-'’′.()/+]+")

# NOIRLab's serial number, and middle and width in angstrom that may follow: `r DECam SDSS c0002 6415.0 1480.0`.
_SERIAL = re.compile(r"(?<=\S)\s+[ck]\d{4}(\s+\d{3,5}(\.\d*)?){0,2}\s*$")


@dataclass(frozen=True)
class BandInfo:
    """A standard band.

    Parameters
    ----------
    id
        Short name, as in the archive: ``V``, ``r``, ``Ha``.
    svo_id
        Name in the manner of the SVO Filter Profile Service, ``Facility/Instrument.Band``.
    em_min_m, em_max_m
        Limits at half transmission, metres; ObsCore's ``em_min`` and ``em_max``.
    system
        ``vega`` or ``ab`` for the bands of a photometric system, ``none`` for others (clear, narrow).
    nearest
        Catalogue bands to tie it to, the nearest first.
    """

    id: str
    svo_id: str
    em_min_m: float
    em_max_m: float
    system: str
    nearest: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    version: int
    bands: dict[str, BandInfo]
    exact: dict[str, str]
    aliases: dict[str, str]


@cache
def _table() -> _Table:
    raw = shipped_yaml("starloom.photometry", "filters.yaml")
    bands = {
        name: BandInfo(
            name,
            band["svo"],
            band["nm"][0] * 1e-9,
            band["nm"][1] * 1e-9,
            band["system"],
            tuple(band["nearest"]),
        )
        for name, band in raw["bands"].items()
    }
    aliases: dict[str, str] = {}
    for band, names in raw["aliases"].items():
        for name in names:
            key = _key(name)
            if aliases.setdefault(key, band) != band:
                raise ValueError(f"the filter name {name!r} means both {aliases[key]} and {band}")
    exact = {name: band for band, names in raw["exact"].items() for name in names}
    return _Table(int(raw["version"]), bands, exact, aliases)


def _key(name: str) -> str:
    """Return a name as the table compares it: lower case, nothing but letters and digits."""
    return _IGNORED.sub("", name).lower()


def table_version() -> int:
    """Return the version of the table of filter names; a name may change its band only with it."""
    return _table().version


def standard_band(filter_name: str | None) -> str | None:
    """Return the standard band a filter name clearly means, or None.

    ``Johnson V``, ``V`` → ``V``; ``SDSS r'`` → ``r``; ``Lum`` → ``Clear``; ``HaOiii`` → ``HaOIII``. A lone
    lower-case ``r`` or a colour word such as ``Red`` is left alone: sets of colour filters differ too much to be
    called a band. ``None`` as text means that no filter was in the light: ``Clear``. NOIRLab's serial numbers do
    not count: ``zd DECam k1038`` → ``z``.
    """
    if not filter_name or not filter_name.strip():
        return None
    table = _table()
    bare = _IGNORED.sub("", _SERIAL.sub("", filter_name))
    # Of a single letter the case decides; elsewhere nobody keeps to it.
    return table.exact.get(bare) or table.aliases.get(_key(bare))


def band_info(band: str | None) -> BandInfo | None:
    """Return what is known of a band, None for a node's own name of a filter (``node:name``)."""
    return None if band is None else _table().bands.get(band)


def known_bands() -> tuple[str, ...]:
    """Return the ids of all standard bands."""
    return tuple(_table().bands)


def is_unmapped(band: str | None) -> bool:
    """Tell whether a band is only a node's own name of a filter, ``node:name``, or none at all."""
    return band is None or ":" in band
