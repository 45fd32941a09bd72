from __future__ import annotations

import numpy as np
import pytest

from starloom.sky.cluster import globular


def test_half_of_the_stars_lie_within_the_half_light_radius() -> None:
    ra, dec, mag = globular(250.4, 36.46, 8000, 0.05, 12.0, seed=1)
    radius = np.hypot((ra - 250.4) * np.cos(np.radians(dec)), dec - 36.46)
    assert (radius < 0.05).mean() == pytest.approx(0.5 / 0.98, abs=0.02)
    assert (radius < 0.1).mean() == pytest.approx(0.8 / 0.98, abs=0.02)
    assert mag.min() >= 12.0
    assert mag.max() <= 17.0
    # Counts grow with magnitude by the slope of the luminosity function.
    assert (mag > 16).sum() / ((mag > 15) & (mag < 16)).sum() == pytest.approx(10**0.35, rel=0.1)


def test_the_seed_decides() -> None:
    first, again, other = (globular(10.0, -80.0, 50, 0.05, 12.0, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
