"""Headers in the style of the programs that amateurs capture with.

The keywords, their units and their habits are those of real files: NINA writes degrees and sexagesimal text,
MaxIm DL sexagesimal text only and a negative ``PEDESTAL``, a Seestar no ``EGAIN`` and its own ``CREATOR``.
None of them writes a WCS that was solved.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
from astropy.io import fits

from starloom.sky.telescope import Telescope

Entry = tuple[str, object, str]


def capture_header(
    telescope: Telescope, noted_deg: tuple[float, float], start: datetime, object_name: str
) -> fits.Header:
    """Return the header a node's capture program writes.

    Parameters
    ----------
    telescope
        Its ``program`` chooses the style.
    noted_deg
        Pointing as the mount believes it, degrees J2000.
    start
        Start of the exposure, UTC.
    object_name
        Target's name.
    """
    write = {"nina": _nina, "maxim": _maxim, "seestar": _seestar}[telescope.program]
    header = fits.Header()
    for keyword, value, comment in write(telescope, noted_deg, start, object_name):
        header[keyword] = (value, comment)
    return header


def _pixel_um(telescope: Telescope) -> float:
    return round(telescope.scale_arcsec * telescope.focal_length_mm / 206.265, 2)


def _nina(telescope: Telescope, at: tuple[float, float], start: datetime, name: str) -> Iterator[Entry]:
    yield "IMAGETYP", "LIGHT", "Type of exposure"
    yield "EXPOSURE", telescope.exposure_s, "[s] Exposure duration"
    yield "EXPTIME", telescope.exposure_s, "[s] Exposure duration"
    yield "DATE-LOC", _stamp(start + timedelta(hours=2), 3), "Time of observation (local)"
    yield "DATE-OBS", _stamp(start, 3), "Time of observation (UTC)"
    yield "XBINNING", 1, "X axis binning factor"
    yield "YBINNING", 1, "Y axis binning factor"
    yield "GAIN", 100, "Sensor gain"
    yield "OFFSET", int(telescope.pedestal_adu), "Sensor gain offset"
    yield "EGAIN", telescope.gain_e_per_adu, "[e-/ADU] Electrons per A/D unit"
    yield "XPIXSZ", _pixel_um(telescope), "[um] Pixel X axis size"
    yield "YPIXSZ", _pixel_um(telescope), "[um] Pixel Y axis size"
    yield "INSTRUME", "ZWO ASI1600MM Pro", "Imaging instrument name"
    yield "SET-TEMP", -10.0, "[degC] CCD temperature setpoint"
    yield "CCD-TEMP", -9.9, "[degC] CCD temperature"
    yield "TELESCOP", "EQMOD HEQ5/6", "Name of telescope"
    yield "FOCALLEN", telescope.focal_length_mm, "[mm] Focal length"
    yield "RA", round(at[0], 6), "[deg] RA of telescope"
    yield "DEC", round(at[1], 6), "[deg] Declination of telescope"
    yield "OBJECT", name, "Name of the object of interest"
    yield "OBJCTRA", _sexagesimal(at[0] / 15), "[H M S] RA of imaged object"
    yield "OBJCTDEC", _sexagesimal(at[1], signed=True), "[D M S] Declination of imaged object"
    yield "FILTER", telescope.filter_name, "Active filter name"
    yield "ROWORDER", "TOP-DOWN", "FITS Image Orientation"
    yield "EQUINOX", 2000.0, "Equinox of celestial coordinate system"
    yield "SWCREATE", "N.I.N.A. 3.1.2.9001 (x64)", "Software that created this file"


def _maxim(telescope: Telescope, at: tuple[float, float], start: datetime, name: str) -> Iterator[Entry]:
    yield "DATE-OBS", _stamp(start, 2), "YYYY-MM-DDThh:mm:ss observation start, UT"
    yield "EXPTIME", telescope.exposure_s, "Exposure time in seconds"
    yield "EXPOSURE", telescope.exposure_s, "Exposure time in seconds"
    yield "SET-TEMP", -20.0, "CCD temperature setpoint in C"
    yield "CCD-TEMP", -19.9, "CCD temperature at start of exposure in C"
    yield "XPIXSZ", _pixel_um(telescope), "Pixel Width in microns (after binning)"
    yield "YPIXSZ", _pixel_um(telescope), "Pixel Height in microns (after binning)"
    yield "XBINNING", 2, "Binning factor in width"
    yield "YBINNING", 2, "Binning factor in height"
    yield "FILTER", telescope.filter_name, "Filter used when taking image"
    yield "IMAGETYP", "Light Frame", "Type of image"
    yield "OBJCTRA", _sexagesimal(at[0] / 15), "Nominal Right Ascension of center of image"
    yield "OBJCTDEC", _sexagesimal(at[1], signed=True), "Nominal Declination of center of image"
    yield "FOCALLEN", telescope.focal_length_mm, "Focal length of telescope in mm"
    yield "EGAIN", telescope.gain_e_per_adu, "Electronic gain in e-/ADU"
    yield "PEDESTAL", -int(telescope.pedestal_adu), "Correction to add for zero-based ADU"
    yield "EQUINOX", 2000.0, ""
    yield "SWCREATE", "MaxIm DL Version 6.20", "Name of software that created the image"
    yield "OBJECT", name, ""
    yield "TELESCOP", "", "telescope used to acquire this image"
    yield "INSTRUME", "SBIG STX-16803 3 CCD Camera", ""


def _seestar(telescope: Telescope, at: tuple[float, float], start: datetime, name: str) -> Iterator[Entry]:
    yield "CREATOR", "ZWO Seestar S50", "Capture software"
    yield "PRODUCER", "ZWO", ""
    yield "XORGSUBF", 0, "Subframe X position in binned pixels"
    yield "YORGSUBF", 0, "Subframe Y position in binned pixels"
    yield "FOCALLEN", telescope.focal_length_mm, "Focal length of telescope in mm"
    yield "XBINNING", 1, "Camera X Bin"
    yield "YBINNING", 1, "Camera Y Bin"
    yield "XPIXSZ", _pixel_um(telescope), "pixel size in microns (with binning)"
    yield "YPIXSZ", _pixel_um(telescope), "pixel size in microns (with binning)"
    yield "IMAGETYP", "Light", "Type of exposure"
    yield "EXPOSURE", telescope.exposure_s, "Exposure time in seconds"
    yield "EXPTIME", telescope.exposure_s, "Exposure time in seconds"
    yield "CCD-TEMP", 21.5, "sensor temperature in C"
    yield "RA", round(at[0], 6), "Object Right Ascension in degrees"
    yield "DEC", round(at[1], 6), "Object Declination in degrees"
    yield "DATE-OBS", _stamp(start, 6), "Image created time"
    yield "FILTER", telescope.filter_name, "Filter used when taking image"
    yield "INSTRUME", "Seestar S50", "Camera model"
    yield "OBJECT", name, "Target object name"
    yield "GAIN", 80, "Gain Value"
    yield "TELESCOP", "S50_1a2b3c4d", "Telescope name"


def _stamp(time: datetime, digits: int) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}." + f"{time.microsecond:06d}"[:digits]


def _sexagesimal(value: float, *, signed: bool = False) -> str:
    """Hours or degrees as ``hh mm ss.s``, rounded once so that no field ever reads 60."""
    tenths = int(np.rint(abs(value) * 36000))
    minutes, tenths = divmod(tenths, 600)
    whole, minutes = divmod(minutes, 60)
    sign = ("-" if value < 0 else "+") if signed else ""
    return f"{sign}{whole:02d} {minutes:02d} {tenths / 10:04.1f}"
