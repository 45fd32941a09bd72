"""Transparency against an instrument's history."""

from __future__ import annotations

import numpy as np
import pytest

from starloom.photometry.transparency import (
    MIN_HISTORY,
    PastZeroPoint,
    extinction,
    transparency,
    zero_point_of_one_second,
)


def history(n: int = 40, clear: float = 21.0, seed: int = 1) -> list[PastZeroPoint]:
    """Nights of one instrument: half of them clear to 0.01 mag, the others behind clouds, at many airmasses."""
    rng = np.random.default_rng(seed)
    air = rng.uniform(1.0, 2.5, n)
    clouds = np.where(np.arange(n) % 2, rng.uniform(0.1, 1.5, n), 0.0)
    mag = clear - 0.16 * air - clouds + rng.normal(0, 0.01, n)
    return [PastZeroPoint(float(m), float(x)) for m, x in zip(mag, air, strict=True)]


@pytest.mark.parametrize("share", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("air", [1.0, 2.2])
def test_the_share_of_light_is_found_at_any_airmass(share, air):
    own = 21.0 - 0.16 * air + 2.5 * np.log10(share)
    assert transparency(own, air, history()) == pytest.approx(share, rel=0.03)


def test_without_a_history_nothing_is_said():
    past = history()
    assert transparency(20.8, 1.2, past[: MIN_HISTORY - 1]) is None
    assert transparency(20.8, 1.2, past[:MIN_HISTORY]) is not None


def test_a_frame_better_than_all_before_is_not_boundless():
    assert 1.0 <= transparency(24.0, 1.2, history()) <= 1.2


def test_blue_light_is_dimmed_more():
    assert extinction("B") > extinction("V") > extinction("I")
    assert extinction("V") == pytest.approx(0.16, abs=0.02)
    assert extinction("T42:odd") == pytest.approx(0.16, abs=0.01)
    assert zero_point_of_one_second(25.0, 100.0) == pytest.approx(20.0)
