"""Write a store of any size in bounded memory: sort into coarse tiles on disk, then each of them in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.refcat.store import About
from starloom.refcat.tiles import COORDINATE_STEPS, write_tiles

# 768 heaps of 54 square degrees: a catalogue of 10^9 stars needs some 100 MB for the largest of them.
HEAP_NSIDE = 8
# Resolution at which the covered area is counted; finer, and a sparse catalogue would seem full of holes.
AREA_NSIDE = 32
# The tile that a cone reads whole should be small against the stars of a frame, and large against a page of disk.
STARS_PER_TILE = 400.0
MAX_NSIDE = 256
#: The solver gets the brightest stars of a large catalogue: more of them only cost it time and memory.
MAX_SOLVER_STARS = 5_000_000
MAG_BINS = np.arange(-5.0, 40.0, 0.01)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class StarRows:
    """Rows of a catalogue in its own units of ours: degrees, mas, mas a year, magnitudes; each ``(n,)``.

    Missing values are NaN; a column that the catalogue does not have at all is None. Position and band of `About`
    must be finite in every row.
    """

    ra_deg: Floats
    dec_deg: Floats
    mags: Mapping[str, Floats]
    mag_errs: Mapping[str, Floats] = field(default_factory=dict)
    pm_ra_masyr: Floats | None = None
    pm_dec_masyr: Floats | None = None
    pm_err_masyr: Floats | None = None
    position_err_mas: Floats | None = None

    def __len__(self) -> int:
        return len(self.ra_deg)

    def take(self, which: NDArray[Any]) -> StarRows:
        """Return the chosen rows, by index or mask."""

        def cut(column: Floats | None) -> Floats | None:
            return None if column is None else column[which]

        return StarRows(
            self.ra_deg[which],
            self.dec_deg[which],
            {band: column[which] for band, column in self.mags.items()},
            {band: column[which] for band, column in self.mag_errs.items()},
            cut(self.pm_ra_masyr),
            cut(self.pm_dec_masyr),
            cut(self.pm_err_masyr),
            cut(self.position_err_mas),
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns as a store holds them."""
        found: dict[str, NDArray[Any]] = {
            "ra": np.rint(np.mod(self.ra_deg, 360.0) / 360.0 * COORDINATE_STEPS).astype(np.uint32),
            "dec": np.rint((np.asarray(self.dec_deg) + 90.0) / 180.0 * COORDINATE_STEPS).astype(np.uint32),
        }
        found |= {f"mag_{band}": np.asarray(values, np.float32) for band, values in self.mags.items()}
        found |= {f"magerr_{band}": _half(values) for band, values in self.mag_errs.items()}
        if self.pm_ra_masyr is not None and self.pm_dec_masyr is not None:
            found["pmra"] = np.asarray(self.pm_ra_masyr, np.float32)
            found["pmdec"] = np.asarray(self.pm_dec_masyr, np.float32)
            if self.pm_err_masyr is not None:
                found["pmerr"] = _half(self.pm_err_masyr)
        if self.position_err_mas is not None:
            found["poserr"] = _half(self.position_err_mas)
        return found


def write_store(folder: Path, about: About, chunks: Iterable[StarRows], *, replace_existing: bool = True) -> About:
    """Write a store; it appears whole, in place of one that was there, or not at all.

    Parameters
    ----------
    folder
        The store's folder; its parent is made.
    about
        What is known beforehand: name, version, licence, source, epochs, bands. The rest is filled in.
    chunks
        The stars, in any order; every chunk has the same columns.
    replace_existing
        Whether a store that is there already gives way; if not, the new one is thrown away (two processes made
        the same one).

    Returns
    -------
    About
        As written.

    Raises
    ------
    BadInput
        ``refcat-empty``: no stars.
    """
    with _appearing(folder, replace_existing) as work:
        heaps = _Heaps(work / "heaps", about.band)
        for rows in chunks:
            heaps.add(rows)
        if not heaps.stars:
            raise BadInput(
                f"catalogue {about.name}: no star in it has a position and a magnitude in {about.band}",
                code="refcat-empty",
                hint="Name the columns: --column ra=…, --column dec=…, --column mag_G=…",
            )
        done = replace(
            about,
            nside=_nside(heaps.stars / heaps.area_deg2),
            stars=heaps.stars,
            faintest_mag=heaps.mag_of_brightest(int(0.98 * heaps.stars)),
            sky_deg2=round(heaps.area_deg2, 1),
            max_pm_masyr=heaps.max_pm_masyr,
        )
        _gather(work, done, heaps)
        shutil.rmtree(heaps.folder)
        done.write(work)
    return done


