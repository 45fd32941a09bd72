"""What the co-add's step takes from the archive."""

from __future__ import annotations

import pytest

from starloom.archive.models import Frame, Photometry
from starloom.coadd.step import zero_point_of


@pytest.mark.parametrize(
    ("band", "tied"), [("V", True), ("TR", True), ("T9:Filter 2", False), ("T9:none", False), (None, False)]
)
def test_an_unmapped_filter_stacks_on_its_relative_scale(band: str | None, tied: bool) -> None:
    frame = Frame(name="a.fits", node_id="T9", band=band)
    measured = Photometry(
        frame_id="f", solution_id=1, fwhm_px=3.0, fwhm_arcsec=3.0, sky_adu=1.0, sky_sigma_adu=1.0,
        zero_point_mag=22.5, zero_point_err=0.03,
    )  # fmt: skip
    assert zero_point_of(frame, measured) == ((22.5, 0.03) if tied else (None, None))
