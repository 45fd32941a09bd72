from __future__ import annotations

import pytest

from starloom.photometry import standard_band


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("V", "V"),
        (" V ", "V"),
        ("R", "R"),
        ("g", "g"),
        ("Johnson V", "V"),
        ("johnson-b", "B"),
        ("Bessell_R", "R"),
        ("Bessel I", "I"),
        ("Cousins R", "R"),
        ("SDSS r'", "r"),
        ("SDSS r", "r"),
        ("sloan_i", "i"),
        ("rp", "r"),
        ("Lum", "Clear"),
        ("Luminance", "Clear"),
        ("L", "Clear"),
        ("CV", "Clear"),
        ("H-alpha", "Ha"),
        ("Ha", "Ha"),
        ("O III", "OIII"),
        ("SII", "SII"),
    ],
)
def test_clear_names_are_bands(name, band):
    assert standard_band(name) == band


@pytest.mark.parametrize(
    "name", [None, "", "  ", "'", "-", "r", "Red", "Green", "Filter 2", "IRCUT", "Cousins V", "SDSS X", "Johnson"]
)
def test_unclear_names_are_left_alone(name):
    assert standard_band(name) is None
