"""Files are solved against the catalogues that the settings name, as frames of the hub are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from starloom.sky.field import field_sky
from starloom.sky.night import write_compressed
from starloom.sky.render import render
from starloom.sky.telescope import Telescope

TARGET = (343.91, 55.85)
#: A frame of 0.2° that shows a star or two of Tycho-2.
NARROW = Telescope(
    node="T7", scale_arcsec=1.2, width=640, height=480, zero_point_mag=22.5, sky_adu=200.0, cosmic_rays=0.0,
    focal_length_mm=800.0,
)  # fmt: skip


def test_an_imported_catalogue_solves_and_ties_a_file_too_narrow_for_tycho_2(run: Any, tmp_path: Path) -> None:
    sky = field_sky(*TARGET, 0.4, seed=3, mag_limit=17.0)
    shot = render(NARROW, sky, TARGET, seed=1, start=datetime(2026, 10, 8, 22, tzinfo=UTC))
    frame, survey = tmp_path / "narrow.fits.fz", tmp_path / "survey.csv"
    write_compressed(frame, shot.image, shot.header)
    (row,) = run("solve", frame, "--no-blind", "--json").json
    assert (row["solved"], row["reason"]) == (False, "catalogue-too-sparse")
    lines = [f"{ra:.7f},{dec:.7f},{mag:.3f},0.02" for ra, dec, mag in zip(
        sky.ra_deg, sky.dec_deg, sky.mag, strict=True)]  # fmt: skip
    survey.write_text("\n".join(["ra,dec,V,e_V", *lines]))
    columns = ("--column", "mag_V=V", "--column", "magerr_V=e_V", "--epoch", "2026.8")
    assert run("refcat", "import", survey, "--name", "survey", "--release", "DR7", *columns).code == 0
    (row,) = run("solve", frame, "--json").json
    assert (row["solved"], row["catalog"]) == (True, "survey")
    told = run("quicklook", frame, "--out", tmp_path / "page.png", "--json").json
    assert (told["catalog"], told["catalog_version"], told["photometric_catalog"]) == ("survey", "DR7", "survey")
    assert told["zero_point_mag"] == pytest.approx(22.5, abs=0.03)
    assert told["matches"] >= 30
