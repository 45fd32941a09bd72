"""A catalogue on disk: HEALPix tiles of columns, mapped into memory, so that a cone touches a few pages of it.

A store is a folder::

    catalog.json    `About`: name, version, licence, epoch, bands, number of stars …
    starts.npy      int64 (12 nside² + 1,): where each HEALPix tile (nested) begins in every column
    ra.npy dec.npy  uint32: 0-360 and -90-+90 degrees in 2³²-1 steps (0.3 mas and 0.15 mas)
    mag_VT.npy …    float32 by band; magerr_VT.npy … float16, where the catalogue has errors
    pmra.npy pmdec.npy (float32) pmerr.npy (float16), mas a year, where it has proper motions
    poserr.npy      float16, mas, where it has position errors
    seiza.bin       the brightest of the same stars, for the seiza solver (`starloom.refcat.tiles`)

Within a tile the brightest star comes first. Missing values are NaN.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.refcat.motion import move, position_error_arcsec
from starloom.refcat.stars import CatalogStars, check_cone
from starloom.refcat.tiles import COORDINATE_STEPS

if TYPE_CHECKING:
    from seiza import StarCatalog

FORMAT = 1
#: Position error per axis that a catalogue is taken to have where it says nothing, mas: a good ground-based one's.
ASSUMED_POSITION_ERR_MAS = 100.0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class About:
    """What a store says about its catalogue.

    Parameters
    ----------
    name, version
        Name of the catalogue, as it goes into the archive, and its release.
    licence, source
        Terms of use, and where the stars were taken from.
    epoch
        Julian year of the positions.
    error_epoch
        Julian year in which the positions are known best; their errors are for that year.
    band
        The band stars are ordered by and the solver sees.
    bands
        All bands.
    nside
        HEALPix resolution of the tiles.
    stars
        Number of stars.
    faintest_mag
        Magnitude in ``band`` that 98 % of the stars are brighter than.
    sky_deg2
        Area the stars cover, square degrees.
    max_pm_masyr
        The fastest star's motion per axis, mas a year; 0 where there are no proper motions.
    assumed_position_err_mas
        Error of positions where the catalogue has none of its own.
    """

    name: str
    version: str
    licence: str
    source: str
    epoch: float
    error_epoch: float
    band: str
    bands: tuple[str, ...]
    nside: int = 0
    stars: int = 0
    faintest_mag: float = float("nan")
    sky_deg2: float = 0.0
    max_pm_masyr: float = 0.0
    assumed_position_err_mas: float = ASSUMED_POSITION_ERR_MAS
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write ``catalog.json``."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        (folder / "catalog.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> About:
        """Read ``catalog.json``.

        Raises
        ------
        BadInput
            ``refcat-missing``: the folder holds no store, or one of another format.
        """
        path = folder / "catalog.json"
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if raw.get("format") != FORMAT:
                raise damaged(folder, f"has format {raw.get('format')}, this program reads {FORMAT}")
            known = {field.name for field in fields(cls)}
            about = cls(**{key: value for key, value in raw.items() if key in known})
        except FileNotFoundError:
            raise damaged(folder, "holds no catalog.json") from None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise damaged(folder, f"has an unreadable catalog.json ({error})") from error
        return cls(**{**asdict(about), "bands": tuple(about.bands)})


class StoreCatalog:
    """A `Refcat` in a store's folder.

    Parameters
    ----------
    folder
        The store.

    Raises
    ------
    BadInput
        ``refcat-missing``: no store, or its files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = About.read(folder)
        self._starts: Ints = self._column("starts", 12 * self.about.nside**2 + 1)
        if int(self._starts[-1]) != self.about.stars:
            raise damaged(folder, "is incomplete")
        self._ra = self._column("ra")
        self._dec = self._column("dec")
        self._mags = {band: self._column(f"mag_{band}") for band in self.about.bands}
        self._mag_errs = {
            band: self._column(f"magerr_{band}")
            for band in self.about.bands
            if (folder / f"magerr_{band}.npy").exists()
        }
        self._optional = {
            name: self._column(name)
            for name in ("pmra", "pmdec", "pmerr", "poserr")
            if (folder / f"{name}.npy").exists()
        }

    def __len__(self) -> int:
        return self.about.stars

    @property
    def band(self) -> str:
        """The band stars are ordered by."""
        return self.about.band

    @property
    def catalog(self) -> str:
        """Name of the catalogue."""
        return self.about.name

    @property
    def version(self) -> str:
        """Its release."""
        return self.about.version

    @property
    def epoch(self) -> float:
        """Julian year of its positions."""
        return self.about.epoch

    @property
    def bands(self) -> tuple[str, ...]:
        """All its bands."""
        return self.about.bands

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
            Julian year to move the stars to; the circle holds those that are inside it then.

        Raises
        ------
        BadInput
            ``bad-cone``: the centre, radius or epoch makes no sense.
        """
        check_cone(ra_deg, dec_deg, radius_deg, epoch)
        years = 0.0 if epoch is None else epoch - self.about.epoch
        moving = years != 0.0 and self.about.max_pm_masyr > 0.0
        # A star that has come from outside the circle must be found too.
        reach = 2 * self.about.max_pm_masyr * abs(years) / 3.6e6 if moving else 0.0
        rows = self._rows_near(ra_deg % 360.0, dec_deg, radius_deg + reach)
        ra, dec = self._ra[rows] / COORDINATE_STEPS * 360.0, self._dec[rows] / COORDINATE_STEPS * 180.0 - 90.0
        if reach > 0:
            # Most of what the wider circle caught stays outside whatever happens to it.
            near = _within(ra, dec, ra_deg, dec_deg, radius_deg + reach)
            rows, ra, dec = rows[near], ra[near], dec[near]
        if moving:
            ra, dec = move(ra, dec, self._optional["pmra"][rows], self._optional["pmdec"][rows], years)
        inside = np.flatnonzero(_within(ra, dec, ra_deg, dec_deg, radius_deg))
        # Stable: stars of one magnitude keep the order of the store, whatever the circle.
        order = inside[np.argsort(self._mags[self.about.band][rows[inside]], kind="stable")][:limit]
        return self._stars(rows[order], ra[order], dec[order], years, moving)

    def seiza(self) -> StarCatalog:
        """Return the brightest stars as the solver's catalogue, opened once per object."""
        opened: StarCatalog = self._seiza
        return opened

    @cached_property
    def _seiza(self) -> StarCatalog:
        import seiza

        path = self.folder / "seiza.bin"
        if not path.is_file():
            raise damaged(self.folder, "holds no seiza.bin")
        opened: StarCatalog = seiza.StarCatalog.open(str(path))
        return opened

    def _column(self, name: str, length: int | None = None) -> NDArray[Any]:
        path = self.folder / f"{name}.npy"
        length = self.about.stars if length is None else length
        try:
            if length == 0:
                return np.load(path)  # type: ignore[no-any-return]
            column: NDArray[Any] = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise damaged(self.folder, f"has no usable {path.name} ({error})") from error
        if column.shape != (length,):
            raise damaged(self.folder, f"has {column.shape} values in {path.name}, not {length}")
        # A plain view: every slice of np.memmap itself costs microseconds of Python.
        return column.view(np.ndarray)

    def _rows_near(self, ra_deg: float, dec_deg: float, radius_deg: float) -> Ints:
        tiles = tiles_near(self.about.nside, ra_deg, dec_deg, radius_deg)
        starts, ends = self._starts[tiles], self._starts[tiles + 1]
        counts = ends - starts
        starts, counts = starts[counts > 0], counts[counts > 0]
        if not len(starts):
            return np.zeros(0, np.int64)
        offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        rows: Ints = offsets + np.arange(int(counts.sum()))
        return rows

    def _stars(self, rows: Ints, ra: Floats, dec: Floats, years: float, moving: bool) -> CatalogStars:
        about = self.about
        # Indexed first, widened afterwards: the columns are as long as the catalogue.
        mags = {band: column[rows].astype(np.float64) for band, column in self._mags.items()}
        extra = {name: column[rows].astype(np.float64) for name, column in self._optional.items()}
        unknown = np.full(len(rows), np.nan)
        has_pm = np.isfinite(extra.get("pmra", unknown)) & np.isfinite(extra.get("pmdec", unknown))
        error = np.nan_to_num(extra.get("poserr", unknown), nan=about.assumed_position_err_mas)
        return CatalogStars(
            ra,
            dec,
            mags[about.band],
            about.band,
            about.name,
            about.epoch + years if moving else about.epoch,
            about.version,
            mags,
            {band: column[rows].astype(np.float64) for band, column in self._mag_errs.items()},
            position_error_arcsec(
                error,
                extra.get("pmerr", unknown),
                has_pm,
                mags[about.band],
                years=years,
                years_of_error=about.epoch + years - about.error_epoch,
            ),
            extra.get("pmra"),
            extra.get("pmdec"),
            extra.get("pmerr"),
        )


