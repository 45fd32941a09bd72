"""Where astrometry meets archive and lake: solve a frame, keep the solved copy, file its position."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import bindparam
from sqlmodel import Session, col, select

from starloom import __version__
from starloom.archive import frames as rows
from starloom.archive import instruments, results
from starloom.archive.models import Calibration, Frame, Instrument, LearntInstrument, Mission, Node, Solution
from starloom.archive.positions import is_elsewhere
from starloom.astrometry.choosing import solve_among
from starloom.astrometry.detect import StarList
from starloom.astrometry.instrument import BadInstrument, InstrumentModel
from starloom.astrometry.outcome import SolveOutcome
from starloom.astrometry.solved_file import write_solved
from starloom.astrometry.stars_table import stars_hdu
from starloom.calibration.calibrated_file import Planes, read_planes
from starloom.calibration.step import header_value, pixels_of
from starloom.errors import BadInput
from starloom.frames.site import rounded_cards
from starloom.lake import keys
from starloom.own_sky import POINTING_DEG, OwnSky
from starloom.receipts import write_receipt, write_receipt_again
from starloom.refcat.step import refcats_of

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Side of a colour plane's pixel in pixels of its mosaic.
PLANE_STEP = 2
#: A wider frame is never too small for the catalogue.
MAX_OWN_DEG = 2.0
#: Characters of a message that a receipt and a page have room for.
MAX_MESSAGE = 500


@dataclass(frozen=True)
class _Known:
    """What the archive knows of a frame before it is solved.

    Parameters
    ----------
    target
        Where its mission points, degrees ICRS.
    scale_arcsec
        Its instrument's registered or first true scale, arcsec per pixel of this frame.
    learnt
        What the instrument's earlier frames have taught.
    calibration
        What was done to its pixels.
    exact_site
        Whether the node's owner agrees that the site is told exactly.
    """

    target: tuple[float, float] | None
    scale_arcsec: float | None
    learnt: LearntInstrument | None
    calibration: Calibration | None
    exact_site: bool

    def model(self) -> InstrumentModel | None:
        """Return the learnt model; None where there is none, or one that this version cannot read."""
        if self.learnt is None:
            return None
        try:
            return InstrumentModel.from_json(self.learnt.model)
        except BadInstrument as unreadable:
            # The next lesson replaces it; until then the frame is solved as if nothing had been learnt.
            about = {"instrument": self.learnt.instrument_id}
            log.warning("model %s: %s", self.learnt.id, unreadable.message, extra=about)
            return None


def run(hub: Hub, frame_id: str) -> None:
    """Solve one frame and commit the outcome; a frame that does not solve keeps its honest reason."""
    with hub.archive.transaction() as session:
        frame = rows.claim_step(session, frame_id, "solve")
        known = None if frame is None else _known(session, frame)
    if frame is None or known is None:
        write_receipt_again(hub, frame_id, "solve")
        return
    try:
        _solve(hub, frame, known)
    except BadInput as refused:
        # Nothing that a retry could change: the frame keeps the reason, and its node is told.
        _fail(hub, frame, refused.code, refused.message, refused.hint or refused.message, None)


_AROUND = (
    select(Mission.ra_deg, Mission.dec_deg, Instrument.scale_arcsec, Node.exact_site)
    .select_from(Frame)
    .join(Mission, col(Mission.id) == Frame.mission_id, isouter=True)
    .join(Instrument, col(Instrument.id) == Frame.instrument_id, isouter=True)
    .join(Node, col(Node.id) == Frame.node_id, isouter=True)
    .where(Frame.id == bindparam("frame"))
)


def _known(session: Session, frame: Frame) -> _Known:
    ra_deg, dec_deg, scale, exact_site = session.execute(_AROUND, {"frame": frame.id}).one()
    return _Known(
        None if ra_deg is None or dec_deg is None else (ra_deg, dec_deg),
        scale * PLANE_STEP if scale is not None and frame.plane is not None else scale,
        instruments.learnt(session, frame.instrument_id),
        results.current_calibration(session, frame.id),
        bool(exact_site),
    )


def _solve(hub: Hub, frame: Frame, known: _Known) -> None:
    assert frame.start_utc is not None
    with pixels_of(hub, frame) as source, tempfile.TemporaryDirectory(prefix="starloom-solve-") as folder:
        planes = read_planes(source)
        outcome = _outcome(hub, frame, known, planes)
        if not outcome.solved:
            _fail(hub, frame, outcome.reason or "unsolved", _told(outcome), outcome.hint, outcome.stars)
            return
        assert outcome.stars is not None
        solved = Path(folder) / "solved.fits.fz"
        cards = outcome.wcs_cards if known.exact_site else outcome.wcs_cards | rounded_cards(planes.header)
        write_solved(source, solved, cards, tables=[stars_hdu(outcome.stars)])
        stored = hub.lake.put_file(solved, keys.solved(frame.node_id, frame.start_utc, frame.id, frame.version))
    _record(hub, frame, outcome, known, solved_key=stored.key, solved_version=stored.version)


def _outcome(hub: Hub, frame: Frame, known: _Known, planes: Planes) -> SolveOutcome:
    """Solve against the catalogue that serves the frame's field and size best, at last against the shipped one."""
    said = (header_value(frame, "ra_deg"), header_value(frame, "dec_deg"))
    places = [place for place in (said, known.target) if place is not None and None not in place]
    scale = known.scale_arcsec or header_value(frame, "scale_arcsec") or 0.0
    height, width = (side * scale / 3600 for side in planes.data.shape)
    own = None
    if places:
        radius = min(math.hypot(width, height) / 2, MAX_OWN_DEG) + POINTING_DEG
        own = OwnSky(hub, frame.id, places, radius)
    return solve_among(
        refcats_of(hub),
        planes.data,
        planes.header,
        at=places[0] if places else None,
        side_arcsec=scale,
        target=known.target,
        scale_arcsec=known.scale_arcsec,
        instrument=known.model(),
        mask=planes.unusable,
        own=own,
    )


