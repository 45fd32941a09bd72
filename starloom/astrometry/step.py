"""Where astrometry meets archive and lake: solve a frame, keep the solved copy, file its position."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlmodel import col, select

from starloom import __version__
from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.archive.models import Frame, Instrument, Solution
from starloom.archive.positions import index_frame, is_elsewhere
from starloom.astrometry.frame import SolveOutcome, solve_pixels, write_solved
from starloom.calibration.planes import plane_frame
from starloom.errors import BadInput
from starloom.frames import read_frame
from starloom.lake import keys
from starloom.receipts import write_receipt, write_receipt_again

if TYPE_CHECKING:
    from starloom.hub import Hub


def run(hub: Hub, frame_id: str) -> None:
    """Solve one frame and commit the outcome; a frame that does not solve keeps its honest reason."""
    with hub.archive.transaction() as session:
        claimed = rows.claim_step(session, frame_id, "solve")
        frame = rows.get(session, frame_id)
        target, scale = _hints(session, frame)
    if not claimed:
        write_receipt_again(hub, frame_id, "solve")
        return
    try:
        _solve(hub, frame, target, scale)
    except BadInput as refused:
        # Nothing that a retry could change: the frame keeps the reason, and its node is told.
        _fail(hub, frame, refused.code, refused.hint or refused.message)


def _solve(hub: Hub, frame: Frame, target: tuple[float, float] | None, scale: float | None) -> None:
    assert frame.raw_key is not None
    assert frame.start_utc is not None
    with (
        hub.lake.local_copy(frame.raw_key, version=frame.raw_version) as raw,
        tempfile.TemporaryDirectory(prefix="starloom-solve-") as folder,
    ):
        source = raw
        if frame.plane is not None:
            source = plane_frame(raw, frame.plane, Path(folder) / "plane.fits.fz")
        data, header = read_frame(source)
        outcome = solve_pixels(data, header, target=target, scale_arcsec=scale)
        if not outcome.solved:
            _fail(hub, frame, outcome.reason or "unsolved", outcome.hint)
            return
        solved = Path(folder) / "solved.fits.fz"
        write_solved(source, solved, outcome.wcs_cards)
        stored = hub.lake.put_file(solved, keys.solved(frame.node_id, frame.start_utc, frame.id, frame.version))
    _record(hub, frame, outcome, target, solved_key=stored.key, solved_version=stored.version, shape=data.shape)


def _hints(session: Any, frame: Frame) -> tuple[tuple[float, float] | None, float | None]:
    """Return the mission's target (deg) and the instrument's registered scale (arcsec/px)."""
    mission = missions.find(session, frame.mission_id) if frame.mission_id else None
    target = None
    if mission is not None and mission.ra_deg is not None and mission.dec_deg is not None:
        target = (mission.ra_deg, mission.dec_deg)
    instrument = session.get(Instrument, frame.instrument_id) if frame.instrument_id else None
    scale = None if instrument is None else instrument.scale_arcsec
    return target, scale * 2 if scale is not None and frame.plane is not None else scale


def _fail(hub: Hub, frame: Frame, code: str, hint: str) -> None:
    with hub.archive.transaction() as session:
        stored = rows.settle_step(session, frame.id, "solve", code=code, hint=hint)
    write_receipt(hub, stored)


def _record(
    hub: Hub,
    frame: Frame,
    outcome: SolveOutcome,
    target: tuple[float, float] | None,
    *,
    solved_key: str,
    solved_version: str | None,
    shape: tuple[int, ...],
) -> None:
    footprint = [[float(ra), float(dec)] for ra, dec in outcome.footprint]
    with hub.archive.transaction() as session:
        stored = rows.still_pending(session, frame.id, "solve")
        if stored is None:
            return
        for earlier in session.exec(
            select(Solution).where(Solution.frame_id == frame.id, col(Solution.current).is_(True))
        ).all():
            earlier.current = False
        session.add(
            Solution(
                frame_id=frame.id,
                solver=outcome.solver,
                catalog=outcome.catalog,
                code_version=__version__,
                ra_deg=outcome.ra_deg,
                dec_deg=outcome.dec_deg,
                scale_arcsec=outcome.scale_arcsec,
                rotation_deg=outcome.rotation_deg,
                parity=outcome.parity,
                rms_arcsec=outcome.rms_arcsec,
                rms_px=outcome.rms_px,
                matches=outcome.matches,
                order=outcome.order,
                wcs=outcome.wcs_cards,
                footprint=footprint,
            )
        )
        index_frame(session, frame.id, footprint)
        if target is not None and is_elsewhere(footprint, target):
            rows.add_flags(stored, "off-target")
        if frame.plane is None and frame.instrument_id is not None:
            _learn_scale(session, frame.instrument_id, outcome.scale_arcsec)
        rows.settle_step(
            session,
            frame.id,
            "solve",
            solved_key=solved_key,
            solved_version=solved_version,
            height=shape[0],
            width=shape[1],
        )


def _learn_scale(session: Any, instrument_id: int, scale_arcsec: float) -> None:
    """Remember the first true scale of an instrument: later frames without one in the header need no scan."""
    instrument = session.get(Instrument, instrument_id)
    if instrument is not None and instrument.scale_arcsec is None and np.isfinite(scale_arcsec):
        instrument.scale_arcsec = scale_arcsec
