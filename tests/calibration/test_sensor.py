"""Overscan, trimming and pedestal; section cards that lie."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from starloom.calibration.mosaic import mosaic_layout, split_bayer
from starloom.calibration.sensor import BAD_SECTION, is_cut, sensor_pixels, trimmed_shape
from starloom.sky.camera import Camera

CAMERA = Camera(overscan=32, drift_adu=40.0, hot_share=0)
NY, NX = CAMERA.shape
CARDS = {"BIASSEC": f"[{NX + 1}:{NX + 32},1:{NY}]", "TRIMSEC": f"[1:{NX},1:{NY}]"}


@pytest.fixture
def frame() -> np.ndarray:
    return CAMERA.expose(0.0, 0.0, np.random.default_rng(1), cosmic_rays=40)


def test_the_overscan_follows_the_rows_to_a_fraction_of_the_noise(frame: np.ndarray) -> None:
    sensor = sensor_pixels(frame, fits.Header(CARDS))
    assert (sensor.data.shape, sensor.overscan, sensor.changed, sensor.flags) == ((NY, NX), True, True, ())
    left = sensor.subtracted() - (CAMERA.bias_level - CAMERA.bias_adu)
    rows = np.median(left, axis=1)
    assert abs(rows.mean()) < 0.1
    assert rows.std() < 1.6 * CAMERA.read_noise_adu / np.sqrt(32)
    assert np.median(frame[:, :NX], axis=1).std() > 20  # what the drift was
    assert not set(CARDS) & set(sensor.header)
    assert (sensor.header["NAXIS1"], sensor.header["NAXIS2"]) == (NX, NY)


def test_few_columns_give_one_level_for_all(frame: np.ndarray) -> None:
    sensor = sensor_pixels(frame, fits.Header(CARDS | {"BIASSEC": f"[{NX + 1}:{NX + 8},1:{NY}]"}))
    assert np.ptp(sensor.level) == 0
    assert sensor.level[0] == pytest.approx(frame[:, NX : NX + 8].mean(), abs=1)


def test_a_strip_above_the_picture_gives_one_level(frame: np.ndarray) -> None:
    header = fits.Header({"BIASSEC": f"[1:{NX},1:20]", "TRIMSEC": f"[1:{NX},21:{NY}]"})
    sensor = sensor_pixels(frame, header)
    assert sensor.data.shape == (NY - 20, NX)
    assert np.ptp(sensor.level) == 0


@pytest.mark.parametrize(
    "cards",
    [
        {"BIASSEC": f"[{NX + 1}:{NX + 99},1:{NY}]", "TRIMSEC": f"[1:{NX},1:{NY}]"},
        {"TRIMSEC": f"[1:{2 * NX},1:{2 * NY}]"},  # of the unbinned sensor
        {"TRIMSEC": "[0:10,1:10]"},
        {"TRIMSEC": "[10:1,1:10]"},
        {"BIASSEC": f"[1:{NX + 32},1:{NY}]"},  # the whole frame
        {"BIASSEC": "[100:120,100:200]"},  # its middle
        {"BIASSEC": f"[{NX - 9}:{NX + 32},1:{NY}]", "TRIMSEC": f"[1:{NX},1:{NY}]"},  # light in the overscan
    ],
)
def test_sections_that_cannot_be_true_are_flagged_and_left_alone(frame: np.ndarray, cards: dict[str, str]) -> None:
    sensor = sensor_pixels(frame, fits.Header(cards))
    assert sensor.flags == (BAD_SECTION,)
    assert sensor.data.shape == frame.shape
    assert not sensor.changed
    assert not is_cut(fits.Header(cards), frame.shape)


@pytest.mark.parametrize("cards", [{}, {"TRIMSEC": ""}, {"TRIMSEC": "all"}, {"BIASSEC": "[1:2]"}])
def test_cards_that_say_nothing_are_no_lie(frame: np.ndarray, cards: dict[str, str]) -> None:
    sensor = sensor_pixels(frame, fits.Header(cards))
    assert (sensor.flags, sensor.changed, sensor.data.shape) == ((), False, frame.shape)


@pytest.mark.parametrize("letters", ["B", "BDF"])
def test_calibrated_frames_are_not_trimmed_again(frame: np.ndarray, letters: str) -> None:
    header = fits.Header(CARDS | {"CALSTAT": letters})
    assert sensor_pixels(frame, header).data.shape == frame.shape
    assert trimmed_shape(header, frame.shape) == frame.shape
    assert not is_cut(header, frame.shape)


def test_the_header_tells_the_shape_beforehand(frame: np.ndarray) -> None:
    assert trimmed_shape(fits.Header(CARDS), frame.shape) == CAMERA.shape
    assert is_cut(fits.Header(CARDS), frame.shape)
    data_section = fits.Header({"DATASEC": CARDS["TRIMSEC"]})
    assert sensor_pixels(frame, data_section).data.shape == CAMERA.shape
    whole = fits.Header({"TRIMSEC": f"[1:{NX + 32},1:{NY}]"})
    assert not is_cut(whole, frame.shape)


@pytest.mark.parametrize(("card", "shift"), [(-100, 100.0), (500.0, -500.0), (0, 0.0)])
def test_the_pedestal_is_taken_off(frame: np.ndarray, card: float, shift: float) -> None:
    sensor = sensor_pixels(frame, fits.Header({"PEDESTAL": card}))
    assert np.all(frame - sensor.subtracted() == shift)
    assert sensor.header["PEDESTAL"] == 0
    assert sensor.changed == (card != 0)


def test_trimming_moves_the_reference_pixel(frame: np.ndarray) -> None:
    header = fits.Header({"TRIMSEC": f"[11:{NX},5:{NY}]", "CRPIX1": 200.5, "CRPIX2": 150.5})
    moved = sensor_pixels(frame, header).header
    assert (moved["CRPIX1"], moved["CRPIX2"]) == (190.5, 146.5)


@pytest.mark.parametrize("order", ["TOP-DOWN", "BOTTOM-UP"])
@pytest.mark.parametrize("cut", [(1, 1, 0, 0), (2, 3, 1, 0), (3, 2, 0, 1), (1, 2, 2, 3)], ids=str)
def test_trimming_keeps_the_colours(order: str, cut: tuple[int, int, int, int]) -> None:
    left, bottom, right, top = cut
    rng = np.random.default_rng(3)
    height, width = 24 + rng.integers(0, 2), 30
    picture = np.zeros((height, width), np.uint16)
    for n, value in enumerate((1000, 2000, 2001, 3000)):
        picture[n // 2 :: 2, n % 2 :: 2] = value
    data = picture if order == "TOP-DOWN" else picture[::-1]
    section = f"[{left + 1}:{width - right},{bottom + 1}:{height - top}]"
    header = fits.Header({"TRIMSEC": section, "BAYERPAT": "RGGB", "ROWORDER": order})
    sensor = sensor_pixels(data, header)
    layout = mosaic_layout(sensor.header)
    assert layout is not None
    planes = split_bayer(sensor.data, layout.pattern, layout.row_order, layout.x_offset, layout.y_offset)
    assert (planes["R"] == 1000).all()
    assert (planes["B"] == 3000).all()
    assert {int(planes["G1"].min()), int(planes["G2"].max())} <= {2000, 2001}
