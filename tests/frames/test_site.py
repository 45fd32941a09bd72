"""Sites leave the hub rounded."""

from __future__ import annotations

import pytest
from astropy.io import fits

from starloom.frames.header import header_of_text
from starloom.frames.normalising import normalise
from starloom.frames.site import coarse, rounded_cards, rounded_site

TEXT = """
SWCREATE= 'N.I.N.A. 3.1.2 (x64)'
SITELAT =           -31.273361
SITELONG=           149.064444
SITEELEV=               1165.2
OBSGEO-X=           -4683211.7
FILTER  = 'V       '
"""


def test_a_normalised_header_keeps_a_tenth_of_a_degree():
    header = normalise(header_of_text(TEXT)).as_json()
    exact = {name: header[name]["value"] for name in header}
    found = rounded_site(header)
    assert [found[n]["value"] for n in ("site_lat_deg", "site_lon_deg", "site_elev_m")] == [-31.3, 149.1, 1200.0]
    assert {n: e["value"] for n, e in found.items() if not n.startswith("site_")} == {
        n: v for n, v in exact.items() if not n.startswith("site_")
    }
    # A copy: what the caller holds stays as it was.
    assert header["site_lat_deg"]["value"] == -31.273361
    assert rounded_site({"filter": {"value": "V"}}) == {"filter": {"value": "V"}}


def test_cards_are_rounded_whatever_their_spelling():
    header = header_of_text(TEXT)
    header["LAT-OBS"] = "51 04 00.000"
    header["LONG-OBS"] = "somewhere"
    found = rounded_cards(header)
    assert found == {
        "SITELAT": -31.3, "SITELONG": 149.1, "SITEELEV": 1200.0, "OBSGEO-X": -4680000.0, "LAT-OBS": 51.1,
        "LONG-OBS": "",
    }  # fmt: skip
    assert rounded_cards(fits.Header([("FILTER", "V")])) == {}


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, None), (0.04, 0.0), (-0.04, 0.0), (-0.06, -0.1), (89.96, 90.0)]
)
def test_coarse(value, wanted):
    assert coarse(value) == wanted
    assert str(coarse(-0.04)) == "0.0"
