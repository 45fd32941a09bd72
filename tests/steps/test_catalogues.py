"""A catalogue that was imported serves solving and photometry where it does better than the one that ships."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from starloom.archive import frames as rows
from starloom.archive.models import Frame, Photometry, Solution
from starloom.archive.positions import separation_deg
from starloom.archive.results import current_solution
from starloom.refcat.importing import ImportOptions, import_catalog
from starloom.sky.field import Sky, field_sky
from starloom.sky.night import frame_name, write_compressed
from starloom.sky.render import render
from starloom.sky.telescope import Telescope
from tests.steps.conftest import START, TARGET

#: A frame of 0.2° that shows a star or two of Tycho-2.
NARROW = Telescope(
    node="T7", scale_arcsec=1.2, width=640, height=480, zero_point_mag=22.5, sky_adu=200.0, cosmic_rays=0.0,
    focal_length_mm=800.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def sky() -> Sky:
    return field_sky(*TARGET, 0.4, seed=3, mag_limit=17.0)


def imported(station: Any, folder: Path, sky: Sky, band: str = "V") -> None:
    """Import the field as a survey would list it: position and magnitude of its stars, with errors."""
    rng = np.random.default_rng(5)
    ra, dec = sky.ra_deg + rng.normal(0, 0.05 / 3600, len(sky)), sky.dec_deg + rng.normal(0, 0.05 / 3600, len(sky))
    mag = sky.mag + rng.normal(0, 0.02, len(sky))
    lines = [f"{a:.7f},{d:.7f},{m:.3f},0.02" for a, d, m in zip(ra, dec, mag, strict=True)]
    path = folder / "survey.csv"
    path.write_text("\n".join([f"ra,dec,{band},e_{band}", *lines]))
    columns = {f"mag_{band}": band, f"magerr_{band}": f"e_{band}"}
    target = station.hub.settings.refcat_dir / "survey"
    import_catalog(path, target, ImportOptions("survey", "DR7", epoch=2026.8, columns=columns))


def sent(station: Any, folder: Path, telescope: Telescope, sky: Sky, n: int = 1) -> Frame:
    start = START + timedelta(minutes=n)
    shot = render(telescope, sky, TARGET, seed=n, start=start)
    path = folder / frame_name("550", telescope.node, start)
    write_compressed(path, shot.image, shot.header)
    station.send(path, node=telescope.node)
    (frame,) = station.process()
    return frame  # type: ignore[no-any-return]


def filed(station: Any, frame: Frame) -> tuple[Solution, Photometry]:
    with station.hub.archive.session() as session:
        solution = current_solution(session, frame.id)
        photometry = session.exec(
            select(Photometry).where(Photometry.frame_id == frame.id, Photometry.current)
        ).one()
    assert solution is not None
    return solution, photometry


def test_a_frame_too_narrow_for_tycho_2_is_solved_once_a_deeper_catalogue_is_imported(
    station: Any, tmp_path: Path, sky: Sky
) -> None:
    station.create()
    frame = sent(station, tmp_path, NARROW, sky)
    assert (rows.state_of(frame), frame.solve_code) == ("solve-failed", "catalogue-too-sparse")
    # The hub that is running finds it; nobody restarts a worker for a catalogue.
    imported(station, tmp_path, sky)
    with station.hub.archive.transaction() as session:
        assert rows.reprocess(session, frame.id, "solve") is not None
    (frame,) = station.process([frame.id])
    assert rows.state_of(frame) == "ready"
    solution, photometry = filed(station, frame)
    assert (solution.catalog, solution.catalog_version) == ("survey", "DR7")
    assert separation_deg((solution.ra_deg, solution.dec_deg), TARGET) * 3600 < 0.6
    assert (photometry.catalog, photometry.catalog_version) == ("survey", "DR7")
    assert (photometry.band, photometry.catalog_band) == ("V", "V")
    assert photometry.zero_point_mag == pytest.approx(22.5, abs=0.03)


def test_a_wide_frame_is_solved_on_tycho_2_and_tied_in_its_own_band(
    station: Any, frames: Any, tmp_path: Path
) -> None:
    station.create()
    imported(station, tmp_path, field_sky(*TARGET, 1.2, seed=3))
    # Rendered from the same sky, 0.9° wide.
    station.send(frames(1))
    (frame,) = station.process()
    solution, photometry = filed(station, frame)
    assert (solution.catalog, solution.catalog_version) == ("Tycho-2", "2000 (CDS I/259)")
    assert (photometry.catalog, photometry.catalog_version) == ("survey", "DR7")
    assert photometry.catalog_band == "V"
    # Tied to VT it would be the scatter of another passband, 0.2 mag a star, away.
    assert photometry.zero_point_mag == pytest.approx(21.0, abs=0.03)
    assert photometry.scatter_mag is not None
    assert photometry.scatter_mag < 0.1


def test_stars_that_saturate_tie_no_frame(station: Any, tmp_path: Path) -> None:
    """Tycho-2 has dozens of stars on the frame, and the exposure has burnt them all out."""
    station.create()
    sky = field_sky(*TARGET, 1.2, seed=3)
    deep = Telescope(
        node="T8", scale_arcsec=5.0, width=640, height=480, zero_point_mag=27.5, sky_adu=1500.0, cosmic_rays=0.0
    )
    imported(station, tmp_path, sky, "g")  # further from V than VT is
    frame = sent(station, tmp_path, deep, sky)
    assert rows.state_of(frame) == "ready"
    assert filed(station, frame)[1].catalog == "survey"
