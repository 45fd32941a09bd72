"""Missions and nodes: created, found, described, their status changed. Callers give the transaction."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import bindparam, update
from sqlalchemy import text as sql
from sqlmodel import Session, col, func, select

from starloom.archive import arrivals, counting, dispositions, frames
from starloom.archive.claims import locked_mission
from starloom.archive.engine import database_now
from starloom.archive.models import (
    MISSION_STATES,
    STRAY,
    Frame,
    Instrument,
    Mission,
    Node,
    Product,
    Revision,
    Solution,
    StatusEvent,
)
from starloom.errors import BadInput, Conflict

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]{0,63}", re.ASCII)


def check_id(what: str, value: str) -> str:
    """Return an id unchanged if it can stand in a frame's name, else raise `BadInput` (``bad-id``)."""
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
    ephemeris: dict[str, Any] | None = None,
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
    check_id("mission", mission_id)
    for what, value in (("title", title), ("licence", licence), ("credit", credit)):
        _check_length(f"mission {mission_id}", what, value, Mission)
    if find(session, mission_id) is not None:
        raise Conflict(
            f"mission {mission_id} exists already",
            code="mission-exists",
            hint=f"Choose another id; `starloom mission show {mission_id}` shows what is there.",
        )
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
        ephemeris=ephemeris,
        parameters=parameters or {},
        licence=licence,
        credit=credit,
    )
    session.add(mission)
    session.flush()
    adopt_strays(session, [mission_id])
    return mission


def adopt_strays(session: Session, mission_ids: Collection[str], limit: int | None = None) -> int:
    """Take up frames that arrived under the ids of missions before these were there; return how many.

    A mission may be inserted by anybody's SQL, and while it is, a frame of it may be filed that sees none yet.
    """
    strays = (
        select(Frame.id)
        .where(sql(STRAY), col(Frame.obs_req).in_(mission_ids))
        .order_by(col(Frame.id))
        .limit(limit)
    )
    adopted = 0
    for frame_id in session.exec(strays).all():
        frame = frames.locked(session, frame_id)
        mission = find(session, frame.obs_req or "")
        if mission is not None and frame.mission_id is None:
            _adopt(session, mission, frame)
            adopted += 1
    session.flush()
    return adopted


def _adopt(session: Session, mission: Mission, frame: Frame) -> None:
    """Give a frame that arrived before its mission what it would have got after: rights, flags, a second try."""
    frame.mission_id = mission.id
    frame.embargo_until = frame.embargo_until or mission.embargo_until
    frame.licence = frame.licence or mission.licence
    frame.credit = frame.credit or mission.credit
    frame.flags = [flag for flag in frame.flags if flag != "unknown-mission"]
    if frame.disposition != "active":
        return
    if frame.solve == "failed":
        dispositions.requeue(session, frame.id)
    elif frame.solve == "ok" and mission.ra_deg is not None and mission.dec_deg is not None:
        from starloom.archive.positions import is_elsewhere  # loads HEALPix, which few commands need

        solution = session.exec(
            select(Solution).where(Solution.frame_id == frame.id, col(Solution.current).is_(True))
        ).first()
        if solution is not None and is_elsewhere(solution.footprint, (mission.ra_deg, mission.dec_deg)):
            frames.add_flags(frame, "off-target")


def _check_length(whose: str, what: str, value: str | None, table: type[Mission] | type[Node]) -> None:
    """PostgreSQL refuses a text longer than its column in words of its own; SQLite keeps it."""
    most = getattr(cast(Any, table).__table__.c[what].type, "length", None)
    if value is not None and most is not None and len(value) > most:
        raise BadInput(
            f"{whose}: a {what} of {len(value)} characters, at most {most} are kept",
            code="too-long",
            hint="Say it shorter.",
        )


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


#: What people may ask for, from which status. The rest is refused with the way out (`_REFUSALS`), and what is so
#: already is left alone: a script that says it twice has done no harm.
Wish = Literal["complete", "restack", "cancel"]
_FROM: dict[Wish, tuple[str, ...]] = {
    "complete": ("OPEN", "FAILED", "CANCELLED"),
    "restack": ("STACKED", "STACKING", "FAILED"),
    "cancel": ("OPEN", "COMPLETE", "STACKING", "STACKED", "FAILED"),
}
_REFUSALS: dict[tuple[Wish, str], str] = {
    ("complete", "STACKING"): "It is being stacked; `starloom mission restack {id}` asks for one more revision.",
    ("complete", "STACKED"): "It has its stack; `starloom mission restack {id}` asks for the next revision.",
    ("restack", "OPEN"): "There is no stack yet; `starloom mission complete {id}` asks for the first.",
    ("restack", "CANCELLED"): "`starloom mission complete {id}` takes it up again.",
}


def change(session: Session, mission_id: str, wish: Wish) -> tuple[Mission, bool]:
    """Do what somebody asks of a mission, if its status allows it.

    Returns
    -------
    mission, changed
        ``changed`` is False where the mission is as asked for already.

    Raises
    ------
    BadInput
        ``unknown-mission``.
    Conflict
        ``mission-open``, ``mission-stacking``, ``mission-stacked``, ``mission-cancelled``: not from this status;
        the hint says what to ask for instead.
    """
    mission = locked_mission(session, mission_id) or get_mission(session, mission_id)
    target = "CANCELLED" if wish == "cancel" else "COMPLETE"
    if mission.status == target:
        return mission, False
    if mission.status not in _FROM[wish]:
        raise Conflict(
            f"mission {mission_id} is {mission.status}",
            code=f"mission-{mission.status.lower()}",
            hint=_REFUSALS[wish, mission.status].format(id=mission_id),
        )
    set_status(session, mission_id, target)
    return mission, True


