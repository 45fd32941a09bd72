"""Lossless compression against fpack: time and size on real and rendered frames.

python benchmarks/compress.py [ROUNDS]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from astropy.io import fits
from peers import compare, program, show

from starloom.frames import compress, read_frame
from starloom.sky.samples import tres1_frames


def main() -> None:
    rounds = int(next((a for a in sys.argv[1:] if a.isdigit()), 3))
    with tempfile.TemporaryDirectory() as folder:
        plain = []
        for path in tres1_frames():
            data, header = read_frame(path)
            target = Path(folder) / path.name.removesuffix(".fz")
            fits.PrimaryHDU(data, header).writeto(target)
            plain.append(target)
        out = Path(folder) / "out"

        def ours() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            for path in plain:
                compress(path, out / (path.name + ".fz"))

        def fpack() -> None:
            for path in plain:
                path.with_name(path.name + ".fz").unlink(missing_ok=True)
            program("fpack", "-r", *map(str, plain))

        rows = compare(
            {"starloom (verified)": ours, "fpack -r (not verified)": fpack},
            rounds=rounds,
            unit=len(plain),
            what="frame",
        )
        size = sum(path.stat().st_size for path in plain)
        packed = (
            sum(p.stat().st_size for p in out.iterdir()),
            sum(p.stat().st_size for p in plain[0].parent.glob("*.fz")),
        )
        for row, total in zip(rows, packed, strict=True):
            row["saved"] = f"{100 * (1 - total / size):.1f} %"
        show("Lossless compression, 14 real frames of 1092 × 736 × 16 bit", rows)


if __name__ == "__main__":
    main()
