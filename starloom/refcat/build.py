"""Build the catalogue file that ships with the package (a developer's tool, run once per catalogue).

The input is astrometry.net's index 07 of Tycho-2, which holds every star of the catalogue it was built from
with its VT magnitude; Debian ships it as ``index-tycho2-07.littleendian.fits`` in the package
``astrometry-data-tycho2-07-littleendian``::

    python -m starloom.refcat.build index-tycho2-07.littleendian.fits starloom/refcat/data/tycho2.bin

Prints the new file's SHA-256, which goes into ``provider.TYCHO2_SHA256``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput, StarloomError
from starloom.refcat.tiles import write_tiles

ATTRIBUTION = "Tycho-2 (Hog et al. 2000), by way of Debian astrometry-data-tycho2-07"
EPOCH = 2000.0

Floats = NDArray[np.float64]


def read_index(path: Path) -> tuple[Floats, Floats, Floats]:
    """Read the stars of an astrometry.net index of Tycho-2.

    The star positions are the leaves of a k-d tree: unit vectors quantised to 32 bits over the box that
    ``kdtree_range_stars`` describes (three minima, three maxima, one scale), 0.1 mas a step.

    Parameters
    ----------
    path
        Little-endian index file.

    Returns
    -------
    ra_deg, dec_deg, mag
        ICRS positions at J2000 (deg) and VT magnitudes, each of shape ``(n,)``.

    Raises
    ------
    BadInput
        ``bad-index``: the file has no such tables, or is of the other byte order.
    """
    from astropy.io import fits

    with fits.open(path) as hdus:
        tables = {hdu.columns.names[0]: hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)}
        mags = next((hdu for hdu in tables.values() if "MAG_VT" in hdu.columns.names), None)
        try:
            leaves, box = tables["kdtree_data_stars"], tables["kdtree_range_stars"]
        except KeyError as error:
            raise BadInput(f"{path}: no table {error}", code="bad-index") from error
        if mags is None:
            raise BadInput(f"{path}: no column MAG_VT", code="bad-index")
        # Both tables hold raw little-endian numbers in columns of bytes; astropy cannot convert them.
        limits = _raw(path, box, "<f8").reshape(-1)
        steps = _raw(path, leaves, "<u4").reshape(-1, 3)
        mag = np.array(mags.data["MAG_VT"], dtype=np.float64)
    xyz = limits[:3] + steps / limits[6]
    if np.abs(np.linalg.norm(xyz, axis=1) - 1.0).max() > 1e-6:
        raise BadInput(f"{path}: positions are no unit vectors", code="bad-index", hint="Big-endian index?")
    ra = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0])) % 360.0
    dec = np.degrees(np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])))
    return ra, dec, mag


def _raw(path: Path, hdu: object, dtype: str) -> NDArray[np.generic]:
    header = hdu.header  # type: ignore[attr-defined]
    offset = hdu.fileinfo()["datLoc"]  # type: ignore[attr-defined]
    count = header["NAXIS1"] * header["NAXIS2"] // np.dtype(dtype).itemsize
    return np.fromfile(path, dtype=dtype, count=count, offset=offset)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    parser = argparse.ArgumentParser(description="Build the reference catalogue from an astrometry.net index.")
    parser.add_argument("index", type=Path, help="index-tycho2-07.littleendian.fits")
    parser.add_argument("out", type=Path, help="tile file to write")
    options = parser.parse_args(arguments)
    try:
        ra, dec, mag = read_index(options.index)
        usable = np.isfinite(mag) & (mag > -2.0) & (mag < 20.0)
        write_tiles(options.out, ra[usable], dec[usable], mag[usable], epoch=EPOCH, attribution=ATTRIBUTION)
    except StarloomError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return 1
    digest = hashlib.sha256(options.out.read_bytes()).hexdigest()
    sys.stdout.write(f"{options.out}: {usable.sum()} of {len(ra)} stars, SHA-256 {digest}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
