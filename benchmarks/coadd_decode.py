"""What a pixel costs to read: ours, astropy's and funpack's; whole frames, and spans in the order of tiles.

python benchmarks/coadd_decode.py [ROUNDS]

A span is read as the co-add does: tile rows of 512 (1024) rows, left to right, each by its own call, with a tile's
margin of 20 px, by a source that was just opened, so that building the index is part of the cost; it is counted
per pixel read. astropy decompresses every row whole for each span: its spans are measured on the first 128 rows.
funpack (cfitsio) unpacks the whole frame to a pipe, start of the program included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from peers import compare, show

from starloom.coadd.pixels import open_source

NY, NX, TILE, MARGIN = 4176, 6248, 512, 20


def ours(path: Path, side: int | None) -> int:
    """Read a frame in tiles of ``side`` and their margins (None: whole rows); returns the pixels read."""
    source = open_source(path)
    tile, margin = (TILE, 0) if side is None else (side, MARGIN)
    width = side or NX
    buffer = np.empty((tile + 2 * margin, width + 2 * margin), np.float32)
    read = 0
    for y in range(0, NY, tile):
        y0, y1 = max(0, y - margin), min(NY, y + tile + margin)
        for x in range(0, NX, width):
            x0, x1 = max(0, x - margin), min(NX, x + width + margin)
            source.read(y0, np.full(y1 - y0, x0, np.int32), np.full(y1 - y0, x1, np.int32), x0, buffer)
            read += (y1 - y0) * (x1 - x0)
    return read


def astropy(path: Path, rows: int, width: int) -> None:
    """Read the same pixels with astropy."""
    with fits.open(path, memmap=False) as hdus:
        section = next(hdu for hdu in hdus if hdu.header["NAXIS"] == 2).section
        for y0 in range(0, rows, TILE):
            for x0 in range(0, NX, width):
                np.asarray(section[y0 : min(y0 + TILE, rows), x0 : x0 + width], np.float32)


def funpack(path: Path) -> None:
    """Unpack a frame into the void."""
    subprocess.run(["funpack", "-S", str(path)], check=True, stdout=subprocess.DEVNULL)


def frames(folder: Path) -> dict[str, Path]:
    """Write a frame of sky noise, 30 ADU, as every kind that telescopes send."""
    rng = np.random.default_rng(1)
    sky = rng.normal(1200, 30, (NY, NX)).astype(np.float32)
    kinds: dict[str, tuple[Any, list[str]]] = {
        "RICE_1, 8 bit": ((sky / 10).astype(np.uint8), ["-r"]),
        "RICE_1, 16 bit": (sky.astype(np.uint16), ["-r"]),
        "RICE_1, 32 bit": ((sky * 64).astype(np.int32), ["-r"]),
        "RICE_1, quantised float, dither": (sky, ["-r", "-q", "4"]),
        "RICE_1, a mask with few bits set": ((sky > 1320).astype(np.uint8), ["-r"]),
        "GZIP_2, 16 bit": (sky.astype(np.uint16), ["-g2"]),
        "uncompressed, 16 bit": (sky.astype(np.uint16), []),
        "uncompressed, float": (sky, []),
    }
    found = {}
    for k, (name, (pixels, options)) in enumerate(kinds.items()):
        path = folder / f"{k}.fits"
        fits.PrimaryHDU(pixels).writeto(path)
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
            ours(path, None)  # compiled, and the file in memory
            sides = {"whole rows": None, "tiles of 1024": 1024, "tiles of 512": 512}
            table: dict[str, dict[str, Any]] = {"starloom": {}, "astropy": {}, "funpack": {}}
            for what, side in sides.items():
                read = ours(path, side)
                works: dict[str, tuple[Callable[[], Any], int]] = {
                    "starloom": (lambda path=path, side=side: ours(path, side), read)
                }
                if side != 1024:
                    rows, width = (NY, NX) if side is None else (128, TILE)
                    works["astropy"] = (
                        lambda path=path, rows=rows, width=width: astropy(path, rows, width), NX * rows
                    )  # fmt: skip
                if side is None and path.suffix == ".fz":
                    works["funpack"] = (lambda path=path: funpack(path), NX * NY)
                costs = compare({k: w for k, (w, _) in works.items()}, rounds=rounds, unit=1, what="frame")
                for cost, (peer, (_, pixels)) in zip(costs, works.items(), strict=True):
                    table[peer][what] = round(cost["CPU-s per frame"] / pixels * 1e9, 2)
            show(
                f"{name}: CPU ns per pixel, {NX} × {NY}",
                [
                    {"": k, **{what: row.get(what, "") for what in sides}, "rounds": rounds}
                    for k, row in table.items()
                ],
            )


if __name__ == "__main__":
    main()
