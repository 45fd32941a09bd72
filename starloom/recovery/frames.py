"""Raw objects that no row speaks of are frames that came after the backup: registered anew, ids and all."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import update
from sqlmodel import Session, col, select

from starloom.archive.frames import subject_of
from starloom.archive.models import Frame
from starloom.errors import BadInput
from starloom.frames import parse_name
from starloom.frames.step import RAW_NAME
from starloom.lake import Stored
from starloom.recovery import receipts
from starloom.recovery.receipts import Receipt

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Rows written in one transaction.
PAGE = 200
#: First version of a row that is made anew: the lost one's attempts lie in the lake under lower numbers.
VERSION = 1000
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_RAW = re.compile(r"^raw/[^/]+/\d{8}/(?P<sha256>[0-9a-f]{64})\.fits(?:\.fz)?$", re.ASCII)


@dataclass(frozen=True)
class Lost:
    """A frame that the lake holds and the archive does not know.

    Parameters
    ----------
    receipt
        The hub's last word on it, where there is one.
    """

    node: str
    name: str
    item: Stored
    receipt: Receipt | None = None


@dataclass
class Found:
    """What a look through the raw bucket has found."""

    lost: list[Lost] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    """Keys of raw objects whose frames' names nothing tells any more."""
    missing: list[str] = field(default_factory=list)
    """Raw keys of the archive's frames that are not in the lake."""


@dataclass(frozen=True)
class _Row:
    """What is known of a node's frame."""

    id: str
    name: str
    raw_key: str | None
    inbox_key: str | None

    def waits_in_vain(self, hub: Hub) -> bool:
        """Tell whether its object has left the inbox, and this row was not told."""
        return self.raw_key is None and (self.inbox_key is None or hub.lake.stat(self.inbox_key) is None)


def look(hub: Hub) -> Found:
    """Compare the raw bucket with the archive, node by node; changes nothing."""
    found = Found()
    seen = set()
    for node, items in _by_node(hub, "raw/"):
        seen.add(node)
        _look_at_node(hub, node, items, found)
    for node, items in _by_node(hub, "quarantine/"):
        known = {row.raw_key for row in _rows(hub, node)}
        for key, item in items.items():
            if key not in known:
                name = key.rpartition("/")[2]
                found.lost.append(Lost(node, name, item, receipts.read(hub.lake, node, name)))
    for node in _nodes(hub) - seen:
        found.missing += sorted(_raw_keys(_rows(hub, node)))
    return found


def _look_at_node(hub: Hub, node: str, items: Mapping[str, Stored], found: Found) -> None:
    rows = _rows(hub, node)
    known_keys = {row.raw_key for row in rows}
    found.missing += sorted(_raw_keys(rows) - items.keys())
    waiting = {row.name: row for row in rows if row.raw_key is None}
    settled = {row.name for row in rows if row.raw_key is not None}
    told = receipts.read_all(hub.lake, node, settled)
    by_hash: dict[str, list[Receipt]] = {}
    for receipt in told:
        by_hash.setdefault(receipt.sha256, []).append(receipt)
    for key, item in items.items():
        match = _RAW.match(key)
        if match is None:
            continue
        # The same pixels may be the frames of several missions.
        named = {receipt.name: receipt for receipt in by_hash.get(match["sha256"], [])}
        if key not in known_keys and not named:
            name = _name_in_metadata(hub, key)
            if name is None:
                found.nameless.append(key)
                continue
            named = {name: receipts.read(hub.lake, node, name)}  # type: ignore[dict-item]
        for name, receipt in named.items():
            row = waiting.get(name)
            if row is not None and not row.waits_in_vain(hub):
                continue  # on its way: the step that has it in hand will file it
            found.lost.append(Lost(node, name, item, receipt))


def _name_in_metadata(hub: Hub, key: str) -> str | None:
    stored = hub.lake.stat(key)
    return None if stored is None else stored.metadata.get(RAW_NAME)


