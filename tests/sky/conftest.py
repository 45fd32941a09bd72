from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from starloom.sky.field import Sky, field_sky
from starloom.sky.network import NetworkTruth, make_network
from starloom.sky.telescope import Telescope

FIELD = (343.91, 55.85)


@pytest.fixture(scope="session")
def start() -> datetime:
    return datetime(2026, 10, 8, 21, 59, 59, 996000, tzinfo=UTC)


@pytest.fixture(scope="session")
def sky() -> Sky:
    return field_sky(*FIELD, 0.6, seed=3)


@pytest.fixture(scope="session")
def sparse() -> Sky:
    """Stars far apart, on a grid, of known magnitude and in no catalogue: photometry without blends."""
    step = np.linspace(-0.09, 0.09, 9) + 0.0013
    dra, ddec = np.meshgrid(step / np.cos(np.radians(40.0)), step)
    n = dra.size
    jitter = np.random.default_rng(8).uniform(-0.004, 0.004, (2, n))
    mag = np.linspace(11.0, 13.5, n)
    return Sky(
        (180.0 + dra.ravel() + jitter[0]) % 360,
        40.0 + ddec.ravel() + jitter[1],
        mag,
        np.zeros(n, bool),
        (180.0, 40.0),
        0.3,
        "V",
    )


@pytest.fixture
def make_telescope() -> Callable[..., Telescope]:
    def build(**changes: object) -> Telescope:
        settings: dict[str, object] = {
            "node": "T1", "scale_arcsec": 1.6, "width": 520, "height": 440, "zero_point_mag": 23.0,
            "cosmic_rays": 0.0, "sky_adu": 200.0,
        }  # fmt: skip
        return Telescope(**(settings | changes))  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> NetworkTruth:
    return make_network(tmp_path_factory.mktemp("network"), seed=550)
