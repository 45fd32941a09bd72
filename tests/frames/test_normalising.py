"""Headers as each capture program writes them, with the traps that were found in real ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starloom.frames import NormalisedHeader, normalise
from starloom.frames.answers import NAMES
from starloom.frames.header import header_of_text
from starloom.frames.profiling import profiles
from starloom.frames.reading import as_number, instant, right_ascension, sexagesimal
from starloom.sky.headers import capture_header
from starloom.sky.telescope import Telescope

FRAME = "NAXIS = 2\nNAXIS1 = 4144\nNAXIS2 = 2822\n"


def told(text: str) -> NormalisedHeader:
    return normalise(header_of_text(FRAME + text))


def check(header: NormalisedHeader, expected: dict[str, object]) -> None:
    for name, value in expected.items():
        said = header.value(name)
        if isinstance(value, float):
            assert said == pytest.approx(value, rel=1e-6), name
        else:
            assert said == value, name


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


# Shortened from real headers; names, coordinates and times are changed.
CASES: dict[str, tuple[str, str, dict[str, object]]] = {
    "nina, binned, manual run": (
        """
IMAGETYP= 'LIGHT'              / Type of exposure
EXPOSURE=                 30.0 / [s] Exposure duration
EXPTIME =                 30.0 / [s] Exposure duration
DATE-LOC= '2021-03-02T21:19:00.4551234' / Time of observation (local)
DATE-OBS= '2021-03-02T20:19:00.4551234' / Time of observation (UTC)
XBINNING=                    2 / X axis binning factor
YBINNING=                    2 / Y axis binning factor
GAIN    =                  120 / Sensor gain
OFFSET  =                   30 / Sensor gain offset
EGAIN   =     1.00224268436432 / [e-/ADU] Electrons per A/D unit
XPIXSZ  =                 9.26 / [um] Pixel X axis size
BAYERPAT= 'RGGB'               / Sensor Bayer pattern
XBAYROFF=                    1 / Bayer pattern X axis offset
YBAYROFF=                    0 / Bayer pattern Y axis offset
OBJECT  = 'MarsM45 '           / Name of the object of interest
OBJCTRA = '00 00 00'           / [H M S] RA of imaged object
OBJCTDEC= '+00 00 00'          / [D M S] Declination of imaged object
WINDSPD =                 36.0 / [kph] Wind speed
WINDGUST=                 10.0 / [m/s] Wind gust
AMBTEMP =                 50.0 / [degF] Ambient air temperature
PRESSURE=                99.55 / [kPa] Air pressure
HUMIDITY=                140.0 / [percent] Relative humidity
CLOUDCVR=                 12.5 / [percent] Cloud cover
MPSAS   =                 20.8 / [mags/arcsec^2] Sky quality
ROWORDER= 'TOP-DOWN'           / FITS Image Orientation
SWCREATE= 'N.I.N.A. 1.10.2.90' / Software that created this file
""",
        "nina",
        {
            "frame_type": "light",
            "start_utc": utc(2021, 3, 2, 20, 19, 0, 455123),
            "ra_deg": None,
            "dec_deg": None,
            "gain_setting": 120.0,
            "gain_e_per_adu": 1.002242684,
            "pedestal_adu": None,
            "binning": 2,
            "pixel_size_um": 9.26,
            "bayer_pattern": "GRBG",
            "wind_speed_m_s": 10.0,
            "wind_gust_m_s": 10.0,
            "ambient_temp_c": 10.0,
            "pressure_hpa": 995.5,
            "humidity_pct": None,
            "cloud_cover_pct": 12.5,
            "sky_brightness_mag_arcsec2": 20.8,
            "row_order": "TOP-DOWN",
        },
    ),
    "maxim, calibrated": (
        """
