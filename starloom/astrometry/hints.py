"""Hints: everything that says where a frame points and how large its pixels are, in order of trust."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import FK5, ICRS, SkyCoord
from astropy.io import fits
from astropy.time import Time

from starloom.astrometry.seams import Hint, WcsCards
from starloom.astrometry.wcs import WCS_KEYWORD, map_from_cards
from starloom.frames import normalise

if TYPE_CHECKING:
    from starloom.astrometry.instrument import InstrumentModel

# Mounts are off by up to half a degree, and a hint is only where the search begins. The wider search comes where
# nothing was found: mounts that lost count, headers of the frame before, targets that moved.
POINTING_RADIUS_DEG = 0.7
WIDER_RADIUS_DEG = 2.5
LEAST_RADIUS_DEG = 0.5
SAME_PLACE_DEG = 0.15
# Focal lengths are nominal values, or fitted ones, or fiction; reducers change them.
HEADER_SCALE_TOLERANCE = 0.2
KNOWN_SCALE_TOLERANCE = 0.05
WIDER_SCALE_TOLERANCE = 0.35
LEAST_SCALE_TOLERANCE = 0.01
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
    instrument: InstrumentModel | None = None,
) -> Iterator[Hint]:
    """Yield the hints for a frame that somebody gave, the most trusted first.

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
    instrument
        What earlier frames taught of it (`starloom.astrometry.instrument.InstrumentModel`): its true scale, and by
        how much its mount errs.

    Notes
    -----
    Positions: a WCS in the header (wherever it comes from: it is a hint, not a solution), the header's pointing
    put right by what is known of the mount, the pointing as it stands, the same as coordinates of date
    where no equinox is stated, the mission's target. With each position come the known scales.
    """
    scales = known_scales(header, shape, scale_arcsec=scale_arcsec, instrument=instrument)
    for ra, dec, radius, where in positions(header, shape, target=target, instrument=instrument):
        for scale, tolerance, source in scales:
            yield Hint(ra, dec, radius, scale, tolerance, f"{where}, {source}")


def wider_hints(given: list[Hint]) -> Iterator[Hint]:
    """Yield the same places with a larger circle and the widest plausible scale, each place once."""
    seen: list[Hint] = []
    for hint in given:
        wide = Hint(
            hint.ra_deg,
            hint.dec_deg,
            max(hint.radius_deg, WIDER_RADIUS_DEG),
            hint.scale_arcsec,
            max(hint.scale_tolerance, WIDER_SCALE_TOLERANCE),
            f"{hint.source}, wider",
        )
        near = (apart_deg(hint.ra_deg, hint.dec_deg, other.ra_deg, other.dec_deg) for other in seen)
        if not any(d < POINTING_RADIUS_DEG and _alike(wide, other) for d, other in zip(near, seen, strict=True)):
            seen.append(wide)
            yield wide


def scan_hints(
    header: fits.Header,
    shape: tuple[int, int],
    *,
    target: tuple[float, float] | None = None,
    instrument: InstrumentModel | None = None,
) -> Iterator[Hint]:
    """Yield all positions with a scan over all plausible plate scales, common ones first."""
    half_diagonal = float(np.hypot(*shape)) / 2
    for ra, dec, radius, where in positions(header, shape, target=target, instrument=instrument):
        for scale in scan_scales():
            # A frame wider than the search circle has its own centre anywhere within itself.
            reach = max(radius, 0.3 * half_diagonal * scale / 3600)
            yield Hint(ra, dec, reach, scale, SCAN_TOLERANCE, f"{where}, scan of plate scales", True)


def positions(
    header: fits.Header,
    shape: tuple[int, int],
    *,
    target: tuple[float, float] | None = None,
    instrument: InstrumentModel | None = None,
) -> list[tuple[float, float, float, str]]:
    """Return the places a frame may point at: RA, Dec, radius (degrees ICRS) and where each comes from."""
    found: list[tuple[float, float, float, str]] = []

    def add(ra: float, dec: float, radius: float, source: str) -> None:
        if not (np.isfinite(ra + dec) and abs(dec) <= 90):
            return
        # A second hint a few arcminutes from an earlier one would repeat the same search.
        if all(apart_deg(ra, dec, a, d) > SAME_PLACE_DEG for a, d, _, _ in found):
            found.append((ra % 360.0, dec, radius, source))

    cards = header_wcs_cards(header)
    if cards is not None:
        centre = map_from_cards(cards, shape)
        add(centre.ra0_deg, centre.dec0_deg, POINTING_RADIUS_DEG, "WCS in the header")
    said = pointings(header)
    offset = None if instrument is None else instrument.offset_deg
    if instrument is not None and offset is not None:
        scatter = instrument.offset_scatter_deg or 0.0
        for ra, dec, where in said:
            true_ra = ra + offset[0] / max(np.cos(np.radians(dec)), 1e-3)
            # The mount errs alike every time, so it may be off by degrees and yet be trusted.
            add(true_ra, dec + offset[1], max(3 * scatter, LEAST_RADIUS_DEG), f"{where}, mount put right")
    for ra, dec, where in said:
        add(ra, dec, POINTING_RADIUS_DEG, where)
    if target is not None:
        add(*target, POINTING_RADIUS_DEG, "target of the mission")
    return found


def pointings(header: fits.Header) -> list[tuple[float, float, str]]:
    """Return how the header's pointing may be read: RA and Dec (degrees ICRS), and as what."""
    facts = normalise(header)
    ra, dec = facts.value("ra_deg"), facts.value("dec_deg")
    if ra is None or dec is None:
        return []
    found = [(float(ra), float(dec), "pointing in the header")]
    start = facts.value("start_utc")
    if isinstance(start, datetime) and not any(header.get(k) for k in ("EQUINOX", "RADESYS", "RADECSYS")):
        found.append((*from_equinox_of_date(float(ra), float(dec), start), "pointing of date"))
    return found


