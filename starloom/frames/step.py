"""Discover and ingest: from an object in the inbox to immutable raw pixels and a row in the archive."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError
from sqlmodel import Session

from starloom.archive import arrivals, dispositions, missions
from starloom.archive import frames as rows
from starloom.archive.engine import database_now
from starloom.archive.models import Frame, Node
from starloom.batches import FrameBatch, batches
from starloom.errors import BadInput, Conflict
from starloom.frames import (
    Bounds,
    FrameInfo,
    FrameName,
    NormalisedHeader,
    examine_apart,
    parse_name,
    sha256_of,
)
from starloom.frames.site import rounded_site
from starloom.lake import ObjectMissing, Stored, keys
from starloom.receipts import write_receipt
from starloom.telemetry import traces

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

MAX_ANNOUNCEMENT_BYTES = 16 * 1024
#: Objects of the inbox that are registered in one transaction.
PAGE = 100
#: Where an object that lies nowhere a node may write is filed.
NOBODY = "unknown"
#: Metadata of a raw object: the name of the frame it came as, for a lake whose archive is lost.
RAW_NAME = "frame-name"
#: What a row can hold; a key may be twice as long, and only somebody hostile makes one.
MAX_KEY = 512


class _Announcement(BaseModel):
    """What a node says is on its way: a stranger's words, so every field has bounds."""

    name: str
    size: int = Field(ge=0, le=1 << 50)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    traceparent: str | None = Field(default=None, pattern=traces.TRACEPARENT)


def discover(hub: Hub) -> list[FrameBatch]:
    """List the inbox once; register what is new (one row each) and return it in batches.

    The row exists before anything is read, so a run that dies leaves a pending frame for ``sweep`` to find,
    and the same object is never handed out twice. A run that died after it had filed its frame left the object
    behind: it is removed here.
    """
    found: list[str] = []
    arrived: list[Stored] = []
    for item in _announcements_first(hub.lake.list("inbox/")):
        try:
            if len(keys.check(item.key)) > MAX_KEY:
                raise keys.BadKey(f"key {item.key[:80]!r}… of {len(item.key)} characters")
        except keys.BadKey as error:
            # The lake itself, or the archive, takes no such key, so nothing can be done about it from here.
            log.warning("inbox: %s; remove the object by hand", error.message)
            continue
        if item.key.endswith(keys.ANNOUNCEMENT_SUFFIX):
            _note_announcement(hub, item.key)
            continue
        arrived.append(item)
        if len(arrived) == PAGE:
            found += _register(hub, arrived)
            arrived = []
    found += _register(hub, arrived)
    settings = hub.settings
    return batches(found, "frames", chunk_size=settings.chunk_size, batch_size=settings.batch_size)


def _announcements_first(listed: Iterable[Stored]) -> Iterator[Stored]:
    """Yield a frame behind its announcement, which follows it by name: what it announces is then known."""
    held: Stored | None = None
    for item in listed:
        if held is not None and item.key == held.key + keys.ANNOUNCEMENT_SUFFIX:
            yield item
            continue
        if held is not None:
            yield held
        held = item
    if held is not None:
        yield held


def _register(hub: Hub, items: Sequence[Stored]) -> list[str]:
    """Register what is new of a page of the inbox; return the frames' ids."""
    with hub.archive.session() as session:
        known = arrivals.known_at(session, [item.key for item in items])
        taken = arrivals.taken_up(session, [_name(item) for item in items])
    for item in items:
        if item.key in known and arrivals.is_left_behind(known[item.key], item.etag):
            _leave(hub, known[item.key])
    news = [item for item in items if item.key not in known or known[item.key].inbox_etag != item.etag]
    # What another run has taken up since the list was made is no arrival; the same bytes sent again are one.
    news = [item for item in news if (_name(item), item.etag) not in taken or hub.lake.stat(item.key) is not None]
    if not news:
        return []
    with hub.archive.transaction() as session:
        return [frame.id for item in news if (frame := _arrive(session, item)) is not None]


def _name(item: Stored) -> str:
    return item.key.rpartition("/")[2]