def tiles_near(nside: int, ra_deg: float, dec_deg: float, radius_deg: float) -> Ints:
    """Return every HEALPix tile (nested) that a cone may touch, ascending; a few more do no harm.

    The library's own cone search leaves out tiles that the circle touches at a corner; a circle wider by the
    longest way from a tile's centre to its corner leaves out none.
    """
    from astropy import units as u
    from astropy_healpix import HEALPix

    tiles = HEALPix(nside, order="nested")
    wider = radius_deg + 1.2 * float(tiles.pixel_resolution.to_value(u.deg))
    if wider >= 180.0:
        return np.arange(tiles.npix, dtype=np.int64)
    found = tiles.cone_search_lonlat(ra_deg * u.deg, dec_deg * u.deg, wider * u.deg)
    return np.unique(np.asarray(found, dtype=np.int64))


def damaged(folder: Path, what: str) -> BadInput:
    """Return the error of a store that cannot be used."""
    return BadInput(
        f"star catalogue {folder} {what}",
        code="refcat-missing",
        hint="Import the catalogue again (`starloom refcat import`), or remove the folder.",
    )


def _within(
    ra_deg: Floats, dec_deg: Floats, ra0_deg: float, dec0_deg: float, radius_deg: float
) -> NDArray[np.bool_]:
    """Tell which points lie in a circle, by the square of the chord: four fast functions a star."""
    if radius_deg >= 180.0:
        return np.ones(len(ra_deg), bool)
    dra, dec, dec0 = np.radians(ra_deg - ra0_deg), np.radians(dec_deg), np.radians(dec0_deg)
    cos_dec = np.cos(dec)
    chord = (cos_dec * np.cos(dra) - np.cos(dec0)) ** 2 + (cos_dec * np.sin(dra)) ** 2
    chord += (np.sin(dec) - np.sin(dec0)) ** 2
    inside: NDArray[np.bool_] = chord <= 4 * np.sin(np.radians(radius_deg) / 2) ** 2
    return inside
