from __future__ import annotations

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.sky.mosaic import PATTERNS, mosaic

PLANES = {c: np.full((4, 6), v, np.float32) for c, v in zip("RGB", (1, 2, 3), strict=True)}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pixel_sees_its_colour(pattern: str) -> None:
    image = mosaic(PLANES, pattern)
    values = {"R": 1, "G": 2, "B": 3}
    for row in range(4):
        for column in range(6):
            assert image[row, column] == values[pattern[2 * (row % 2) + column % 2]]


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(BadInput, match="no Bayer pattern"):
        mosaic(PLANES, "RGBG")
