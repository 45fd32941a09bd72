"""Stacking: cost and memory against reproject's own co-add and SWarp, on the simulated network's night.

    python benchmarks/stack.py [ROUNDS]

SWarp (Debian's ``swarp``) joins in when it is installed; it ignores SIP, so its stars are not as sharp.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from peers import compare, program, show

from starloom.coadd import StackOptions, stack_files
from starloom.frames import read_frame
from starloom.sky import make_network


def main() -> None:
    rounds = int(next((a for a in sys.argv[1:] if a.isdigit()), 3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        night = make_network(folder / "night")
        solved = []
        for path in [*night.good, *night.trail]:
            data, header = read_frame(path)
            header.update(fits.Header(night.frames[path].wcs))
            header["BAND"] = night.band
            solved.append(folder / path.name.removesuffix(".fz"))
            fits.PrimaryHDU(data, header).writeto(solved[-1])
        out = folder / "stack.fits"

        def ours(kernel: str) -> None:
            stack_files(solved, out, StackOptions(kernel=kernel))

        ours("bilinear")
        with fits.open(out) as hdus:
            grid = hdus["SCI"].header.copy()

        def reproject() -> None:
            from reproject import reproject_interp
            from reproject.mosaicking import reproject_and_coadd

            inputs = []
            for path in solved:
                with fits.open(path) as hdus:
                    inputs.append((hdus[0].data.astype(np.float32), WCS(hdus[0].header)))
            reproject_and_coadd(
                inputs,
                WCS(grid),
                shape_out=(grid["NAXIS2"], grid["NAXIS1"]),
                reproject_function=reproject_interp,
                order="bilinear",
                match_background=True,
            )

        contenders = {
            "starloom, bilinear, clipped": lambda: ours("bilinear"),
            "starloom, Lanczos-3 (numpy), clipped": lambda: ours("lanczos3"),
            "reproject_and_coadd, bilinear, mean": reproject,
        }
        if shutil.which("SWarp") or shutil.which("swarp"):
            binary = shutil.which("SWarp") or shutil.which("swarp") or ""
            grid.totextfile(folder / "swarp.head", overwrite=True)

            def swarp() -> None:
                options = {
                    "IMAGEOUT_NAME": str(folder / "swarp.fits"),
                    "WEIGHTOUT_NAME": str(folder / "swarp.w.fits"),
                    "COMBINE_TYPE": "CLIPPED",
                    "RESAMPLING_TYPE": "LANCZOS3",
                    "WEIGHT_TYPE": "BACKGROUND",
                    "NTHREADS": "1",
                    "RESAMPLE_DIR": name,
                    "VERBOSE_TYPE": "QUIET",
                    "XML_NAME": str(folder / "swarp.xml"),
                }
                program(binary, *map(str, solved), *(word for k, v in options.items() for word in (f"-{k}", v)))

            contenders["SWarp, Lanczos-3, clipped"] = swarp
        megapixels = sum(np.prod(read_frame(path)[0].shape) for path in solved) / 1e6
        rows = compare(contenders, rounds=rounds, unit=round(megapixels), what="input Mpix")
        show(f"Stacking {len(solved)} frames of three telescopes, {megapixels:.0f} Mpix in, one thread", rows)


if __name__ == "__main__":
    main()
