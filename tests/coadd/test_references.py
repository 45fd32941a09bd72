from __future__ import annotations

import numpy as np
import pytest

from starloom.coadd.group import unit_vectors
from starloom.coadd.references import choose_references


def square(ra, dec, half=0.5, angle=0.0):
    c, s = np.cos(angle), np.sin(angle)
    x, y = np.array([-1, 1, 1, -1]) * half, np.array([-1, -1, 1, 1]) * half
    return unit_vectors(ra + c * x - s * y, dec + s * x + c * y)


def test_one_reference_serves_a_field_and_is_the_richest():
    corners = [square(10 + 0.02 * k, 0.0, angle=k) for k in range(30)]
    stars = [100] * 30
    stars[17] = 300
    assert choose_references(corners, stars, [0.1] * 30) == [17]


@pytest.mark.parametrize("flip", [1, -1])
def test_mosaic_is_covered(flip):
    corners = [square(10 + 0.9 * flip * k, 0.8 * j) for k in range(4) for j in range(3) for _ in range(5)]
    chosen = choose_references(corners, [80] * len(corners), [0.1] * len(corners))
    assert len(chosen) <= 12
    places = {
        (round(float(corners[i].mean(axis=0)[1]), 3), round(float(corners[i].mean(axis=0)[2]), 3)) for i in chosen
    }
    assert len(places) == len(chosen)
    assert len(chosen) >= 6


def test_what_was_read_whole_is_not_read_again():
    corners = [square(10, 0)] * 3
    assert choose_references(corners, [50, 60, 70], [1.0, 1.0, 1.0]) == []
    assert choose_references(corners, [50, 400, 70], [0.1, 1.0, 0.1]) == []
    assert choose_references(corners[:1], [50], [0.1]) == []