def _arrive(session: Session, item: Stored) -> Frame | None:
    parts = item.key.split("/")
    parsed = _parsed(_name(item))
    frame = arrivals.discover(
        session,
        inbox_key=item.key,
        etag=item.etag,
        name=_name(item),
        node_id=(parts[1] if len(parts) > 2 else NOBODY)[:64],
        obs_req=parsed.mission if parsed else None,
        kind=parsed.kind if parsed else "unknown",
        start_utc=parsed.start_utc if parsed else None,
    )
    if frame is not None:
        with traces.span("discover", parent=frame.traceparent, **rows.subject_of(frame)):
            frame.traceparent = traces.traceparent() or frame.traceparent
    return frame


def _parsed(name: str) -> FrameName | None:
    try:
        return parse_name(name)
    except BadInput:
        return None  # registered all the same: `run` refuses it with the parser's own words


def _note_announcement(hub: Hub, key: str) -> None:
    try:
        node, _, name = keys.parse_inbox(key)
        said = _Announcement.model_validate_json(hub.lake.get_bytes(key, max_bytes=MAX_ANNOUNCEMENT_BYTES))
        parsed = parse_name(said.name)
        if parsed.node != node or said.name != name.removesuffix(keys.ANNOUNCEMENT_SUFFIX):
            raise BadInput(f"{key} announces {said.name}", code="bad-announcement")
        with hub.archive.transaction() as session:
            arrivals.announce(
                session,
                node_id=node,
                name=said.name,
                obs_req=parsed.mission,
                size=said.size,
                sha256=said.sha256,
                traceparent=said.traceparent,
                expires_at=database_now(session) + timedelta(seconds=hub.settings.announce_ttl_s),
            )
    except (ValidationError, BadInput, ObjectMissing) as error:
        # An announcement only makes a mission wait; a broken one must not stop the frames behind it.
        log.warning("announcement %s ignored: %s", key, error)
    hub.lake.delete(key)


def run(hub: Hub, frame_id: str) -> None:
    """Ingest one frame: check, identify, file the raw pixels, commit, free the inbox."""
    with hub.archive.transaction() as session:
        frame = rows.claim_step(session, frame_id, "ingest")
    if frame is None:
        return
    source = frame.inbox_key or frame.raw_key  # requeued: its bytes lie in quarantine
    seen = hub.lake.stat(source) if source is not None else None
    if source is None or seen is None:
        # Its node took it back, somebody tidied the lake by hand, or another run was quicker.
        gone = BadInput(f"{source or frame.name} is gone", code="object-missing", hint="Send the frame again.")
        _settle(hub, frame, lambda session: dispositions.refuse(session, frame.id, gone.as_dict(), inbox_key=None))
        return
    try:
        if frame.inbox_key is not None:
            keys.parse_inbox(frame.inbox_key)
        _check_size(frame, seen)
    except BadInput as refused:
        # Nothing is known about its bytes, and nothing will be spent on them: they are moved as they are.
        mark = hashlib.sha256(f"{source}:{seen.etag}".encode()).hexdigest()
        target = keys.quarantine(frame.node_id, mark, frame.name)
        if source != target:
            hub.lake.copy(source, target)
        _quarantine(hub, frame, seen, refused, target)
        return
    # Pinned: what is checked here is what is filed, whatever its node puts in its place meanwhile.
    with hub.lake.local_copy(source, version=seen.version) as path:
        try:
            name = parse_name(frame.name)
            if name.node != frame.node_id:
                raise BadInput(
                    f"{frame.name}: sent with the credential of node {frame.node_id}",
                    code="node-mismatch",
                    hint="The TelID in the name must be the node whose credential sent the frame.",
                )
            found = examine_apart(path)
        except BadInput as refused:
            target = keys.quarantine(frame.node_id, sha256_of(path), frame.name)
            if source != target:
                _put_once(hub, path, target)
            _quarantine(hub, frame, seen, refused, target)
        else:
            _file(hub, frame, seen, path, name, found.info, found.header)


def _check_size(frame: Frame, seen: Stored) -> None:
    most = Bounds().max_file_bytes
    if seen.size > most:
        raise BadInput(
            f"{frame.name}: {seen.size / 1e9:.2f} GB, at most {most / 1e9:.2f} GB are taken",
            code="too-large",
            hint="Send one exposure per file, not a video or a mosaic.",
        )


def _quarantine(hub: Hub, frame: Frame, seen: Stored, refused: BadInput, target: str) -> None:
    """Say why a frame was refused; its bytes are kept under ``target``."""
    _settle(
        hub,
        frame,
        lambda session: dispositions.refuse(
            session, frame.id, refused.as_dict(), raw_key=target, **_read_from(frame, seen)
        ),
    )


