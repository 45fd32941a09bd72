"""The view `obscore` on both databases: names, units and values that a TAP service can hand out as they stand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from astropy.time import Time

from starloom.archive import Archive, obscore
from starloom.archive.models import (
    Frame,
    Instrument,
    Mission,
    Node,
    Photometry,
    Product,
    Revision,
    RevisionInput,
    Solution,
)

START = datetime(2026, 10, 8, 21, 30, 15, 250_000, tzinfo=UTC)
#: Corners in the order of the pixels, (0, 0) first and then along the row, east left of north, over RA 0.
CORNERS = [[0.5, -0.25], [359.5, -0.25], [359.5, 0.25], [0.5, 0.25]]
MANDATORY = """
dataproduct_type calib_level obs_collection obs_id obs_publisher_did access_url access_format access_estsize
target_name s_ra s_dec s_fov s_region s_resolution s_xel1 s_xel2 t_min t_max t_exptime t_resolution t_xel em_min
em_max em_res_power em_xel o_ucd pol_states pol_xel facility_name instrument_name
"""  # ObsCore 1.1, table 6
UNITS = {
    "access_estsize": "kbyte",
    **dict.fromkeys(("s_ra", "s_dec", "s_fov"), "deg"),
    "s_resolution": "arcsec",
    **dict.fromkeys(("t_min", "t_max"), "d"),
    **dict.fromkeys(("t_exptime", "t_resolution"), "s"),
    **dict.fromkeys(("em_min", "em_max"), "m"),
}


def fill(archive: Archive, *, embargo: datetime | None = None, measured: bool = True, **changes: Any) -> None:
    """File one frame of node T42 with what is known of it."""
    with archive.transaction() as session:
        session.add(Node(id="T42", name="Hill Observatory"))
        session.add(Mission(id="550", title="M 31", embargo_until=embargo))
        session.flush()
        session.add(Instrument(id=1, node_id="T42", camera="QHY268M"))
        session.flush()
        values: dict[str, Any] = {
            "id": "f" * 32, "name": "ObsReq-550_TelID-T42_20261008T213015.fits.fz", "node_id": "T42",
            "obs_req": "550", "mission_id": "550", "instrument_id": 1, "start_utc": START, "exposure_s": 60.0,
            "band": "V", "filter": "V", "width": 600, "height": 300, "raw_key": "raw/T42/20261008/x.fits.fz",
            "raw_bytes": 1_234_567, "solved_key": "solved/T42/20261008/f/3.fits.fz", "ingest": "ok",
            "embargo_until": embargo,
        } | changes  # fmt: skip
        session.add(Frame(**values))
        session.flush()
        if not measured:
            return
        session.add(
            Solution(
                id=7, frame_id="f" * 32, solver="seiza", catalog="Tycho-2", code_version="1", ra_deg=0.0,
                dec_deg=0.0, scale_arcsec=6.0, rotation_deg=0.0, parity=1, rms_arcsec=0.2, rms_px=0.03,
                matches=40, order=2, footprint=CORNERS, solved_key="solved/T42/20261008/f/3.fits.fz",
            )
        )  # fmt: skip
        session.flush()
        session.add(
            Photometry(
                id=9, frame_id="f" * 32, solution_id=7, band="V", zero_point_mag=21.5, fwhm_px=2.5,
                fwhm_arcsec=15.0,
                sky_adu=100.0, sky_sigma_adu=5.0, em_min_m=495e-9, em_max_m=595e-9,
            )
        )  # fmt: skip


def only(archive: Archive) -> dict[str, Any]:
    with archive.session() as session:
        (row,) = obscore.rows(session)
    return row


def winding(region: str) -> float:
    """Signed area of a small polygon, in deg²: positive is counter-clockwise as seen from the Earth, east left."""
    words = region.split()
    assert words[:2] == ["POLYGON", "ICRS"]
    ra, dec = np.array(words[2:], float).reshape(-1, 2).T
    x, y = -((ra + 180) % 360 - 180), dec
    return float(0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def test_the_columns_are_the_standard_s_with_its_units(archive: Archive) -> None:
    fill(archive)
    row = only(archive)
    assert list(row) == list(obscore.COLUMNS)
    assert [name for name, column in obscore.COLUMNS.items() if column.mandatory] == MANDATORY.split()
    assert {name: column.unit for name, column in obscore.COLUMNS.items() if column.unit} == UNITS
    python = {"char": str, "int": int, "long": int, "double": float}
    for name, value in row.items():
        wanted = python[obscore.COLUMNS[name].datatype]
        assert value is None or type(value) is wanted, f"{name} = {value!r}"
    # The standard wants these of every row.
    for name in ("dataproduct_type", "calib_level", "obs_collection", "obs_id", "obs_publisher_did"):
        assert row[name] is not None


def test_a_measured_frame_is_level_2_with_its_place_time_and_band(archive: Archive) -> None:
    fill(archive)
    row = only(archive)
    assert (row["dataproduct_type"], row["calib_level"], row["target_name"]) == ("image", 2, "M 31")
    assert (row["facility_name"], row["instrument_name"]) == ("Hill Observatory", "QHY268M")
    assert row["access_url"] == "solved/T42/20261008/f/3.fits.fz"
    assert row["access_estsize"] == 1234
    assert (row["s_ra"], row["s_dec"], row["s_xel1"], row["s_xel2"]) == (0.0, 0.0, 600, 300)
    assert row["s_fov"] == pytest.approx(np.hypot(600, 300) * 6 / 3600)
    assert row["s_resolution"] == 15.0
    truth = Time(START.replace(tzinfo=None), scale="utc").mjd
    assert row["t_min"] == pytest.approx(truth, abs=0.01 / 86400)
    assert row["t_max"] - row["t_min"] == pytest.approx(60 / 86400, abs=1e-9)
    assert (row["t_exptime"], row["t_xel"], row["em_xel"]) == (60.0, 1, 1)
    assert (row["em_min"], row["em_max"], row["em_filter_name"]) == (495e-9, 595e-9, "V")
    assert row["em_res_power"] == pytest.approx(5.45)
    assert (row["pol_states"], row["pol_xel"], row["data_rights"]) == (None, None, "public")


@pytest.mark.parametrize("parity", [1, -1])
def test_the_region_goes_round_counter_clockwise_over_ra_0(archive: Archive, parity: int) -> None:
    fill(archive, measured=False)
    mirrored = CORNERS if parity == 1 else [CORNERS[1], CORNERS[0], CORNERS[3], CORNERS[2]]
    with archive.transaction() as session:
        session.add(
            Solution(
                frame_id="f" * 32, solver="seiza", catalog="Tycho-2", code_version="1", ra_deg=0.0,
                dec_deg=0.0, scale_arcsec=6.0, rotation_deg=0.0, parity=parity, rms_arcsec=0.2, rms_px=0.03,
                matches=40, order=2, footprint=mirrored,
            )
        )  # fmt: skip
    assert winding(only(archive)["s_region"]) == pytest.approx(0.5)


def test_a_frame_that_was_only_filed_is_level_1_at_its_raw_key(archive: Archive) -> None:
    fill(archive, measured=False, solved_key=None)
    row = only(archive)
    assert (row["calib_level"], row["access_url"]) == (1, "raw/T42/20261008/x.fits.fz")
    assert (row["s_ra"], row["s_region"], row["em_min"], row["s_fov"]) == (None, None, None, None)


@pytest.mark.parametrize("days", [-1, 1])
def test_what_is_under_embargo_is_listed_without_its_place(archive: Archive, days: int) -> None:
    until = datetime.now(UTC) + timedelta(days=days)
    fill(archive, embargo=until)
    row = only(archive)
    hidden = days > 0
    assert (row["access_url"] is None) is hidden
    assert row["data_rights"] == ("proprietary" if hidden else "public")
    assert row["obs_release_date"] == until.strftime("%Y-%m-%dT%H:%M:%S")
    assert row["s_ra"] == 0.0


@pytest.mark.parametrize(
    "changes", [{"disposition": "quarantined"}, {"kind": "dark"}, {"plane": "CFA"}, {"ingest": "pending"}]
)
def test_what_is_no_observation_is_not_listed(archive: Archive, changes: dict[str, str]) -> None:
    fill(archive, measured=False, **changes)
    with archive.session() as session:
        assert obscore.rows(session) == []


def test_a_product_is_level_3_and_tells_of_the_frames_with_a_weight(archive: Archive) -> None:
    fill(archive)
    with archive.transaction() as session:
        session.add(Revision(id=3, mission_id="550", n=2, epoch=4, status="published", token="t"))
        session.flush()
        session.add(
            RevisionInput(revision_id=3, frame_id="f" * 32, solution_id=7, photometry_id=9, weight=0.5, scale=1.0)
        )
        session.add(
            Product(
                revision_id=3, band="V", pointing=0, sci_key="stacks/550/r2/e4/V_p0.fits", sha256="0" * 64,
                bytes=9_000_000,
                summary={
                    "shape": [310, 620], "exposure_s": 60.0, "frames": [{"id": "f" * 32}, {"id": "unknown"}],
                    "extent": {"ra_deg": 0.01, "dec_deg": 0.02, "fov_deg": 1.1, "footprint": CORNERS},
                },
            )
        )  # fmt: skip
    with archive.session() as session:
        rows = obscore.rows(session, target="M 31")
        assert obscore.rows(session, target="M 42") == []
    (row,) = [r for r in rows if r["calib_level"] == 3]
    assert (row["obs_id"], row["access_url"], row["access_estsize"]) == (
        "550 r2",
        "stacks/550/r2/e4/V_p0.fits",
        9000,
    )
    assert (row["s_ra"], row["s_dec"], row["s_fov"], row["s_xel1"], row["s_xel2"]) == (0.01, 0.02, 1.1, 620, 310)
    assert winding(row["s_region"]) == pytest.approx(0.5)
    assert row["t_max"] - row["t_min"] == pytest.approx(60 / 86400, abs=1e-9)
    assert (row["s_resolution"], row["em_min"], row["em_filter_name"]) == (15.0, 495e-9, "V")
    assert (row["facility_name"], row["instrument_name"]) == ("Hill Observatory", "QHY268M")
    python = {"char": str, "int": int, "long": int, "double": float}
    for name, value in row.items():
        assert value is None or type(value) is python[obscore.COLUMNS[name].datatype], f"{name} = {value!r}"
