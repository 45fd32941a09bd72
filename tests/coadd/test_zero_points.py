"""Zero points and bands as observatories and surveys write them."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import read_input
from starloom.coadd.inputs import open_frame, told_by_header
from starloom.coadd.zero_points import zero_point


def header(**cards):
    made = fits.Header()
    for key, value in cards.items():
        made[key] = value
    return made


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"MAGZPT": 24.5, "MAGZERR": 0.02}, (24.5, 0.02)),
        ({"MAGZERO": 29.915}, (29.915, None)),
        ({"MAGZP": 20.5, "MAGZPUNC": 0.006}, (20.5, 0.006)),
        ({"PHOTZP": 25.1}, (25.1, None)),
        ({"ZEROPNT": "23.9"}, (23.9, None)),
        ({"MAGZPT": 24.0, "MAGZP": 20.0}, (24.0, None)),
        # The scatter of the stars is no error of their mean.
        ({"MAGZERO": 21.3, "MAGZSIG": 0.047}, (21.3, None)),
        # Not known, in SCAMP's words and in others'.
        ({"MAGZERO": 0.0, "MAGZP": 20.0}, (20.0, None)),
        ({"MAGZERO": "Unknown"}, (None, None)),
        ({"MAGZPT": -99.0}, (None, None)),
        ({"MAGZPT": True}, (None, None)),
        ({"BUNIT": "nanomaggy"}, (22.5, None)),
        ({"BUNIT": "adu"}, (None, None)),
        # Of one second, where the pixels are of the whole exposure.
        ({"MAGZPT": (24.842, "[mag] Magnitude zero point per sec"), "EXPTIME": 100.0}, (29.842, None)),
        ({"MAGZPT": (24.0, "mag of 1 e-/s"), "EXPTIME": 100.0, "BUNIT": "electron / s"}, (24.0, None)),
        ({"MAGZPT": (24.0, "zero point per second")}, (None, None)),
        ({"MAGZPT": (24.0, "zero point of 1 sources"), "EXPTIME": 100.0}, (24.0, None)),
    ],
)
def test_zero_point_of_a_header(cards, expected):
    found = zero_point(header(**cards))
    assert found == (pytest.approx(expected[0]) if expected[0] else None, expected[1])


def test_saturation_and_exposure_that_are_no_numbers_are_unknown(field, tmp_path):
    path = field.frame(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["SATURATE"], hdus[0].header["EXPTIME"] = "Unknown", "n/a"
    item = read_input(path)
    assert (item.saturation_adu, item.exposure_s) == (None, 0.0)


REAL = {
    "decam_unwise_ra187/c4d_170316_062107_ooi_z_ls9.N2.fits": ("z", 29.915, None),
    "decam_unwise_ra187/c4d_180128_083845_ooi_r_ls9.N3.fits": ("r", None, None),
    "decam_unwise_ra187/unwise-1866p257-w1-img-m.fits": ("1", 22.5, None),
    "bok_mosaic3_ra177/k4m_160319_075112_ooi_zd_ls9.CCD3.fits": ("z", 21.326, None),
    "bok_mosaic3_ra217/ksb_160203_115029_ooi_r_v1-ccd2.fits": ("r", 20.619, None),
    "bok_mosaic3_ra352/deep2r_ra352_1-ccd1.fits": ("r", None, None),
    "bok_mosaic3_ra352/deep2g_ra352_1-ccd1.fits": ("g", None, None),
    "m17_2mass/aK_asky_990502s1350080.fits.gz": ("k", 19.9355, None),
    "sn2010h_surveys/WISE_W1.fits.gz": ("WISE 1", 20.5, 0.006),
    "sn2010h_surveys/GALEX_NUV.fits.gz": ("1", None, None),
    "sn2010h_surveys/SDSS_r.fits.gz": ("r", 22.5, None),
}


@pytest.mark.parametrize("name", REAL)
def test_bands_and_zero_points_of_real_frames(shared_data, name):
    with open_frame(shared_data / name) as frame:
        header = frame.header
    band, magnitude, error = REAL[name]
    assert told_by_header(header)["band"] == band
    found = zero_point(header)
    # Where both are given, NOIRLab's of one second and of the exposure agree to their last digit.
    assert found == (None if magnitude is None else pytest.approx(magnitude, abs=0.002), error)
    assert told_by_header(header)["exposure_s"] >= 0


def test_a_zero_point_under_any_name_ties_a_frame(field, tmp_path):
    paths = []
    for n, key in enumerate(("MAGZPT", "MAGZERO", "PHOTZP")):
        path = field.frame(tmp_path / f"{n}.fits", seed=n, known_zp=False, zp=24.0 + 0.3 * n)
        with fits.open(path, mode="update") as hdus:
            hdus[0].header[key] = 24.0 + 0.3 * n
        paths.append(path)
    found = [read_input(path).zero_point_mag for path in paths]
    np.testing.assert_allclose(found, [24.0, 24.3, 24.6])
