"""The world coordinates that a header carries: whether they are a solution, and what they say of the frame."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WcsError

from starloom.frames.reading import HeaderView

_WCS_CARDS = re.compile(
    r"CTYPE[12]|CUNIT[12]|CRVAL[12]|CRPIX[12]|CD[12]_[12]|PC[12]_[12]|CDELT[12]|CROTA[12]|PV[12]_\d+"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|[AB]P?_(ORDER|\d_\d)"
)


@dataclass(frozen=True)
class Solution:
    """A frame's own astrometry.

    Attributes
    ----------
    ra_deg, dec_deg
        Of the image's centre, degrees.
    scale_arcsec
        Geometric mean of both axes' plate scale, arcsec per pixel.
    rotation_deg
        Position angle of the image's +y axis, degrees from north through east.
    """

    ra_deg: float
    dec_deg: float
    scale_arcsec: float
    rotation_deg: float


def solution_of(header: HeaderView, *, mount_writes_wcs: bool) -> Solution | None:
    """Return the solution in a header, None where there is none to believe.

    A solution needs celestial axes, a reference value and a matrix that can be inverted. Programs that write the
    mount's position as CRVAL have solved only where a solver left its own mark, or moved CRVAL off the mount's
    position and wrote a CD matrix.
    """
    if not re.match(r"RA--|[EG]LON", header.text("CTYPE1")) or not re.match(
        r"DEC-|[EG]LAT", header.text("CTYPE2")
    ):
        return None
    if header.raw("PLTSOLVD") is False or any(header.number(f"CRVAL{n}") is None for n in (1, 2)):
        return None
    has_cd = header.number("CD1_1") is not None and header.number("CD2_2") is not None
    has_scale = header.number("CDELT1") is not None and header.number("CDELT2") is not None
    if not has_cd and not has_scale:
        return None
    if mount_writes_wcs and header.raw("PLTSOLVD") is not True and not (has_cd and not _is_mount(header)):
        return None
    return _measured(header)


def _is_mount(header: HeaderView) -> bool:
    pairs = [(header.number("CRVAL1"), header.number("RA")), (header.number("CRVAL2"), header.number("DEC"))]
    return all(a is not None and b is not None and math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)


def _measured(header: HeaderView) -> Solution | None:
    cards = fits.Header()
    cards["NAXIS"] = 2
    for keyword in header.keywords():
        if _WCS_CARDS.fullmatch(keyword):
            cards[keyword] = header.raw(keyword)
    width, height = (header.number(f"NAXIS{n}") or header.number(f"IMAGE{c}") for n, c in ((1, "W"), (2, "H")))
    if not width or not height:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(cards, naxis=2)
            matrix = np.asarray(wcs.pixel_scale_matrix)
            ra, dec = (float(v) for v in wcs.celestial.all_pix2world((width - 1) / 2, (height - 1) / 2, 0))
    except (ValueError, TypeError, KeyError, IndexError, WcsError):
        return None
    scale = math.sqrt(abs(float(np.linalg.det(matrix)))) * 3600
    if not (math.isfinite(ra) and math.isfinite(dec) and 0.001 < scale < 3600):
        return None
    rotation = math.degrees(math.atan2(matrix[0, 1], matrix[1, 1])) % 360
    return Solution(ra % 360, dec, scale, rotation)
