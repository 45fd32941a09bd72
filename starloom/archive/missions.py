"""Missions and nodes: created, found, described, their status changed. Callers give the transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, func, select

from starloom.archive import frames
from starloom.archive.engine import database_now
from starloom.archive.models import (
    MISSION_STATES,
    Frame,
    Instrument,
    Mission,
    Node,
    Product,
    Revision,
    StatusEvent,
)
from starloom.errors import BadInput, Conflict
from starloom.photometry.bands import standard_band

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}", re.ASCII)


def _checked_id(what: str, value: str) -> str:
    if not _ID.fullmatch(value) or ".." in value or value.endswith("."):
        raise BadInput(
            f"{what} id {value!r} cannot stand in a file name",
            code="bad-id",
            hint="Use letters, digits, dots and dashes, at most 64 of them, as in the frames' names.",
        )
    return value


def find(session: Session, mission_id: str) -> Mission | None:
    """Return a mission, or None."""
    return session.get(Mission, mission_id)


def get_mission(session: Session, mission_id: str) -> Mission:
    """Return a mission.

    Raises
    ------
    BadInput
        ``unknown-mission``.
    """
    mission = session.get(Mission, mission_id)
    if mission is None:
        raise BadInput(
            f"no mission {mission_id}",
            code="unknown-mission",
            hint="`starloom mission list` shows them all; `starloom mission create` makes one.",
        )
    return mission


def create_mission(
    session: Session,
    mission_id: str,
    *,
    title: str = "",
    ra_deg: float | None = None,
    dec_deg: float | None = None,
    parameters: dict[str, Any] | None = None,
    licence: str | None = None,
    credit: str | None = None,
) -> Mission:
    """Create a mission and take up the frames that arrived earlier under its id.

    A frame that could not be solved without the target is tried again with it.

    Raises
    ------
    BadInput
        ``bad-id``, ``bad-target``.
    Conflict
        ``mission-exists``.
    """
    _checked_id("mission", mission_id)
    if find(session, mission_id) is not None:
        raise Conflict(f"mission {mission_id} exists already", code="mission-exists", hint="Choose another id.")
    if ra_deg is not None and dec_deg is not None and not (0 <= ra_deg < 360 and -90 <= dec_deg <= 90):
        raise BadInput(
            f"mission {mission_id}: RA {ra_deg}, Dec {dec_deg} is no point on the sky",
            code="bad-target",
            hint="Give degrees, ICRS: RA from 0 to below 360, Dec from -90 to 90.",
        )
    mission = Mission(
        id=mission_id,
        title=title,
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        parameters=parameters or {},
        licence=licence,
        credit=credit,
    )
    session.add(mission)
    session.flush()
    for frame in session.exec(select(Frame).where(Frame.obs_req == mission_id)).all():
        frame.mission_id = mission_id
        frame.flags = [flag for flag in frame.flags if flag != "unknown-mission"]
        if frame.disposition == "active" and frame.solve == "failed":
            frames.requeue(session, frame.id)
    return mission


def list_missions(session: Session, limit: int = 200) -> Sequence[Mission]:
    """Return missions, newest first."""
    return session.exec(select(Mission).order_by(col(Mission.created_at).desc()).limit(limit)).all()


def set_status(session: Session, mission_id: str, status: str) -> None:
    """Change a mission's status; the database's trigger writes the event.

    Raises
    ------
    BadInput
        ``unknown-mission``, ``bad-status``.
    """
    if status not in MISSION_STATES:
        raise BadInput(f"{status!r} is no status of a mission", code="bad-status", hint=", ".join(MISSION_STATES))
    mission = get_mission(session, mission_id)
    mission.status = status
    session.flush()
    session.refresh(mission)


def describe(session: Session, mission_id: str) -> dict[str, Any]:
    """Return a mission with counts of its frames, revisions, products and open events, as plain rows."""
    mission = get_mission(session, mission_id)
    found = session.exec(select(Frame).where(Frame.obs_req == mission_id)).all()
    counts: dict[str, int] = {}
    for frame in found:
        state = frames.state_of(frame)
        counts[state] = counts.get(state, 0) + 1
    revisions = session.exec(
        select(Revision).where(Revision.mission_id == mission_id).order_by(col(Revision.epoch))
    ).all()
    products = session.exec(
        select(Product, Revision.n)
        .join(Revision, col(Revision.id) == Product.revision_id)
        .where(Revision.mission_id == mission_id, Revision.status == "published")
        .order_by(col(Revision.n), col(Product.band), col(Product.pointing))
    ).all()
    events = session.exec(
        select(StatusEvent).where(StatusEvent.mission_id == mission_id, StatusEvent.state == "open")
    ).all()
    return {
        "mission": mission.model_dump(),
        "frames": [{"state": state, "count": count} for state, count in sorted(counts.items())],
        "in_flight": frames.in_flight(session, mission_id),
        "revisions": [revision.model_dump(exclude={"token"}) for revision in revisions],
        "products": [{"n": n, **product.model_dump()} for product, n in products],
        "events": [event.model_dump() for event in events],
    }


def register_node(session: Session, node_id: str, **values: Any) -> Node:
    """Create a node, or change what is given of a known one; filters are merged, the rest replaced.

    Frames of the node that were filed under an unmapped filter get the band its new mapping says.
    """
    _checked_id("node", node_id)
    node = session.get(Node, node_id)
    if node is None:
        node = Node(id=node_id, registered_at=database_now(session))
        session.add(node)
    node.filters = {**node.filters, **values.pop("filters", {})}
    for column, value in values.items():
        if value is not None:
            setattr(node, column, value)
    session.flush()
    for frame in session.exec(select(Frame).where(Frame.node_id == node_id)).all():
        if frame.filter in node.filters:
            frame.band = node.filters[frame.filter]
    return node


def list_nodes(session: Session) -> list[dict[str, Any]]:
    """Return every node that is registered or has sent something, with the number of its frames."""
    counts = dict(session.exec(select(Frame.node_id, func.count()).group_by(Frame.node_id)).all())
    registered = {node.id: node for node in session.exec(select(Node)).all()}
    return [
        {
            "id": node_id,
            "registered": node_id in registered,
            "frames": counts.get(node_id, 0),
            **(registered[node_id].model_dump(exclude={"id"}) if node_id in registered else {}),
        }
        for node_id in sorted({*counts, *registered})
    ]


def band_of(session: Session, node_id: str, filter_name: str | None) -> str:
    """Return the band of a node's filter: its own mapping, else a standard name, else ``node:filter``."""
    node = session.get(Node, node_id)
    if node is not None and filter_name in node.filters:
        return node.filters[filter_name]
    return standard_band(filter_name) or f"{node_id}:{(filter_name or '').strip() or 'none'}"


def instrument_of(
    session: Session,
    node_id: str,
    *,
    camera: str | None,
    telescope: str | None,
    binning: int | None,
    focal_length_mm: float | None,
    pixel_size_um: float | None,
) -> Instrument | None:
    """Return the node's instrument with this camera and binning, made on its first frame; None if unregistered.

    A row exists only for registered nodes: a misspelt TelID must not leave a ghost telescope.
    """
    if session.get(Node, node_id) is None:
        return None
    known = session.exec(
        select(Instrument)
        .where(
            Instrument.node_id == node_id,
            Instrument.camera == (camera or "")[:128],
            Instrument.binning == (binning or 1),
        )
        .order_by(col(Instrument.valid_from).desc())
    ).first()
    if known is not None:
        return known
    made = Instrument(
        node_id=node_id,
        camera=(camera or "")[:128],
        telescope=(telescope or "")[:128],
        binning=binning or 1,
        focal_length_mm=focal_length_mm,
        pixel_size_um=pixel_size_um,
        valid_from=database_now(session),
    )
    session.add(made)
    session.flush()
    return made