def mount_offset(header: fits.Header, ra_deg: float, dec_deg: float) -> tuple[float, float] | None:
    """Return the true centre less the header's pointing: dRA cos(Dec) and dDec, degrees; None without a pointing.

    A pointing that may be read in two ways is read in the way that makes the mount err less: then an instrument's
    offsets are alike all over the sky.
    """
    offsets = [
        (float(((ra_deg - ra + 180) % 360 - 180) * np.cos(np.radians(dec_deg))), float(dec_deg - dec))
        for ra, dec, _ in pointings(header)
    ]
    return min(offsets, key=lambda offset: math.hypot(*offset)) if offsets else None


def julian_epoch(header: fits.Header) -> float | None:
    """Return the Julian year of the middle of the exposure, None where the header does not say when it was."""
    facts = normalise(header)
    start = facts.value("start_utc")
    if not isinstance(start, datetime):
        return None
    start = start if start.tzinfo is not None else start.replace(tzinfo=UTC)
    middle = start + timedelta(seconds=float(facts.value("exposure_s") or 0.0) / 2)
    year = 2000.0 + (middle - datetime(2000, 1, 1, 12, tzinfo=UTC)) / timedelta(days=365.25)
    # A camera whose clock was never set says 1970: proper motions over that time would harm, not help.
    return year if 1985.0 < year < 2100.0 else None


def known_scales(
    header: fits.Header,
    shape: tuple[int, int],
    *,
    scale_arcsec: float | None = None,
    instrument: InstrumentModel | None = None,
) -> list[tuple[float, float, str]]:
    """Return plate scales (arcsec/px) with relative tolerance and origin, the most trusted first."""
    found: list[tuple[float, float, str]] = []
    if instrument is not None and _positive(instrument.scale_arcsec):
        tolerance = float(np.clip(5 * instrument.scale_scatter, LEAST_SCALE_TOLERANCE, KNOWN_SCALE_TOLERANCE))
        found.append((float(instrument.scale_arcsec), tolerance, "learnt plate scale"))
    if _positive(scale_arcsec):
        found.append((float(scale_arcsec or 0.0), KNOWN_SCALE_TOLERANCE, "known plate scale"))
    cards = header_wcs_cards(header)
    if cards is not None:
        found.append((map_from_cards(cards, shape).scale_arcsec, KNOWN_SCALE_TOLERANCE, "scale of its WCS"))
    value = normalise(header).value("scale_arcsec")
    if value is not None and np.isfinite(float(value)) and 0.05 < float(value) < 120:
        found.append((float(value), HEADER_SCALE_TOLERANCE, "plate scale in the header"))
    # What an earlier one covers would be searched twice.
    return [
        entry
        for n, entry in enumerate(found)
        if not any(abs(entry[0] / scale - 1) + entry[1] <= tolerance for scale, tolerance, _ in found[:n])
    ]


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


def _positive(value: Any) -> bool:
    return _number(value) and float(value) > 0


def apart_deg(ra_a: float, dec_a: float, ra_b: float, dec_b: float) -> float:
    """Angular distance by the chord, which has no trouble near the poles."""
    ra, dec = np.radians([ra_a, ra_b]), np.radians([dec_a, dec_b])
    chord = np.ptp([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    return float(np.degrees(2 * np.arcsin(min(float(np.linalg.norm(chord)) / 2, 1.0))))


def _alike(a: Hint, b: Hint) -> bool:
    if a.scale_arcsec is None or b.scale_arcsec is None:
        return a.scale_arcsec == b.scale_arcsec
    return bool(abs(np.log(a.scale_arcsec / b.scale_arcsec)) < 0.1)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def from_equinox_of_date(ra_deg: float, dec_deg: float, start: datetime) -> tuple[float, float]:
    """Return ICRS coordinates of a position that a mount gave for the mean equinox of date."""
    date = Time(start.replace(tzinfo=None), scale="utc")
    at = SkyCoord(ra_deg * u.deg, dec_deg * u.deg, frame=FK5(equinox=date)).transform_to(ICRS())
    return float(at.ra.deg), float(at.dec.deg)
