"""Where photometry meets archive and lake: zero point, seeing, sky, weather and the list of sources."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from sqlmodel import Session, col, select

from starloom.archive import frames as rows
from starloom.archive import results
from starloom.archive.models import Calibration, Conditions, Frame, Photometry, Solution
from starloom.astrometry.detect import detect_stars
from starloom.astrometry.stars_table import read_stars
from starloom.calibration.calibrated_file import read_planes
from starloom.calibration.step import header_value
from starloom.errors import BadInput
from starloom.lake import keys
from starloom.photometry.bands import band_info, is_unmapped
from starloom.photometry.measure import FramePhotometry, PhotometryOptions, cone_of, photometer, saturation_level
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
from starloom.refcat import default_refcat
from starloom.refcat.provider import CatalogStars

if TYPE_CHECKING:
    from starloom.hub import Hub

WEATHER = (
    "ambient_temp_c",
    "dewpoint_c",
    "humidity_pct",
    "pressure_hpa",
    "wind_speed_ms",
    "wind_gust_ms",
    "wind_dir_deg",
    "cloud_cover_pct",
    "sky_brightness_mag_arcsec2",
    "airmass",
)
#: The brightest of a deep catalogue are enough, and the fainter ones are not on the frame's scale anyway.
CATALOG_STARS = 8000
#: Earlier frames whose colour terms make the instrument's own, and how far it may still drift, mag per mag.
MIN_COLOUR_TERMS, COLOUR_TERM_DRIFT = 5, 0.01


def run(hub: Hub, frame_id: str) -> None:
    """Measure one solved frame and file the numbers in the archive, the sources as Parquet in the lake."""
    with hub.archive.transaction() as session:
        claimed = rows.claim_step(session, frame_id, "measure")
        frame = rows.get(session, frame_id)
        solution = results.newest_solution(session, frame_id)
        calibration = results.current_calibration(session, frame_id)
    if not claimed or solution is None:
        write_receipt_again(hub, frame_id, "measure")
        return
    try:
        _measure(hub, frame, solution, calibration)
    except BadInput as refused:
        _fail(hub, frame, refused.code, refused.hint or refused.message)


def _fail(hub: Hub, frame: Frame, code: str, hint: str) -> None:
    with hub.archive.transaction() as session:
        stored = rows.settle_step(session, frame.id, "measure", code=code, hint=hint)
    write_receipt(hub, stored)


def _measure(hub: Hub, frame: Frame, solution: Solution, calibration: Calibration | None) -> None:
    assert frame.start_utc is not None
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
        saturation = saturation_level(planes.data, header_value(frame, "saturation_adu"))
    if stars is None:
        stars = detect_stars(planes.data, saturation_adu=saturation)
    if len(stars) == 0:
        _fail(hub, frame, "too-few-stars", "The solved copy shows no star; look at the frame.")
        return
    with hub.archive.session() as session:
        past = _history(session, frame)
    catalog = _catalog(frame, solution, planes.data.shape)
    options = PhotometryOptions(
        band=frame.band,
        match_arcsec=max(3 * solution.rms_arcsec, 2 * solution.scale_arcsec),
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
    clear = _transparency(frame, measured, past)
    _record(hub, frame, solution, measured, clear, stored_sources.key)


def _catalog(frame: Frame, solution: Solution, shape: tuple[int, ...]) -> CatalogStars:
    """Return the catalogue's stars around the frame, at its epoch."""
    return default_refcat().cone(*cone_of(solution.wcs, shape), limit=CATALOG_STARS)


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


def _history(session: Session, frame: Frame) -> list[tuple[Photometry, float | None, float | None]]:
    """Return the newest photometry of the same instrument and band, with exposure (s) and airmass."""
    if frame.instrument_id is None or frame.band is None:
        return []
    found = session.exec(
        select(Photometry, Frame.exposure_s, Conditions.airmass)
        .join(Frame, col(Frame.id) == Photometry.frame_id)
        .join(Conditions, col(Conditions.frame_id) == Frame.id, isouter=True)
        .where(
            Frame.instrument_id == frame.instrument_id,
            Frame.band == frame.band,
            Frame.id != frame.id,
            Frame.disposition == "active",
            col(Photometry.current).is_(True),
            col(Photometry.zero_point_mag).is_not(None),
        )
        .order_by(col(Photometry.id).desc())
        .limit(HISTORY)
    ).all()
    return [(photometry, exposure, airmass) for photometry, exposure, airmass in found]


def _transparency(frame: Frame, measured: FramePhotometry, past: list[Any]) -> float | None:
    """Return the frame's transparency against frames tied to the same band of the same catalogue."""
    if measured.zero_point_mag is None or not frame.exposure_s:
        return None
    history = [
        PastZeroPoint(zero_point_of_one_second(row.zero_point_mag, exposure), airmass)
        for row, exposure, airmass in past
        if exposure and row.catalog_band == measured.catalog_band and row.catalog in (None, measured.catalog)
    ]
    return transparency(
        zero_point_of_one_second(measured.zero_point_mag, frame.exposure_s),
        header_value(frame, "airmass"),
        history,
        extinction_mag=extinction(frame.band),
    )


def _colour_term(past: list[Any], band: str | None, catalog: str) -> ColourTerm | None:
    """Return the instrument's colour term by its earlier frames, None before there are enough."""
    if is_unmapped(band):
        return None
    terms = np.array([r.colour_term for r, _, _ in past if r.colour_term is not None and r.catalog == catalog])
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
        weather = {name: header_value(frame, name) for name in WEATHER}
        if any(value is not None for value in weather.values()):
            session.merge(Conditions(frame_id=frame.id, **weather))
        if measured.zero_point_mag is None:
            rows.add_flags(stored, "no-zero-point")
        if clear is not None and clear < CLOUDY_BELOW:
            rows.add_flags(stored, "cloudy")
        ready = rows.settle_step(session, frame.id, "measure", sources_key=sources_key)
    write_receipt(hub, ready)
