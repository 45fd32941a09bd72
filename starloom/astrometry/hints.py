"""Hints: everything that says where a frame points and how large its pixels are, in order of trust."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import FK5, ICRS, SkyCoord
from astropy.io import fits
from astropy.time import Time

from starloom.astrometry.seams import Hint, WcsCards
from starloom.astrometry.wcs import WCS_KEYWORD, map_from_cards
from starloom.frames import normalise

# Mounts are off by up to half a degree, and a hint is only where the search begins.
POINTING_RADIUS_DEG = 1.0
SOLVED_RADIUS_DEG = 0.7
# Focal lengths are nominal values, or fitted ones, or fiction; reducers change them.
HEADER_SCALE_TOLERANCE = 0.2
KNOWN_SCALE_TOLERANCE = 0.05
# The scan: steps of ×1.2 with ±12 % leave no gap. Common scales first.
SCAN_STEP = 1.2
SCAN_TOLERANCE = 0.12
SCAN_FIRST_ARCSEC = 1.6
SCAN_RANGE_ARCSEC = (0.3, 7.0)


def hints(
    header: fits.Header,
    shape: tuple[int, int],
    *,
    target: tuple[float, float] | None = None,
    scale_arcsec: float | None = None,
) -> Iterator[Hint]:
    """Yield hints for a frame, the most trusted first.

    Parameters
    ----------
    header
        Header of the frame.
    shape
        ``(ny, nx)`` of the frame.
    target
        Where the mission points, degrees ICRS.
    scale_arcsec
        Plate scale known for the instrument, arcsec per pixel.

    Notes
    -----
    Positions: a WCS in the header (wherever it comes from: it is a hint, not a solution), the header's pointing as
    it stands, the same as coordinates of date where no equinox is stated, the mission's target. With each
    position come the known scales; the scan over scales comes last, again over all positions.
    """
    places = positions(header, shape, target=target)
    scales = known_scales(header, shape, scale_arcsec=scale_arcsec)
    half_diagonal = float(np.hypot(*shape)) / 2
    for ra, dec, radius, where in places:
        for scale, tolerance, source in scales:
            yield Hint(ra, dec, radius, scale, tolerance, f"{where}, {source}")
    for ra, dec, radius, where in places:
        for scale in scan_scales():
            # A frame wider than the search circle has its own centre anywhere within itself.
            reach = max(radius, 0.3 * half_diagonal * scale / 3600)
            yield Hint(ra, dec, reach, scale, SCAN_TOLERANCE, f"{where}, scan of plate scales", True)


def positions(
    header: fits.Header, shape: tuple[int, int], *, target: tuple[float, float] | None = None
) -> list[tuple[float, float, float, str]]:
    """Return the places a frame may point at: RA, Dec, radius (degrees ICRS) and where each comes from."""
    found: list[tuple[float, float, float, str]] = []

    def add(ra: float, dec: float, radius: float, source: str) -> None:
        apart = [np.hypot((ra - a + 180) % 360 - 180, dec - d) for a, d, _, _ in found]
        # A second hint a few arcminutes from an earlier one would repeat the same search.
        if np.isfinite(ra + dec) and abs(dec) <= 90 and all(distance > 0.15 for distance in apart):
            found.append((ra % 360.0, dec, radius, source))

    cards = header_wcs_cards(header)
    if cards is not None:
        centre = map_from_cards(cards, shape)
        add(centre.ra0_deg, centre.dec0_deg, SOLVED_RADIUS_DEG, "WCS in the header")
    facts = normalise(header)
    ra, dec = facts.value("ra_deg"), facts.value("dec_deg")
    if ra is not None and dec is not None:
        add(float(ra), float(dec), POINTING_RADIUS_DEG, "pointing in the header")
        start = facts.value("start_utc")
        if isinstance(start, datetime) and not any(header.get(k) for k in ("EQUINOX", "RADESYS", "RADECSYS")):
            add(*from_equinox_of_date(float(ra), float(dec), start), POINTING_RADIUS_DEG, "pointing of date")
    if target is not None:
        add(*target, POINTING_RADIUS_DEG, "target of the mission")
    return found


def known_scales(
    header: fits.Header, shape: tuple[int, int], *, scale_arcsec: float | None = None
) -> list[tuple[float, float, str]]:
    """Return plate scales (arcsec/px) with relative tolerance and origin, the most trusted first."""
    found: list[tuple[float, float, str]] = []
    if scale_arcsec is not None and np.isfinite(scale_arcsec) and scale_arcsec > 0:
        found.append((float(scale_arcsec), KNOWN_SCALE_TOLERANCE, "known plate scale"))
    cards = header_wcs_cards(header)
    if cards is not None:
        found.append((map_from_cards(cards, shape).scale_arcsec, KNOWN_SCALE_TOLERANCE, "scale of its WCS"))
    value = normalise(header).value("scale_arcsec")
    if value is not None and np.isfinite(float(value)) and 0.05 < float(value) < 120:
        found.append((float(value), HEADER_SCALE_TOLERANCE, "plate scale in the header"))
    return found


def scan_scales() -> list[float]:
    """Return plate scales (arcsec/px) that together cover all plausible ones, common ones first."""
    low, high = SCAN_RANGE_ARCSEC
    steps = np.arange(np.floor(np.log(low / SCAN_FIRST_ARCSEC) / np.log(SCAN_STEP)), 20)
    scales = SCAN_FIRST_ARCSEC * SCAN_STEP**steps
    scales = scales[scales < high]
    return [float(s) for s in scales[np.argsort(np.abs(np.log(scales / SCAN_FIRST_ARCSEC)), kind="stable")]]


def header_wcs_cards(header: fits.Header) -> WcsCards | None:
    """Return the cards of a celestial WCS that has a centre and a scale, None where it is not complete.

    Capture programs write halves of one (CTYPE and CRVAL without any matrix, or without a reference pixel).
    """
    cards: WcsCards = {}
    for key in header:
        if WCS_KEYWORD.fullmatch(key) and key not in cards:
            cards[key] = header[key]
    needed = {"CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"}
    if not needed <= cards.keys() or not all(_number(cards[key]) for key in needed if not key.startswith("CTYPE")):
        return None
    if not (str(cards["CTYPE1"]).startswith("RA---TA") and str(cards["CTYPE2"]).startswith("DEC--TA")):
        return None
    matrix = _matrix(cards)
    if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-14:
        return None
    if cards["CRVAL1"] == 0 and cards["CRVAL2"] == 0:
        return None
    # Linear only: old files mix SIP, TPV and CROTA in ways that no reader agrees on, and a hint needs no more.
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        **{key: float(cards[key]) for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")},
        **{f"CD{i + 1}_{j + 1}": float(matrix[i, j]) for i in (0, 1) for j in (0, 1)},
    }


def _matrix(cards: WcsCards) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    def number(key: str, default: float) -> float:
        return float(cards[key]) if _number(cards.get(key)) else default

    if any(key.startswith("CD") and "_" in key for key in cards):
        return np.array([[number(f"CD{i}_{j}", 0.0) for j in (1, 2)] for i in (1, 2)])
    if not (_number(cards.get("CDELT1")) and _number(cards.get("CDELT2"))):
        return None
    steps = np.array([number("CDELT1", 0.0), number("CDELT2", 0.0)])
    if any(key.startswith("PC") for key in cards):
        pc = np.array([[number(f"PC{i}_{j}", float(i == j)) for j in (1, 2)] for i in (1, 2)])
    else:
        angle = np.radians(number("CROTA2", 0.0))
        # CROTA2 acts on steps of either sign, so the off-diagonal terms carry their ratio (FITS paper II).
        ratio = steps[1] / steps[0] if steps[0] else 0.0
        pc = np.array(
            [[np.cos(angle), -np.sin(angle) * ratio], [np.sin(angle) / ratio if ratio else 0.0, np.cos(angle)]]
        )
    return np.asarray(steps[:, None] * pc, np.float64)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def from_equinox_of_date(ra_deg: float, dec_deg: float, start: datetime) -> tuple[float, float]:
    """Return ICRS coordinates of a position that a mount gave for the mean equinox of date."""
    date = Time(start.replace(tzinfo=None), scale="utc")
    at = SkyCoord(ra_deg * u.deg, dec_deg * u.deg, frame=FK5(equinox=date)).transform_to(ICRS())
    return float(at.ra.deg), float(at.dec.deg)
