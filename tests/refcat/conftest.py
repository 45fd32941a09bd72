from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from starloom.refcat import StoreCatalog
from starloom.refcat.store import About
from starloom.refcat.writing import StarRows, write_store

StoreMaker = Callable[..., StoreCatalog]


def whole_sky(n: int, seed: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Uniform on the sphere, with its awkward places among them."""
    rng = np.random.default_rng(seed)
    ra = np.concatenate([rng.uniform(0, 360, n), [0.0, 359.9999999, 180.0, 12.0]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), [0.0, 0.0, 90.0, -90.0]])
    return ra, dec


def separation(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float) -> np.ndarray:
    """Reference: astropy's own."""
    from astropy import units as u
    from astropy.coordinates import angular_separation

    return np.degrees(
        angular_separation(ra * u.deg, dec * u.deg, ra0 * u.deg, dec0 * u.deg).to_value(u.rad)  # type: ignore[no-any-return]
    )


def about(name: str = "made up", **changes: object) -> About:
    known = {"band": "V", "bands": ("V",), "epoch": 2000.0, "error_epoch": 2000.0}
    return About(name=name, version="1", licence="CC0-1.0", source="a test", **(known | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_store(tmp_path: Path) -> StoreMaker:
    """Make a store of the given rows, in chunks."""

    def make(rows: StarRows, name: str = "made up", chunks: int = 1, **changes: object) -> StoreCatalog:
        parts = np.array_split(np.arange(len(rows)), chunks)
        bands = tuple(rows.mags)
        known = about(name, **({"band": bands[0], "bands": bands} | changes))
        write_store(tmp_path / name, known, [rows.take(part) for part in parts])
        return StoreCatalog(tmp_path / name)

    return make