def _told(outcome: SolveOutcome) -> str:
    """Return why a frame did not solve, and what was tried."""
    tried = "; ".join(dict.fromkeys(outcome.tried))
    return f"{outcome.message} (tried: {tried})"[:MAX_MESSAGE] if tried else outcome.message


def _fail(hub: Hub, frame: Frame, code: str, message: str, hint: str, stars: StarList | None) -> None:
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "solve")
        if stored is not None and stored.ready_at is None:
            rows.set_flags(stored, **_quality(stars))
        stored = rows.settle_step(session, frame.id, "solve", code=code, hint=hint, message=message)
    write_receipt(hub, stored)


def _quality(stars: StarList | None) -> dict[str, bool]:
    """Return what the star list says of tracking and focus."""
    return {
        "trailed": stars is not None and stars.trailed,
        "defocused": stars is not None and stars.defocused,
    }


def _record(
    hub: Hub,
    frame: Frame,
    outcome: SolveOutcome,
    known: _Known,
    *,
    solved_key: str,
    solved_version: str | None,
) -> None:
    assert outcome.stars is not None
    height, width = outcome.stars.shape
    solution = solution_of(frame.id, outcome, known.learnt, known.calibration)
    solution.solved_key, solution.solved_version = solved_key, solved_version
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "solve")
        if stored is None:
            return
        results.add_solution(session, stored, solution)
        elsewhere = known.target is not None and is_elsewhere(solution.footprint, known.target)
        wrong_hint = "wrong-hint" in outcome.flags
        rows.set_flags(stored, off_target=elsewhere, wrong_hint=wrong_hint, **_quality(outcome.stars))
        if frame.instrument_id is not None and known.scale_arcsec is None:
            _learn_scale(session, frame.instrument_id, outcome.scale_arcsec / (PLANE_STEP if frame.plane else 1))
        rows.settle(
            session,
            stored,
            "solve",
            solved_key=solved_key,
            solved_version=solved_version,
            height=height,
            width=width,
        )


def solution_of(
    frame_id: str, outcome: SolveOutcome, learnt: LearntInstrument | None, calibration: Calibration | None
) -> Solution:
    """Return the archive's row of a solved frame, without the place of its solved copy."""
    fit = outcome.fit
    offset = outcome.offset_deg or (None, None)
    return Solution(
        frame_id=frame_id,
        solver=outcome.solver,
        catalog=outcome.catalog,
        catalog_version="" if fit is None else fit.catalog.version,
        epoch=outcome.epoch,
        hint=outcome.hint[:128],
        code_version=__version__,
        ra_deg=outcome.ra_deg,
        dec_deg=outcome.dec_deg,
        scale_arcsec=outcome.scale_arcsec,
        rotation_deg=outcome.rotation_deg,
        parity=outcome.parity,
        rms_arcsec=outcome.rms_arcsec,
        rms_px=outcome.rms_px,
        held_out_arcsec=_finite(outcome.held_out_arcsec),
        corner_error_px=None if fit is None else _finite(fit.corner_error_px),
        matches=outcome.matches,
        order=outcome.order,
        wcs=outcome.wcs_cards,
        footprint=[[float(ra), float(dec)] for ra, dec in outcome.footprint],
        offset_ra_deg=offset[0],
        offset_dec_deg=offset[1],
        distortion=None if fit is None else fit.sample or None,
        residuals=None if fit is None else fit.residuals or None,
        model_id=learnt.id if learnt is not None and fit is not None and fit.model_used else None,
        calibration_id=None if calibration is None else calibration.id,
    )


def _finite(value: float | None) -> float | None:
    """Return a number, None for what JSON and PostgreSQL would each write in a way of its own."""
    return value if value is not None and math.isfinite(value) else None


def _learn_scale(session: Session, instrument_id: int, scale_arcsec: float) -> None:
    """Remember the first true scale of an instrument: later frames without one in the header need no scan."""
    instrument = session.get(Instrument, instrument_id)
    if instrument is not None and instrument.scale_arcsec is None and math.isfinite(scale_arcsec):
        instrument.scale_arcsec = scale_arcsec