DATE-OBS= '2018-07-04T14:03:03' /YYYY-MM-DDThh:mm:ss observation start, UT
EXPTIME =   3.00000000000E+002 / [sec] Duration of exposure
CCD-TEMP=  -34.993802250000002 /CCD temperature at start of exposure in C
XPIXSZ  =   14.800000000000001 /Pixel Width in microns (after binning)
XBINNING=                    2 / Binning level along the X-axis
YBINNING=                    2 / Binning level along the Y-axis
FILTER  = '        '
IMAGETYP= 'Light Frame'
SITELAT = '-31 16 24'          /Latitude of the imaging location
SITELONG= '149 03 52'          /Longitude of the imaging location
JD      =   2458304.0854513887 /Julian Date at start of exposure
FOCALLEN=   1425.0000000000000 /Focal length of telescope in mm
APTDIA  =   392.00000000000000 /Aperture diameter of telescope in mm
SWCREATE= 'MaxIm DL Version 6.20'
OBJCTRA = '18 20 48.12'
OBJCTDEC= '-16 10 58.8'
PEDESTAL=                 -100 /Correction to add for zero-based ADU
CALSTAT = 'BDF     '
GAIN    =                  2.3
BOLTWIND=                  7.2 / km/h
BOLTAMBT=                 -3.5
BOLTDEW =                -11.0
BOLTHUM =                 44.0
BOLTCLOU=                -21.4
""",
        "maxim",
        {
            "frame_type": "light",
            "start_utc": utc(2018, 7, 4, 14, 3, 3),
            "exposure_s": 300.0,
            "ra_deg": 275.2005,
            "dec_deg": -16.183,
            "solved": False,
            "filter": None,
            "site_lat_deg": -31.2733333,
            "site_lon_deg": 149.0644444,
            "focal_length_mm": 1425.0,
            "aperture_mm": 392.0,
            "pixel_size_um": 14.8,
            "scale_arcsec": 2.142259,
            "pedestal_adu": 100.0,
            "gain_setting": None,
            "gain_e_per_adu": None,
            "calstat": "BDF",
            "wind_speed_m_s": 2.0,
            "ambient_temp_c": -3.5,
            "dewpoint_c": -11.0,
            "humidity_pct": 44.0,
            "cloud_cover_pct": None,
        },
    ),
    "itelescope": (
        """
