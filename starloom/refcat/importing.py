"""Bring a catalogue file into a store: names and units found or told, values checked, nothing dropped unsaid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.refcat.columns import ROLES, ColumnMap, map_columns
from starloom.refcat.reading import Chunk, TableFile, open_table
from starloom.refcat.store import ASSUMED_POSITION_ERR_MAS, About
from starloom.refcat.writing import StarRows, write_store

#: Barnard's star makes 10.4 arcsec a year; what is much faster is a code for "unknown" or in another unit.
FASTEST_PM_MASYR = 15_000.0
#: From beyond Sirius to beyond the deepest survey: -99, 0 for NaN and 999 fall out.
MAG_RANGE = (-3.0, 40.0)
# A quantity in 10^6 stars whose median lies above this was given in another unit.
MOST_MEDIAN_POSITION_ERR_MAS = 10_000.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ImportOptions:
    """What the user says about a catalogue; everything else is found in the file.

    Parameters
    ----------
    name, version, licence
        How the catalogue is called, its release, its terms of use.
    epoch
        Julian year of the positions; None takes what the file's names or its column of epochs say.
    band
        Band to rank stars by; None takes the best known.
    columns, units
        Role -> column, role -> unit; roles as in `starloom.refcat.columns`.
    position_err_arcsec
        Error of positions that have none, per axis.
    """

    name: str
    version: str = ""
    licence: str = ""
    epoch: float | None = None
    band: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    position_err_arcsec: float = ASSUMED_POSITION_ERR_MAS / 1000.0


@dataclass
class Tally:
    """What became of the rows."""

    read: int = 0
    without_position: int = 0
    without_magnitude: int = 0
    unreal_motion: int = 0


def import_catalog(path: Path, folder: Path, options: ImportOptions) -> tuple[About, Tally]:
    """Import a catalogue file.

    Parameters
    ----------
    path
        FITS table, Parquet, ECSV or CSV.
    folder
        Store to write; one that is there is replaced when the new one is whole.
    options
        What the file does not say.

    Returns
    -------
    About, Tally
        The store, and what became of the rows.

    Raises
    ------
    BadInput
        ``refcat-file``, ``refcat-column``, ``refcat-unit``, ``refcat-value``, ``refcat-epoch``, ``refcat-empty``.
    """
    table = open_table(path)
    columns = map_columns(path, table.names, table.units, chosen=options.columns, units=options.units)
    bands = columns.bands
    band = options.band or bands[0]
    if band not in bands:
        raise BadInput(
            f"{path} has no magnitudes in {band}", code="refcat-column", hint=f"It has {', '.join(bands)}."
        )
    factors = {role: _factor(path, role, columns) for role in columns.columns if _unit_of(role)}
    epoch, error_epoch = _epochs(table, columns, options)
    about = About(
        options.name,
        options.version or (columns.survey.name if columns.survey else ""),
        options.licence,
        path.name,
        epoch,
        error_epoch,
        band,
        (band, *(other for other in bands if other != band)),
        assumed_position_err_mas=options.position_err_arcsec * 1000.0,
    )
    tally = Tally()
    return write_store(folder, about, _rows(table, columns, factors, about, tally)), tally


def _unit_of(role: str) -> str | None:
    return ROLES.get(role) or (None if role.startswith("magsnr_") else "mag")


def _factor(path: Path, role: str, columns: ColumnMap) -> float:
    """Return what to multiply a column by to have it in our unit."""
    from astropy import units as u

    wanted = _unit_of(role)
    said = columns.units.get(role)
    if said is None or role == "epoch":
        return 1.0
    try:
        unit = u.Unit("hourangle" if said.strip().lower() in ("h", "hour", "hours") and role == "ra" else said)
        if role.startswith("mag"):
            unit.to(u.mag) if isinstance(unit, u.UnitBase) else u.mag
            return 1.0
        return float(unit.to(u.Unit(wanted)))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        raise BadInput(
            f"{path}: column {columns.columns[role]!r} is in {said!r}, which is no unit of {role}",
            code="refcat-unit",
            hint=f"Say what it is in: --unit {role}={wanted}",
        ) from error


def _epochs(table: TableFile, columns: ColumnMap, options: ImportOptions) -> tuple[float, float]:
    """Return the epoch of the positions and that of their least error."""
    survey = columns.survey
    if options.epoch is not None:
        best = survey.error_epoch if survey and options.epoch == survey.epoch else options.epoch
        return options.epoch, best
    if "epoch" in columns.columns:
        name = columns.columns["epoch"]
        first: Chunk | None = next(iter(table.chunks([name])), None)
        if first is not None and len(first[name]):
            found = np.unique(first[name])
            if len(found) == 1 and 1900.0 < found[0] < 2100.0:
                return float(found[0]), float(found[0])
    if survey is not None:
        return survey.epoch, survey.error_epoch
    raise BadInput(
        f"{table.path} does not say of what year its positions are",
        code="refcat-epoch",
        hint="Say it: --epoch 2016.0 (Gaia DR3), 2000.0 (Tycho-2, UCAC4), else the mean year of the observations.",
    )


def _rows(
    table: TableFile, columns: ColumnMap, factors: Mapping[str, float], about: About, tally: Tally
) -> Iterator[StarRows]:
    wanted = {role: name for role, name in columns.columns.items() if role != "epoch"}
    names = list(dict.fromkeys(wanted.values()))
    checks = _Checks(table.path, columns)
    for chunk in table.chunks(names):
        values = {role: chunk[name] * factors.get(role, 1.0) for role, name in wanted.items()}
        checks.see(values, tally.read)
        yield _clean(values, about, tally)
    checks.end()


def _clean(values: dict[str, Floats], about: About, tally: Tally) -> StarRows:
    """Make rows of ours: sentinels become NaN, stars without position or ranking magnitude go, counted."""
    for role in values:
        if role.startswith("mag_"):
            lowest, highest = MAG_RANGE
            values[role] = np.where((values[role] > lowest) & (values[role] < highest), values[role], np.nan)
    placed = np.isfinite(values["ra"]) & np.isfinite(values["dec"])
    bright = np.isfinite(values[f"mag_{about.band}"])
    tally.read += len(placed)
    tally.without_position += int((~placed).sum())
    tally.without_magnitude += int((placed & ~bright).sum())
    kept = {role: column[placed & bright] for role, column in values.items()}
    pm_ra, pm_dec = kept.get("pmra"), kept.get("pmdec")
    if pm_ra is not None and pm_dec is not None:
        real = np.maximum(np.abs(pm_ra), np.abs(pm_dec)) < FASTEST_PM_MASYR
        tally.unreal_motion += int((~real & np.isfinite(pm_ra) & np.isfinite(pm_dec)).sum())
        pm_ra, pm_dec = np.where(real, pm_ra, np.nan), np.where(real, pm_dec, np.nan)
    return StarRows(
        kept["ra"],
        kept["dec"],
        {band: kept[f"mag_{band}"] for band in about.bands},
        _mag_errors(kept, about),
        pm_ra,
        pm_dec,
        _mean_error(kept.get("pmra_err"), kept.get("pmdec_err")),
        _mean_error(kept.get("ra_err"), kept.get("dec_err")),
    )


def _mag_errors(kept: Mapping[str, Floats], about: About) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for band in about.bands:
        if f"magerr_{band}" in kept:
            error = kept[f"magerr_{band}"]
        elif f"magsnr_{band}" in kept:
            with np.errstate(divide="ignore"):
                error = 2.5 / np.log(10.0) / kept[f"magsnr_{band}"]
        else:
            continue
        found[band] = np.where((error >= 0) & (error < 10.0), error, np.nan)
    return found


def _mean_error(one: Floats | None, other: Floats | None) -> Floats | None:
    """Return the error per axis of two axes."""
    if one is None or other is None:
        return one if other is None else other
    mean: Floats = np.hypot(one, other) / np.sqrt(2.0)
    return mean


class _Checks:
    """Watches the values for those that no star can have: a wrong column or unit."""

    def __init__(self, path: Path, columns: ColumnMap) -> None:
        self._path = path
        self._columns = columns
        self._ra_max = -np.inf
        self._dec = (np.inf, -np.inf)
        self._stars = 0

    def see(self, values: Mapping[str, Floats], before: int) -> None:
        ra, dec = values["ra"], values["dec"]
        for role, column, low, high in (("ra", ra, -360.0, 720.0), ("dec", dec, -90.0, 90.0)):
            wrong = np.flatnonzero((column < low) | (column > high))
            if len(wrong):
                raise self._refused(role, column[wrong[0]], before + int(wrong[0]))
        if len(ra):
            self._ra_max = max(self._ra_max, float(np.nanmax(ra, initial=-np.inf)))
            self._dec = (
                min(self._dec[0], float(np.nanmin(dec, initial=np.inf))),
                max(self._dec[1], float(np.nanmax(dec, initial=-np.inf))),
            )
            self._stars += len(ra)
        for role in ("ra_err", "dec_err"):
            if role in values and len(ra) > 100 and np.isfinite(values[role]).any():
                median = float(np.nanmedian(values[role]))
                if median > MOST_MEDIAN_POSITION_ERR_MAS:
                    raise self._wrong_unit(role, f"half of its errors are above {median / 1000:.0f} arcsec")

    def end(self) -> None:
        # Every star of a catalogue that spans more than a quarter of the sky in declination within 24 "degrees".
        if self._stars > 100 and self._ra_max <= 24.0 and self._dec[1] - self._dec[0] > 90.0:
            raise self._wrong_unit("ra", f"nothing in it is above {self._ra_max:.3f}: hours, most likely", "h")

    def _refused(self, role: str, value: Any, row: int) -> BadInput:
        name = self._columns.columns[role]
        return BadInput(
            f"{self._path}: {name!r} is {value:g} degrees in row {row}, which is no {role}",
            code="refcat-value",
            hint=f"Take another column (--column {role}=NAME) or say its unit (--unit {role}=rad).",
        )

    def _wrong_unit(self, role: str, what: str, remedy: str = "arcsec") -> BadInput:
        name = self._columns.columns[role]
        return BadInput(
            f"{self._path}: column {name!r}: {what}",
            code="refcat-unit",
            hint=f"Say what it is in: --unit {role}={remedy}",
        )
