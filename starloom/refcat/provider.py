"""Cone searches in a reference star catalogue that lies beside the code: no network, no server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.refcat.tiles import Header, damaged, decode, first_tile, read_header, tiles_per_band

if TYPE_CHECKING:
    from seiza import StarCatalog

TYCHO2_FILE = Path(__file__).parent / "data" / "tycho2.bin"
TYCHO2_SHA256 = "faf0c1bd8ac5da8f4c5ab83b3fbf72b7e083c70b6fc00189d220845c3bde87f7"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CatalogStars:
    """Stars of one catalogue, brightest first.

    Parameters
    ----------
    ra_deg, dec_deg
        Positions in degrees, ICRS, at ``epoch``; shape ``(n,)``.
    mag
        Magnitudes in ``band``, shape ``(n,)``.
    band
        The catalogue's own passband, e.g. ``"VT"``.
    catalog
        Name of the catalogue.
    epoch
        Julian year of the positions: the one that was asked for where the catalogue has proper motions.
    version
        Release of the catalogue, as far as its file or service says.
    mags, mag_errs
        Magnitudes and their errors by band, each of shape ``(n,)``, NaN where a star has none; ``mags[band]`` is
        ``mag``.
    position_err_arcsec
        Error (1 sigma, per axis) of the positions at ``epoch``, proper motion's included, shape ``(n,)``; None
        where nobody knows.
    """

    ra_deg: Floats
    dec_deg: Floats
    mag: Floats
    band: str
    catalog: str
    epoch: float
    version: str = ""
    mags: Mapping[str, Floats] = field(default_factory=dict)
    mag_errs: Mapping[str, Floats] = field(default_factory=dict)
    position_err_arcsec: Floats | None = None

    def __len__(self) -> int:
        return len(self.ra_deg)


class Refcat(Protocol):
    """A star catalogue that answers cone searches and can feed the plate solver."""

    @property
    def band(self) -> str:
        """Passband of its magnitudes."""
        ...

    @property
    def catalog(self) -> str:
        """Its name."""
        ...

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars within ``radius_deg`` of a point, brightest first, at most ``limit`` of them.

        ``epoch`` is the Julian year they are moved to by their proper motions; None: the catalogue's own.
        """
        ...

    def seiza(self) -> StarCatalog:
        """Return the same stars as the catalogue object of the seiza solver."""
        ...


