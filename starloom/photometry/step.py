"""Where photometry meets archive and lake: zero point, seeing, sky, weather and the list of sources."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from starloom.archive import frames as rows
from starloom.archive import results
from starloom.archive.models import Calibration, Conditions, Frame, Node, Photometry, Solution
from starloom.astrometry.detect import detect_stars
from starloom.astrometry.stars_table import read_stars
from starloom.calibration.calibrated_file import read_planes
from starloom.calibration.saturation import saturation_from_histogram
from starloom.calibration.step import header_value
from starloom.errors import BadInput
from starloom.lake import keys
from starloom.photometry.bands import band_info, is_unmapped
from starloom.photometry.conditions import Site, sky_conditions, weather
from starloom.photometry.measure import catalog_for, photometer
from starloom.photometry.results import FramePhotometry, PhotometryOptions
from starloom.photometry.transparency import (
    CLOUDY_BELOW,
    HISTORY,
    PastZeroPoint,
    extinction,
    transparency,
    zero_point_of_one_second,
)
from starloom.photometry.zero_point import ColourTerm
from starloom.receipts import write_receipt, write_receipt_again
from starloom.refcat.step import refcats_of

if TYPE_CHECKING:
    from starloom.hub import Hub

#: Earlier frames whose colour terms make the instrument's own, and how far it may still drift, mag per mag.
MIN_COLOUR_TERMS, COLOUR_TERM_DRIFT = 5, 0.01
#: Flags that this step sets or takes away.
NO_ZERO_POINT, CLOUDY, IMPOSSIBLE_SITE = "no-zero-point", "cloudy", "site-or-time-wrong"


class _Past(NamedTuple):
    """An earlier frame of the same instrument and band."""

    zero_point_mag: float | None
    catalog_band: str | None
    catalog: str | None
    colour_term: float | None
    exposure_s: float | None
    airmass: float | None


@dataclass(frozen=True)
class _Known:
    """What the archive knows of a frame before it is measured."""

    solution: Solution
    calibration: Calibration | None
    past: list[_Past]
    node: Node | None


def run(hub: Hub, frame_id: str) -> None:
    """Measure one solved frame and file the numbers in the archive, the sources as Parquet in the lake."""
    with hub.archive.transaction() as session:
        frame = rows.claim_step(session, frame_id, "measure")
        known = None if frame is None else _known(session, frame)
    if frame is None or known is None:
        write_receipt_again(hub, frame_id, "measure")
        return
    try:
        _measure(hub, frame, known)
    except BadInput as refused:
        _fail(hub, frame, refused.code, refused.hint or refused.message)


def _known(session: Session, frame: Frame) -> _Known | None:
    solution = results.newest_solution(session, frame.id)
    if solution is None:
        return None
    return _Known(
        solution,
        results.current_calibration(session, frame.id),
        _history(session, frame),
        session.get(Node, frame.node_id),
    )


def _fail(hub: Hub, frame: Frame, code: str, hint: str) -> None:
    with hub.archive.transaction() as session:
        stored = rows.settle_step(session, frame.id, "measure", code=code, hint=hint)
    write_receipt(hub, stored)


def _measure(hub: Hub, frame: Frame, known: _Known) -> None:
    assert frame.start_utc is not None
    solution, calibration, past = known.solution, known.calibration, known.past
    key, version = solution.solved_key, solution.solved_version
    if key is None:
        key, version = frame.solved_key, frame.solved_version
    assert key is not None
    with hub.lake.local_copy(key, version=version) as path:
        planes = read_planes(path)
        stars = read_stars(path)
    mask = None if planes.mask is None else planes.mask != 0
    saturation = None if calibration is None else calibration.saturation_adu
    if saturation is None:
        saturation = saturation_from_histogram(planes.data, header_value(frame, "saturation_adu"))
    if stars is None:
        stars = detect_stars(planes.data, saturation_adu=saturation)
    if len(stars) == 0:
        _fail(hub, frame, "too-few-stars", "The solved copy shows no star; look at the frame.")
        return
    conditions, impossible = _conditions(frame, known)
    match_arcsec = max(3 * solution.rms_arcsec, 2 * solution.scale_arcsec)
    catalog = catalog_for(
        refcats_of(hub),
        solution.wcs,
        stars,
        frame.band,
        match_arcsec=match_arcsec,
        epoch=solution.epoch if solution.epoch is not None else _julian_year(_middle(frame)),
    )
    options = PhotometryOptions(
        band=frame.band,
        match_arcsec=match_arcsec,
        saturation_adu=saturation,
        gain_e_per_adu=_gain(frame, calibration),
        zero_level_adu=_zero_level(frame, calibration),
        colour_term=_colour_term(past, frame.band, catalog.catalog),
    )
    measured = photometer(planes.data, solution.wcs, stars, catalog, options, mask=mask)
    buffer = io.BytesIO()
    pq.write_table(measured.sources, buffer, compression="zstd")
    stored_sources = hub.lake.put_bytes(
        buffer.getvalue(), keys.sources(frame.node_id, frame.start_utc, frame.id, frame.version)
    )
    clear = _transparency(frame, measured, past, conditions.airmass)
    flags = {
        NO_ZERO_POINT: measured.zero_point_mag is None,
        CLOUDY: clear is not None and clear < CLOUDY_BELOW,
        IMPOSSIBLE_SITE: impossible,
    }
    _record(hub, frame, solution, measured, clear, conditions, flags, stored_sources.key)


def _middle(frame: Frame) -> datetime | None:
    if frame.start_utc is None:
        return None
    return frame.start_utc + timedelta(seconds=(frame.exposure_s or 0.0) / 2)


def _julian_year(moment: datetime | None) -> float | None:
    return None if moment is None else 2000.0 + (moment.timestamp() - 946_728_000) / (365.25 * 86400)


def _gain(frame: Frame, calibration: Calibration | None) -> float | None:
    measured = None if calibration is None else calibration.gain_e_per_adu
    said: float | None = measured or header_value(frame, "gain_e_per_adu")
    return said if said is not None and 0 < said < np.inf else None


def _zero_level(frame: Frame, calibration: Calibration | None) -> float | None:
    """Return the level of an unexposed pixel, None where the sky's own light cannot be told from the pedestal."""
    if calibration is not None and (calibration.bias_id is not None or calibration.dark_id is not None):
        return 0.0
    state = str(header_value(frame, "calstat") or "").upper()
    said = header_value(frame, "pedestal_adu")
    if "B" in state or "D" in state:
        return float(said or 0.0)
    return None if said is None else float(said)


