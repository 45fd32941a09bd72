"""Tycho-2 as the package carries it: one compact file, made into a store once on every machine.

``tycho2.npz.xz`` is a numpy archive of small integers, one column each, compressed as a whole: a common compressor
comes within 3 % of what such columns can be compressed to, if they are bytes of one kind in a row. Every clone of
the repository carries the file, so all is quantised well below its own errors. The stars are in the order of the
sky, their HEALPix numbers, whose differences need 32 bits where two coordinates of that precision need 54:

==========  =======================================================================================================
place       uint8 (5, n), differences of the ascending HEALPix numbers (nested, order 24: 12 mas), bytes as `whole`
vt          uint8 (2, n), VT from -3, 0.01 mag
colour      int8, BT - VT, 0.04 mag (0.1 mag for VT > 10.5); none: -128
pm_ra       int8, proper motion times cos Dec, 2 mas a year, none: -128; pm_dec likewise
fast        int32 (3, m), of stars too fast for that: number, proper motion in both axes in 0.1 mas a year
err         int8, position error in 2020 (2000 without proper motion) as 50 mas × 1.2^n
pm_err      int8, error of the proper motion as (that error / 35 years) × 1.2^n
vt_err      int8, error of VT as `usual_error` × 1.25^n; bt_err likewise
==========  =======================================================================================================

Where there is no length, it is n, the number of stars.
"""

from __future__ import annotations

import hashlib
import io
import logging
import lzma
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.refcat.cache import cache_folder
from starloom.refcat.store import About, StoreCatalog
from starloom.refcat.writing import StarRows, write_store

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "data"
TYCHO2_FILE = DATA / "tycho2.npz.xz"
TYCHO2_SHA256 = "488fe675c202a8a64bdba22e749502f921b34c3dd386bb324f1fe82ded053fb4"

PLACE_ORDER = 24
VT_ORIGIN, VT_STEP = -3.0, 0.01
# A tenth of a magnitude is half of BT's error at its best there, and the rounding adds 0.03 mag.
COLOUR_STEP, FAINT_COLOUR_STEP, FAINT_VT = 0.04, 0.1, 10.5
PM_STEP_MASYR = 2.0
FAST_STEP_MASYR = 0.1
NONE = -128
ERR_UNIT_MAS, ERR_BASE = 50.0, 1.2
MAG_ERR_BASE = 1.25
#: Mean epoch of most stars' positions, from which their errors grow, and the year they are kept right for.
ERROR_EPOCH, ERR_YEAR = 1985.0, 2020.0

ABOUT = About(
    "Tycho-2",
    "2000 (CDS I/259)",
    "BSD-2-Clause",
    "Hog et al. 2000, A&A 355, L27, main catalogue and supplement 1, from Debian's source package tycho2 2-4",
    2000.0,
    ERROR_EPOCH,
    "VT",
    ("VT", "BT"),
)

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


def usual_error(mag: Floats, band: str) -> Floats:
    """Return the median error of Tycho-2's magnitudes in a band (BT, VT) at a magnitude, as measured on it."""
    at = {
        "VT": ([4.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5, 12.5, 13.5], [9, 10, 11, 14, 23, 50, 113, 197, 313]),
        "BT": ([4.5, 8.5, 9.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5], [14, 17, 21, 37, 75, 192, 326, 493, 700]),
    }[band]
    return np.exp(np.interp(mag, at[0], np.log(np.array(at[1]) / 1000.0)))


