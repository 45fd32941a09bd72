"""Master calibration frames in the archive: found, published, told apart from what was tried in vain.

A master that could not be built stays as a row without an object (``n_frames`` 0, ``stats`` with code and hint):
the same frames are not tried again, and a person can see why there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy import text as sql
from sqlmodel import Session, col, func, or_, select

from starloom.archive.frames import MOSAIC
from starloom.archive.models import ACTIVE_LIGHT, CALIBRATION, Calibration, Frame, Instrument, Master, Node
from starloom.archive.results import retire
from starloom.errors import BadInput

#: When the last master was made of an instrument that has none.
BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)


def current(session: Session, instrument_id: int | None) -> Sequence[Master]:
    """Return the masters of an instrument that frames may be calibrated with."""
    if instrument_id is None:
        return []
    return session.execute(_CURRENT, {"of": instrument_id}).scalars().all()


_CURRENT = (
    select(Master)
    .where(Master.instrument_id == bindparam("of"), col(Master.current).is_(True), Master.n_frames > 0)
    .order_by(col(Master.id))
)


def get(session: Session, master_id: int) -> Master:
    """Return a master.

    Raises
    ------
    BadInput
        ``no-such-master``.
    """
    found = session.get(Master, master_id)
    if found is None:
        raise BadInput(
            f"no master {master_id}", code="no-such-master", hint="`starloom masters list --all` shows the ids."
        )
    return found


def every(session: Session, *, node: str | None = None, history: bool = False) -> list[tuple[Master, Instrument]]:
    """Return masters and failed attempts with their instruments; with ``history`` replaced ones too."""
    query = select(Master, Instrument).join(Instrument, col(Instrument.id) == Master.instrument_id)
    if node is not None:
        query = query.where(Instrument.node_id == node)
    if not history:
        query = query.where(or_(col(Master.current).is_(True), Master.n_frames == 0))
    query = query.order_by(
        *(col(column) for column in (Instrument.node_id, Master.instrument_id, Master.kind, Master.valid_from)),
        col(Master.id),
    )
    return [(master, instrument) for master, instrument in session.exec(query).all()]


def attempts(session: Session, instrument_id: int) -> Sequence[Master]:
    """Return all masters of an instrument that were built or tried, earlier ones too."""
    return session.exec(select(Master).where(Master.instrument_id == instrument_id).order_by(col(Master.id))).all()


def publish(session: Session, master: Master) -> Master | None:
    """File a master as current, in place of those it shares frames with; None: another run was quicker.

    Of defect maps the newest of a size is current.
    """
    # The instrument's row is the lock: two runs at once leave one master of the same frames.
    session.exec(select(Instrument).where(Instrument.id == master.instrument_id).with_for_update()).one()
    mine = set(master.frame_ids)
    same_kind = session.exec(
        select(Master).where(Master.instrument_id == master.instrument_id, Master.kind == master.kind)
    ).all()
    for earlier in same_kind:
        if set(earlier.frame_ids) == mine and earlier.code_version == master.code_version and earlier.n_frames:
            return None
    for earlier in same_kind:
        replaced = bool(mine & set(earlier.frame_ids))
        if master.kind == "defects":
            replaced = (earlier.width, earlier.height) == (master.width, master.height)
        if replaced and not earlier.n_frames:
            session.delete(earlier)  # a failed attempt is of no interest once there is a newer one
        elif replaced and master.n_frames:
            earlier.current = False
    master.current = master.n_frames > 0
    session.add(master)
    session.flush()
    return master


def calibration_frames(session: Session, instrument_id: int, since: datetime) -> Sequence[Frame]:
    """Return the biases, darks and flats of an instrument that have come since a time, oldest first."""
    return session.exec(
        select(Frame)
        .where(sql(CALIBRATION), Frame.instrument_id == instrument_id, col(Frame.received_at) >= since)
        .order_by(col(Frame.start_utc), col(Frame.id))
    ).all()


def lights(session: Session, instrument_id: int, *, limit: int) -> Sequence[Frame]:
    """Return an instrument's newest light frames as the sensor read them: mosaics whole, no planes."""
    found: Sequence[Frame] = session.exec(_newest_lights(select(Frame), instrument_id, limit)).all()
    return found


