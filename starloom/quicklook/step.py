"""Where quicklook meets archive and lake: which frames of a batch get a page, and their pages in the lake."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, select

from starloom.archive import frames as rows
from starloom.archive import results
from starloom.archive.models import Calibration, Frame, Photometry, Solution
from starloom.astrometry.detect import StarList, detect_stars
from starloom.astrometry.seams import Unsolved
from starloom.astrometry.stars_table import read_stars
from starloom.calibration.calibrated_file import Planes, read_planes
from starloom.calibration.step import header_value, pixels_of
from starloom.errors import StarloomError
from starloom.lake import keys
from starloom.quicklook.overlay import overlay_on_catalog
from starloom.quicklook.page import page
from starloom.quicklook.summary import Summary, of_map, of_stars, summarise
from starloom.refcat import Refcat
from starloom.refcat.step import refcats_of

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Pages shown on one run's page, whatever the setting: a picture that nobody scrolls to shows nothing.
SHOWN = 12
#: Under the setting `sample` an instrument's frames of one outcome get one page in this time, by their starts: a
#: large network's night makes a few thousand pages, and not one a frame.
SAMPLE_EVERY = timedelta(hours=1)


@dataclass(frozen=True)
class Shown:
    """A page in the lake.

    Parameters
    ----------
    node, name
        Whose frame, and which.
    verdict
        The frame's state in words.
    url
        Where a browser finds the page, for a week.
    """

    node: str
    name: str
    verdict: str
    url: str


def of_batch(hub: Hub, frame_ids: Sequence[str]) -> list[Shown]:
    """Make the pages that the setting ``quicklook`` asks for, and return those to be shown with the run.

    A page is decoration: one that cannot be made is told in the log and costs nobody anything.
    """
    with hub.archive.session() as session:
        chosen = choose(session, frame_ids, hub.settings.quicklook)
    made: list[Shown] = []
    for frame_id in chosen:
        try:
            frame = run(hub, frame_id)
        except (StarloomError, ArithmeticError, ValueError) as error:
            log.warning("no quicklook: %s", error, extra={"frame": frame_id})
            continue
        if frame.quicklook_key is not None and len(made) < SHOWN:
            url = hub.lake.presign_get(frame.quicklook_key, 7 * 86400)
            made.append(Shown(frame.node_id, frame.name, _verdict(frame), url))
    return made


def choose(session: Session, frame_ids: Sequence[str], setting: str) -> list[str]:
    """Return the frames that get a page.

    Parameters
    ----------
    frame_ids
        Frames of one batch, colour planes in their mosaic's place.
    setting
        ``all``; ``failed``: those that were not solved or not measured; ``sample``: one a node, instrument and
        outcome, where there has been none for `SAMPLE_EVERY`; ``none``.
    """
    if setting == "none":
        return []
    chosen = []
    seen: set[tuple[object, ...]] = set()
    for frame_id in frame_ids:
        frame = rows.get(session, frame_id)
        if not _can_be_drawn(frame) or (setting == "failed" and not _failed(frame)):
            continue
        if setting == "sample":
            kind = (frame.node_id, frame.instrument_id, _outcome(frame))
            if kind in seen or _has_a_page(session, frame):
                continue
            seen.add(kind)
        chosen.append(frame.id)
    return chosen


def run(hub: Hub, frame_id: str) -> Frame:
    """Draw one frame as it stands in the archive, put the page into the lake and return the frame."""
    with hub.archive.session() as session:
        frame = rows.get(session, frame_id)
        solution = results.current_solution(session, frame_id)
        photometry = results.current_photometry(session, frame_id)
        calibration = results.current_calibration(session, frame_id)
    assert frame.start_utc is not None
    cards: dict[str, Any] = {}
    if solution is not None and solution.solved_key is not None:
        cards = solution.wcs
        with hub.lake.local_copy(solution.solved_key, version=solution.solved_version) as path:
            planes, stars = read_planes(path), read_stars(path)
    else:
        with pixels_of(hub, frame) as path:
            planes, stars = read_planes(path), None
    stars = stars or _detected(planes, frame)
    shape = (int(planes.data.shape[0]), int(planes.data.shape[1]))
    found = overlay_on_catalog(
        shape,
        stars,
        cards,
        _catalog(hub, solution),
        epoch=None if solution is None else solution.epoch,
        rms_px=None if solution is None else solution.rms_px,
    )
    known = _known(frame, solution if cards else None, photometry, calibration, stars, shape)
    if found.map is not None:
        known |= {"missing": len(found.missing_x), "field": of_map(found.map, shape)["field"]}
    drawn = page(planes.data, found, _summary(frame, known), mask=planes.mask)
    key = keys.quicklook(frame.node_id, frame.start_utc, frame.id, frame.version)
    hub.lake.put_bytes(drawn, key, content_type="image/png")
    with hub.archive.transaction() as session:
        stored = rows.locked(session, frame_id)
        stored.quicklook_key = key
    return stored


def _catalog(hub: Hub, solution: Solution | None) -> Refcat:
    """Return the catalogue that a frame was solved against; the shipped one where that is none of the hub's."""
    refcats = refcats_of(hub)
    return refcats.shipped if solution is None else refcats.named(solution.catalog, solution.catalog_version)


