"""What the measure step files: an absolute tie where there can be one, conditions in SI units, sites rounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.archive.models import Conditions, Frame, Photometry
from starloom.sky.night import frame_name, write_compressed

START = datetime(2026, 10, 8, 22, tzinfo=UTC)
WEATHER = {
    "AMBTEMP": (11.5, "[degC]"), "PRESSURE": (1013.2, "[hPa]"), "WINDSPD": (18.0, "[kph]"), "AIRMASS": 1.9,
    "SITELAT": 47.123456, "SITELONG": 8.765432, "SITEELEV": 451.0,
}  # fmt: skip


@pytest.fixture
def sent(station: Any, exposure: Any, tmp_path: Path) -> Any:
    """Send exposure ``n`` of node T42 with other cards, take it through all steps, return its row."""

    def send(n: int, **cards: Any) -> Frame:
        image, header = exposure(n)
        for keyword, value in cards.items():
            header[keyword] = value
        path = tmp_path / frame_name("550", "T42", START + timedelta(minutes=n))
        write_compressed(path, image, header)
        station.send(path)
        (frame,) = station.process()
        return frame  # type: ignore[no-any-return]

    station.create()
    return send


def of(station: Any, table: Any, frame_id: str) -> Any:
    with station.hub.archive.session() as session:
        return session.exec(select(table).where(table.frame_id == frame_id)).first()


def test_an_unknown_filter_costs_the_photometry_its_absolute_tie_and_not_the_frame_its_place(
    station: Any, sent: Any
) -> None:
    frame = sent(1, FILTER="Filter 2")
    assert (rows.state_of(frame), frame.band) == ("ready", "T42:Filter 2")
    measured = of(station, Photometry, frame.id)
    # Tied to the catalogue's own band, and said so: no range of wavelengths is claimed.
    assert measured.band == "T42:Filter 2"
    assert measured.catalog_band == "VT"
    assert measured.zero_point_mag == pytest.approx(21.0, abs=0.15)
    assert (measured.em_min_m, measured.em_max_m) == (None, None)


def test_which_band_catalogue_and_version_were_used_is_on_file(station: Any, sent: Any) -> None:
    measured = of(station, Photometry, sent(1).id)
    assert (measured.band, measured.catalog) == ("V", "Tycho-2")
    assert measured.catalog_band in ("V", "VT")
    assert measured.psf_stars >= 10
    assert 1.05 < measured.growth < 1.3
    assert measured.aperture_px == pytest.approx(1.5 * measured.fwhm_px, rel=0.15)
    assert (measured.em_min_m, measured.em_max_m) == (495e-9, 595e-9)


def test_weather_is_filed_in_si_units_and_the_airmass_computed(station: Any, sent: Any) -> None:
    frame = sent(1, **WEATHER)
    found = of(station, Conditions, frame.id)
    assert found.ambient_temp_k == pytest.approx(284.65)
    assert found.pressure_pa == pytest.approx(101_320)
    assert found.wind_speed_m_s == pytest.approx(5.0)
    assert (found.dewpoint_k, found.humidity_pct) == (None, None)
    # From 47° north the field at +56° stands near the zenith at 22 h in October; the header lies.
    assert found.airmass_source == "computed"
    assert found.airmass == pytest.approx(1.02, abs=0.03)
    assert found.sun_alt_deg < -30
    assert 0 <= found.moon_lit_fraction <= 1


@pytest.mark.parametrize("agreed", [False, True])
def test_the_site_is_rounded_unless_the_owner_agrees_otherwise(station: Any, sent: Any, agreed: bool) -> None:
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42", exact_site=agreed)
    header = sent(1, **WEATHER).header
    places = [header[name]["value"] for name in ("site_lat_deg", "site_lon_deg", "site_elev_m")]
    assert places == ([47.123456, 8.765432, 451.0] if agreed else [47.1, 8.8, 500.0])


def test_a_site_that_cannot_see_its_stars_is_flagged_and_the_header_believed(station: Any, sent: Any) -> None:
    frame = sent(1, **WEATHER | {"SITELAT": -47.1})
    assert "site-or-time-wrong" in frame.flags
    found = of(station, Conditions, frame.id)
    assert (found.airmass, found.airmass_source, found.sun_alt_deg) == (1.9, "header", None)


def test_a_frame_behind_clouds_is_flagged_against_its_history_and_cleared_when_it_is_not(
    station: Any, sent: Any
) -> None:
    with station.hub.archive.transaction() as session:
        missions.register_node(session, "T42")  # of a stranger's telescope no history is kept
    clear = [sent(n) for n in range(1, 8)]
    assert of(station, Photometry, clear[-1].id).transparency == pytest.approx(1.0, abs=0.12)
    assert "cloudy" not in clear[-1].flags
    # The same light in a tenth of the time would be a zero point 2.5 mag better: the sky it is measured against.
    with station.hub.archive.transaction() as session:
        for frame in clear[:-1]:
            for row in session.exec(select(Photometry).where(Photometry.frame_id == frame.id)).all():
                row.zero_point_mag += 1.5
        rows.reprocess(session, clear[-1].id, "measure")
    (again,) = station.process([clear[-1].id])
    assert "cloudy" in again.flags
    with station.hub.archive.session() as session:
        newest = session.exec(select(Photometry).where(Photometry.frame_id == again.id, Photometry.current)).one()
    assert newest.transparency == pytest.approx(0.25, abs=0.05)
    with station.hub.archive.transaction() as session:
        for frame in clear[:-1]:
            for row in session.exec(select(Photometry).where(Photometry.frame_id == frame.id)).all():
                row.zero_point_mag -= 1.5
        rows.reprocess(session, again.id, "measure")
    (once_more,) = station.process([again.id])
    assert "cloudy" not in once_more.flags
