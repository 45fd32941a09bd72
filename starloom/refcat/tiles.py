"""The star tile file: stars grouped by patches of sky, so that a cone reads a few blocks of a big file.

This is the seiza solver's ``SEIZAST2`` format, so one file serves the solver and our own cone searches.
Little-endian throughout::

    magic "SEIZAST2", u32 bands, f64 epoch, u64 stars, u16 n, n bytes attribution, zeros up to a multiple of 8
    per tile: u64 byte offset of its block, u32 number of stars
    per tile: u32 ra[k], u32 dec[k], u16 mag[k], zeros up to a multiple of 4; brightest star first

``ra`` spans 0-360 and ``dec`` -90-+90 degrees in 2³²-1 steps (0.3 mas and 0.15 mas); ``mag`` counts
millimagnitudes from -3. The sky is cut into ``bands`` rings of equal height and each ring into the smallest
number of tiles no wider than high.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC = b"SEIZAST2"
COORDINATE_STEPS = 2**32 - 1
MAG_ORIGIN = -3.0
MAG_STEPS = 1000.0

_FIXED = struct.Struct("<8sIdQH")
_ENTRY = np.dtype([("offset", "<u8"), ("count", "<u4")])

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def tiles_per_band(bands: int) -> Ints:
    """Return how many tiles each declination ring holds, south to north, shape ``(bands,)``."""
    height = 180.0 / bands
    middle = -90.0 + (np.arange(bands) + 0.5) * height
    counts: Ints = np.maximum(np.ceil(360.0 * np.cos(np.radians(middle)) / height), 1).astype(np.int64)
    return counts


def first_tile(bands: int) -> Ints:
    """Return the number of the first tile of each ring, shape ``(bands,)``."""
    counts = tiles_per_band(bands)
    return np.cumsum(counts) - counts


def encode(
    ra_deg: Floats, dec_deg: Floats, mag: Floats
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint16]]:
    """Quantise positions (deg) and magnitudes as the file holds them."""
    ra = np.rint(np.mod(ra_deg, 360.0) / 360.0 * COORDINATE_STEPS).astype(np.uint32)
    dec = np.rint((dec_deg + 90.0) / 180.0 * COORDINATE_STEPS).astype(np.uint32)
    steps = np.clip(np.rint((mag - MAG_ORIGIN) * MAG_STEPS), 0, 65535).astype(np.uint16)
    return ra, dec, steps


def decode(
    ra: NDArray[np.uint32], dec: NDArray[np.uint32], mag: NDArray[np.uint16]
) -> tuple[Floats, Floats, Floats]:
    """Undo `encode`: right ascension and declination (deg), magnitude."""
    return (
        ra / COORDINATE_STEPS * 360.0,
        dec / COORDINATE_STEPS * 180.0 - 90.0,
        mag / MAG_STEPS + MAG_ORIGIN,
    )


def write_tiles(
    path: Path,
    ra_deg: Floats,
    dec_deg: Floats,
    mag: Floats,
    *,
    epoch: float,
    attribution: str,
    bands: int = 180,
) -> None:
    """Write stars as a tile file.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    ra_deg, dec_deg, mag
        Positions (deg, ICRS) and magnitudes, each of shape ``(n,)``, in any order.
    epoch
        Julian year of the positions.
    attribution
        Name of the catalogue, kept in the file's head.
    bands
        Number of declination rings; 180 makes tiles of one square degree.
    """
    ra, dec, steps = encode(ra_deg, dec_deg, mag)
    # A star goes into the tile of its *quantised* position, or one on a border would be missed by a cone.
    ra_back, dec_back, _ = decode(ra, dec, steps)
    per_band, first = tiles_per_band(bands), first_tile(bands)
    band = np.clip(((dec_back + 90.0) / 180.0 * bands).astype(np.int64), 0, bands - 1)
    column = np.minimum((ra_back / 360.0 * per_band[band]).astype(np.int64), per_band[band] - 1)
    tile = first[band] + column
    # One key of 64 bits instead of three sorts: 2^16 tiles hold any sensible number of rings (180 make 41,253).
    if first[-1] + per_band[-1] <= 2**16:
        key = tile.astype(np.uint64) << np.uint64(48) | steps.astype(np.uint64) << np.uint64(32) | ra
        order = np.argsort(key, kind="stable")
    else:
        order = np.lexsort((dec, ra, steps, tile))
    ra, dec, steps, tile = ra[order], dec[order], steps[order], tile[order]

    n_tiles = int(per_band.sum())
    ends = np.searchsorted(tile, np.arange(n_tiles + 1))
    name = attribution.encode()
    head = _FIXED.pack(MAGIC, bands, epoch, len(ra), len(name)) + name
    head += bytes(-len(head) % 8)
    entries = np.zeros(n_tiles, _ENTRY)
    entries["count"] = np.diff(ends)
    size = entries["count"].astype(np.int64) * 10
    size += -size % 4
    entries["offset"] = len(head) + entries.nbytes + np.cumsum(size) - size
    with path.open("wb") as file:
        file.write(head + entries.tobytes())
        for low, high in pairwise(ends):
            block = ra[low:high].tobytes() + dec[low:high].tobytes() + steps[low:high].tobytes()
            file.write(block + bytes(-len(block) % 4))
