"""Build what the package carries of Tycho-2 (a developer's tool, run once; the same input gives the same bytes).

The catalogue is in Debian's *source* package ``tycho2`` (BSD-2-Clause, with its first author's consent)::

    apt-get source --download-only tycho2 && tar xf tycho2_2.orig.tar.xz
    python -m starloom.refcat.build . starloom/refcat/data/tycho2.npz.xz

It prints the new file's SHA-256, which goes into ``starloom.refcat.shipped``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput, StarloomError
from starloom.refcat import shipped as pack
from starloom.refcat.motion import usual_motion_masyr

EPOCH = 2000.0
# Literal bytes without context: the columns are noise with a distribution, no text.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 0, "pb": 0}]

Floats = NDArray[np.float64]

# First and last byte (1-based) of each field, CDS I/259, and the length of a line with its end.
_MAIN: dict[str, tuple[int, int]] = {
    "ra": (16, 27), "dec": (29, 40), "pm_ra": (42, 48), "pm_dec": (50, 56), "e_ra": (58, 60), "e_dec": (62, 64),
    "e_pm_ra": (66, 69), "e_pm_dec": (71, 74), "ep_ra": (76, 82), "ep_dec": (84, 90), "bt": (111, 116),
    "e_bt": (118, 122), "vt": (124, 129), "e_vt": (131, 135), "seen_ra": (153, 164), "seen_dec": (166, 177),
    "e_seen_ra": (189, 193), "e_seen_dec": (195, 199),
}  # fmt: skip
_SUPPLEMENT: dict[str, tuple[int, int]] = {
    "ra": (16, 27), "dec": (29, 40), "pm_ra": (42, 48), "pm_dec": (50, 56), "e_ra": (58, 62), "e_dec": (64, 68),
    "e_pm_ra": (70, 74), "e_pm_dec": (76, 80), "bt": (84, 89), "e_bt": (91, 95), "vt": (97, 102),
    "e_vt": (104, 108),
}  # fmt: skip
SUPPLEMENT_EPOCH = 1991.25
# Observed positions are of 1990.8 to 1992.1.
SEEN_EPOCH = 1991.5


def read_catalogue(folder: Path) -> dict[str, Floats]:
    """Read ``tyc2.dat.*`` and ``suppl_1.dat``: positions at J2000, proper motion, magnitudes and errors.

    Returns
    -------
    dict
        ``ra``, ``dec`` (deg), ``pm_ra``, ``pm_dec`` and ``pm_err`` (mas/yr), ``err`` (mas; in 2020, or in 2000
        where there is no proper motion), ``vt``, ``bt``, ``vt_err``, ``bt_err`` (mag); NaN where blank.

    Raises
    ------
    BadInput
        ``bad-catalogue``: files are absent or have lines of another length.
    """
    parts = sorted(folder.glob("tyc2.dat.*"))
    if not parts:
        raise BadInput(
            f"{folder}: no tyc2.dat.00 …", code="bad-catalogue", hint="Unpack tycho2_2.orig.tar.xz there."
        )
    rows = [_main(_fields(path, 207, _MAIN)) for path in parts]
    rows.append(_supplement(_fields(folder / "suppl_1.dat", 123, _SUPPLEMENT)))
    return {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}


def _fields(path: Path, length: int, fields: dict[str, tuple[int, int]]) -> dict[str, Floats]:
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % length or (raw.reshape(-1, length)[:, -1] != ord("\n")).any():
        raise BadInput(f"{path}: its lines are not of {length} bytes", code="bad-catalogue")
    lines = raw.reshape(-1, length)
    found = {}
    for name, (first, last) in fields.items():
        texts = np.strings.strip(
            np.ascontiguousarray(lines[:, first - 1 : last]).view(f"S{last - first + 1}").ravel()
        )
        values = np.full(len(texts), np.nan)
        values[texts != b""] = texts[texts != b""].astype(np.float64)
        found[name] = values
    return found


def _main(row: dict[str, Floats]) -> dict[str, Floats]:
    """Positions are of J2000, their errors of the mean epoch; stars without stand where they were seen."""
    seen = ~np.isfinite(row["ra"])
    mag = np.where(np.isfinite(row["vt"]), row["vt"], row["bt"])
    moved = usual_motion_masyr(mag) * (EPOCH - SEEN_EPOCH)
    at_2020 = [
        np.hypot(row[f"e_{axis}"], row[f"e_pm_{axis}"] * (pack.ERR_YEAR - row[f"ep_{axis}"]))
        for axis in ("ra", "dec")
    ]
    return {
        "ra": np.where(seen, row["seen_ra"], row["ra"]),
        "dec": np.where(seen, row["seen_dec"], row["dec"]),
        "pm_ra": row["pm_ra"],
        "pm_dec": row["pm_dec"],
        "pm_err": _axes(row["e_pm_ra"], row["e_pm_dec"]),
        "err": np.where(seen, np.hypot(_axes(row["e_seen_ra"], row["e_seen_dec"]), moved), _axes(*at_2020)),
        "vt": row["vt"],
        "bt": row["bt"],
        "vt_err": row["e_vt"],
        "bt_err": row["e_bt"],
    }


def _supplement(row: dict[str, Floats]) -> dict[str, Floats]:
    """Positions are of 1991.25; those with a proper motion (from Hipparcos) are moved to J2000."""
    from starloom.refcat.motion import move

    known = np.isfinite(row["pm_ra"]) & np.isfinite(row["pm_dec"])
    ra, dec = move(row["ra"], row["dec"], row["pm_ra"], row["pm_dec"], EPOCH - SUPPLEMENT_EPOCH)
    pm_err = _axes(row["e_pm_ra"], row["e_pm_dec"])
    error = _axes(row["e_ra"], row["e_dec"])
    mag = np.where(np.isfinite(row["vt"]), row["vt"], row["bt"])
    drift = np.where(
        known,
        np.nan_to_num(pm_err) * (pack.ERR_YEAR - SUPPLEMENT_EPOCH),
        usual_motion_masyr(mag) * (EPOCH - SUPPLEMENT_EPOCH),
    )
    return {
        "ra": np.where(known, ra, row["ra"]),
        "dec": np.where(known, dec, row["dec"]),
        "pm_ra": row["pm_ra"],
        "pm_dec": row["pm_dec"],
        "pm_err": pm_err,
        "err": np.hypot(error, drift),
        "vt": row["vt"],
        "bt": row["bt"],
        "vt_err": row["e_vt"],
        "bt_err": row["e_bt"],
    }


def _axes(one: Floats, other: Floats) -> Floats:
    mean: Floats = np.hypot(one, other) / np.sqrt(2.0)
    return mean


def pack_stars(stars: dict[str, Floats]) -> dict[str, NDArray[Any]]:
    """Return the columns of the shipped file, see `starloom.refcat.shipped`.

    Parameters
    ----------
    stars
        The catalogue, as `read_catalogue` gives it; stars without VT are left out.
    """
    from astropy import units as u
    from astropy_healpix import lonlat_to_healpix

    stars = {name: column[np.isfinite(stars["vt"])] for name, column in stars.items()}
    place = lonlat_to_healpix(stars["ra"] * u.deg, stars["dec"] * u.deg, 2**pack.PLACE_ORDER, order="nested")
    order = np.argsort(place, kind="stable")
    place, stars = place[order], {name: column[order] for name, column in stars.items()}
    vt = np.rint((stars["vt"] - pack.VT_ORIGIN) / pack.VT_STEP).astype(np.int64)
    # Against the magnitudes that unpacking will find, or the rounding of the one would be added to the other.
    vt_there = vt.astype(np.float64) * pack.VT_STEP + pack.VT_ORIGIN
    colour = _small((stars["bt"] - vt_there) / pack.colour_step(vt_there))
    bt_there = vt_there + colour * pack.colour_step(vt_there)
    pm_ra, pm_dec = stars["pm_ra"], stars["pm_dec"]
    fast = np.flatnonzero(np.maximum(np.abs(pm_ra), np.abs(pm_dec)) > 127 * pack.PM_STEP_MASYR)
    fast_pm = [np.rint(pm[fast] / pack.FAST_STEP_MASYR) for pm in (pm_ra, pm_dec)]
    err = _small(_steps(stars["err"] / pack.ERR_UNIT_MAS, pack.ERR_BASE))
    per_year = pack.ERR_UNIT_MAS * pack.ERR_BASE ** err.astype(np.float64) / (pack.ERR_YEAR - pack.ERROR_EPOCH)
    usual = {"vt_err": pack.usual_error(vt_there, "VT"), "bt_err": pack.usual_error(bt_there, "BT")}
    return {
        "place": _planes(np.diff(place, prepend=0)),
        "vt": _planes(vt),
        "colour": colour,
        "pm_ra": _small(pm_ra / pack.PM_STEP_MASYR),
        "pm_dec": _small(pm_dec / pack.PM_STEP_MASYR),
        "fast": np.stack([fast, *fast_pm]).astype("<i4"),
        "err": err,
        "pm_err": _small(_steps(stars["pm_err"] / per_year, pack.ERR_BASE), missing=0),
    } | {name: _small(_steps(stars[name] / error, pack.MAG_ERR_BASE), missing=0) for name, error in usual.items()}


def _planes(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Undo `starloom.refcat.shipped.whole`, with no more bytes than the largest number needs."""
    planes = np.ascontiguousarray(numbers.astype("<u8").view(np.uint8).reshape(-1, 8).T)
    return planes[: (int(numbers.max()).bit_length() + 7) // 8]


def _steps(ratio: Floats, base: float) -> Floats:
    steps: Floats = np.log(ratio) / np.log(base)
    return steps


def _small(values: Floats, missing: int = pack.NONE) -> NDArray[np.int8]:
    known = np.isfinite(values)
    return np.where(known, np.clip(np.rint(np.where(known, values, 0.0)), -127, 127), missing).astype(np.int8)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the catalogue file that the package carries.")
    parser.add_argument("folder", type=Path, help="where tyc2.dat.00 … and suppl_1.dat are")
    parser.add_argument("out", type=Path, help="file to write")
    options = parser.parse_args(arguments)
    try:
        stars = read_catalogue(options.folder)
        columns = pack_stars(stars)
    except StarloomError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    archive = io.BytesIO()
    np.savez(archive, **columns)  # type: ignore[arg-type]
    packed = lzma.compress(archive.getvalue(), filters=_FILTERS)
    options.out.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    said = f"{len(columns['colour'])} of {len(stars['ra'])} stars, {len(packed)} bytes"
    sys.stdout.write(f"{options.out}: {said}, SHA-256 {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
