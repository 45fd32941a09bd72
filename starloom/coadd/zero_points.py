"""What a header says the magnitude of one unit of a frame is."""

from __future__ import annotations

import re

import numpy as np
from astropy.io import fits

from starloom.frames.reading import as_number

_CARDS = (
    ("MAGZPT", "MAGZERR"),
    ("MAGZERO", "MAGZERR"),
    ("MAGZP", "MAGZPUNC"),
    ("PHOTZP", "PHOTZPER"),
    ("ZEROPNT", "ZEROPERR"),
)
"""Zero points and their errors, in order of trust: this network's and NOIRLab's, NOIRLab's, those of 2MASS, WISE
and ZTF, and of others. An error that is a scatter of stars (``MAGZSIG``) is none of the zero point."""

_PER_SECOND = re.compile(r"\bper s(ec(ond)?)?\b|\b1 ?s(ec)?\b|/ ?s(ec)?\b|\bcount ?rate\b", re.IGNORECASE)
_RATE = re.compile(r"/ ?s(ec(ond)?)?\b|\bper s(ec(ond)?)?\b|\bs\*{0,2}\(?-1\b", re.IGNORECASE)

_NANOMAGGY = re.compile(r"^(nanomagg(y|ies)|nmgy)$", re.IGNORECASE)
_NANOMAGGY_MAG = 22.5

_FAINTEST = 60.0


def zero_point(header: fits.Header) -> tuple[float | None, float | None]:
    """Return the magnitude of a star of one unit in a frame, and its error; None where the header does not tell.

    Notes
    -----
    NOIRLab's pipelines give ``MAGZERO`` in the frame's own units, and DECam's a ``MAGZPT`` that is "per sec", as
    its comment says, of pixels that hold the whole exposure: it is brought to these. 0 is what SCAMP and others
    write for "not known". A nanomaggy is 22.5 mag by definition (Finkbeiner et al. 2004, AJ 128, 2577).
    """
    for key, error_key in _CARDS:
        magnitude = header_number(header, key)
        if magnitude is None or not 0 < magnitude < _FAINTEST:
            continue
        if _PER_SECOND.search(str(header.comments[key])) and not _RATE.search(str(header.get("BUNIT") or "")):
            exposure = header_number(header, "EXPTIME", "EXPOSURE")
            if exposure is None or exposure <= 0:
                continue
            magnitude += 2.5 * float(np.log10(exposure))
        error = header_number(header, error_key)
        return magnitude, error if error is not None and error > 0 else None
    if _NANOMAGGY.match(str(header.get("BUNIT") or "").strip()):
        return _NANOMAGGY_MAG, None
    return None, None


def header_number(header: fits.Header, *keys: str) -> float | None:
    """Return the first of some cards that is a number, or a text that is one; ``SATLEVEL = 'Unknown'`` is none."""
    found = (as_number(header[key]) for key in keys if header.get(key) is not None)
    return next((number for number in found if number is not None), None)