def _by_node(hub: Hub, prefix: str) -> Iterator[tuple[str, dict[str, Stored]]]:
    listed = (item for item in hub.lake.list(prefix) if item.key.count("/") >= 2)
    for node, items in groupby(listed, key=lambda item: item.key.split("/")[1]):
        yield node, {item.key: item for item in items}


def _rows(hub: Hub, node: str) -> list[_Row]:
    columns = select(Frame.id, Frame.name, Frame.raw_key, Frame.inbox_key)
    with hub.archive.session() as session:
        return [_Row(*row) for row in session.exec(columns.where(Frame.node_id == node)).all()]


def _nodes(hub: Hub) -> set[str]:
    with hub.archive.session() as session:
        return set(session.exec(select(Frame.node_id).distinct()).all())


def _raw_keys(rows: Sequence[_Row]) -> set[str]:
    return {row.raw_key for row in rows if row.raw_key is not None and row.raw_key.startswith("raw/")}


def raise_versions(hub: Hub) -> None:
    """Have frames under way write under higher numbers than the attempts that the archive has forgotten."""
    with hub.archive.transaction() as session:
        session.exec(
            update(Frame)
            .where(col(Frame.next_attempt_at).is_not(None))
            .values(version=Frame.version + VERSION)
            .execution_options(synchronize_session=False)
        )


def register(hub: Hub, lost: Sequence[Lost]) -> int:
    """Give lost frames their rows, in the order in which they came; ``sweep`` hands them out. Return how many."""
    ordered = sorted(lost, key=lambda one: one.item.modified)
    for start in range(0, len(ordered), PAGE):
        with hub.archive.transaction() as session:
            for one in ordered[start : start + PAGE]:
                frame = _register(session, one)
                log.info("%s found again at %s", frame.name, one.item.key, extra=subject_of(frame))
    return len(ordered)


def _register(session: Session, one: Lost) -> Frame:
    frame = session.exec(
        select(Frame).where(Frame.node_id == one.node, Frame.name == one.name, col(Frame.raw_key).is_(None))
    ).first()
    if frame is None:
        frame = Frame(id=_free_id(session, one.receipt), name=one.name, node_id=one.node, **_said_by(one.name))
        frame.received_at = one.item.modified
    frame.version += VERSION
    frame.raw_key, frame.inbox_key = one.item.key, None
    frame.in_hand, frame.attempts, frame.last_error = None, 0, None
    state = one.receipt.state if one.receipt else ""
    if one.item.key.startswith("quarantine/"):
        frame.ingest, frame.ingest_code = "failed", (one.receipt.code if one.receipt else "") or "found-again"
        _set_aside(frame, "quarantined", frame.ingest_code, one.receipt, one.item.modified)
    elif state == "withdrawn":
        frame.ingest, frame.ingest_code = "pending", None
        _set_aside(frame, "withdrawn", "withdrawn", one.receipt, one.item.modified)
    else:
        # Ingest reads it where it lies, as it does for one that is requeued.
        frame.ingest, frame.ingest_code = "pending", None
        frame.disposition, frame.disposition_code, frame.disposition_hint = "active", None, None
        frame.next_attempt_at = one.item.modified
    session.add(frame)
    session.flush()
    return frame


def _set_aside(frame: Frame, disposition: str, code: str, receipt: Receipt | None, at: datetime) -> None:
    frame.disposition, frame.disposition_code, frame.disposition_at = disposition, code[:64], at
    frame.disposition_hint = (receipt.hint if receipt else "")[:500] or "Found again after a restore."
    frame.next_attempt_at = None


def _free_id(session: Session, receipt: Receipt | None) -> str:
    """Return the frame's old id, which products and receipts speak of, unless something else has it."""
    old = receipt.frame_id if receipt else ""
    return old if _ID.fullmatch(old) and session.get(Frame, old) is None else uuid4().hex


def _said_by(name: str) -> dict[str, Any]:
    try:
        said = parse_name(name)
    except BadInput:
        return {"kind": "unknown"}
    return {"obs_req": said.mission, "kind": said.kind, "start_utc": said.start_utc}