def _read_from(frame: Frame, seen: Stored) -> dict[str, Any]:
    """Return the column that says which inbox object was read, for `arrivals.is_left_behind`."""
    return {} if frame.inbox_key is None else {"inbox_etag": seen.etag}


def _settle(hub: Hub, frame: Frame, write: Callable[[Session], Frame]) -> None:
    """Commit the outcome, then tell the node and free the inbox; the last two are made good by `discover`."""
    with hub.archive.transaction() as session:
        stored = write(session)
    log.info("%s: %s %s", frame.name, rows.state_of(stored), stored.disposition_code or "")
    _leave(hub, stored)


def _leave(hub: Hub, frame: Frame) -> None:
    """Write the receipt and delete the inbox object that was read; one written over it is a new arrival."""
    try:
        write_receipt(hub, frame)
    except keys.BadKey as error:
        log.warning("no receipt: %s", error.message, extra=rows.subject_of(frame))  # a name too long for any key
    if frame.inbox_key is None:
        return
    now = hub.lake.stat(frame.inbox_key)
    if now is not None and now.etag == frame.inbox_etag:
        hub.lake.delete(frame.inbox_key)
    with hub.archive.transaction() as session:
        arrivals.leave_inbox(session, frame.id)


def _file(
    hub: Hub,
    frame: Frame,
    seen: Stored,
    path: Path,
    name: FrameName,
    info: FrameInfo,
    header: NormalisedHeader,
) -> None:
    raw_key = keys.raw(frame.node_id, name.start_utc, info.sha256, compressed=info.compressed)
    version = _put_once(hub, path, raw_key, {RAW_NAME: frame.name})
    filter_name = header.value("filter")

    def write(session: Session) -> Frame:
        mission = missions.find(session, name.mission) if name.mission else None
        node = session.get(Node, frame.node_id)  # held here, it is read once for all that ask for it
        instrument = missions.instrument_of(
            session,
            frame.node_id,
            camera=header.value("camera"),
            telescope=header.value("telescope"),
            binning=header.value("binning"),
            focal_length_mm=header.value("focal_length_mm"),
            pixel_size_um=header.value("pixel_size_um"),
        )
        return arrivals.record_ingest(
            session,
            frame.id,
            mission_id=mission.id if mission else None,
            instrument_id=instrument.id if instrument else None,
            raw_key=raw_key,
            raw_version=version,
            raw_sha256=info.sha256,
            raw_bytes=info.nbytes,
            pixel_digest=info.pixel_digest,
            height=info.shape[0],
            width=info.shape[1],
            exposure_s=header.value("exposure_s"),
            filter=filter_name,
            band=missions.band_of(session, frame.node_id, filter_name),
            header=_public(node, header.as_json()),
            embargo_until=mission.embargo_until if mission else None,
            licence=mission.licence if mission else None,
            credit=mission.credit if mission else None,
            **_read_from(frame, seen),
        )

    _settle(hub, frame, write)


def _public(node: Node | None, header: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a normalised header as it may be shown: with the exact site only where the node's owner agrees."""
    return header if node is not None and node.exact_site else rounded_site(header)


def _put_once(hub: Hub, path: Path, target: str, metadata: dict[str, str] | None = None) -> str | None:
    """Write the bytes that were checked under the key that ends in their hash; one already there is the same.

    Not a copy within the lake: its source may have been overwritten since it was read.
    """
    try:
        return hub.lake.put_file(path, target, if_absent=True, metadata=metadata).version
    except Conflict:
        there = hub.lake.stat(target)
        return there.version if there else None


def summary(hub: Hub, frame_ids: list[str], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return one row per frame for the run's table: what became of it, why, how long its steps took."""
    with hub.archive.session() as session:
        found = [rows.get(session, frame_id) for frame_id in frame_ids]
    return [
        {
            "frame": frame.name,
            "node": frame.node_id,
            "mission": frame.obs_req,
            "band": frame.band,
            "outcome": rows.state_of(frame),
            "code": frame.disposition_code or frame.calibrate_code or frame.solve_code or frame.measure_code or "",
            "seconds": round(seconds[frame.id], 1) if frame.id in seconds else None,
            "start": _iso(frame.start_utc),
        }
        for frame in found
    ]


def _iso(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
