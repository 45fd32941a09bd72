from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starloom.calibration import (
    MosaicLayout,
    calibration_state,
    mosaic_layout,
    plane_origins,
    plane_wcs,
    resampled_cards,
    split_bayer,
    superpixels,
)
from starloom.calibration.mosaic import PATTERNS, PLANES
from starloom.errors import BadInput
from starloom.sky.telescope import Telescope

SHAPE = (400, 600)
SCOPE = Telescope("T1", 1.6, SHAPE[1], SHAPE[0], rotation_deg=33.0, parity=-1, distortion_px=4.0)
COLOUR = {"R": 1000, "G": 2000, "B": 3000}


def painted(pattern: str, shape: tuple[int, int], *, bottom_up: bool = False) -> np.ndarray:
    """A mosaic whose every pixel holds its colour's number, drawn from the picture's top left."""
    picture = np.zeros(shape, np.uint16)
    for n, colour in enumerate(pattern):
        picture[n // 2 :: 2, n % 2 :: 2] = COLOUR[colour]
    return picture[::-1] if bottom_up else picture


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(8, 10), (7, 10), (8, 9), (7, 9)], ids=str)
@pytest.mark.parametrize("row_order", ["TOP-DOWN", "BOTTOM-UP"])
def test_each_plane_has_one_colour(pattern: str, shape: tuple[int, int], row_order: str) -> None:
    planes = split_bayer(painted(pattern, shape, bottom_up=row_order == "BOTTOM-UP"), pattern, row_order)
    assert tuple(planes) == PLANES
    for name, plane in planes.items():
        assert plane.shape == (shape[0] // 2, shape[1] // 2)
        assert plane.dtype == np.uint16
        assert (plane == COLOUR[name[0]]).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("offset", list(product((0, 1), (0, 1))), ids=str)
def test_offsets_move_the_pattern(pattern: str, offset: tuple[int, int]) -> None:
    # A sub-frame that starts one column or row into the sensor sees the pattern from there.
    x, y = offset
    cut = painted(pattern, (12, 14))[y:, x:]
    for name, plane in split_bayer(cut, pattern, "TOP-DOWN", x, y).items():
        assert (plane == COLOUR[name[0]]).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_greens_are_told_apart_by_their_rows(pattern: str) -> None:
    origins = plane_origins(MosaicLayout(pattern), SHAPE)
    assert sorted(origins.values()) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert origins["G1"][1] == origins["R"][1]
    assert origins["G2"][1] == origins["B"][1]


def test_planes_hold_every_pixel_once() -> None:
    mosaic = np.arange(8 * 10, dtype=np.int32).reshape(8, 10)
    planes = split_bayer(mosaic, "GRBG")
    assert sorted(np.concatenate([p.ravel() for p in planes.values()])) == list(range(80))
    for name, (x, y) in plane_origins(MosaicLayout("GRBG"), mosaic.shape).items():
        assert planes[name][2, 3] == mosaic[2 * 2 + y, 2 * 3 + x]


@pytest.mark.parametrize("bad", ["", "RGB", "XTRANS", "rggb"])
def test_unknown_pattern_is_refused(bad: str) -> None:
    with pytest.raises(BadInput) as caught:
        split_bayer(np.zeros((4, 4)), bad)
    assert caught.value.code == "bad-mosaic"


def test_unknown_order_or_shape_is_refused() -> None:
    for data, order in (
        (np.zeros((4, 4)), "SIDEWAYS"),
        (np.zeros((3, 4, 4)), "TOP-DOWN"),
        (np.zeros((1, 4)), "TOP-DOWN"),
    ):
        with pytest.raises(BadInput) as caught:
            split_bayer(data, "RGGB", order)
        assert caught.value.code == "bad-mosaic"


def grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, 13), np.linspace(0, shape[0] - 1, 13))
    return x.ravel(), y.ravel()