def _can_be_drawn(frame: Frame) -> bool:
    usable = frame.disposition == "active" and frame.kind == "light" and frame.plane != rows.MOSAIC
    return usable and frame.raw_key is not None and rows.is_settled(frame)


def _failed(frame: Frame) -> bool:
    return frame.ready_at is None or rows.REPROCESSING_FAILED in frame.flags


def _outcome(frame: Frame) -> tuple[str | None, str | None]:
    return frame.solve_code, frame.measure_code


def _has_a_page(session: Session, frame: Frame) -> bool:
    """Tell whether a frame like this one, of about the same time, has one."""
    assert frame.start_utc is not None
    same_instrument = (
        col(Frame.instrument_id).is_(None)
        if frame.instrument_id is None
        else col(Frame.instrument_id) == frame.instrument_id
    )
    query = select(Frame.id).where(
        Frame.node_id == frame.node_id,
        same_instrument,
        col(Frame.quicklook_key).is_not(None),
        col(Frame.start_utc) > frame.start_utc - SAMPLE_EVERY,
        col(Frame.start_utc) < frame.start_utc + SAMPLE_EVERY,
        Frame.id != frame.id,
        *(
            column.is_(None) if code is None else column == code
            for column, code in zip((col(Frame.solve_code), col(Frame.measure_code)), _outcome(frame), strict=True)
        ),
    )
    return session.exec(query.limit(1)).first() is not None


def _detected(planes: Planes, frame: Frame) -> StarList | None:
    try:
        return detect_stars(
            planes.data, saturation_adu=header_value(frame, "saturation_adu"), mask=planes.unusable
        )
    except Unsolved:
        return None


def _verdict(frame: Frame) -> str:
    code = frame.measure_code or frame.solve_code
    return f"{rows.state_of(frame)} ({code})" if code else rows.state_of(frame)


def _known(
    frame: Frame,
    solution: Solution | None,
    photometry: Photometry | None,
    calibration: Calibration | None,
    stars: StarList | None,
    shape: tuple[int, int],
) -> dict[str, Any]:
    """Return what the archive knows, by the names that `summarise` reads."""
    known: dict[str, Any] = {
        "node": frame.node_id, "start_utc": frame.start_utc, "exposure_s": frame.exposure_s,
        "filter": frame.filter, "band": frame.band, "plane": frame.plane, "width": shape[1], "height": shape[0],
        "state": rows.state_of(frame), "reason": frame.solve_code, "flags": frame.flags,
        "solved": solution is not None, "masters": _masters(calibration),
    }  # fmt: skip
    known |= {} if stars is None else of_stars(stars)
    if solution is not None:
        known |= solution.model_dump(exclude={"wcs", "footprint", "distortion", "residuals"})
        known["model_used"] = solution.model_id is not None
    if photometry is not None:
        measured = photometry.model_dump(exclude={"catalog", "catalog_version", "band"})
        known |= {name: value for name, value in measured.items() if value is not None}
        known["photometric_catalog"] = photometry.catalog
    return known


def _masters(calibration: Calibration | None) -> str | None:
    if calibration is None:
        return None
    kinds = ("bias", "dark", "flat", "defects")
    used = [kind for kind in kinds if getattr(calibration, f"{kind}_id") is not None]
    return ", ".join(used) or None


def _summary(frame: Frame, known: dict[str, Any]) -> Summary:
    error = frame.last_error or {}
    title = frame.name if frame.plane is None else f"{frame.name}  ({frame.plane})"
    if not known["solved"]:
        remarks = [str(error.get("message") or ""), frame.disposition_hint or ""]
    elif error:
        again = rows.REPROCESSING_FAILED in frame.flags
        what = "Done again without success" if again else "Not measured"
        said = ": ".join(str(error[part]) for part in ("code", "message") if error.get(part))
        remarks = [f"{what}: {said}", str(error.get("hint") or "")]
    else:
        remarks = []
    return summarise(title, known, remarks=remarks)
