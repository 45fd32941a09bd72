from __future__ import annotations

import pytest

from starloom.photometry import band_info, is_unmapped, standard_band
from starloom.photometry.bands import known_bands, table_version


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
        ("HaOiii", "HaOIII"),
        ("IRCUT", "IRCUT"),
        ("UV/IR Cut", "IRCUT"),
        ("LP", "LP"),
        ("Astro", "Clear"),
        ("None", "Clear"),
        ("Duo", "HaOIII"),
        ("L-eXtreme", "HaOIII"),
        ("w", "w"),
        ("ip", "i"),
        ("zs", "z"),
        ("g'", "g"),
        ("Rc", "R"),
        ("Ha 3nm", "Ha"),
        ("Astrodon OIII 3nm", "OIII"),
        ("Johnson-Cousins R", "R"),
        ("zd DECam k1038", "z"),
        ("r DECam SDSS c0002 6415.0 1480.0", "r"),
        ("z DECam SDSS c0004 9260.0 1520.0", "z"),
        ("bokr", "r"),
        ("r.MP9601", "r"),
        ("u.MP9302", "u"),
        ("ps1 r", "r"),
        ("r.00000", "r"),
        ("HSC-R2", "r"),
        ("ZTF_g", "g"),
        ("R Harris c6004", "R"),
        ("g SDSS k1017", "g"),
        ("U k1001", "U"),
    ],
)
def test_clear_names_are_bands(name, band):
    assert standard_band(name) == band


@pytest.mark.parametrize(
    "name",
    [
        None, "", "  ", "'", "-", "r", "Red", "Green", "Filter 2", "G", "Cousins V", "SDSS X", "Johnson",
        "Y DECam c0005 10095.0 1130.0", "VR DECam c0007 6300.0 2600.0", "N662 DECam c0009 6620.0 160.0", "r k1018",
        "k1018", "u.MP9301", "HSC-Y", "NB0921", "k", "bok", "Red c0002",
    ],
)  # fmt: skip
def test_unclear_names_are_left_alone(name):
    assert standard_band(name) is None


def test_every_band_has_a_wavelength_range_and_a_catalogue_band():
    for band in known_bands():
        info = band_info(band)
        assert info is not None
        assert 3e-7 < info.em_min_m < info.em_max_m < 1.1e-6
        assert "/" in info.svo_id
        assert info.nearest
    assert band_info("V").nearest[:2] == ("V", "VT")
    assert 4.9e-7 < band_info("V").em_min_m < 5.1e-7
    assert table_version() >= 3


@pytest.mark.parametrize("band", [None, "T24:Filter 2"])
def test_a_node_s_own_filter_is_no_band(band):
    assert is_unmapped(band)
    assert band_info(band) is None
