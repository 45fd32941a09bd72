from __future__ import annotations

import csv
import subprocess
import sys

from astropy.io import fits

from starloom.sky import tres1_darks, tres1_frames
from starloom.sky.samples import TRES1


def test_fourteen_frames_with_pixels_and_no_pointing() -> None:
    frames = tres1_frames()
    assert len(frames) == 14
    times = []
    for path in frames:
        header = fits.getheader(path, 1)
        assert (header["NAXIS1"], header["NAXIS2"]) == (1092, 736)
        assert "RA" not in header
        times.append(header["DATE-OBS"])
    assert times == sorted(times)
    assert fits.getdata(frames[0], 1).mean() > 1000


def test_five_darks_of_the_same_night_and_exposure() -> None:
    darks = tres1_darks()
    assert len(darks) == 5
    assert not {*darks} & {*tres1_frames()}
    for path in darks:
        header = fits.getheader(path, 1)
        assert (header["NAXIS1"], header["NAXIS2"], header["EXPTIME"]) == (1092, 736, 60.0)
        assert fits.getdata(path, 1).mean() < 200


def test_trails_name_frames_that_are_here() -> None:
    with (TRES1 / "TRUTH_trails.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} <= {path.name for path in tres1_frames()}
    assert len(rows) == 3


def test_licence_travels_with_the_frames() -> None:
    text = (TRES1 / "README.md").read_text(encoding="utf-8")
    assert "Copyright (c) 2012 Brett Morris, Dan Galdi, Samuel Gross, Jacob Endres" in text
    assert "Permission is hereby granted, free of charge" in text


def test_importing_the_room_is_light() -> None:
    heavy = ("astropy", "scipy", "seiza")
    code = f"import sys, starloom.sky, starloom.refcat; print(any(m in sys.modules for m in {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
