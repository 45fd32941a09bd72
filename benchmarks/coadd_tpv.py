"""SIP as TPV, in ``.head`` files: SWarp and SCAMP read the one and ignore the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

_TERMS = (
    (0, 0, 0),
    (1, 1, 0),
    (2, 0, 1),
    (4, 2, 0),
    (5, 1, 1),
    (6, 0, 2),
    (7, 3, 0),
    (8, 2, 1),
    (9, 1, 2),
    (10, 0, 3),
)
"""Number, power of the own and of the other axis of TPV's terms to third order; term 3 is the radius."""

_MOST_PX = 1e-3


def tpv_header(header: fits.Header) -> fits.Header:
    """Return a TPV header that maps like a SIP one; to third order that is exact, and it is checked.

    Raises
    ------
    ValueError
        The two differ by more than 0.001 px somewhere on the frame.
    """
    nx, ny = header["NAXIS1"], header["NAXIS2"]
    sip = WCS(header, fix=False)
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, nx - 1, 25), np.linspace(0, ny - 1, 25)))
    # Origin 1: with 0 wcslib subtracts the origin from the offsets as well.
    pixels, matrix = np.stack([x, y], axis=1) + 1, sip.pixel_scale_matrix
    plain = (pixels - sip.wcs.crpix) @ matrix.T
    true = sip.sip.pix2foc(pixels, 1) @ matrix.T
    result = header.copy()
    for key in list(result):
        if key.startswith(("A_", "B_", "AP_", "BP_")):
            del result[key]
    result["CTYPE1"], result["CTYPE2"] = "RA---TPV", "DEC--TPV"
    size = np.abs(plain).max()
    for axis in (0, 1):
        own, other = plain[:, axis] / size, plain[:, 1 - axis] / size
        design = np.stack([own**i * other**j for _, i, j in _TERMS], axis=1)
        found = np.linalg.lstsq(design, true[:, axis], rcond=None)[0]
        for (number, i, j), value in zip(_TERMS, found, strict=True):
            result[f"PV{axis + 1}_{number}"] = float(value / size ** (i + j))
    _check(sip, WCS(result, fix=False), x, y)
    return result


def _check(sip: WCS, tpv: WCS, x, y) -> None:
    (ra1, dec1), (ra2, dec2) = sip.all_pix2world(x, y, 0), tpv.all_pix2world(x, y, 0)
    scale = np.sqrt(abs(np.linalg.det(sip.pixel_scale_matrix)))
    worst = np.hypot((ra2 - ra1) * np.cos(np.radians(dec1)), dec2 - dec1).max() / scale
    if not worst < _MOST_PX:
        raise ValueError(f"TPV is up to {worst:.4f} px off SIP")


def write_head(path: Path, header: fits.Header, extra: dict[str, Any]) -> None:
    """Write the WCS cards of a frame as TPV, and ``extra`` cards, one a line as SWarp wants them."""
    cards = tpv_header(header)
    wanted = ("CTYPE", "CRVAL", "CRPIX", "CUNIT", "CD", "PV", "EQUINOX", "RADESYS")
    kept = {key: cards[key] for key in cards if key.startswith(wanted)} | extra
    lines = []
    for key, value in kept.items():
        text = f"'{value}'" if isinstance(value, str) else f"{value:.15g}"
        lines.append(f"{key:8s}= {text:>20s}\n")
    path.write_text("".join(lines) + "END     \n")
