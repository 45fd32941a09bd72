"""Pixels that are a frame by the letter and no picture of the sky: every step says so, and none of them breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from starloom.archive import frames as rows
from tests.steps.conftest import no_blind_solver, station

__all__ = ["no_blind_solver", "station"]

RNG = np.random.default_rng(5)
SKY = RNG.normal(1000.0, 20.0, (64, 96))


def holed(fraction: float) -> NDArray[Any]:
    data = SKY.astype("f4")
    data.flat[: int(fraction * data.size)] = np.nan
    return data


PIXELS: dict[str, Callable[[], NDArray[Any]]] = {
    "two pixels": lambda: np.array([[1, 2]], "u2"),
    "one column": lambda: np.arange(50, dtype="u2")[:, None],
    "a line": lambda: RNG.integers(0, 999, (1, 60_000), "u2"),
    "mostly holes": lambda: holed(0.98),
    "infinite": lambda: np.where(SKY > 1030, np.inf, SKY).astype("f4"),
    "beyond single precision": lambda: SKY * 1e300,
    "denormal": lambda: (SKY * 1e-42).astype("f4"),
    "whole numbers beyond double": lambda: (SKY * 9e14).astype("i8"),
    "negative": lambda: (-SKY).astype("i4"),
    "bytes": lambda: (SKY / 5).astype("u1"),
    "one bright pixel": lambda: np.where(SKY.max() == SKY, 65535, 0).astype("u2"),
    "stripes": lambda: np.tile([0, 65535], (64, 48)).astype("u2"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of overflows, which stop nothing outside of tests
def test_every_step_survives(station: Any, no_blind_solver: None, tmp_path: Path) -> None:
    station.create()
    names = {}
    for number, (what, make) in enumerate(PIXELS.items()):
        header = fits.Header(
            [
                ("EXPTIME", 30.0),
                ("FILTER", "V"),
                ("RA", 343.91),
                ("DEC", 55.85),
                ("FOCALLEN", 500.0),
                ("XPIXSZ", 9),
            ]
        )
        path = tmp_path / f"ObsReq-550_TelID-T42_20261008T22{number:02d}00.fits"
        fits.PrimaryHDU(make(), header).writeto(path)
        station.send(path)
        names[path.name] = what
    done = {names[frame.name]: frame for frame in station.process()}
    assert set(done) == set(PIXELS)
    for what, frame in done.items():
        assert (frame.last_error or {}).get("code") != "unexpected", (what, frame.last_error)
        assert rows.is_settled(frame), (what, rows.state_of(frame))
        code = frame.disposition_code or frame.solve_code or frame.measure_code
        assert code, what
        told = station.receipt(frame.name)
        assert (told["settled"], bool(told["hint"])) == (True, True), (what, told)
