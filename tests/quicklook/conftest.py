"""A frame of known stars and map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from starloom.astrometry.detect import StarList
from starloom.astrometry.wcs import PlaneMap, polynomial
from starloom.refcat import CatalogStars

SHAPE = (400, 600)


@pytest.fixture
def linear_map() -> PlaneMap:
    """2″ a pixel, turned by 30°, north up and east to the left before that; near RA 0."""
    turn = np.radians(30.0)
    cd = 2.0 / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    unit = 100.0
    terms = np.zeros((3, 2))
    powers = polynomial(1)
    terms[powers.index((1, 0))], terms[powers.index((0, 1))] = cd[:, 0] * unit, cd[:, 1] * unit
    return PlaneMap(0.02, 62.0, (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2, unit, powers, terms)


def stars_at(x: NDArray[np.float64], y: NDArray[np.float64], **changes: object) -> StarList:
    """Return a star list; whatever columns it has besides are filled."""
    n = len(x)
    said: dict[str, object] = {
        "x": x, "y": y, "flux": np.linspace(9000.0, 900.0, n), "peak": np.full(n, 500.0),
        "fwhm_px": np.full(n, 3.0), "ellipticity": np.full(n, 0.1), "saturated": np.zeros(n, bool),
        "shape": SHAPE, "background_adu": 100.0, "noise_adu": 5.0, "frame_fwhm_px": 3.0, "frame_ellipticity": 0.1,
    }  # fmt: skip
    for field in dataclasses.fields(StarList):
        if field.name not in said and field.default is dataclasses.MISSING:
            said[field.name] = np.zeros(n) if "ndarray" in str(field.type) or "Floats" in str(field.type) else 0.0
    return StarList(**(said | changes))  # type: ignore[arg-type]


def catalog_of(wcs: PlaneMap, x: NDArray[np.float64], y: NDArray[np.float64]) -> CatalogStars:
    """Return catalogue stars that fall on these pixels."""
    ra, dec = wcs.sky(x, y)
    return CatalogStars(ra, dec, np.arange(len(x), dtype=float), "V", "made up", 2000.0)
