from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from starloom.astrometry.hints import (
    SCAN_RANGE_ARCSEC,
    SCAN_TOLERANCE,
    apart_deg,
    from_equinox_of_date,
    header_wcs_cards,
    hints,
    julian_epoch,
    known_scales,
    mount_offset,
    positions,
    scan_hints,
    scan_scales,
    wider_hints,
)
from starloom.astrometry.wcs import map_from_cards

SHAPE = (750, 1000)


def header(**cards: object) -> fits.Header:
    out = fits.Header()
    out["DATE-OBS"] = "2026-10-08T21:00:00"
    for key, value in cards.items():
        out[key] = value
    return out


def test_scan_leaves_no_gap() -> None:
    scales = scan_scales()
    for true in np.geomspace(*SCAN_RANGE_ARCSEC, 500):
        assert any(abs(true / scale - 1) <= SCAN_TOLERANCE for scale in scales), true
    assert scales[0] == pytest.approx(1.6)
    assert len(scales) < 20


def test_silent_header_and_no_target_give_nothing() -> None:
    assert list(hints(header(), SHAPE)) == []
    assert list(scan_hints(header(), SHAPE)) == []


def test_target_alone_means_a_scan() -> None:
    assert list(hints(header(), SHAPE, target=(10.0, 20.0))) == []
    found = list(scan_hints(header(), SHAPE, target=(10.0, 20.0)))
    assert len(found) == len(scan_scales())
    assert all(hint.scale_arcsec for hint in found)
    assert {(hint.ra_deg, hint.dec_deg) for hint in found} == {(10.0, 20.0)}


def test_order_of_trust() -> None:
    given = header(RA=100.0, DEC=30.0, FOCALLEN=500.0, XPIXSZ=3.8, EQUINOX=2000.0)
    found = list(hints(given, SHAPE, target=(50.0, 10.0), scale_arcsec=1.5))
    assert [hint.source for hint in found] == [
        "pointing in the header, known plate scale",
        "pointing in the header, plate scale in the header",
        "target of the mission, known plate scale",
        "target of the mission, plate scale in the header",
    ]
    assert found[1].scale_arcsec == pytest.approx(206.265 * 3.8 / 500, rel=1e-3)
    assert all(hint.radius_deg >= 0.5 for hint in found)


def test_pointing_without_equinox_is_also_read_as_of_date() -> None:
    found = positions(header(RA=100.0, DEC=30.0), SHAPE)
    assert [where for *_, where in found] == ["pointing in the header", "pointing of date"]
    # 26.8 years of precession at this place: +1.5' a year would be too much, 0.4 deg is about right.
    assert 0.25 < np.hypot((found[1][0] - 100) * np.cos(np.radians(30)), found[1][1] - 30) < 0.45
    stated = positions(header(RA=100.0, DEC=30.0, EQUINOX=2000.0), SHAPE)
    assert [where for *_, where in stated] == ["pointing in the header"]


def test_equinox_of_date_undoes_precession() -> None:
    ra, dec = from_equinox_of_date(100.0, 30.0, datetime(2000, 1, 1, 12, tzinfo=UTC))
    assert (ra, dec) == pytest.approx((100.0, 30.0), abs=1e-4)


def test_target_beside_the_pointing_is_not_searched_twice() -> None:
    given = header(RA=100.0, DEC=30.0, EQUINOX=2000.0)
    assert len(positions(given, SHAPE, target=(100.05, 30.05))) == 1
    assert len(positions(given, SHAPE, target=(101.0, 30.0))) == 2


FULL = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
MATRICES = [
    {"CD1_1": -4e-4, "CD1_2": 2e-4, "CD2_1": 2e-4, "CD2_2": 4e-4},
    {"CDELT1": -4e-4, "CDELT2": 4e-4, "CROTA2": 30.0},
    {"CDELT1": -4e-4, "CDELT2": 4e-4, "PC1_1": 0.9, "PC1_2": -0.4, "PC2_1": 0.4, "PC2_2": 0.9},
    {"CDELT1": -4e-4, "CDELT2": 4e-4},
]


@pytest.mark.parametrize("matrix", MATRICES, ids=["CD", "CROTA", "PC", "CDELT"])
def test_a_wcs_in_the_header_is_the_first_hint(matrix: dict[str, float]) -> None:
    given = header(**FULL, **matrix)
    from astropy.wcs import WCS

    centre = WCS(given, fix=False).all_pix2world(499.5, 374.5, 0)
    ra, dec, _, where = positions(given, SHAPE)[0]
    assert where == "WCS in the header"
    assert (ra, dec) == pytest.approx(tuple(float(v) for v in centre), abs=1e-6)
    assert known_scales(given, SHAPE)[0][0] == pytest.approx(
        np.sqrt(abs(np.linalg.det(WCS(given, fix=False).pixel_scale_matrix))) * 3600, rel=1e-3
    )


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"CDELT1": 0.0, "CDELT2": 4e-4},
        {"CD1_1": 1e-4, "CD1_2": 1e-4, "CD2_1": 1e-4, "CD2_2": 1e-4},
        {"CDELT1": -4e-4, "CDELT2": 4e-4, "CTYPE1": "LINEAR"},
        {"CDELT1": -4e-4, "CDELT2": 4e-4, "CRVAL1": "19 04 10"},
        {"CDELT1": -4e-4, "CDELT2": 4e-4, "CRVAL1": 0.0, "CRVAL2": 0.0},
    ],
    ids=["no matrix", "no step", "singular", "not celestial", "text", "zero"],
)
def test_half_a_wcs_is_none(broken: dict[str, object]) -> None:
    assert header_wcs_cards(header(**{**FULL, **broken})) is None