def tpv(cards: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in cards.items() if not key.startswith(("A_", "B_"))}
    terms = {"PV1_0": 0.0, "PV1_1": 1.0, "PV1_4": 0.02, "PV2_0": 0.0, "PV2_1": 1.0, "PV2_5": -0.03}
    return plain | terms | {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"}


def with_cdelt(cards: dict[str, Any], *, explicit: bool) -> dict[str, Any]:
    out = {key: value for key, value in cards.items() if not key.startswith("CD")}
    scale = 4e-4 if explicit else 1.0
    for i, j in product((1, 2), (1, 2)):
        out[f"PC{i}_{j}"] = cards[f"CD{i}_{j}"] / scale
    return out | ({"CDELT1": scale, "CDELT2": scale} if explicit else {})


SIP = SCOPE.wcs_cards(120.0, 47.0)
WCS_KINDS = {
    "SIP": SIP,
    "TPV": tpv(SIP),
    "CDELT": with_cdelt(SIP, explicit=True),
    "PC alone": with_cdelt(SIP, explicit=False),
}


@pytest.mark.parametrize("kind", WCS_KINDS)
@pytest.mark.parametrize("origin", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
def test_plane_wcs_is_exact(kind: str, origin: tuple[int, int]) -> None:
    cards = WCS_KINDS[kind]
    whole = WCS(fits.Header(cards), fix=False)
    plane = WCS(fits.Header(plane_wcs(cards, origin)), fix=False)
    x, y = grid((SHAPE[0] // 2, SHAPE[1] // 2))
    ra, dec = whole.all_pix2world(2 * x + origin[0], 2 * y + origin[1], 0)
    px, py = plane.all_world2pix(ra, dec, 0, tolerance=1e-9, maxiter=50)
    assert np.hypot(px - x, py - y).max() < 1e-6


def test_plane_reference_pixel_is_as_the_formula_says() -> None:
    plane = plane_wcs({"CRPIX1": 101.0, "CRPIX2": 50.0, "CD1_1": 1e-4, "CD2_2": 2e-4}, (1, 0))
    assert plane == {"CRPIX1": (101.0 - 1 + 1) / 2, "CRPIX2": (50.0 + 1) / 2, "CD1_1": 2e-4, "CD2_2": 4e-4}


def test_binned_wcs_maps_back_to_itself() -> None:
    cards = SIP | {"AP_ORDER": 2, "BP_ORDER": 2, "AP_0_2": 1e-6, "BP_1_0": 2e-5, "A_DMAX": 3.0}
    back = resampled_cards(resampled_cards(cards, 2.0, 0.5, 0.5), 0.5, -0.25, -0.25)
    assert back == pytest.approx(cards)


def test_input_cards_are_left_alone() -> None:
    before = dict(SIP)
    plane_wcs(SIP, (1, 1))
    assert before == SIP


def test_superpixels_average_and_keep_saturation() -> None:
    data = np.arange(20, dtype=np.uint16).reshape(4, 5)
    mean = superpixels(data)
    assert mean.shape == (2, 2)
    assert mean.dtype == np.float32
    assert mean[0, 0] == pytest.approx((0 + 1 + 5 + 6) / 4)
    data[0, 0] = 60000
    assert superpixels(data, 60000)[0, 0] == 60000
    assert superpixels(data, 60000)[1, 1] == pytest.approx((12 + 13 + 17 + 18) / 4)


def header(**cards: object) -> fits.Header:
    return fits.Header(list(cards.items()))


def test_layout_of_a_header() -> None:
    assert mosaic_layout(header()) is None
    assert mosaic_layout(header(BAYERPAT="  ")) is None
    assert mosaic_layout(header(COLORTYP="MONO")) is None
    assert mosaic_layout(header(BAYERPAT="rggb ")) == MosaicLayout("RGGB")
    assert mosaic_layout(header(COLORTYP="GBRG")) == MosaicLayout("GBRG")
    full = header(BAYERPAT="GRBG", XBAYROFF=1, YBAYROFF=0.0, ROWORDER="bottom_up")
    assert mosaic_layout(full) == MosaicLayout("GRBG", "BOTTOM-UP", 1, 0)
    with pytest.raises(BadInput):
        mosaic_layout(header(BAYERPAT="XTRANS"))


@pytest.mark.parametrize(
    ("calstat", "calibrated", "flags"),
    [
        (None, False, ["uncalibrated"]),
        ("", False, ["uncalibrated"]),
        ("BDF", True, []),
        ("bdf", True, []),
        ("DF", True, []),
        ("BD", True, ["no-flat"]),
        ("F", True, ["no-dark"]),
        ("BF", True, ["no-dark"]),
        ("X", False, ["uncalibrated"]),
    ],
)
def test_calstat(calstat: str | None, calibrated: bool, flags: list[str]) -> None:
    assert calibration_state(calstat) == (calibrated, flags)
