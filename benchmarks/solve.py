"""Plate solving: success, accuracy on held-out stars and cost, on the real TrES-1 frames (no pointing in them).

    python benchmarks/solve.py [ROUNDS]

The peer is the astrometry.net engine (Debian's ``astrometry.net`` with the Tycho-2 indexes), when it is installed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from peers import compare, program, show

from starloom.astrometry import solve_pixels
from starloom.frames import read_frame
from starloom.sky.samples import tres1_frames

TARGET = (286.0408, 36.6326)


def main() -> None:
    rounds = int(next((a for a in sys.argv[1:] if a.isdigit()), 3))
    frames = [read_frame(path) for path in tres1_frames()]
    outcomes = []

    def ours() -> None:
        outcomes[:] = [solve_pixels(data, header, target=TARGET) for data, header in frames]

    contenders = {"starloom (target known, scale scanned)": ours}
    with tempfile.TemporaryDirectory() as folder:
        if shutil.which("solve-field"):
            from astropy.io import fits

            plain = []
            for i, (data, _) in enumerate(frames):
                plain.append(Path(folder) / f"{i}.fits")
                fits.PrimaryHDU(data).writeto(plain[-1])

            def peer() -> None:
                program(
                    "solve-field", "--no-plots", "--overwrite", "--ra", str(TARGET[0]), "--dec", str(TARGET[1]),
                    "--radius", "1", "--scale-units", "arcsecperpix", "--scale-low", "0.3", "--scale-high", "6",
                    "--dir", folder, *map(str, plain),
                )  # fmt: skip

            contenders["astrometry.net solve-field, the same hint"] = peer
        rows = compare(contenders, rounds=rounds, unit=len(frames), what="frame")
        rows[0]["solved"] = f"{sum(o.solved for o in outcomes)} of {len(frames)}"
        for row in rows[1:]:
            row["solved"] = f"{len(list(Path(folder).glob('*.solved')))} of {len(frames)}"
        show("Plate solving, 14 real frames of 0.75° × 0.5°", rows)
    held_out = [o.held_out_arcsec for o in outcomes if o.solved]
    print(f"\nHeld-out stars: median {np.median(held_out):.2f}″, worst {max(held_out):.2f}″ (2-D rms)")


if __name__ == "__main__":
    main()
