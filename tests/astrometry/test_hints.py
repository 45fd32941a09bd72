from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from astropy.io import fits

from starloom.astrometry.hints import (
    SCAN_RANGE_ARCSEC,
    SCAN_TOLERANCE,
    from_equinox_of_date,
    header_wcs_cards,
    hints,
    known_scales,
    positions,
    scan_scales,
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


def test_target_alone_means_a_scan() -> None:
    found = list(hints(header(), SHAPE, target=(10.0, 20.0)))
    assert len(found) == len(scan_scales())
    assert all(hint.scale_arcsec for hint in found)
    assert {(hint.ra_deg, hint.dec_deg) for hint in found} == {(10.0, 20.0)}


def test_order_of_trust() -> None:
    given = header(RA=100.0, DEC=30.0, FOCALLEN=500.0, XPIXSZ=3.8, EQUINOX=2000.0)
    found = list(hints(given, SHAPE, target=(50.0, 10.0), scale_arcsec=1.5))
    first = [hint.source for hint in found[:4]]
    assert first == [
        "pointing in the header, known plate scale",
        "pointing in the header, plate scale in the header",
        "target of the mission, known plate scale",
        "target of the mission, plate scale in the header",
    ]
    assert found[1].scale_arcsec == pytest.approx(206.265 * 3.8 / 500, rel=1e-3)
    assert found[4].source.endswith("scan of plate scales")
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