def _history(session: Session, frame: Frame) -> list[_Past]:
    """Return what the newest frames of the same instrument and band were found to be."""
    if frame.instrument_id is None or frame.band is None:
        return []
    sought = {"instrument": frame.instrument_id, "in_band": frame.band, "besides": frame.id}
    return [_Past(*row) for row in session.execute(_PAST, sought)]


_PAST = (
    select(  # type: ignore[call-overload,misc]
        Photometry.zero_point_mag,
        Photometry.catalog_band,
        Photometry.catalog,
        Photometry.colour_term,
        Frame.exposure_s,
        Conditions.airmass,
    )
    .join(Frame, col(Frame.id) == Photometry.frame_id)
    .join(Conditions, col(Conditions.frame_id) == Frame.id, isouter=True)
    .where(
        Frame.instrument_id == bindparam("instrument"),
        Frame.band == bindparam("in_band"),
        Frame.id != bindparam("besides"),
        Frame.disposition == "active",
        col(Photometry.current).is_(True),
        col(Photometry.zero_point_mag).is_not(None),
    )
    # In the order of an index, so that it ends after the newest few whatever the instrument's age.
    .order_by(col(Frame.start_utc).desc())
    .limit(HISTORY)
)


def _conditions(frame: Frame, known: _Known) -> tuple[Conditions, bool]:
    """Return weather and sky of a frame, and whether its site and its clock contradict its stars."""
    header = {name: entry.get("value") for name, entry in (frame.header or {}).items()}
    sky, impossible = sky_conditions(
        header.get("airmass"),
        _site(known.node, header),
        _middle(frame),
        (known.solution.ra_deg, known.solution.dec_deg),
    )
    return Conditions.model_validate({"frame_id": frame.id, **weather(header), **sky}), impossible


