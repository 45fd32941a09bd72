"""Published relations, held to what is independently known of the Sun, and the errors that pass through them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from starloom.photometry.reference import UNKNOWN_ERR, reference_magnitudes
from starloom.refcat.provider import CatalogStars


def catalogue(band: str, errs: dict[str, float] | None = None, **mags: float) -> CatalogStars:
    columns = {name: np.array([value]) for name, value in mags.items()}
    return CatalogStars(
        np.array([10.0]), np.array([20.0]), columns[band], band, "test", 2016.0, version="1",
        mags=columns, mag_errs={name: np.array([err]) for name, err in (errs or {}).items()},
    )  # fmt: skip


#: The Sun: G 4.66, BP-RP 0.82 (Casagrande & VandenBerg 2018); B-V 0.65, V-Rc 0.36, V-Ic 0.70, V 4.81 (Ramírez et
#: al. 2012; Willmer 2018); SDSS g 5.11, r 4.65, i 4.53 (Willmer 2018); VT 4.88, BT 5.58 (Holmberg et al. 2006).
SUN = {"V": 4.81, "B": 5.46, "R": 4.45, "I": 4.11, "g": 5.11, "r": 4.65, "i": 4.53}


@pytest.mark.parametrize("band", ["V", "B", "R", "I", "g", "r", "i"])
def test_gaia_s_relations_give_the_sun_its_colours(band):
    found = reference_magnitudes(catalogue("G", G=4.66, BP=4.98, RP=4.16), band)
    assert found.band == band
    assert found.mag[0] == pytest.approx(SUN[band], abs=0.06)
    assert "Riello" in found.relation
    assert (found.colour_name, found.colour_ref) == ("BP-RP", 0.82)


@pytest.mark.parametrize("band", ["V", "B", "g", "r"])
def test_tycho_s_relations_give_the_sun_its_colours(band):
    found = reference_magnitudes(catalogue("VT", VT=4.88, BT=5.61), band)
    assert found.mag[0] == pytest.approx(SUN[band], abs=0.06)
    assert (found.band, found.colour_name) == (band, "BT-VT")


@pytest.mark.parametrize(
    ("mags", "band"),
    [({"g": 5.11, "r": 4.65}, "V"), ({"B": 5.46, "V": 4.81}, "g"), ({"B": 5.46, "V": 4.81}, "r")],
)
def test_jester_s_relations_give_the_sun_its_colours(mags, band):
    assert reference_magnitudes(catalogue(next(iter(mags)), **mags), band).mag[0] == pytest.approx(
        SUN[band], abs=0.05
    )


def test_the_band_itself_comes_before_any_relation():
    found = reference_magnitudes(catalogue("V", {"V": 0.02, "B": 0.03}, V=10.0, B=10.7), "V")
    assert (found.band, found.relation, found.mag[0], found.err[0]) == ("V", "test V", 10.0, 0.02)
    # V's own error stands in the colour as well, with the other sign.
    assert found.covariance[0] == pytest.approx(-(0.02**2))
    assert found.colour_err[0] == pytest.approx(np.hypot(0.02, 0.03))


@pytest.mark.parametrize(
    ("band", "used"), [("Ha", "VT"), ("Clear", "VT"), (None, "VT"), ("T42:Filter 2", "VT"), ("TG", "VT")]
)
def test_what_has_no_relation_is_tied_to_the_nearest_band_as_it_is(band, used):
    found = reference_magnitudes(catalogue("VT", VT=9.0), band)
    assert (found.band, found.mag[0], found.relation) == (used, 9.0, "test VT")
    assert (found.colour, found.colour_name) == (None, None)
    assert found.err[0] == UNKNOWN_ERR
    near = reference_magnitudes(catalogue("VT", VT=9.0, BT=9.5, r=8.8), band)
    assert near.band == ("r" if band in ("Ha", "Clear") else "VT")


@pytest.mark.parametrize(
    ("band", "mags"), [("V", {"VT": 9.0, "BT": 9.8}), ("R", {"G": 9.0, "BP": 9.5, "RP": 8.4})]
)
def test_errors_and_covariance_are_those_of_the_derivatives(band, mags):
    first = next(iter(mags))
    errs = dict(zip(mags, (0.01, 0.03, 0.02), strict=False))
    stars = catalogue(first, errs, **mags)
    found = reference_magnitudes(stars, band)
    step, variance, covariance = 1e-4, found.relation_scatter**2, 0.0
    blue, red = str(found.colour_name).split("-")
    for name in mags:
        moved = replace(stars, mags={**stars.mags, name: stars.mags[name] + step})
        if name == first:
            moved = replace(moved, mag=moved.mags[name])
        slope = float((reference_magnitudes(moved, band).mag - found.mag)[0] / step)
        variance += (slope * errs[name]) ** 2
        covariance += slope * ((name == blue) - (name == red)) * errs[name] ** 2
    assert found.err[0] == pytest.approx(np.sqrt(variance), rel=1e-3)
    assert found.covariance[0] == pytest.approx(covariance, rel=1e-2)


def test_colours_beyond_a_relation_give_no_magnitude():
    found = reference_magnitudes(catalogue("VT", VT=9.0, BT=11.5), "V")
    assert np.isnan(found.mag[0])
