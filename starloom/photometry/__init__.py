"""Zero point, seeing, sky and depth of a frame, and its list of sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.loading import on_first_use

if TYPE_CHECKING:
    from starloom.photometry.bands import BandInfo, band_info, is_unmapped, standard_band
    from starloom.photometry.measure import catalog_for, cone_of, photometer
    from starloom.photometry.results import FramePhotometry, PhotometryOptions
    from starloom.photometry.zero_point import ColourTerm

__all__ = [
    "BandInfo",
    "ColourTerm",
    "FramePhotometry",
    "PhotometryOptions",
    "band_info",
    "catalog_for",
    "cone_of",
    "is_unmapped",
    "photometer",
    "standard_band",
]

_HOME = {
    "BandInfo": "bands",
    "ColourTerm": "zero_point",
    "FramePhotometry": "results",
    "PhotometryOptions": "results",
    "band_info": "bands",
    "catalog_for": "measure",
    "cone_of": "measure",
    "is_unmapped": "bands",
    "photometer": "measure",
    "standard_band": "bands",
}

__getattr__ = on_first_use(__name__, _HOME)