def _newest_lights(query: Any, instrument: Any, limit: int) -> Any:
    return (
        query.where(
            sql(ACTIVE_LIGHT),
            Frame.instrument_id == instrument,
            Frame.ingest == "ok",
            col(Frame.start_utc).is_not(None),
            or_(col(Frame.plane).is_(None), Frame.plane == MOSAIC),
        )
        .order_by(col(Frame.start_utc).desc(), col(Frame.id))
        .limit(limit)
    )


def instruments_with_news(session: Session, *, lights_needed: int) -> list[int]:
    """Return instruments that have received calibration frames, or enough lights, since their last master.

    Lights matter to those alone that have no dark: defects are learnt from the newest of them. It is a look into
    an index for each instrument, however many frames there are. `starloom.mastering` says what is to be built.
    """
    made, has_dark = _last_made(session)
    newest = select(func.max(Frame.received_at)).where(sql(CALIBRATION), Frame.instrument_id == Instrument.id)
    some = _newest_lights(select(Frame.received_at), Instrument.id, lights_needed).correlate(Instrument).subquery()
    enough = select(func.max(some.c.received_at)).having(func.count() == lights_needed)
    no_dark = col(Instrument.id).not_in(has_dark)
    looks = [(_each(session, newest), False), (_each(session, enough, no_dark), True)]
    news = {
        instrument_id
        for look, of_lights in looks
        for instrument_id, received in look.items()
        if received is not None and received > made.get((instrument_id, of_lights), BEFORE_ALL)
    }
    return sorted(news)


def _each(session: Session, look: Any, *where: Any) -> dict[int, datetime | None]:
    """Return what a query of one time finds for each instrument."""
    query: Any = select(Instrument.id, look.correlate(Instrument).scalar_subquery()).where(*where)
    return dict(session.exec(query).all())


def _last_made(session: Session) -> tuple[dict[tuple[int, bool], datetime], set[int]]:
    """Return when an instrument's last master was made, defect maps apart, and which instruments have a dark."""
    made: dict[tuple[int, bool], datetime] = {}
    for instrument_id, kind, newest in session.exec(
        select(Master.instrument_id, Master.kind, func.max(Master.created_at)).group_by(
            col(Master.instrument_id), col(Master.kind)
        )
    ).all():
        key = (instrument_id, kind == "defects")
        made[key] = max(newest, made.get(key, newest))
    darks = select(Master.instrument_id).where(Master.kind == "dark", col(Master.current).is_(True)).distinct()
    return made, set(session.exec(darks).all())


def instruments(session: Session, *, node: str | None = None) -> Sequence[Instrument]:
    """Return the instruments, of one node or of all.

    Raises
    ------
    BadInput
        ``no-such-node``.
    """
    query = select(Instrument).order_by(col(Instrument.node_id), col(Instrument.id))
    if node is not None:
        if session.get(Node, node) is None:
            raise BadInput(f"no node {node}", code="no-such-node", hint="`starloom node list` shows the nodes.")
        query = query.where(Instrument.node_id == node)
    return session.exec(query).all()


def publish_calibration(session: Session, frames: Iterable[Frame], **values: Any) -> None:
    """File what was done to frames' pixels (a mosaic's planes share it); earlier rows stay as history."""
    for frame in frames:
        with session.no_autoflush:  # frames are written once, when their step is settled
            retire(session, Calibration, frame.id)
        session.add(Calibration(frame_id=frame.id, **values))
        frame.calibrated_key, frame.calibrated_version = values.get("key"), values.get("lake_version")


def calibrated_lights(session: Session, instrument_id: int) -> list[tuple[Frame, Calibration]]:
    """Return the settled lights of an instrument with what was done to them, mosaics whole, oldest first."""
    found = session.exec(
        select(Frame, Calibration)
        .join(Calibration, col(Calibration.frame_id) == Frame.id)
        .where(
            Frame.instrument_id == instrument_id,
            Frame.kind == "light",
            Frame.disposition == "active",
            Frame.calibrate == "ok",
            or_(col(Frame.plane).is_(None), Frame.plane == MOSAIC),
            col(Calibration.current).is_(True),
        )
        .order_by(col(Frame.start_utc), col(Frame.id))
    ).all()
    return [(frame, calibration) for frame, calibration in found]