def test_distortions_in_the_header_are_left_aside() -> None:
    cards = header_wcs_cards(header(**FULL, **MATRICES[0], A_ORDER=2, B_ORDER=2, A_2_0=1e-4, PV1_1=1.0))
    assert cards is not None
    assert set(cards) == {*FULL, *MATRICES[0]}
    assert map_from_cards(cards, SHAPE).order == 1


class Learnt:
    """An instrument whose mount is two degrees off, always alike."""

    scale_arcsec = 1.23
    scale_scatter = 0.001
    offset_deg = (1.0, -2.0)
    offset_scatter_deg = 0.05


def test_a_learnt_instrument_is_the_first_hint() -> None:
    given = header(RA=100.0, DEC=60.0, EQUINOX=2000.0, FOCALLEN=500.0, XPIXSZ=3.8)
    found = list(hints(given, SHAPE, target=(50.0, 10.0), instrument=Learnt()))
    assert found[0].source == "pointing in the header, mount put right, learnt plate scale"
    assert (found[0].ra_deg, found[0].dec_deg) == pytest.approx((102.0, 58.0))
    assert found[0].radius_deg == 0.5
    assert (found[0].scale_arcsec, found[0].scale_tolerance) == (1.23, 0.01)
    # The header may yet be right: a mount that was aligned anew.
    assert "pointing in the header, plate scale in the header" in [hint.source for hint in found]


def test_mount_offset_is_taken_where_the_mount_errs_less() -> None:
    stated = header(RA=100.0, DEC=60.0, EQUINOX=2000.0)
    assert mount_offset(stated, 100.2, 60.1) == pytest.approx((0.2 * np.cos(np.radians(60.1)), 0.1))
    of_date = header(RA=100.0, DEC=30.0)
    ra, dec, *_ = positions(of_date, SHAPE)[1]
    assert mount_offset(of_date, ra, dec) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert mount_offset(of_date, 100.0, 30.0) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert mount_offset(header(), 100.0, 30.0) is None
    across = header(RA=0.1, DEC=0.0, EQUINOX=2000.0)
    assert mount_offset(across, 359.9, 0.0) == pytest.approx((-0.2, 0.0))


def test_wider_hints_repeat_no_place() -> None:
    given = list(hints(header(RA=100.0, DEC=30.0, FOCALLEN=500.0, XPIXSZ=3.8), SHAPE, target=(50.0, 10.0)))
    wide = list(wider_hints(given))
    assert len(given) == 3
    assert [round(hint.ra_deg) for hint in wide] == [100, 50]
    assert all(hint.radius_deg >= 2.5 and hint.scale_tolerance >= 0.3 for hint in wide)


def test_a_scale_that_another_covers_is_not_tried_twice() -> None:
    given = header(FOCALLEN=500.0, XPIXSZ=3.8, **FULL, **MATRICES[0])
    scale = known_scales(header(FOCALLEN=500.0, XPIXSZ=3.8), SHAPE)[0][0]
    assert len(known_scales(header(FOCALLEN=500.0, XPIXSZ=3.8), SHAPE, scale_arcsec=scale)) == 2
    assert len(known_scales(given, SHAPE)) == 2


def test_epoch_is_the_middle_of_the_exposure() -> None:
    assert julian_epoch(header(EXPTIME=60.0)) == pytest.approx(Time("2026-10-08T21:00:30").jyear, abs=1e-6)
    year = 365.25 * 86400
    assert julian_epoch(header(EXPTIME=3600.0)) - julian_epoch(header(EXPTIME=0.0)) == pytest.approx(1800 / year)
    never_set = fits.Header({"DATE-OBS": "1970-01-01T00:00:10"})
    assert julian_epoch(never_set) is None
    assert julian_epoch(fits.Header()) is None


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [
        ((0.1, 0.0), (359.9, 0.0), 0.2),
        ((0.0, 89.9), (180.0, 89.9), 0.2),
        ((10.0, 60.0), (11.0, 60.0), 0.5),
        ((0.0, 0.0), (180.0, 0.0), 180.0),
    ],
)
def test_apart(a: tuple[float, float], b: tuple[float, float], apart: float) -> None:
    assert apart_deg(*a, *b) == pytest.approx(apart, rel=1e-4)
