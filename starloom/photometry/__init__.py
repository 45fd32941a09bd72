"""Zero point, seeing, sky and depth of a frame, and its list of sources."""

from starloom.photometry.bands import standard_band
from starloom.photometry.measure import FramePhotometry, photometer, saturation_level

__all__ = ["FramePhotometry", "photometer", "saturation_level", "standard_band"]
