"""The page: what it shows is there, whatever frame it is given."""

from __future__ import annotations

import io
import tracemalloc
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from starloom.astrometry.wcs import PlaneMap
from starloom.quicklook.canvas import Canvas, drawable
from starloom.quicklook.overlay import Overlay, overlay
from starloom.quicklook.page import BAD, DETECTED, GOOD, HEIGHT, MATCHED, MISSING, VECTOR, WIDTH, page
from starloom.quicklook.plots import nice
from starloom.quicklook.summary import summarise
from starloom.quicklook.thumbnail import thumbnail
from tests.quicklook.conftest import SHAPE, catalog_of, stars_at


def shown(png: bytes) -> NDArray[np.int16]:
    image = Image.open(io.BytesIO(png))
    assert image.size == (WIDTH, HEIGHT)
    return np.asarray(image.convert("RGB")).astype(np.int16)


def count(pixels: NDArray[np.int16], colour: str) -> int:
    """Return how many pixels have a colour, but for what smoothing takes off it."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int(np.count_nonzero(np.abs(pixels - wanted).max(axis=2) <= 12))


def frame(shape: tuple[int, int] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(100, 5, shape).astype(np.float32)


def solved_overlay(wcs: PlaneMap, matched: int = 12) -> Overlay:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(20, 580, matched + 5), rng.uniform(20, 380, matched + 5)
    stars = stars_at(x[:matched] + 0.3, y[:matched])
    return overlay(SHAPE, stars, wcs, catalog_of(wcs, x, y), rms_px=0.3)


def test_every_mark_is_drawn_and_only_when_there_is_one(linear_map: PlaneMap) -> None:
    solved = summarise("f.fits", {"solved": True, "matches": 12, "scale_arcsec": 2.0})
    pixels = shown(page(frame(), solved_overlay(linear_map), solved))
    for colour in (DETECTED, MATCHED, MISSING, VECTOR, GOOD):
        assert count(pixels, colour) > 50, colour
    assert count(pixels, BAD) == 0
    refused = summarise("f.fits", {"solved": False, "reason": "trailed"}, remarks=["stars are lines"])
    pixels = shown(page(frame(), overlay(SHAPE, stars_at(np.array([50.0]), np.array([60.0]))), refused))
    assert count(pixels, BAD) > 1000
    for colour in (MATCHED, MISSING, VECTOR, GOOD):
        assert count(pixels, colour) == 0, colour


def test_a_mark_stands_on_its_pixel_and_the_first_row_is_at_the_bottom() -> None:
    data = np.full(SHAPE, 100.0, np.float32)
    data += np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    data[36:45, 496:505] += 5000  # right, near the first row
    summary = summarise("f.fits", {"solved": False})
    bare = shown(page(data, overlay(SHAPE, None), summary))[78:784, 28:1088]
    rows, columns = np.nonzero(bare.min(axis=2) > 200)
    x, y = columns.mean() / 1060, 1 - rows.mean() / 706.7
    assert (x, y) == (pytest.approx(500.5 / 600, abs=0.003), pytest.approx(40.5 / 400, abs=0.004))
    stars = stars_at(np.array([500.0]), np.array([40.0]))
    pixels = shown(page(np.full(SHAPE, 100.0, np.float32), overlay(SHAPE, stars), summary))[78:784, 28:1088]
    rows, columns = np.nonzero(np.abs(pixels - [0x56, 0xB4, 0xE9]).max(axis=2) < 40)
    assert (columns.mean() / 1060, 1 - rows.mean() / 706.7) == (
        pytest.approx(500.5 / 600, abs=0.002),
        pytest.approx(40.5 / 400, abs=0.002),
    )


@pytest.mark.parametrize(
    "data",
    [
        frame((400, 600)),
        frame((600, 20)),
        frame((1, 1)),
        frame((3, 5000)),
        np.full((60, 80), np.nan, np.float32),
        np.zeros((60, 80), np.uint8),
        np.full((60, 80), -32768, np.int16),
        np.full((60, 80), 2**31 - 1, np.int32),
        np.full((60, 80), np.inf),
    ],
    ids=lambda d: f"{d.dtype} {d.shape}",
)
@pytest.mark.parametrize("mosaic", [False, True])
def test_no_frame_is_too_odd_for_a_page(data: NDArray[Any], mosaic: bool) -> None:
    shape = (data.shape[0], data.shape[1])
    found = overlay(shape, stars_at(np.zeros(0), np.zeros(0), shape=shape, frame_fwhm_px=float("nan")))
    shown(page(data, found, summarise("f.fits", {"solved": False}), mosaic=mosaic))


def test_what_is_not_known_is_not_written() -> None:
    nan = float("nan")
    known = {"solved": True, "rms_px": nan, "rms_arcsec": None, "zero_point_mag": None, "zero_point_err": 0.1}
    summary = summarise("f", known | {"fwhm_px": 2.5, "calibrators": 0, "flags": []})
    assert summary.sections == (("Image", [("FWHM", "2.50 px")]),)


def test_the_summary_says_what_was_asked_for() -> None:
    known = {
        "solved": True, "node": "T42", "start_utc": datetime(2026, 10, 8, 22, tzinfo=UTC), "hint": "header",
        "solver": "seiza", "catalog": "Tycho-2", "catalog_version": "1", "epoch": 2026.77, "ra_deg": 10.684708,
        "dec_deg": -41.26875, "scale_arcsec": 1.25, "rotation_deg": 271.5, "parity": -1, "matches": 81,
        "stars": 400, "missing": 3, "order": 3, "model_used": True, "rms_arcsec": 0.12, "rms_px": 0.1,
        "held_out_arcsec": 0.15, "corner_error_px": 0.3, "offset_ra_deg": 0.1, "offset_dec_deg": -0.05,
        "fwhm_px": 3.1, "fwhm_arcsec": 3.9,
        "ellipticity": 0.07, "sky_adu": 512.0, "zero_point_mag": 21.003, "zero_point_err": 0.012,
        "catalog_band": "V", "photometric_catalog": "Tycho-2", "limiting_mag": 17.2, "flags": ["cloudy"],
    }  # fmt: skip
    text = dict(row for _, rows in summarise("f", known).sections for row in rows)
    assert text["centre"] == "00:42:44.33  -41:16:07.5  (ICRS)"
    assert text["catalogue"] == "Tycho-2 1 at 2026.8"
    assert text["matches"] == "81 in the fit, 400 detected, 3 in catalogue only"
    assert text["rotation"] == "271.500° N to E, mirrored"
    assert text["order"] == "3, instrument's model"
    assert text["pointing off by"] == "+6.00′ E  -3.00′ N"
    assert text["zero point"] == "21.003 ± 0.012 mag in V (Tycho-2)"
    assert {"hint", "solver", "scale", "rms", "held out", "corner error", "FWHM", "ellipticity", "sky"} <= set(
        text
    )
    assert (text["limiting mag"], text["flags"]) == ("17.20 (5 sigma)", "cloudy")


def test_strange_names_are_drawn_in_letters_that_the_font_has() -> None:
    assert drawable("Sternwarte Köln 2.3″ → Δσ") == 'Sternwarte Koln 2.3" -> dsigma'
    assert drawable("μας\n\x00") == "u????"
    canvas = Canvas(400, 300, "#000000")
    assert canvas.lines("a " + "w" * 200, 16, 300)[0] == "a"
    assert all(canvas.width_of(line, 16) <= 300 for line in canvas.lines("word " * 99 + "w" * 200, 16, 300))


def test_long_texts_end_on_the_page() -> None:
    known = {"solved": True, "matches": 5, "scale_arcsec": 1.0, "flags": ["a-very-long-flag"] * 60}
    summary = summarise("x" * 300, known, remarks=["word " * 300])
    pixels = shown(page(frame(), overlay(SHAPE, None), summary))
    assert len(np.unique(pixels[-20:].reshape(-1, 3), axis=0)) == 1  # nothing on the rim
    assert len(np.unique(pixels[:, -20:].reshape(-1, 3), axis=0)) == 1


def test_thumbnails_are_means_of_blocks() -> None:
    data = np.arange(30 * 47, dtype=np.float64).reshape(30, 47)
    data[0, 0] = np.nan
    data[10:15, 10:15] = np.nan
    image, block = thumbnail(data, max_px=10)
    assert (block, image.shape) == (5, (6, 9))
    assert image[3, 4] == pytest.approx(data[15:20, 20:25].mean())
    assert image[0, 0] == pytest.approx(np.nanmean(data[:5, :5]))
    assert np.isnan(image[2, 2])
    masked, _ = thumbnail(data, max_px=10, mask=(data > 700).astype(np.uint8))
    assert np.isnan(masked[3:, :]).all()
    assert thumbnail(data, max_px=10, mosaic=True)[1] == 6  # whole cells
    assert thumbnail(data, max_px=100, mosaic=True)[1] == 2


def test_a_large_frame_costs_no_second_copy() -> None:
    data = np.full((5000, 6000), 300, np.uint16)  # 60 MB; as floats it would be 120
    tracemalloc.start()
    try:
        page(data, overlay((5000, 6000), None), summarise("f", {"solved": False}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 110e6


@pytest.mark.parametrize(
    ("value", "expected"), [(1.0, 1.0), (9.99, 5.0), (0.03, 0.02), (1e-3, 1e-3), (250.0, 200.0), (0.0, 1.0)]
)
def test_nice_numbers(value: float, expected: float) -> None:
    assert nice(value) == pytest.approx(expected)