def _site(node: Node | None, header: dict[str, Any]) -> Site | None:
    """Return where the telescope stands: as registered, else as its header says (rounded, which will do)."""
    if node is not None and node.site_lat_deg is not None and node.site_lon_deg is not None:
        return Site(node.site_lat_deg, node.site_lon_deg, node.site_elev_m or 0.0)
    lat, lon = header.get("site_lat_deg"), header.get("site_lon_deg")
    return None if lat is None or lon is None else Site(lat, lon, header.get("site_elev_m") or 0.0)


def _transparency(
    frame: Frame, measured: FramePhotometry, past: list[_Past], airmass: float | None
) -> float | None:
    """Return the frame's transparency against frames tied to the same band of the same catalogue."""
    if measured.zero_point_mag is None or not frame.exposure_s:
        return None
    history = [
        PastZeroPoint(zero_point_of_one_second(row.zero_point_mag, row.exposure_s), row.airmass)
        for row in past
        if row.exposure_s
        and row.zero_point_mag is not None
        and row.catalog_band == measured.catalog_band
        and row.catalog == measured.catalog
    ]
    return transparency(
        zero_point_of_one_second(measured.zero_point_mag, frame.exposure_s),
        airmass,
        history,
        extinction_mag=extinction(frame.band),
    )


def _colour_term(past: list[_Past], band: str | None, catalog: str) -> ColourTerm | None:
    """Return the instrument's colour term by its earlier frames, None before there are enough."""
    if is_unmapped(band):
        return None
    terms = np.array([row.colour_term for row in past if row.colour_term is not None and row.catalog == catalog])
    if len(terms) < MIN_COLOUR_TERMS:
        return None
    spread = 1.4826 * float(np.median(np.abs(terms - np.median(terms))))
    # The frames' own terms had this prior in them: what they agree on is known no better than one of them is.
    return ColourTerm(float(np.median(terms)), max(spread, COLOUR_TERM_DRIFT))


def _record(
    hub: Hub,
    frame: Frame,
    solution: Solution,
    measured: FramePhotometry,
    clear: float | None,
    conditions: Conditions,
    flags: dict[str, bool],
    sources_key: str,
) -> None:
    assert solution.id is not None
    info = band_info(frame.band)
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "measure")
        if stored is None:
            return
        photometry = Photometry(
            frame_id=frame.id,
            solution_id=solution.id,
            band=frame.band,
            zero_point_mag=measured.zero_point_mag,
            zero_point_err=measured.zero_point_err,
            scatter_mag=measured.scatter_mag,
            calibrators=measured.calibrators,
            catalog_band=measured.catalog_band,
            catalog=measured.catalog,
            catalog_version=measured.catalog_version,
            colour_term=measured.colour_term,
            colour_ref=measured.colour_ref,
            aperture_px=measured.aperture_px,
            growth=measured.growth,
            gain_e_per_adu=measured.gain_e_per_adu,
            psf_stars=measured.psf_stars,
            fwhm_px=measured.fwhm_px,
            fwhm_arcsec=measured.fwhm_arcsec,
            fwhm_corner_px=measured.fwhm_corner_px,
            ellipticity=measured.ellipticity,
            sky_adu=measured.sky_adu,
            sky_sigma_adu=measured.sky_sigma_adu,
            sky_brightness_mag_arcsec2=measured.sky_brightness_mag_arcsec2,
            limiting_mag=measured.limiting_mag,
            saturation_adu=measured.saturation_adu,
            transparency=clear,
            em_min_m=None if info is None else info.em_min_m,
            em_max_m=None if info is None else info.em_max_m,
            n_sources=measured.sources.num_rows,
            sources_key=sources_key,
        )
        results.add_photometry(session, stored, solution, photometry)
        if any(value is not None for name, value in conditions.model_dump().items() if name != "frame_id"):
            session.merge(conditions)
        stored.flags = [flag for flag in stored.flags if flag not in flags]
        rows.add_flags(stored, *(flag for flag, set_ in flags.items() if set_))
        ready = rows.settle(session, stored, "measure", sources_key=sources_key)
    write_receipt(hub, ready)
