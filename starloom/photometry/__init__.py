"""Zero point, seeing, sky and depth of a frame, and its list of sources."""

from starloom.photometry.bands import BandInfo, band_info, is_unmapped, standard_band
from starloom.photometry.measure import catalog_for, cone_of, photometer
from starloom.photometry.results import FramePhotometry, PhotometryOptions
from starloom.photometry.transparency import transparency
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
    "transparency",
]