DATE-OBS= '2018-07-04T14:03:03' / [ISO 8601] UTC date/time of exposure start
EXPTIME =   3.00000000000E+002 / [sec] Duration of exposure
XPIXSZ  =   7.4000000000000004 /Pixel Width in microns (after binning)
XBINNING=                    1 / Binning level along the X-axis
YBINNING=                    1 / Binning level along the Y-axis
IMAGETYP= 'Light Frame' /       Type of image
FOCALLEN=   1425.0000000000000 /Focal length of telescope in mm
SWCREATE= 'MaxIm DL Version 5.24 140126'
TELESCOP= 'iTelescope 33'      / Telescope name
HISTORY  Bias Subtraction (Bias 1, 4864 x 3232, Bin1 x 1, Temp -35C,
HISTORY  Dark Subtraction (Dark 10, 4864 x 3232, Bin1 x 1, Temp -35C,
HIERARCH iTelescopePlateScaleH = '1.07352112676056'
DATE-HP = '2018-07-04T14:03:03.414'
PA      = '270.693881052116'
TIMESYS = 'UTC     '           / Default time system
LAT-OBS =  -3.12736111111E+001 / [deg +N WGS84] Geodetic latitude
LONG-OBS=   1.49064444444E+002 / [deg +E WGS84] Geodetic longitude
ALT-OBS =   1.16500000000E+003 / [metres] Altitude above mean sea level
RA      = '18 20 48.12'        / [hms J2000] Target right ascension
DEC     = '-16 10 58.8'        / [dms +N J2000] Target declination
""",
        "itelescope",
        {
            "start_utc": utc(2018, 7, 4, 14, 3, 3, 414000),
            "scale_arcsec": 1.0735211268,
            "rotation_deg": 270.693881052,
            "ra_deg": 275.2005,
            "dec_deg": -16.183,
            "site_lat_deg": -31.2736111,
            "site_lon_deg": 149.0644444,
            "site_elev_m": 1165.0,
            "telescope": "iTelescope 33",
            "calstat": "BD",
        },
    ),
    "sharpcap": (
        """
SWCREATE= 'SharpCap'           /
CCD-TEMP=                 12.7 /
YBINNING=                    1 /
XBINNING=                    1 /
EXPTIME =                    2 /
DATE-OBS= '2019-04-29T20:25:29.8219583' / System Clock-Frame Grabbed
XPIXSZ  =     2.90000009536743 /
COLORTYP= 'MONO'
INSTRUME= 'ZWO ASI290MM Mini'  /
""",
        "sharpcap",
        {
            "frame_type": None,
            "start_utc": utc(2019, 4, 29, 20, 25, 29, 821958),
            "exposure_s": 2.0,
            "sensor_temp_c": 12.7,
            "bayer_pattern": None,
            "scale_arcsec": None,
            "pixel_size_um": 2.9,
            "camera": "ZWO ASI290MM Mini",
        },
    ),
    "apt": (
        """
OBJECT  = 'TEST    '           / The name of Object Imaged
TELESCOP= 'EQMOD HEQ5/6'       / The Telescope used
DATE-OBS= '2018-09-17T21:04:46' / The UTC date and time at the start of the expo
EXPTIME =                 240. / The total exposure time in seconds
XPIXSZ  =                 4.63 / Pixel width in microns (after binning)
XBINNING=                    1 / Binning factor in width
EGAIN   =     1.00224268436432 / Electronic gain in e-/ADU
FOCALLEN=                  400 / Focal Length of the Telescope in mm
SWCREATE= 'Astro Photography Tool - APT v.3.54.1' / Imaging software
SNAPSHOT=                    1 / Number of images combined
SET-TEMP=                 -15. / The setpoint of the cooling in C
IMAGETYP= 'Flat Frame'         / The type of image
OBJCTRA = '01 35 00'           / The Right Ascension of the center of the image
OBJCTDEC= '+30 44 25'          / The Declination of the center of the image
SITELAT = '+51 03 00.000'      / The site Latitude
SITELONG= '-03 30 00.000'      / The site Longitude
GAIN    =                  120 / The gain set (if supported)
""",
        "apt",
        {
            "frame_type": "flat",
            "start_utc": utc(2018, 9, 17, 21, 4, 46),
            "ra_deg": 23.75,
            "dec_deg": 30.7402778,
            "site_lat_deg": 51.05,
            "site_lon_deg": -3.5,
            "gain_setting": 120.0,
            "sensor_temp_c": None,
            "scale_arcsec": 206.264806 * 4.63 / 400,
            "binning": 1,
        },
    ),
    "sgp, mount in CRVAL": (
        """
CRPIX1  =                 2072 / reference spectrum pixel coordinate for axis 1
CRPIX2  =                 1411 / reference spectrum pixel coordinate for axis 2
CTYPE1  = 'RA---TAN'           / standard system and projection
CTYPE2  = 'DEC--TAN'           / standard system and projection
DATE-LOC= '2020-05-30T02:22:49.0968820' / Local observation date
DATE-OBS= '2020-05-30T00:22:49.0968820' / UTC observation date
IMAGETYP= 'LIGHT   '           / Type of frame
CREATOR = 'Sequence Generator Pro v3.1.0.479' / Capture software
SITELAT = '51 3 0.000'         / Latitude of the imaging site in degrees
SITELONG= '3 43 0.000'         / Longitude of the imaging site in degrees
EXPOSURE=                   30 / Exposure time in seconds
FOCPOS  =               827840 / Absolute focuser position
RA      =     283.395539831101 / Object Right Ascension in degrees
DEC     =           33.0340625 / Object Declination in degrees
CRVAL1  =     283.395539831101 / RA at image center in degrees
CRVAL2  =           33.0340625 / DEC at image center in degrees
FLIPPED =                    F / Is image flipped
ANGLE   =               258.37 / Image angle
SCALE   =              0.65415 / Image scale (arcsec / pixel)
EGAIN   =     3.99000000953674 / Electrons Per ADU
GAIN    =                  120 / Camera gain
CD1_1   = 3.66307430802135E-05
CD1_2   = 0.000177977827450975
CD2_1   = -0.00017797782745097
CD2_2   = 3.66307430802135E-05
""",
        "sgp",
        {
            "exposure_s": 30.0,
            "solved": False,
            "ra_deg": 283.395539831,
            "scale_arcsec": 0.65415,
            "rotation_deg": 258.37,
            "site_lat_deg": 51.05,
            "site_lon_deg": 3.7166667,
            "gain_setting": 120.0,
            "focus_position": 827840.0,
        },
    ),
    "asiair": (
        """
CREATOR = 'ZWO ASIAIR Plus'    / Capture software
OFFSET  =                   50 / camera offset
FOCALLEN=                  494 / Focal length of telescope in mm
EGAIN   =    0.242862924933434 / Electronic gain in e-/ADU
XBINNING=                    2 / Camera X Bin
YBINNING=                    2 / Camera Y Bin
XPIXSZ  =     7.51999998092651 / pixel size in microns (with binning)
IMAGETYP= 'Dark    '           / Type of image
EXPTIME =                  30. / Exposure time in seconds
CCD-TEMP=                 -10. / sensor temperature in C
DATE-OBS= '2025-08-25T05:52:13.488569' / Image exposure start time
FILTER  = 'None    '           / Filter used when taking image
GAIN    =                  100 / Gain Value
""",
        "asiair",
        {
            "frame_type": "dark",
            "pixel_size_um": 7.52,
            "scale_arcsec": 206.264806 * 7.52 / 494,
            "gain_setting": 100.0,
            "gain_e_per_adu": 0.242862925,
            "pedestal_adu": None,
            "filter": "None",
        },
    ),
    "seestar stack": (
        """
NAXIS3 = 3
CREATOR = 'ZWO Seestar S50'    / Capture software
FOCALLEN=                  250 / Focal length of telescope in mm
APERTURE=                   5. / Name of field of view aperture
PROGRAM = '4.70    '           / The name of the software task that created the
XBINNING=                    1 / Camera X Bin
XPIXSZ  =     2.90000009536743 / pixel size in microns (with binning)
IMAGETYP= 'Light   '           / Type of image
STACKCNT=                  614 / Stack frames
EXPTIME =                  10. / Exposure time in seconds
TOTALEXP=                6140. / Total Exposure Time in seconds
GAIN    =                   80 / Gain Value
DATE-OBS= '2025-07-15T12:19:41.883632' / Image created time
""",
        "seestar",
        {
            "software": "ZWO Seestar S50",
            "frame_type": "stack",
            "exposure_s": 6140.0,
            "aperture_mm": None,
            "gain_e_per_adu": None,
            "gain_setting": 80.0,
        },
    ),
    "dwarf ii": (
        """
DATE-OBS= '2023-06-10T21:38:19.442' / Time start to exposure
DATE    = '2023-06-10T21:38:35.938' / Fits written to sd card
EXP     =                  15. / [s] Sub Exposure Time
GAIN    =                  110 / Sub Gain
BINNING = '2*2     '           / n*n pixels add together
RA      =                  5.5 / [h] Observe object RA coordinate (J2000)
DEC     =                 -2.5 / [deg] Observe object DEC coordinate (J2000)
OBJECT  = '        '           / Observe object
BAYERPAT= 'GBRG    '           / Bayer pattern
TELESCOP= 'DWARFII '           / DWARF II telescope
INSTRUME= 'DWARFII '           / DWARF II instrument
ORIGIN  = 'DWARFLAB'           / DWARF II's creator
""",
        "dwarf2",
        {
            "frame_type": None,
            "start_utc": utc(2023, 6, 10, 21, 38, 19, 442000),
            "exposure_s": 15.0,
            "binning": 2,
            "ra_deg": 82.5,
            "dec_deg": -2.5,
            "object": None,
            "bayer_pattern": "GBRG",
        },
    ),
    "dwarf iii": (
        """
DATE-OBS= '2025-10-18T05:17:25.998' / Time end of exposure
EXPTIME =                  60. / [s] Exposure Time
RESTACK =                    0 / is Mega Stack
FILTER  = ''                   / selected filter
XPIXSZ  =                   2. / [um] pixel size in microns (with binning)
XBINNING=                    1
FOCALLEN=                 150. / [mm] Focal length of telescope in mm
DET-TEMP=                   15 / Detector temperature in C
RA      =             85.28743 / [deg] Observe object RA coordinate (J2000)
DEC     =            -2.492014 / [deg] Observe object DEC coordinate (J2000)
TELESCOP= 'DWARFIII'           / DWARF III telescope
ORIGIN  = 'DWARFLAB'           / DWARF III's creator
""",
        "dwarf3",
        {
            "start_utc": utc(2025, 10, 18, 5, 16, 25, 998000),
            "ra_deg": 85.28743,
            "sensor_temp_c": 15.0,
            "filter": None,
            "frame_type": None,
        },
    ),
    "indi, mount in CRVAL": (
        """
INSTRUME= 'ZWO CCD ASI1600MM Pro' / CCD Name
TELESCOP= 'EQMod Mount'        / Telescope name
EXPTIME =         1.800000E+02 / Total Exposure Time (s)
CCD-TEMP=        -1.500000E+01 / CCD Temperature (Celsius)
PIXSIZE1=         3.800000E+00 / Pixel Size 1 (microns)
XBINNING=                    2 / Binning factor in width
YBINNING=                    2 / Binning factor in height
XPIXSZ  =         7.600000E+00 / X binned pixel size in microns
FRAME   = 'Light   '           / Frame Type
IMAGETYP= 'Light Frame'        / Frame Type
FILTER  = 'Ha      '           / Filter
FOCALLEN=         5.300000E+02 / Focal Length (mm)
APTDIA  =         1.060000E+02 / Aperture (mm)
OBJCTRA = '20 58 47.00'        / Object J2000 RA in Hours
OBJCTDEC= '44 19 48.00'        / Object J2000 DEC in Degrees
RA      =         3.146958E+02 / Object J2000 RA in Degrees
DEC     =         4.433000E+01 / Object J2000 DEC in Degrees
CRVAL1  =     3.1469583333E+02 / CRVAL1
CRVAL2  =     4.4330000000E+01 / CRVAL1
CTYPE1  = 'RA---TAN'           / CTYPE1
CTYPE2  = 'DEC--TAN'           / CTYPE2
CRPIX1  =     2.0720000000E+03 / CRPIX1
CRPIX2  =     1.4110000000E+03 / CRPIX2
CDELT1  =     8.2163000000E-04 / CDELT1
CDELT2  =     8.2163000000E-04 / CDELT2
CROTA2  =     1.8010000000E+02 / CROTA2
GAIN    =         1.390000E+02 / Gain
DATE-OBS= '2024-08-03T22:10:11.512' / UTC start date of observation
COMMENT Generated by INDI
""",
        "indi",
        {
            "frame_type": "light",
            "solved": False,
            "ra_deg": 314.6958,
            "dec_deg": 44.33,
            "pixel_size_um": 7.6,
            "focal_length_mm": 530.0,
            "aperture_mm": 106.0,
            "gain_setting": 139.0,
            "start_utc": utc(2024, 8, 3, 22, 10, 11, 512000),
        },
    ),
    "siril stack": (
        """
PROGRAM = 'Siril 1.4.0-beta4'  / Software that created this HDU
DATE    = '2025-11-04T02:16:35' / UTC date that FITS file was created
DATE-OBS= '2025-09-01T07:34:49.301000' / YYYY-MM-DDThh:mm:ss observation start,
IMAGETYP= 'FLAT    '           / Type of image
EXPTIME =              0.04982 / [s]  Exposure time duration
GAIN    =                  100 / Sensor gain
CVF     =    0.242862924933434 / [e-/ADU] Electrons per A/D unit
STACKCNT=                   10 / Stack frames
LIVETIME=               0.4982 / [s] Exposure time after deadtime correction
""",
        "siril",
        {
            "frame_type": "stack",
            "exposure_s": 0.4982,
            "gain_e_per_adu": 0.242862925,
            "start_utc": utc(2025, 9, 1, 7, 34, 49, 301000),
        },
    ),
    "app master flat": (
        """
DATE    = '2024-03-09T11:57:12' / creation date of MasterFlat
SOFTWARE= 'Astro Pixel Processor by Aries Productions' / software
CALFRAME= 'MasterFlat'         / master flat frame
INSTRUME= 'ZWO ASI294MC Pro'   / instrument name
CFAIMAGE= 'RGGB    '           / Color Filter Array pattern
EXPTIME =                 1.28 / exposure time (s)
GAIN    =                120.0 / gain or ISO depending on instrument
LOK-1   = ' 9,78E-03'          / lokation of channel 1
FILT-1  = 'HaOIII  '           / filter used
NUMFRAME=                   30 / # number of frames used in MasterFlat creation
""",
        "app",
        {
            "frame_type": "stack",
            "start_utc": None,
            "bayer_pattern": "RGGB",
            "filter": "HaOIII",
            "gain_setting": 120.0,
        },
    ),
    "unistellar": (
        """
ORIGIN  = 'Unistellar'
DATE-OBS= '2022-04-05T20:11:09.123'
EXPTIME =                3.972
GAIN    =                   25
FOVRA   =             181.7543
FOVDEC  =              12.3456
""",
        "unistellar",
        {"ra_deg": 181.7543, "dec_deg": 12.3456, "binning": None, "exposure_s": 3.972},
    ),
    "microobservatory": (
        """
DATE-OBS= '2017-12-19T18:33:43.317-0700' / Start date & time of observation, LT
UT-OBS  = '2017-12-20T01:33:43.317-0000' / Universal Time at start of obs.
MJD-OBS = 58107.065 / Modified Julian Date (MJD) at start of observation
EXPTIME = 060.00 / Exposure time in Seconds
RA      =  31.312099 / 02:05.25 Right Ascension
DEC     =  46.769087 / +46:46.15 Declination
FILTER  = 'Clear   ' / Filter chosen
IM_SCALE= 5.210 / Image scale in arc-secs/pixel
CAMTEMP = 271.0 / CCD Camera Temperature in Kelvin, =-1 if no data
TELTEMP = -1.0 / Ambient Telescope Temperature in Kelvin, =-1 if no data
TELHUM  = -1 / Relative Humidity as a Percentage, =-1 if no data
LATITUDE= 31.68 / Local latitude
LONGITUD= 110.88 / Local longitude
CREATOR = 'MicroObservatory2014-05-23' / Version of current FITS document
""",
        "microobservatory",
        {
            "start_utc": utc(2017, 12, 20, 1, 33, 43, 317000),
            "sensor_temp_c": -2.15,
            "ambient_temp_c": None,
            "humidity_pct": None,
            "site_lon_deg": -110.88,
            "scale_arcsec": 5.21,
            "exposure_s": 60.0,
        },
    ),
    "nobody we know": (
        """
DATE-OBS= '2015-11-12'
TIME-OBS= '03:58:54.131'
EXPTIME = '53.907456'
GAIN    =                 1.91 / Gain (e-/ADU)
FOCALLEN=                    0
XBINNING=                    2
YBINNING=                    1
XPIXSZ  =                  9.0
SATLEVEL= 'Unknown '
IMAGETYP= 'object  '
FILTER  = '    '
OBJCTRA = '5:34:30.0'
OBJCTDEC= '22d00m52s'
SITELAT = 0.0
SITELONG= 0.0
AIRMASS = 0.0
""",
        "generic",
        {
            "software": None,
            "frame_type": "light",
            "start_utc": utc(2015, 11, 12, 3, 58, 54, 131000),
            "exposure_s": 53.907456,
            "gain_e_per_adu": 1.91,
            "gain_setting": None,
            "focal_length_mm": None,
            "binning": None,
            "pixel_size_um": 9.0,
            "saturation_adu": None,
            "filter": None,
            "ra_deg": 83.625,
            "dec_deg": 22.0144444,
            "site_lat_deg": None,
            "site_lon_deg": None,
            "airmass": None,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_program_is_understood(case: str) -> None:
    text, profile, expected = CASES[case]
    header = told(text)
    assert header.profile.split("@")[0] == profile
    check(header, expected)


def test_every_name_is_always_there_and_safe_for_json() -> None:
    for text in [""] + [case[0] for case in CASES.values()]:
        said = told(text).as_json()
        assert tuple(said) == NAMES
        again = json.loads(json.dumps(said))
        assert again == said
        for name, entry in said.items():
            assert set(entry) == {"value", "keyword", "confidence", "note"}
            assert entry["confidence"] in ("high", "medium", "low", None)
            assert (entry["value"] is None) <= (entry["keyword"] is None), name
    with pytest.raises(KeyError):
        told("").value("no-such-thing")


def test_silence_is_explained() -> None:
    assert "FOCALLEN" in told("FOCALLEN= 0").entry("focal_length_mm").note
    assert "unequal" in told("XBINNING= 1\nYBINNING= 2").entry("binning").note


def test_a_true_solution_gives_centre_scale_and_rotation() -> None:
    header = told(
        "RA = 10.0\nDEC = 41.0\nCTYPE1 = 'RA---TAN'\nCTYPE2 = 'DEC--TAN'\nCRVAL1 = 10.5\nCRVAL2 = 41.5\n"
        "CRPIX1 = 2072.5\nCRPIX2 = 1411.5\nCD1_1 = -2.5E-04\nCD1_2 = 1.4433757E-04\nCD2_1 = 1.4433757E-04\n"
        "CD2_2 = 2.5E-04\n"
    )
    check(
        header,
        {"solved": True, "ra_deg": 10.5, "dec_deg": 41.5, "scale_arcsec": 1.0392305, "rotation_deg": 30.0},
    )
    assert header.entry("ra_deg").confidence == "high"


@pytest.mark.parametrize(
    "change",
    [
        "CD1_1 = 0\nCD1_2 = 0\nCD2_1 = 0\nCD2_2 = 0",
        "CTYPE1 = 'LINEAR'",
        "PLTSOLVD= F",
        "CD1_1 = 'x'",
        "CRVAL1 = 'x'",
    ],
)
def test_what_is_no_solution(change: str) -> None:
    cards = {
        "CTYPE1": "'RA---TAN'",
        "CTYPE2": "'DEC--TAN'",
        **{"CRVAL1": "10.5", "CRVAL2": "41.5", "CRPIX1": "2072.5", "CRPIX2": "1411.5"},
        **{"CD1_1": "-2.5E-04", "CD1_2": "0.0", "CD2_1": "0.0", "CD2_2": "2.5E-04"},
    }
    whole = "\n".join(f"{key} = {value}" for key, value in cards.items())
    assert told(whole).value("solved") is True
    cards |= dict(line.replace(" ", "").split("=") for line in change.split("\n"))
    assert told("\n".join(f"{key} = {value}" for key, value in cards.items())).value("solved") is False


def test_a_solver_s_mark_makes_an_indi_header_solved() -> None:
    text = CASES["indi, mount in CRVAL"][0]
    assert told(text).value("solved") is False
    assert told(text + "PLTSOLVD= T / solved\n").value("solved") is True


def test_local_time_is_caught_by_mjd() -> None:
    header = told("DATE-OBS= '2024-01-02T20:00:00'\nMJD-OBS = 60312.125")
    check(header, {"start_utc": utc(2024, 1, 3, 3, 0, 0)})
    assert header.entry("start_utc").confidence == "low"
    assert "local" in header.entry("start_utc").note
    whole_day = told("DATE-OBS= '2024-01-02T20:00:00'\nMJD-OBS = 60311")
    check(whole_day, {"start_utc": utc(2024, 1, 2, 20, 0, 0)})
    same = told("DATE-OBS= '2024-01-02T20:00:00'\nDATE-LOC= '2024-01-02T20:00:00'")
    assert same.entry("start_utc").confidence == "medium"


def test_other_time_scales_become_utc() -> None:
    tai = told("DATE-OBS= '2024-01-02T20:00:37'\nTIMESYS = 'TAI'")
    assert abs(tai.value("start_utc") - utc(2024, 1, 2, 20, 0, 0)) < timedelta(milliseconds=1)
    assert told("DATE-OBS= '2024-01-02T20:00:37'\nTIMESYS = 'LOCAL'").value("start_utc") is None


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("2025-09-17T03:34:02.6477108", "", utc(2025, 9, 17, 3, 34, 2, 647710)),
        ("2025-09-17T03:34:02Z", "", utc(2025, 9, 17, 3, 34, 2)),
        ("2025-09-17 03:34:02", "", utc(2025, 9, 17, 3, 34, 2)),
        ("2025-09-17T03:34", "", utc(2025, 9, 17, 3, 34)),
        ("2017-12-19T18:33:43.317-0700", "", utc(2017, 12, 20, 1, 33, 43, 317000)),
        ("2017-12-19T18:33:43+05:30", "", utc(2017, 12, 19, 13, 3, 43)),
        ("04/07/98", "14:03:03", utc(1998, 7, 4, 14, 3, 3)),
        ("2016-12-31T23:59:60.5", "", utc(2017, 1, 1, 0, 0, 0, 500000)),
        ("2018-07-04", "14:03:03,25", utc(2018, 7, 4, 14, 3, 3, 250000)),
        ("2018-07-04", "", None),
        ("04/07/98", "", None),
        ("0001-01-01T00:00:00", "", None),
        ("1970-01-01T00:00:00", "", None),
        ("2025-13-01T00:00:00", "", None),
        ("2025-02-30T00:00:00", "", None),
        ("yesterday", "12:00:00", None),
        ("", "", None),
    ],
)
def test_dates(date: str, time: str, expected: datetime | None) -> None:
    assert instant(date, time) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18 53 34.93", 18.893036111),
        ("-00 30 00", -0.5),
        ("+44:19:48", 44.33),
        ("22d00m52s", 22.01444444),
        ("110 52 48 W", -110.88),
        ("31 40 S", -31.6666667),
        ("12 60 00", None),
        ("12.5", None),
        ("", None),
    ],
)
def test_sexagesimal(text: str, expected: float | None) -> None:
    assert sexagesimal(text) == (None if expected is None else pytest.approx(expected))


def test_right_ascension_and_numbers() -> None:
    assert right_ascension("05 30 00", "") == 82.5
    assert right_ascension(5.5, "h") == 82.5
    assert right_ascension(5.5, "") == 5.5
    assert right_ascension("25 00 00", "") is None
    assert right_ascension(400.0, "") is None
    assert as_number(" 9,78E-03") == pytest.approx(0.00978)
    assert as_number("1.5D2") == 150
    assert as_number("nan") is None
    assert as_number(True) is None


@pytest.mark.parametrize("program", ["nina", "maxim", "seestar"])
def test_synthetic_headers_tell_their_truth(program: str) -> None:
    telescope = Telescope("T1", 1.2, 640, 480, gain_e_per_adu=0.78, program=program)  # type: ignore[arg-type]
    start = utc(2025, 12, 1, 1, 30, 0)
    header = normalise(capture_header(telescope, (83.6, -5.4), start, "M 42"))
    assert header.profile.startswith(program)
    check(
        header,
        {
            "start_utc": start,
            "exposure_s": float(telescope.exposure_s),
            "frame_type": "light",
            "object": "M 42",
            "filter": telescope.filter_name,
            "solved": False,
        },
    )
    assert header.value("ra_deg") == pytest.approx(83.6, abs=0.001)
    assert header.value("dec_deg") == pytest.approx(-5.4, abs=0.001)
    assert header.value("scale_arcsec") == pytest.approx(telescope.scale_arcsec, rel=0.01)
    if program != "seestar":
        assert header.value("gain_e_per_adu") == pytest.approx(telescope.gain_e_per_adu)
    if program == "maxim":
        assert header.value("pedestal_adu") == int(telescope.pedestal_adu)


def test_profiles_are_well_formed() -> None:
    found = profiles()
    assert found[-1].profile == "generic"
    assert len({profile.profile for profile in found}) == len(found) >= 14
    known = {*NAMES, "pointing", "site"}
    for profile in found:
        assert set(profile.quantities) <= known, profile.profile
        assert profile.detect or profile.profile == "generic"
        assert all(rule.keyword == rule.keyword.upper() for rules in profile.quantities.values() for rule in rules)


_VALUE = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    st.sampled_from(["2024-01-02T20:00:00", "00 00 00", "2*2", "Light", "RGGB", "9999-99-99T99:99:99", "-1"]),
)
_KEYWORDS = sorted(
    {
        rule.keyword
        for profile in profiles()
        for rules in profile.quantities.values()
        for rule in rules
        if len(rule.keyword) <= 8
    }
    | {"CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CD1_1", "CD2_2", "TIMESYS", "XBAYROFF", "STACKCNT", "NAXIS1"}
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYWORDS), _VALUE, max_size=25), st.sampled_from(sorted(CASES)))
@example({"XBAYROFF": 1e300, "BAYERPAT": "RGGB"}, "siril stack")
def test_no_header_raises(cards: dict[str, object], case: str) -> None:
    header = header_of_text(CASES[case][0])
    for keyword, value in cards.items():
        header[keyword] = value
    said = normalise(header)
    json.dumps(said.as_json(), allow_nan=False)
    moment = said.value("start_utc")
    assert moment is None or moment.utcoffset() == timedelta(0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=120), max_size=20))
def test_no_text_raises(lines: list[str]) -> None:
    normalise(header_of_text("\n".join(lines)))


def test_a_raw_astropy_header_with_bad_cards_is_read() -> None:
    """Callers may bring headers that never went through ``read_frame``."""
    cards = ["OBSERVER= José", "EXPTIME = 1,5", "FILTER  = 'R       '", "OBJECT  = 'M 31"]
    header = fits.Header.fromstring("".join(card.ljust(80) for card in cards))
    check(normalise(header), {"exposure_s": 1.5, "filter": "R", "object": "M 31"})
    assert np.isfinite(normalise(header).value("exposure_s"))