def whole(planes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Put numbers together that are kept by byte, the lowest first: `planes` has a row for each, ``(bytes, n)``.

    Bytes of one kind in a row compress better than whole numbers.
    """
    numbers = np.zeros(planes.shape[1], np.int64)
    for byte, plane in enumerate(planes):
        numbers |= plane.astype(np.int64) << (8 * byte)
    return numbers


def unpack(packed: Mapping[str, NDArray[Any]]) -> StarRows:
    """Return the stars of the columns of the shipped file."""
    from astropy import units as u
    from astropy_healpix import healpix_to_lonlat

    lon, lat = healpix_to_lonlat(np.cumsum(whole(packed["place"])), 2**PLACE_ORDER, order="nested")
    vt = whole(packed["vt"]).astype(np.float64) * VT_STEP + VT_ORIGIN
    bt = vt + _known(packed["colour"], colour_step(vt))
    pm_ra, pm_dec = _known(packed["pm_ra"], PM_STEP_MASYR), _known(packed["pm_dec"], PM_STEP_MASYR)
    which, *fast = packed["fast"]
    pm_ra[which], pm_dec[which] = (column * FAST_STEP_MASYR for column in fast)
    err = ERR_UNIT_MAS * ERR_BASE ** packed["err"].astype(np.float64)
    pm_err = np.where(np.isfinite(pm_ra), err / (ERR_YEAR - ERROR_EPOCH), np.nan)
    pm_err *= ERR_BASE ** packed["pm_err"].astype(np.float64)
    # What the motion's error does not explain of the error in 2020 is that of the mean position.
    rest = err**2 - (np.nan_to_num(pm_err) * (ERR_YEAR - ERROR_EPOCH)) ** 2
    mag_errs = {
        band: usual_error(mag, band) * MAG_ERR_BASE ** packed[f"{band.lower()}_err"].astype(np.float64)
        for band, mag in (("VT", vt), ("BT", bt))
    }
    return StarRows(
        lon.to_value(u.deg),
        lat.to_value(u.deg),
        {"VT": vt, "BT": bt},
        mag_errs,
        pm_ra,
        pm_dec,
        pm_err,
        np.sqrt(np.maximum(rest, (0.05 * err) ** 2)),
    )


def colour_step(vt: Floats) -> Floats:
    """Return the step of BT - VT, mag, of stars of a magnitude."""
    step: Floats = np.where(vt > FAINT_VT, FAINT_COLOUR_STEP, COLOUR_STEP)
    return step


def _known(column: NDArray[Any], step: Floats | float) -> Floats:
    values: Floats = np.where(column == NONE, np.nan, column * step)
    return values


@cache
def tycho2(folder: Path | None = None) -> StoreCatalog:
    """Return the catalogue that ships: 2.56 million stars to VT 12.7, with proper motion, BT, VT and errors.

    Parameters
    ----------
    folder
        Where its store is, or is made (6 CPU-seconds, 110 MB, once); `cache_folder` by default.

    Raises
    ------
    BadInput
        ``refcat-missing``: the shipped file is absent, cut short or not the expected one.

    References
    ----------
    Høg et al. 2000, A&A 355, L27.
    """
    name = f"tycho2-{TYCHO2_SHA256[:12]}"
    home = (folder or cache_folder()) / name
    if not (home / "catalog.json").exists():
        home = _make(home)
    return StoreCatalog(home)


def _make(home: Path) -> Path:
    rows = unpack(read_packed(TYCHO2_FILE, TYCHO2_SHA256))
    try:
        write_store(home, ABOUT, [rows], replace_existing=False)
    except OSError as error:
        # A read-only image or a full disk must not stop a frame; the next process tries the usual place again.
        spare = Path(_spare().name) / home.name
        log.warning("no room for the star catalogue in %s (%s): kept in %s for this process", home, error, spare)
        write_store(spare, ABOUT, [rows], replace_existing=False)
        return spare
    return home


@cache
def _spare() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="starloom-refcat-")


def read_packed(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    """Return the columns of the packed file whose SHA-256 is as expected.

    Raises
    ------
    BadInput
        ``refcat-missing``.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    found = hashlib.sha256(packed).hexdigest()
    if found != expected:
        raise _damaged(path, f"is damaged (SHA-256 {found[:12]}…, expected {expected[:12]}…)")
    with np.load(io.BytesIO(lzma.decompress(packed))) as columns:
        return dict(columns)


def _damaged(path: Path, what: str) -> BadInput:
    return BadInput(
        f"star catalogue {path} {what}",
        code="refcat-missing",
        hint="Fetch the file again from the repository or an installation of the same version.",
    )