class Tycho2:
    """Tycho-2 (1.87 million stars to VT ≈ 12.5, J2000 positions) in one memory-mapped tile file.

    Parameters
    ----------
    path
        Tile file; the one that ships with the package by default.
    sha256
        Expected digest of the file, ``None`` to take it as it is (own catalogues, tests).

    Raises
    ------
    BadInput
        ``refcat-missing``: the file is absent, cut short or not the expected one.

    References
    ----------
    Høg et al. 2000, A&A 355, L27.
    """

    band: str = "VT"
    catalog: str = "Tycho-2"

    def __init__(self, path: Path = TYCHO2_FILE, *, sha256: str | None = TYCHO2_SHA256) -> None:
        if not path.is_file():
            raise damaged(path, "does not exist")
        if path.stat().st_size == 0:
            raise damaged(path, "is empty")
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise damaged(path, f"is damaged (SHA-256 {found[:12]}…, expected {sha256[:12]}…)")
        self.path = path
        self._raw: NDArray[np.uint8] = np.memmap(path, np.uint8, mode="r")
        self._header: Header = read_header(self._raw, path)
        self._per_band = tiles_per_band(self._header.bands)
        self._first = first_tile(self._header.bands)

    def __len__(self) -> int:
        return self._header.stars

    @property
    def epoch(self) -> float:
        """Julian year of the positions."""
        return self._header.epoch

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars within a circle on the sky, brightest first.

        Parameters
        ----------
        ra_deg, dec_deg
            Centre, degrees ICRS; any right ascension is taken modulo 360.
        radius_deg
            Radius in degrees, 0 to 180; the circle's border belongs to it.
        limit
            Keep only this many of the brightest.
        epoch
            Julian year wanted; without proper motions the positions stay where they are.

        Raises
        ------
        BadInput
            ``bad-cone``: the centre or radius is not on the sphere.
        """
        if not (np.isfinite(ra_deg) and -90.0 <= dec_deg <= 90.0 and 0.0 <= radius_deg <= 180.0):
            raise BadInput(
                f"no such cone: RA {ra_deg}, Dec {dec_deg}, radius {radius_deg} degrees", code="bad-cone"
            )
        ra, dec, mag = self._stars(self._tiles_near(ra_deg % 360.0, dec_deg, radius_deg))
        inside = _separation_deg(ra, dec, ra_deg, dec_deg) <= radius_deg
        ra, dec, mag = ra[inside], dec[inside], mag[inside]
        order = np.lexsort((dec, ra, mag))[:limit]
        mag = mag[order]
        return CatalogStars(ra[order], dec[order], mag, self.band, self.catalog, self.epoch, mags={self.band: mag})

    def seiza(self) -> StarCatalog:
        """Return the catalogue opened by the seiza solver; opened once per object."""
        opened: StarCatalog = self._seiza
        return opened

    @cached_property
    def _seiza(self) -> StarCatalog:
        import seiza

        catalog: StarCatalog = seiza.StarCatalog.open(str(self.path))
        return catalog

    def _tiles_near(self, ra_deg: float, dec_deg: float, radius_deg: float) -> NDArray[np.int64]:
        """Return every tile the cone may touch: a few too many are harmless, one too few loses stars."""
        bands = self._header.bands
        height = 180.0 / bands
        slack = 1e-6
        low = max(int((dec_deg - radius_deg - slack + 90.0) // height), 0)
        high = min(int((dec_deg + radius_deg + slack + 90.0) // height), bands - 1)
        if abs(dec_deg) + radius_deg >= 90.0 - slack:
            half_width = 180.0  # the circle holds a pole, hence every right ascension
        else:
            sine = np.sin(np.radians(radius_deg)) / np.cos(np.radians(dec_deg))
            half_width = float(np.degrees(np.arcsin(min(sine, 1.0)))) + slack
        found = []
        for band in range(low, high + 1):
            n = int(self._per_band[band])
            start = int(np.floor((ra_deg - half_width) / 360.0 * n))
            stop = int(np.floor((ra_deg + half_width) / 360.0 * n))
            columns = np.unique(np.arange(start, min(stop, start + n - 1) + 1) % n)
            # Quantised right ascensions reach 360 itself, which the last tile holds and the first may want.
            if columns[0] == 0:
                columns = np.unique(np.append(columns, n - 1))
            found.append(self._first[band] + columns)
        return np.concatenate(found)

    def _stars(self, tiles: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        ra, dec, mag = [], [], []
        for offset, count in self._header.entries[tiles].tolist():
            block = self._raw[offset : offset + 10 * count]
            ra.append(block[: 4 * count].view("<u4"))
            dec.append(block[4 * count : 8 * count].view("<u4"))
            mag.append(block[8 * count :].view("<u2"))
        return decode(np.concatenate(ra), np.concatenate(dec), np.concatenate(mag))


@cache
def default_refcat() -> Refcat:
    """Return the catalogue that ships with the package; opened and checked once per process."""
    return Tycho2()


def _separation_deg(ra_deg: Floats, dec_deg: Floats, ra0_deg: float, dec0_deg: float) -> Floats:
    """Angular distance by Vincenty's formula: exact at all distances, where haversine fails near 180°."""
    dlon = np.radians(ra_deg - ra0_deg)
    dec, dec0 = np.radians(dec_deg), np.radians(dec0_deg)
    across = np.hypot(
        np.cos(dec) * np.sin(dlon),
        np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(dlon),
    )
    along = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(dlon)
    separation: Floats = np.degrees(np.arctan2(across, along))
    return separation
