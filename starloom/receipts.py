"""Receipts: the hub's word to a node about each of its frames, where only that node can read it.

A receipt is written anew from the archive whenever something about the frame has changed, so the last one always
tells everything: state, reason, remedy, solution, photometry, and its part in the newest stack.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam, exists
from sqlmodel import Session, and_, col, func, select

from starloom.archive import frames as rows
from starloom.archive.models import Frame, Photometry, Revision, RevisionInput, Solution
from starloom.lake import keys

if TYPE_CHECKING:
    from starloom.hub import Hub

#: A receipt is written again where its frame has changed meanwhile, so often at most.
TRIES = 3
#: What happens next, for states that call for no remedy of their own.
UNKNOWN_MISSION = (
    "The hub has no mission of this id yet: the frame is kept and processed, and is stacked once the mission "
    "has been created. If the id is misspelt, send the frame again under the right name."
)
OFF_TARGET = "It shows another part of the sky than the mission's target and gets no weight in the stack."

#: What a node is told of the position found and of what was measured.
SOLUTION = (
    "ra_deg", "dec_deg", "scale_arcsec", "rotation_deg", "parity", "rms_arcsec", "rms_px", "held_out_arcsec",
    "corner_error_px", "matches", "order", "solver", "hint", "catalog", "catalog_version", "epoch",
    "offset_ra_deg", "offset_dec_deg", "model_id",
)  # fmt: skip
PHOTOMETRY = (
    "band", "zero_point_mag", "zero_point_err", "catalog_band", "catalog", "calibrators", "fwhm_px", "fwhm_arcsec",
    "fwhm_corner_px", "ellipticity", "sky_adu", "sky_brightness_mag_arcsec2", "transparency", "limiting_mag",
)  # fmt: skip
#: What flags ask of a telescope's owner, the gravest first, where nothing worse has happened.
FLAG_HINTS = {
    "off-target": OFF_TARGET,
    "trailed": "Its stars are lines: unless the telescope followed a moving target, check tracking and guiding.",
    "defocused": "Its stars are out of focus: check the focuser, and refocus as the temperature falls.",
    "cloudy": "It lost light to clouds or dew, against this telescope's own clear frames.",
}


class _Found(NamedTuple):
    """A frame with its current results, and whether any revision has ever bound it."""

    frame: Frame
    solution: Solution | None
    photometry: Photometry | None
    bound: bool

    def measured(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self.solution is not None:
            told["solution"] = {name: getattr(self.solution, name) for name in SOLUTION}
        if self.photometry is not None:
            told["photometry"] = {name: getattr(self.photometry, name) for name in PHOTOMETRY}
        return told


_FIND = (
    select(Frame, Solution, Photometry, exists().where(col(RevisionInput.frame_id) == Frame.id))
    .join(Solution, and_(Solution.frame_id == Frame.id, col(Solution.current).is_(True)), isouter=True)
    .join(Photometry, and_(Photometry.frame_id == Frame.id, col(Photometry.current).is_(True)), isouter=True)
    .where(Frame.id == bindparam("frame"))
)


_VERSION = select(Frame.version).where(Frame.id == bindparam("frame"))


def _found(session: Session, frame_id: str) -> _Found:
    row = session.execute(_FIND, {"frame": frame_id}).first()
    return _Found(rows.get(session, frame_id), None, None, False) if row is None else _Found(*row)


def write_receipt(hub: Hub, frame: Frame, **extra: Any) -> None:
    """Write or replace the receipt of one frame; a colour plane's news stand in its mosaic's receipt."""
    if not frame.node_id:
        return
    for _ in range(TRIES):
        with hub.archive.session() as session:
            found = _found(session, frame.id)
            body = _describe(session, found, stack="stack" not in extra)
        if frame.plane is None:
            body |= extra
        hub.lake.put_bytes(
            json.dumps(body).encode(),
            keys.receipt(frame.node_id, frame.name),
            content_type="application/json",
        )
        with hub.archive.session() as session:
            if session.execute(_VERSION, {"frame": frame.id}).scalar_one() == found.frame.version:
                return  # else this may have replaced a newer word: say it again


def write_receipt_again(hub: Hub, frame_id: str, step: rows.Step) -> None:
    """Write the receipt of a frame whose step is done: the run that did it may have died before its last word."""
    with hub.archive.session() as session:
        frame = rows.get(session, frame_id)
    if getattr(frame, step) != "pending" and rows.is_settled(frame):
        write_receipt(hub, frame)


def describe(session: Session, frame_id: str, *, stack: bool = True) -> dict[str, Any]:
    """Return what the archive can tell a node about a frame, safe for JSON; its part in a stack if wanted."""
    return _describe(session, _found(session, frame_id), stack=stack)


def _describe(session: Session, found: _Found, *, stack: bool) -> dict[str, Any]:
    if found.frame.plane not in (None, rows.MOSAIC):
        mosaic = _mosaic_of(session, found.frame)
        found = found if mosaic is None else _found(session, mosaic.id)
    frame = found.frame
    planes = _planes(session, frame)
    body = {
        "name": frame.name,
        "frame_id": frame.id,
        "mission": frame.obs_req,
        "plane": frame.plane,
        "state": _state(frame, planes),
        "settled": rows.is_settled(frame) and all(plane["settled"] for plane in planes.values()),
        "code": _code(frame) or next((plane["code"] for plane in planes.values() if plane["code"]), None),
        "message": (frame.last_error or {}).get("message"),
        "hint": _hint(frame) or next((plane["hint"] for plane in planes.values() if plane["hint"]), None),
        "pixel_digest": frame.pixel_digest,
        "sha256": frame.raw_sha256,
        "received_at": frame.received_at.isoformat(),
        "flags": sorted({*frame.flags, *(flag for plane in planes.values() for flag in plane["flags"])}),
        **found.measured(),
    }
    if stack and found.bound and (part := part_in_stack(session, frame)):
        body["stack"] = part
    if planes:
        body["planes"] = planes
    if frame.duplicate_of is not None:
        first = rows.get(session, frame.duplicate_of)
        body["original"] = {
            "frame_id": first.id,
            "name": first.name,
            "state": rows.state_of(first),
            "pixel_digest": first.pixel_digest,
        }
    return body


def _state(frame: Frame, planes: dict[str, dict[str, Any]]) -> str:
    """Return the state in one word: a mosaic is as far as its slowest plane, and ready with the first of them."""
    states = [str(plane["state"]) for plane in planes.values()]
    if frame.disposition != "active" or not states:
        return rows.state_of(frame)
    if not all(plane["settled"] for plane in planes.values()):
        return "processing"
    return "ready" if "ready" in states else states[0]


def _code(frame: Frame) -> str | None:
    codes = (frame.measure_code, frame.solve_code, frame.calibrate_code, frame.ingest_code)
    return frame.disposition_code or next((code for code in codes if code), None)


def _hint(frame: Frame) -> str | None:
    if frame.disposition_hint and _code(frame):
        return frame.disposition_hint
    if "unknown-mission" in frame.flags:
        return UNKNOWN_MISSION
    return next((hint for flag, hint in FLAG_HINTS.items() if flag in frame.flags), None)


def _mosaic_of(session: Session, plane: Frame) -> Frame | None:
    found = session.exec(
        select(Frame).where(
            Frame.node_id == plane.node_id,
            Frame.name == plane.name,
            Frame.plane == rows.MOSAIC,
            Frame.raw_key == plane.raw_key,
        )
    ).all()
    return next((frame for frame in found if plane.id in rows.plane_ids(frame)), None)


def _planes(session: Session, frame: Frame) -> dict[str, dict[str, Any]]:
    if frame.plane != rows.MOSAIC:
        return {}
    found = [session.get(Frame, plane_id) for plane_id in rows.plane_ids(frame)]
    return {
        str(plane.plane): {
            "frame_id": plane.id,
            "band": plane.band,
            "state": rows.state_of(plane),
            "settled": rows.is_settled(plane),
            "code": _code(plane),
            "hint": _hint(plane),
            "flags": plane.flags,
            "stack": part_in_stack(session, plane),
            **measured(session, plane),
        }
        for plane in found
        if plane is not None
    }


def measured(session: Session, frame: Frame) -> dict[str, Any]:
    """Return solution and photometry, as far as there are any."""
    return _found(session, frame.id).measured()


def part_in_stack(session: Session, frame: Frame) -> dict[str, Any] | None:
    """Return how a frame entered its mission's newest stack, None where it did not."""
    found = session.exec(
        select(Revision, RevisionInput)
        .join(RevisionInput, col(RevisionInput.revision_id) == Revision.id)
        .where(RevisionInput.frame_id == frame.id, Revision.status == "published")
        .order_by(col(Revision.n).desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    revision, part = found
    total = session.exec(
        select(func.sum(RevisionInput.weight)).where(RevisionInput.revision_id == revision.id)
    ).one()
    return {
        "mission": revision.mission_id,
        "revision": revision.n,
        "weight_share": (part.weight or 0.0) / (total or 1.0),
        "reason": part.reason,
        "rejected_fraction": part.rejected_fraction,
    }
