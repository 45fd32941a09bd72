"""A quicklook of a file: solve it, or take the WCS it holds, measure it, and draw the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from astropy.io import fits

from starloom.astrometry.choosing import place_of, solve_among
from starloom.astrometry.detect import StarList, detect_stars
from starloom.astrometry.hints import header_wcs_cards, julian_epoch
from starloom.astrometry.seams import Unsolved, WcsCards
from starloom.astrometry.stars_table import read_stars
from starloom.astrometry.wcs import WCS_KEYWORD
from starloom.calibration.calibrated_file import Planes, read_planes
from starloom.calibration.saturation import saturation_from_histogram
from starloom.disk import whole_or_absent
from starloom.errors import BadInput
from starloom.frames import NormalisedHeader, normalise
from starloom.photometry import PhotometryOptions, catalog_for, photometer
from starloom.photometry.bands import standard_band
from starloom.quicklook.overlay import Overlay, overlay_on_catalog
from starloom.quicklook.page import page
from starloom.quicklook.summary import of_map, of_outcome, of_photometry, of_stars, summarise
from starloom.refcat import Refcats


def quicklook_file(
    path: Path,
    out: Path,
    *,
    target: tuple[float, float] | None = None,
    scale_arcsec: float | None = None,
    solve: bool = True,
    refcats: Refcats | None = None,
) -> dict[str, Any]:
    """Write the page of a file as PNG; a frame that does not solve gets one as well.

    Parameters
    ----------
    path
        FITS file: raw, calibrated or solved.
    out
        PNG to write; complete or absent.
    target, scale_arcsec
        As in `starloom.astrometry.solve_pixels`.
    solve
        False takes the WCS that stands in the file.
    refcats
        The catalogues there are; the one that ships by default.

    Returns
    -------
    dict
        What the page says, fit for JSON: ``file, picture, solved, reason, message, remedy`` and the numbers of
        `starloom.quicklook.summary`.

    Raises
    ------
    BadInput
        The codes of `starloom.frames.read_frame`; ``no-wcs``: the file holds none, and it was not to be solved.
    """
    if out.exists() and out.samefile(path):
        raise BadInput(f"{out} is the frame itself", code="same-file", hint="Write the page to another file.")
    refcats = refcats or Refcats()
    planes = read_planes(path)
    facts = normalise(planes.header)
    shape = (int(planes.data.shape[0]), int(planes.data.shape[1]))
    known: dict[str, Any] = {"solved": False, **_of_header(facts), "width": shape[1], "height": shape[0]}
    remarks: list[str] = []
    cards: WcsCards = {}
    if solve:
        at, side = place_of(planes.header, target, scale_arcsec)
        outcome = solve_among(
            refcats,
            planes.data,
            planes.header,
            at=at,
            side_arcsec=side,
            target=target,
            scale_arcsec=scale_arcsec,
            mask=planes.unusable,
        )
        stars, cards = outcome.stars, outcome.wcs_cards
        known |= of_outcome(outcome)
        if not outcome.solved:
            tried = "; ".join(dict.fromkeys(outcome.tried))
            remarks = [outcome.message, outcome.hint, f"Tried: {tried}." if tried else ""]
    else:
        cards = wcs_in(path, planes.header)
        stars = read_stars(path) or _detected(planes, facts)
        known |= {"solved": True, "hint": "the WCS in the file"}
    known.setdefault("epoch", julian_epoch(planes.header))
    refcat = refcats.named(known.get("catalog", ""), known.get("catalog_version", ""))
    found = overlay_on_catalog(shape, stars, cards, refcat, epoch=known["epoch"], rms_px=known.get("rms_px"))
    _add_matches(known, found, refcat.catalog)
    known |= {} if stars is None else of_stars(stars)
    known |= _measured(planes, facts, stars, cards, refcats, known)
    mosaic = facts.value("bayer_pattern") is not None
    drawn = page(planes.data, found, summarise(path.name, known, remarks=remarks), mosaic=mosaic, mask=planes.mask)
    with whole_or_absent(out) as partial, partial.open("wb") as stream:
        stream.write(drawn)
        stream.flush()
        os.fsync(stream.fileno())
    message, remedy = (*remarks, "", "")[:2]
    return {"file": str(path), "picture": str(out), "message": message, "remedy": remedy, **known}


def wcs_in(path: Path, header: fits.Header) -> WcsCards:
    """Return the WCS that stands in a header, distortion included.

    Raises
    ------
    BadInput
        ``no-wcs``.
    """
    if header_wcs_cards(header) is None:
        raise BadInput(
            f"{path.name} holds no celestial WCS", code="no-wcs", hint="Without --no-solve it is solved first."
        )
    return {key: header[key] for key in header if WCS_KEYWORD.fullmatch(key)}


def _of_header(facts: NormalisedHeader) -> dict[str, Any]:
    filter_name = facts.value("filter")
    return {
        "start_utc": facts.value("start_utc"),
        "exposure_s": facts.value("exposure_s"),
        "filter": filter_name,
        "band": standard_band(filter_name),
        "saturation_adu": facts.value("saturation_adu"),
    }


def _detected(planes: Planes, facts: NormalisedHeader) -> StarList | None:
    try:
        return detect_stars(planes.data, saturation_adu=facts.value("saturation_adu"), mask=planes.unusable)
    except Unsolved:
        return None


def _add_matches(known: dict[str, Any], found: Overlay, catalog: str) -> None:
    """Add what only the page's own matching tells: all of it where the WCS came with the file."""
    if found.map is None:
        return
    known |= of_map(found.map, found.shape) | {"missing": len(found.missing_x)}
    known.setdefault("catalog", catalog)
    known.setdefault("rms_px", found.rms_px)
    known.setdefault("rms_arcsec", found.rms_px * found.map.scale_arcsec)
    known.setdefault("matches", len(found.matched))


def _measured(
    planes: Planes,
    facts: NormalisedHeader,
    stars: StarList | None,
    cards: WcsCards,
    refcats: Refcats,
    known: dict[str, Any],
) -> dict[str, Any]:
    """Return seeing, sky and zero point; why not, where they cannot be had."""
    if not cards or stars is None or not len(stars):
        return {}
    if facts.value("bayer_pattern") is not None:
        return {"unmeasured": "a colour mosaic, whose planes are measured each for itself"}
    scale = known["scale_arcsec"]
    options = PhotometryOptions(
        band=known["band"],
        match_arcsec=max(3 * known["rms_arcsec"], 2 * scale),
        saturation_adu=saturation_from_histogram(planes.data, facts.value("saturation_adu")),
        gain_e_per_adu=facts.value("gain_e_per_adu"),
        zero_level_adu=facts.value("pedestal_adu"),
    )
    catalog = catalog_for(
        refcats, cards, stars, known["band"], match_arcsec=options.match_arcsec, epoch=known.get("epoch")
    )
    mask = None if planes.mask is None else planes.mask != 0
    try:
        return of_photometry(photometer(planes.data, cards, stars, catalog, options, mask=mask))
    except BadInput as refused:
        return {"unmeasured": refused.message}