class _Heaps:
    """Stars sorted by coarse tile, on disk."""

    def __init__(self, folder: Path, band: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.stars = 0
        self.max_pm_masyr = 0.0
        self.dtype: np.dtype[Any] | None = None
        self._band = band
        self._seen = np.zeros(12 * AREA_NSIDE**2, bool)
        self._histogram = np.zeros(len(MAG_BINS) + 1, np.int64)

    def add(self, rows: StarRows) -> None:
        if not len(rows):
            return
        columns = rows.columns()
        dtype = np.dtype([(name, column.dtype) for name, column in columns.items()])
        if self.dtype not in (None, dtype):
            raise ValueError(f"chunks of unlike columns: {self.dtype}, then {dtype}")
        self.dtype = dtype
        records = np.empty(len(rows), dtype)
        for name, column in columns.items():
            records[name] = column
        fine = tile_of(records["ra"], records["dec"], AREA_NSIDE)
        self._seen[fine] = True
        heap = fine // (AREA_NSIDE // HEAP_NSIDE) ** 2
        order = np.argsort(heap, kind="stable")
        numbers, first = np.unique(heap[order], return_index=True)
        for number, part in zip(numbers, np.split(records[order], first[1:]), strict=True):
            with (self.folder / f"{number}").open("ab") as file:
                part.tofile(file)
        self.stars += len(rows)
        self._histogram += np.bincount(
            np.searchsorted(MAG_BINS, records[f"mag_{self._band}"]), minlength=len(self._histogram)
        )
        if "pmra" in columns:
            speeds = np.abs(np.concatenate([columns["pmra"], columns["pmdec"]]))
            self.max_pm_masyr = max(self.max_pm_masyr, float(np.nanmax(speeds, initial=0.0)))

    @property
    def area_deg2(self) -> float:
        return float(self._seen.mean()) * 41252.96

    def mag_of_brightest(self, count: int) -> float:
        """Return the magnitude down to which there are ``count`` stars, to 0.01."""
        index = int(np.searchsorted(np.cumsum(self._histogram), count))
        return round(float(MAG_BINS[min(index, len(MAG_BINS) - 1)]), 2)

    def sorted(self, nside: int) -> Iterator[tuple[NDArray[np.void], NDArray[np.int64]]]:
        """Give the heaps by ascending tile: their records in the order of the store, and the tile of each."""
        for number in range(12 * HEAP_NSIDE**2):
            path = self.folder / f"{number}"
            if path.exists():
                records: NDArray[np.void] = np.fromfile(path, self.dtype)
                tile = tile_of(records["ra"], records["dec"], nside)
                order = np.argsort(_sort_key(tile, records[f"mag_{self._band}"], records["ra"]))
                yield records[order], tile[order]


def _gather(work: Path, about: About, heaps: _Heaps) -> None:
    assert heaps.dtype is not None
    assert heaps.dtype.names is not None
    columns = {
        name: np.lib.format.open_memmap(
            work / f"{name}.npy", mode="w+", dtype=heaps.dtype[name], shape=(about.stars,)
        )
        for name in heaps.dtype.names
    }
    counts = np.zeros(12 * about.nside**2, np.int64)
    faint = heaps.mag_of_brightest(MAX_SOLVER_STARS)
    bright: list[tuple[NDArray[Any], ...]] = []
    row = 0
    for records, tile in heaps.sorted(about.nside):
        for name, column in columns.items():
            column[row : row + len(records)] = records[name]
        row += len(records)
        counts += np.bincount(tile, minlength=len(counts))
        mag = records[f"mag_{about.band}"]
        keep = mag <= faint if about.stars > MAX_SOLVER_STARS else np.ones(len(mag), bool)
        bright.append((records["ra"][keep], records["dec"][keep], mag[keep]))
    for column in columns.values():
        column.flush()
    np.save(work / "starts.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    ra, dec, mag = (np.concatenate(parts) for parts in zip(*bright, strict=True))
    write_tiles(
        work / "seiza.bin",
        ra / COORDINATE_STEPS * 360.0,
        dec / COORDINATE_STEPS * 180.0 - 90.0,
        mag.astype(np.float64),
        epoch=about.epoch,
        attribution=f"{about.name} {about.version}".strip()[:200],
    )


def tile_of(ra: NDArray[np.uint32], dec: NDArray[np.uint32], nside: int) -> NDArray[np.int64]:
    """Return the HEALPix tile (nested) of quantised positions."""
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    lon = ra * (360.0 / COORDINATE_STEPS) % 360.0
    lat = np.clip(dec * (180.0 / COORDINATE_STEPS) - 90.0, -90.0, 90.0)
    return np.asarray(lonlat_to_healpix(lon * u.deg, lat * u.deg, nside, order="nested"), dtype=np.int64)


def _sort_key(tile: NDArray[np.int64], mag: NDArray[Any], ra: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one number to sort by: tile (20 bits), millimagnitude (16), place (28). Three sorts take longer."""
    steps = np.clip((mag.astype(np.float64) + 10.0) * 1000.0, 0, 65535).astype(np.uint64)
    key: NDArray[np.uint64] = tile.astype(np.uint64) << np.uint64(44) | steps << np.uint64(28)
    return key | (ra >> np.uint32(4)).astype(np.uint64)


def _nside(stars_per_deg2: float) -> int:
    pixel_deg2 = STARS_PER_TILE / max(stars_per_deg2, 1e-9)
    nside = 2 ** round(np.log2(np.sqrt(41252.96 / 12 / pixel_deg2)))
    return int(np.clip(nside, HEAP_NSIDE, MAX_NSIDE))


def _half(values: Floats) -> NDArray[np.float16]:
    """Errors to three digits; one beyond the type's range is as good as unknown."""
    wide = np.asarray(values, np.float64)
    return np.where(np.abs(wide) < 6e4, wide, np.nan).astype(np.float16)


@contextmanager
def _appearing(folder: Path, replace_existing: bool) -> Iterator[Path]:
    """Give a work folder beside the wanted one, and put it in its place at the end; remove it on failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield work
        work.chmod(0o755)
        if replace_existing or not (folder / "catalog.json").exists():
            _put(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, folder: Path) -> None:
    """Rename a folder into place; where one is already, it goes first, and comes back if the second step fails."""
    old = work.with_name(f"{work.name}.old")
    try:
        folder.replace(old)
    except FileNotFoundError:
        work.replace(folder)
        return
    try:
        work.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
