"""Where photometry meets archive and lake: zero point, seeing, sky, weather and the list of sources."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from sqlmodel import col, select

from starloom.archive import frames as rows
from starloom.archive.models import Conditions, Frame, Photometry, Solution
from starloom.astrometry.detect import detect_stars
from starloom.calibration.step import header_value
from starloom.errors import BadInput
from starloom.frames import read_frame
from starloom.lake import keys
from starloom.photometry.measure import FramePhotometry, photometer, saturation_level
from starloom.receipts import write_receipt, write_receipt_again
from starloom.refcat import default_refcat

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


def run(hub: Hub, frame_id: str) -> None:
    """Measure one solved frame and file the numbers in the archive, the sources as Parquet in the lake."""
    with hub.archive.transaction() as session:
        claimed = rows.claim_step(session, frame_id, "measure")
        frame = rows.get(session, frame_id)
        solution = session.exec(
            select(Solution).where(Solution.frame_id == frame_id, col(Solution.current).is_(True))
        ).first()
    if not claimed or solution is None:
        write_receipt_again(hub, frame_id, "measure")
        return
    try:
        _measure(hub, frame, solution)
    except BadInput as refused:
        _fail(hub, frame, refused.code, refused.hint or refused.message)


def _fail(hub: Hub, frame: Frame, code: str, hint: str) -> None:
    with hub.archive.transaction() as session:
        stored = rows.settle_step(session, frame.id, "measure", code=code, hint=hint)
    write_receipt(hub, stored)


def _measure(hub: Hub, frame: Frame, solution: Solution) -> None:
    assert frame.solved_key is not None
    assert frame.start_utc is not None
    with hub.lake.local_copy(frame.solved_key, version=frame.solved_version) as path:
        data, _ = read_frame(path)
    saturation = saturation_level(data, header_value(frame, "saturation_adu"))
    stars = detect_stars(data, saturation_adu=saturation)
    if len(stars) == 0:
        _fail(hub, frame, "too-few-stars", "The solved copy shows no star; look at the frame.")
        return
    measured = photometer(
        data,
        solution.wcs,
        stars.x,
        stars.y,
        fwhm_px=stars.frame_fwhm_px,
        ellipticity=stars.ellipticity,
        sky_adu=stars.background_adu,
        sky_sigma_adu=stars.noise_adu,
        refcat=default_refcat(),
        match_arcsec=max(3 * solution.rms_arcsec, 2 * solution.scale_arcsec),
        saturation_adu=saturation,
    )
    buffer = io.BytesIO()
    pq.write_table(measured.sources, buffer, compression="zstd")
    stored_sources = hub.lake.put_bytes(
        buffer.getvalue(), keys.sources(frame.node_id, frame.start_utc, frame.id, frame.version)
    )
    _record(hub, frame, solution, measured, stored_sources.key)


def _record(hub: Hub, frame: Frame, solution: Solution, measured: FramePhotometry, sources_key: str) -> None:
    assert solution.id is not None
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "measure")
        if stored is None:
            return
        for earlier in session.exec(
            select(Photometry).where(Photometry.frame_id == frame.id, col(Photometry.current).is_(True))
        ).all():
            earlier.current = False
        session.add(
            Photometry(
                frame_id=frame.id,
                solution_id=solution.id,
                band=frame.band,
                zero_point_mag=measured.zero_point_mag,
                zero_point_err=measured.zero_point_err,
                scatter_mag=measured.scatter_mag,
                calibrators=measured.calibrators,
                catalog_band=measured.catalog_band,
                fwhm_px=measured.fwhm_px,
                fwhm_arcsec=measured.fwhm_arcsec,
                ellipticity=measured.ellipticity,
                sky_adu=measured.sky_adu,
                sky_sigma_adu=measured.sky_sigma_adu,
                limiting_mag=measured.limiting_mag,
                saturation_adu=measured.saturation_adu,
                n_sources=measured.sources.num_rows,
            )
        )
        weather = {name: header_value(frame, name) for name in WEATHER}
        if any(value is not None for value in weather.values()):
            session.merge(Conditions(frame_id=frame.id, **weather))
        if measured.zero_point_mag is None:
            rows.add_flags(stored, "no-zero-point")
        ready = rows.settle_step(session, frame.id, "measure", sources_key=sources_key)
    write_receipt(hub, ready)
