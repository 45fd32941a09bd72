from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS

from starloom.sky import NetworkTruth, make_network


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> NetworkTruth:
    return make_network(tmp_path_factory.mktemp("network"), frames_per_node=(2, 1, 1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the larger real data sets are not beside the repository")
    return folder


def grid_errors(found: WCS, truth: WCS, shape: tuple[int, ...], n: int = 15) -> np.ndarray:
    """Distance (px) between where two WCS put the same sky, on a grid that reaches the corners."""
    ny, nx = shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, n), np.linspace(0, ny - 1, n)))
    a, b = found.all_world2pix(*truth.all_pix2world(x, y, 0), 0, tolerance=1e-6, maxiter=60)
    return np.hypot(a - x, b - y)


@pytest.fixture(scope="session")
def errors_px() -> object:
    return grid_errors
