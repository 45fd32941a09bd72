"""What a pixel costs to read: ours and astropy's, whole frames and spans of 512 columns in the order of tiles.

python benchmarks/coadd_decode.py [ROUNDS]

A span is read as the co-add does: tile rows of 512 rows, left to right, each by its own call, by a source that was
just opened, so that building the index is part of the cost. astropy decompresses every row whole for each span:
its spans are measured on the first 128 rows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from peers import compare, show

from starloom.coadd.pixels import open_source

NY, NX, TILE = 4176, 6248, 512


def ours(path: Path, rows: int, width: int) -> None:
    """Read ``rows`` rows in tiles of 512 rows and ``width`` columns."""
    source = open_source(path)
    buffer = np.empty((TILE, width), np.float32)
    for y0 in range(0, rows, TILE):
        n = min(TILE, rows - y0)
        for x0 in range(0, NX, width):
            lo = np.full(n, x0, np.int32)
            source.read(y0, lo, np.minimum(lo + width, NX).astype(np.int32), x0, buffer)


def astropy(path: Path, rows: int, width: int) -> None:
    """Read the same pixels with astropy."""
    with fits.open(path, memmap=False) as hdus:
        section = next(hdu for hdu in hdus if hdu.header["NAXIS"] == 2).section
        for y0 in range(0, rows, TILE):
            for x0 in range(0, NX, width):
                np.asarray(section[y0 : min(y0 + TILE, rows), x0 : x0 + width], np.float32)


def frames(folder: Path) -> dict[str, Path]:
    """Write a frame of sky noise, 30 ADU, as every kind that telescopes send."""
    rng = np.random.default_rng(1)
    sky = rng.normal(1200, 30, (NY, NX)).astype(np.float32)
    kinds: dict[str, tuple[type, list[str]]] = {
        "RICE_1, 16 bit": (np.uint16, ["-r"]),
        "RICE_1, quantised float, dither": (np.float32, ["-r", "-q", "4"]),
        "GZIP_2, 16 bit": (np.uint16, ["-g2"]),
        "uncompressed, 16 bit": (np.uint16, []),
        "uncompressed, float": (np.float32, []),
    }
    found = {}
    for k, (name, (kind, options)) in enumerate(kinds.items()):
        path = folder / f"{k}.fits"
        fits.PrimaryHDU(sky.astype(kind)).writeto(path)
        if options:
            subprocess.run(["fpack", *options, str(path)], check=True)
            path.unlink()
            path = folder / f"{k}.fits.fz"
        found[name] = path
    return found


def main() -> None:
    rounds = int(next((a for a in sys.argv[1:] if a.isdigit()), 3))
    with tempfile.TemporaryDirectory() as folder:
        for name, path in frames(Path(folder)).items():
            ours(path, TILE, NX)  # compiled, and the file in memory
            whole = compare(
                {
                    "starloom": lambda path=path: ours(path, NY, NX),
                    "astropy": lambda path=path: astropy(path, NY, NX),
                },
                rounds=rounds,
                unit=1,
                what="frame",
            )
            spans = compare(
                {"starloom": lambda path=path: ours(path, NY, TILE)}, rounds=rounds, unit=1, what="frame"
            ) + compare({"astropy": lambda path=path: astropy(path, 128, TILE)}, rounds=1, unit=1, what="frame")
            cost = "CPU-s per frame"
            show(
                f"{name}: CPU ns per pixel, {NX} × {NY}",
                [
                    {
                        "": peer,
                        "whole rows": round(whole[k][cost] / (NX * NY) * 1e9, 2),
                        "spans of 512 columns": round(spans[k][cost] / (NX * rows) * 1e9, 2),
                        "rounds": rounds,
                    }
                    for k, (peer, rows) in enumerate((("starloom", NY), ("astropy", 128)))
                ],
            )


if __name__ == "__main__":
    main()
