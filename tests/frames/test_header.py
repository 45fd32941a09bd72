"""Real headers: dumps of amateur programs, the TrES-1 and HAT-P-32 frames, checked by eye value by value."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from rich.console import Console

from starloom.errors import BadInput
from starloom.frames import compress, describe_file, header_table, normalise, read_frame
from starloom.sky.samples import tres1_frames

DATA = Path(__file__).parents[2].parent / "shared" / "data"
DUMPS = DATA / "headers"
HATP32 = DATA / "hatp32_microobs"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# Value by value as they stand in the dumps; None where the dump does not truly say.
ZWO2600 = {"camera": "ZWO ASI2600MC Duo", "binning": 1, "pixel_size_um": 3.76, "gain_setting": 100.0}
ZWO2600 |= {"gain_e_per_adu": 0.242862925, "bayer_pattern": "RGGB", "pedestal_adu": None, "calstat": None}
NINA = ZWO2600 | {"row_order": "TOP-DOWN", "site_lat_deg": 37.5, "site_lon_deg": -122.3, "site_elev_m": 148.6}
SEESTAR = {"camera": "Seestar S50", "focal_length_mm": 250.0, "aperture_mm": None, "gain_setting": 80.0}
SEESTAR |= {"gain_e_per_adu": None, "bayer_pattern": "GRBG", "pixel_size_um": 2.9, "telescope": "S50_153dd4e2"}
DWARF = {"software": "DWARFLAB", "focal_length_mm": 150.0, "scale_arcsec": 2.750197, "gain_setting": 60.0}
DWARF |= {"gain_e_per_adu": None, "bayer_pattern": "RGGB", "site_lat_deg": None, "solved": False}
BARE = {"software": None, "frame_type": None, "start_utc": None, "exposure_s": None, "bayer_pattern": "RGGB"}
SIRIL = {"frame_type": "stack", "gain_e_per_adu": 0.242862925, "gain_setting": 100.0, "focal_length_mm": 384.0}
SIRIL |= {"aperture_mm": 80.0, "solved": False}

EXPECTED: dict[str, dict[str, object]] = {
    "asiair-typ-light": ZWO2600
    | {
        "software": "ZWO ASIAIR Plus",
        "frame_type": "light",
        "start_utc": utc("2025-08-25T05:52:13.488569"),
        "exposure_s": 30.0,
        "solved": True,
        # By hand from CRVAL, CRPIX and CD: the reference pixel is 1558 px off the centre.
        "ra_deg": 10.66993,
        "dec_deg": 41.27365,
        "scale_arcsec": 1.56929,
        "focal_length_mm": 494.0,
        "sensor_temp_c": -10.0,
        "object": "M 31",
        "site_lon_deg": -122.3,
        "focus_position": 17511.0,
    },
    "asiair-typ-live-light": ZWO2600
    | {"solved": False, "ra_deg": 250.64166, "dec_deg": 36.403333, "scale_arcsec": 1.569951, "object": "M 13"},
    "nina-typ-light": NINA
    | {
        "software": "N.I.N.A. 3.2.0.3005 (x64)",
        "frame_type": "light",
        "start_utc": utc("2025-09-17T03:34:02.647710"),
        "exposure_s": 120.0,
        "ra_deg": 299.88229525,
        "dec_deg": 22.718996402,
        "solved": False,
        "focal_length_mm": 600.0,
        "aperture_mm": 80.0,
        "scale_arcsec": 1.292593,
        "rotation_deg": 98.006236992,
        "filter": "HaOiii",
        "object": "M 27",
        "airmass": 1.051534557,
        "focus_position": 23238.0,
        "ambient_temp_c": 22.2,
        "dewpoint_c": 11.6,
        "humidity_pct": 51.0,
        "pressure_hpa": 995.5,
        "wind_speed_m_s": 0.0,
        "wind_gust_m_s": 1.389,
        "wind_dir_deg": 245.0,
    },
    "nina-typ-flat": NINA
    | {
        "frame_type": "flat",
        "exposure_s": 6.24656,
        "start_utc": utc("2025-09-17T03:23:31.067497"),
        "wind_speed_m_s": 0.6945,
        "wind_gust_m_s": 1.1112,
    },
    "nina-bias-raw": NINA
    | {
        "frame_type": "bias",
        "exposure_s": 0.0001,
        "filter": "Dark",
        "object": None,
        "sensor_temp_c": -9.8,
        "wind_speed_m_s": 1.389,
        "focal_length_mm": 384.0,
    },
    "nina-dark-raw": NINA | {"frame_type": "dark", "exposure_s": 1.0, "sensor_temp_c": -10.5},
    "seestar-typ-light": SEESTAR
    | {
        "frame_type": "light",
        "start_utc": utc("2025-07-05T06:23:58.931528"),
        "exposure_s": 10.0,
        "ra_deg": 211.000005,
        "dec_deg": 54.233611,
        "solved": False,
        "scale_arcsec": 2.392672,
        "filter": "IRCUT",
        "sensor_temp_c": 18.375,
    },
    "seestar-typ-light2": SEESTAR | {"frame_type": "light", "filter": "LP", "object": "Sadr", "exposure_s": 10.0},
    "seestar-stacked": SEESTAR
    | {
        "frame_type": "stack",
        "exposure_s": 6140.0,
        "solved": True,
        "ra_deg": 305.64261,
        "dec_deg": 40.23261,
        "scale_arcsec": 2.368208,
    },
    "seestar-stacked2": SEESTAR | {"frame_type": "stack", "exposure_s": 4250.0, "solved": False},
    "dwarf3-typ-light": DWARF
    | {
        "frame_type": None,
        "start_utc": utc("2025-10-18T04:58:26.401"),
        "exposure_s": 60.0,
        "ra_deg": 85.28743,
        "dec_deg": -2.492014,
        "filter": "Astro",
        "object": "IC 434",
        "sensor_temp_c": 16.0,
    },
    "dwarf3-failed_IC_434_60s60_Astro_20251018-051725998_15C": DWARF
    | {"start_utc": utc("2025-10-18T05:16:25.998"), "sensor_temp_c": 15.0},
    "dwarf3-stacked-16_IC_434_60s60_Astro_20251018-045127226": DWARF
    | {"frame_type": "stack", "exposure_s": 2580.0, "start_utc": utc("2025-10-18T05:08:04.415")},
    "dwarf3-typ-raw-dark": DWARF | {"ra_deg": None, "dec_deg": None, "filter": None, "object": None},
    "dwarf3-typ-CALI_FRAME-bias": BARE,
    "dwarf3-typ-CALI_FRAME-dark": BARE,
    "dwarf3-typ-CALI_FRAME-flat": BARE,
    "siril-typ-processed-file": SIRIL
    | {
        "software": "Siril 1.4.0-beta3",
        "start_utc": utc("2025-09-16T10:20:35.751268"),
        "exposure_s": 7020.0,
        "row_order": "BOTTOM-UP",
        "bayer_pattern": None,
        "wind_speed_m_s": 0.6945,
        "site_elev_m": 148.6,
    },
    "siril-bias-stacked": SIRIL | {"exposure_s": 0.01, "sensor_temp_c": 10.7, "bayer_pattern": "RGGB"},
    "siril-flat-stacked": SIRIL | {"exposure_s": 0.4982, "start_utc": utc("2025-09-01T07:34:49.301")},
    "siril-malformedasimaster": ZWO2600
    | {
        "software": "ZWO ASIAIR Plus",
        "frame_type": "stack",
        "exposure_s": 0.001,
        "focal_length_mm": 360.0,
        "object": None,
        "ra_deg": None,
    },
}


@pytest.mark.skipif(not DUMPS.is_dir(), reason="no header dumps beside the repository")
@pytest.mark.parametrize("dump", EXPECTED)
def test_dumps_of_real_headers(dump: str) -> None:
    header = describe_file(DUMPS / f"{dump}.txt")
    for name, value in EXPECTED[dump].items():
        said = header.value(name)
        assert said == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


@pytest.mark.skipif(not DUMPS.is_dir(), reason="no header dumps beside the repository")
def test_every_dump_is_expected() -> None:
    assert {path.stem for path in DUMPS.glob("*.txt")} == set(EXPECTED)


def test_tres1_frames_say_what_maxim_knew() -> None:
    starts = []
    for path in tres1_frames():
        header = describe_file(path)
        assert header.profile.startswith("maxim@")
        for name in (
            "focal_length_mm",
            "aperture_mm",
            "scale_arcsec",
            "ra_deg",
            "object",
            "telescope",
            "site_lat_deg",
        ):
            assert header.value(name) is None, name
        assert header.value("filter") == "Filter 2"
        assert header.value("exposure_s") == 60.0
        assert header.value("binning") == 2
        assert header.value("pixel_size_um") == pytest.approx(13.6)
        assert header.value("gain_e_per_adu") == pytest.approx(0.78)
        assert header.value("sensor_temp_c") == pytest.approx(-10, abs=0.5)
        assert header.value("frame_type") == "light"
        assert header.value("solved") is False
        starts.append(header.value("start_utc"))
    assert starts[0] == utc("2012-06-17T01:56:40")
    assert starts == sorted(starts)


@pytest.mark.skipif(not HATP32.is_dir(), reason="no HAT-P-32 frames beside the repository")
def test_hatp32_starts_in_true_utc() -> None:
    """DATE-OBS is local time; UT-OBS says the same in UTC, MJD-OBS to a thousandth of a day."""
    paths = sorted(HATP32.glob("*.FITS.gz"))
    assert len(paths) == 26
    for path in paths:
        cards = read_frame(path)[1]
        header = describe_file(path)
        start = header.value("start_utc")
        assert start.utcoffset() == timedelta(0)
        assert start == datetime.fromisoformat(cards["UT-OBS"])
        mjd = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=cards["MJD-OBS"])
        assert abs(start - mjd) < timedelta(seconds=87)
        # Without UT-OBS the offset of DATE-OBS does it.
        del cards["UT-OBS"]
        assert abs(normalise(cards).value("start_utc") - start) < timedelta(milliseconds=1)
        assert header.value("site_lon_deg") == -110.88
        assert header.value("sensor_temp_c") < 10
        assert header.value("scale_arcsec") == 5.21


def test_fits_in_every_wrapping_tells_the_same(tmp_path: Path) -> None:
    made = fits.Header()
    made["SWCREATE"], made["EXPTIME"], made["FILTER"] = "N.I.N.A. 3.2", 30.0, "R"
    made["DATE-OBS"] = "2025-09-17T03:34:02.647"
    plain = tmp_path / "a.fits"
    fits.PrimaryHDU(np.arange(600, dtype=np.uint16).reshape(20, 30), made).writeto(plain)
    compress(plain, tmp_path / "a.fits.fz")
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.txt").write_text(made.tostring(sep="\n"))
    (tmp_path / "b.txt").write_text(
        "SWCREATE = N.I.N.A. 3.2\nEXPTIME=30\nFILTER = R\nDATE-OBS=2025-09-17T03:34:02.647"
    )
    said = [describe_file(path).as_json() for path in sorted(tmp_path.iterdir())]
    assert len(said) == 5
    for each in said[1:]:
        assert each == said[0]
    assert said[0]["start_utc"]["value"] == "2025-09-17T03:34:02.647000+00:00"


def test_a_cube_is_described_though_it_is_refused_as_frame(tmp_path: Path) -> None:
    path = tmp_path / "cube.fits"
    fits.PrimaryHDU(np.zeros((3, 5, 6), np.uint16)).writeto(path)
    assert describe_file(path).value("frame_type") == "stack"
    with pytest.raises(BadInput):
        read_frame(path)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.fits", b"\xff\xd8\xff" + bytes(100), "not-fits"),
        ("a.html", b"<html>\n<a href=x>\n</html>\n", "not-fits"),
        ("a.txt", b"just some words\nwithout any card\n", "not-fits"),
        ("a.fits", b"", "empty-file"),
        ("long.txt", b"EXPTIME = 1\n" * 200_000, "header-too-long"),
    ],
)
def test_what_is_no_header(name: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        describe_file(tmp_path / name)
    assert caught.value.code == code
    with pytest.raises(BadInput) as caught:
        describe_file(tmp_path / "missing.fits")
    assert caught.value.code == "file-not-found"


def test_table_shows_value_origin_and_doubt() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(header_table(describe_file(tres1_frames()[0])))
    shown = console.export_text()
    assert "maxim@1" in shown
    assert "Filter 2" in shown
    assert "SWCREATE" in shown
    assert "FOCALLEN = 0.0" in shown


def test_table_does_not_obey_a_header() -> None:
    header = fits.Header()
    header["OBJECT"] = "[/red] [bold]M 31[/bold]"
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(header_table(normalise(header)))
    assert "[/red] [bold]M 31[/bold]" in console.export_text()