def describe(session: Session, mission_id: str) -> dict[str, Any]:
    """Return a mission with counts of its frames, revisions, products, open events, and why its stack is stale."""
    # Here, because comparing WCS loads astropy, which most commands have no time for.
    from starloom.archive import staleness

    mission = get_mission(session, mission_id)
    counts = counting.frames_by_state(session, Frame.obs_req == mission_id)
    revisions = session.exec(
        select(Revision).where(Revision.mission_id == mission_id).order_by(col(Revision.epoch))
    ).all()
    products = session.exec(
        select(Product, Revision.n)
        .join(Revision, col(Revision.id) == Product.revision_id)
        .where(Revision.mission_id == mission_id, Revision.status == "published")
        .order_by(col(Revision.n), col(Product.band), col(Product.pointing), col(Product.track).desc())
    ).all()
    events = session.exec(
        select(StatusEvent).where(StatusEvent.mission_id == mission_id, StatusEvent.state == "open")
    ).all()
    changes = staleness.why_stale(session, mission_id).get(mission_id, [])
    return {
        "mission": mission.model_dump(),
        "frames": [{"state": state, "count": count} for state, (count, _) in sorted(counts.items())],
        "in_flight": arrivals.in_flight(session, mission_id),
        "stale": [vars(change) for change in changes],
        "stale_because": staleness.in_words(changes),
        "revisions": [revision.model_dump(exclude={"token"}) for revision in revisions],
        "products": [{"n": n, **product.model_dump()} for product, n in products],
        "events": [event.model_dump() for event in events],
    }


def register_node(session: Session, node_id: str, **values: Any) -> Node:
    """Create a node, or change what is given of a known one; filters are merged, the rest replaced.

    Frames of the node that were filed under an unmapped filter get the band its new mapping says.
    """
    check_id("node", node_id)
    for what, value in values.items():
        if isinstance(value, str):
            _check_length(f"node {node_id}", what, value, Node)
    node = session.get(Node, node_id)
    if node is None:
        node = Node(id=node_id, registered_at=database_now(session))
        session.add(node)
    node.filters = {**node.filters, **values.pop("filters", {})}
    for column, value in values.items():
        if value is not None:
            setattr(node, column, value)
    session.flush()
    for name, band in node.filters.items():
        # A colour plane keeps the band of its own colour, whatever filter stood before the whole camera.
        session.exec(
            update(Frame)
            .where(col(Frame.node_id) == node_id, col(Frame.filter) == name, col(Frame.plane).is_(None))
            .values(band=band)
        )
    return node


def list_nodes(session: Session) -> list[dict[str, Any]]:
    """Return every node that is registered or has sent something, when it was heard, and its last day's frames.

    A look into an index for each node, however many frames there are.
    """
    registered = {node.id: node for node in session.exec(select(Node)).all()}
    heard = _heard(session)
    rows = []
    for node_id in sorted({*registered, *heard}):
        heard_at, count = heard.get(node_id, (None, 0))
        row = {"id": node_id, "registered": node_id in registered, "heard_at": heard_at, "frames_last_day": count}
        known = registered.get(node_id)
        rows.append(row | (known.model_dump(exclude={"id"}) if known else {}))
    return rows


def _heard(session: Session) -> dict[str, tuple[datetime, int]]:
    """Return when each node that frames came from was last heard, and how many it sent in the last day.

    From each node to the next in the index, past all frames between.
    """
    first = select(func.min(Frame.node_id).label("id")).cte("sender", recursive=True)
    following = select(func.min(Frame.node_id)).where(Frame.node_id > first.c.id).scalar_subquery()
    sender = first.union_all(select(following).where(first.c.id.is_not(None)))
    newest = select(func.max(Frame.received_at)).where(Frame.node_id == sender.c.id)
    since = database_now(session) - timedelta(days=1)
    lately = select(func.count()).where(Frame.node_id == sender.c.id, col(Frame.received_at) >= since)
    asked = select(sender.c.id, newest.scalar_subquery(), lately.scalar_subquery())
    found: Any = session.exec(asked.where(sender.c.id.is_not(None)))
    return {node_id: (heard_at, count) for node_id, heard_at, count in found.all()}


def band_of(session: Session, node_id: str, filter_name: str | None) -> str:
    """Return the band of a node's filter: its own mapping, else a standard name, else ``node:filter``."""
    # Here, because the photometry room loads scipy, which the command line has no time for.
    from starloom.photometry.bands import standard_band

    node = session.get(Node, node_id)
    if node is not None and filter_name in node.filters:
        return node.filters[filter_name]
    return standard_band(filter_name) or f"{node_id}:{(filter_name or '').strip() or 'none'}"


_INSTRUMENT = (
    select(Instrument)
    .where(
        Instrument.node_id == bindparam("node"),
        Instrument.camera == bindparam("with"),
        Instrument.binning == bindparam("by"),
    )
    .order_by(col(Instrument.valid_from).desc())
)


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
    sought = {"node": node_id, "with": (camera or "")[:128], "by": binning or 1}
    known: Instrument | None = session.execute(_INSTRUMENT, sought).scalars().first()
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
