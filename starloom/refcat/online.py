"""Online catalogues behind a cache of HEALPix cells: a cell is fetched once and served for ever."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from starloom.refcat.memory import StarsRefcat
from starloom.refcat.motion import separation_deg
from starloom.refcat.services import Service
from starloom.refcat.stars import CatalogStars, Refcat, check_cone
from starloom.refcat.store import tiles_near
from starloom.refcat.tap import OnlineUnavailable, fetch
from starloom.refcat.writing import StarRows

if TYPE_CHECKING:
    from seiza import StarCatalog

log = logging.getLogger(__name__)

#: A frame's region is a handful of cells; a whole sky is no business of a service's.
MAX_CELLS = 128
CELLS_IN_MEMORY = 64
# Stars that come in from outside: all but some 300 of the sky's move less than this.
FASTEST_ARCSEC_PER_YEAR = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 300.0, 3600.0

Fetch = Callable[..., tuple[StarRows, bool]]


@dataclass(frozen=True)
class Outage:
    """A service that did not answer: since how many attempts, until when it is left alone, and why."""

    failures: int
    until: float
    why: str


class OnlineCatalog:
    """A `Refcat` of an online service, its cache, and the catalogue to fall back on.

    Parameters
    ----------
    service
        The service.
    folder
        Cache, shared by all processes of the machine (or of the hub, on a shared disk).
    fallback
        Catalogue that answers while the service does not, and outside its survey.
    timeout_s
        Seconds a query may take, from its first byte to its last.
    fetch, clock
        Replaced in tests.
    """

    def __init__(
        self,
        service: Service,
        folder: Path,
        fallback: Refcat,
        *,
        timeout_s: float = 30.0,
        fetch: Fetch = fetch,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.service = service
        self.folder = folder / service.key
        self.fallback = fallback
        self.timeout_s = timeout_s
        self._fetch = fetch
        self._clock = clock
        self._memory: OrderedDict[int, CatalogStars] = OrderedDict()

    @property
    def band(self) -> str:
        """Band that ranks the service's stars."""
        return self.service.band

    @property
    def catalog(self) -> str:
        """Name of the service's catalogue; the stars of a cone say which one they are really from."""
        return self.service.catalog

    @property
    def version(self) -> str:
        """Its release."""
        return self.service.version

    @property
    def epoch(self) -> float:
        """Julian year of the service's positions."""
        return self.service.epoch

    @property
    def bands(self) -> tuple[str, ...]:
        """All its bands."""
        return self.service.bands

    def cone(
        self,
        ra_deg: float,
        dec_deg: float,
        radius_deg: float,
        *,
        limit: int | None = None,
        epoch: float | None = None,
    ) -> CatalogStars:
        """Return the stars of a circle from the cache or the service, or else from the fall-back.

        ``catalog`` and ``version`` of the stars tell which it was; they are never mixed. See `Refcat.cone`.
        """
        check_cone(ra_deg, dec_deg, radius_deg, epoch)
        if not self.covers(ra_deg, dec_deg, radius_deg):
            return self.fallback.cone(ra_deg, dec_deg, radius_deg, limit=limit, epoch=epoch)
        try:
            stars = self._region(ra_deg % 360.0, dec_deg, radius_deg, epoch)
        except OnlineUnavailable as error:
            log.warning("%s; %s answers instead", error, self.fallback.catalog)
            return self.fallback.cone(ra_deg, dec_deg, radius_deg, limit=limit, epoch=epoch)
        return StarsRefcat(stars).cone(ra_deg, dec_deg, radius_deg, limit=limit, epoch=epoch)

    def covers(self, ra_deg: float, dec_deg: float, radius_deg: float) -> bool:
        """Tell whether a circle is within the survey, and small enough to ask for."""
        cell_deg = np.sqrt(41252.96 / 12) / self.service.nside
        small = np.pi * (radius_deg + cell_deg) ** 2 < MAX_CELLS * cell_deg**2
        return bool(dec_deg - radius_deg >= self.service.dec_min_deg and small)

    def seiza(self) -> StarCatalog:
        """Return the fall-back's solver catalogue: the whole sky is not fetched.

        A frame's own region for the solver is ``StarsRefcat(online.cone(…)).seiza()``.
        """
        return self.fallback.seiza()

    @property
    def outage(self) -> Outage | None:
        """The outage that is on, None while the service is to be asked."""
        found = self._last_outage()
        return found if found is not None and self._clock() < found.until else None

    def _region(self, ra_deg: float, dec_deg: float, radius_deg: float, epoch: float | None) -> CatalogStars:
        service = self.service
        years = 0.0 if epoch is None else abs(epoch - service.epoch)
        reach = radius_deg + FASTEST_ARCSEC_PER_YEAR / 3600.0 * years
        nside = service.nside
        near = tiles_near(nside, ra_deg, dec_deg, reach).tolist()
        # Not every tile that may be touched: here each costs a query.
        cells = [cell for cell in near if touches(nside, cell, ra_deg, dec_deg, reach)]
        return _joined([self._cell(cell) for cell in cells], service)

    def _cell(self, cell: int) -> CatalogStars:
        if cell not in self._memory:
            path = self.folder / f"nside{self.service.nside}" / f"{cell}.parquet"
            stars = self._read(path)
            if stars is None:
                try:
                    with _lock(path.with_suffix(".lock")):
                        # Another process may have fetched it while we waited.
                        found = self._read(path)
                        stars = self._ask(cell, path) if found is None else found
                except OSError as error:
                    raise OnlineUnavailable(f"the cache {self.folder} cannot be written: {error}") from error
            self._memory[cell] = stars
            while len(self._memory) > CELLS_IN_MEMORY:
                self._memory.popitem(last=False)
        self._memory.move_to_end(cell)
        return self._memory[cell]

    def _ask(self, cell: int, path: Path) -> CatalogStars:
        out = self.outage
        if out is not None:
            raise OnlineUnavailable(
                f"{self.service.catalog} is left alone for another {out.until - self._clock():.0f} s ({out.why})"
            )
        try:
            parts = [
                self._fetch(self.service, *circle, timeout_s=self.timeout_s)
                for circle in circles(self.service.nside, cell, self.service.max_radius_deg)
            ]
        except OnlineUnavailable as error:
            self._note_outage(str(error))
            raise
        with contextlib.suppress(FileNotFoundError):
            self._outage_file.unlink()
        _write(path, self.service, [_inside(rows, self.service.nside, cell) for rows, _ in parts], any(
            more for _, more in parts))  # fmt: skip
        stars = self._read(path)
        if stars is None:
            raise OnlineUnavailable(f"{path} could not be read back")
        return stars

    def _read(self, path: Path) -> CatalogStars | None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError) as error:
            # Half a disk block after a power cut; the service still has it.
            log.warning("%s is damaged (%s): fetched again", path, error)
            return None
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        service = self.service
        error_mas = columns.get("poserr", np.full(table.num_rows, np.nan))
        return CatalogStars(
            columns["ra"],
            columns["dec"],
            columns[f"mag_{service.band}"],
            service.band,
            service.catalog,
            service.epoch,
            service.version,
            {band: columns[f"mag_{band}"] for band in service.bands},
            {band: columns[f"magerr_{band}"] for band in service.bands},
            np.nan_to_num(error_mas, nan=service.position_err_mas) / 1000.0,
            columns.get("pmra"),
            columns.get("pmdec"),
            columns.get("pmerr"),
        )

    @property
    def _outage_file(self) -> Path:
        return self.folder / "outage.json"

    def _last_outage(self) -> Outage | None:
        try:
            said: dict[str, Any] = json.loads(self._outage_file.read_text(encoding="utf-8"))
            return Outage(int(said["failures"]), float(said["until"]), str(said["why"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _note_outage(self, why: str) -> None:
        """Leave the service alone for a while, longer each time, in every process: one time-out an outage."""
        before = self._last_outage()
        failures = 1 if before is None else before.failures + 1
        pause = min(FIRST_PAUSE_S * 2.0 ** (failures - 1), LONGEST_PAUSE_S)
        said = {"failures": failures, "until": self._clock() + pause, "why": why}
        _replace(self._outage_file, json.dumps(said).encode())


def circle_around(nside: int, cell: int) -> tuple[float, float, float]:
    """Return the centre and radius (deg) of the circle around a HEALPix cell (nested)."""
    from astropy import units as u
    from astropy_healpix import HEALPix

    tiles = HEALPix(nside, order="nested")
    lon, lat = tiles.healpix_to_lonlat(cell)
    edge_lon, edge_lat = tiles.boundaries_lonlat([cell], step=4)
    ra, dec = float(lon.to_value(u.deg)), float(lat.to_value(u.deg))
    ways = separation_deg(edge_lon.to_value(u.deg).ravel(), edge_lat.to_value(u.deg).ravel(), ra, dec)
    # The border bulges between the points it is known at, by far less than a hundredth.
    return ra, dec, float(ways.max()) * 1.01


def touches(nside: int, cell: int, ra_deg: float, dec_deg: float, radius_deg: float) -> bool:
    """Tell whether a circle reaches into a HEALPix cell (nested)."""
    from astropy import units as u
    from astropy_healpix import HEALPix

    tiles = HEALPix(nside, order="nested")
    if int(tiles.lonlat_to_healpix(ra_deg * u.deg, dec_deg * u.deg)) == cell:
        return True
    points = 16
    lon, lat = tiles.boundaries_lonlat([cell], step=points)
    # Half the way between two points of the border may be nearer than both.
    slack = 1.2 * float(tiles.pixel_resolution.to_value(u.deg)) / points
    ways = separation_deg(lon.to_value(u.deg).ravel(), lat.to_value(u.deg).ravel(), ra_deg, dec_deg)
    return bool(ways.min() <= radius_deg + slack)


def circles(nside: int, cell: int, widest_deg: float) -> list[tuple[float, float, float]]:
    """Return circles (centre and radius, deg) no wider than the service takes that together cover a cell."""
    circle = circle_around(nside, cell)
    if circle[2] <= widest_deg:
        return [circle]
    return [part for child in range(4 * cell, 4 * cell + 4) for part in circles(2 * nside, child, widest_deg)]


def _inside(rows: StarRows, nside: int, cell: int) -> StarRows:
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    of = lonlat_to_healpix(rows.ra_deg % 360.0 * u.deg, rows.dec_deg * u.deg, nside, order="nested")
    return rows.take(np.asarray(of) == cell)


def _write(path: Path, service: Service, parts: list[StarRows], more: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "ra": [part.ra_deg for part in parts],
        "dec": [part.dec_deg for part in parts],
    }
    for band in service.bands:
        columns[f"mag_{band}"] = [part.mags[band] for part in parts]
        columns[f"magerr_{band}"] = [part.mag_errs[band] for part in parts]
    for name, values in (
        ("pmra", [part.pm_ra_masyr for part in parts]),
        ("pmdec", [part.pm_dec_masyr for part in parts]),
        ("pmerr", [part.pm_err_masyr for part in parts]),
        ("poserr", [part.position_err_mas for part in parts]),
    ):
        if values[0] is not None:
            columns[name] = values
    table = pa.table({name: pa.array(np.concatenate(values)) for name, values in columns.items()})
    # Neighbouring circles share stars where four were needed.
    keep = np.unique(np.stack([table["ra"].to_numpy(), table["dec"].to_numpy()]), axis=1, return_index=True)[1]
    keep = keep[np.argsort(table[f"mag_{service.band}"].to_numpy()[keep], kind="stable")]
    table = table.take(pa.array(keep))
    faintest = float(table[f"mag_{service.band}"].to_numpy().max(initial=0.0))
    said = {
        "catalog": service.catalog,
        "version": service.version,
        "licence": service.licence,
        "url": service.url,
        "complete_to": faintest if more else service.faintest_mag,
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"starloom": json.dumps(said)}), sink, compression="zstd")
    _replace(path, sink.getvalue().to_pybytes())


def _joined(cells: list[CatalogStars], service: Service) -> CatalogStars:
    if len(cells) == 1:
        return cells[0]

    def join(name: str) -> Any:
        columns = [getattr(cell, name) for cell in cells]
        return None if any(column is None for column in columns) else np.concatenate(columns)

    return CatalogStars(
        join("ra_deg"),
        join("dec_deg"),
        join("mag"),
        service.band,
        service.catalog,
        service.epoch,
        service.version,
        {band: np.concatenate([cell.mags[band] for cell in cells]) for band in service.bands},
        {band: np.concatenate([cell.mag_errs[band] for cell in cells]) for band in service.bands},
        join("position_err_arcsec"),
        join("pm_ra_masyr"),
        join("pm_dec_masyr"),
        join("pm_err_masyr"),
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock: one process asks for a cell, the others wait for what it brings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
