"""Discover and ingest: from an object in the inbox to immutable raw pixels and a row in the archive."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.archive.engine import database_now
from starloom.archive.models import Frame
from starloom.batches import FrameBatch, batches
from starloom.errors import BadInput, Conflict, StarloomError
from starloom.frames import (
    FrameInfo,
    FrameName,
    NormalisedHeader,
    inspect_file,
    normalise,
    parse_name,
    read_frame,
    sha256_of,
)
from starloom.lake import ObjectMissing, Stored, keys
from starloom.receipts import write_receipt

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

MAX_ANNOUNCEMENT_BYTES = 16 * 1024
ANNOUNCEMENT_SUFFIX = ".announce.json"


def discover(hub: Hub) -> list[FrameBatch]:
    """List the inbox once; register what is new (one row each) and return it in batches.

    The row exists before anything is read, so a run that dies leaves a pending frame for ``sweep`` to find,
    and the same object is never handed out twice.
    """
    found: list[str] = []
    for item in hub.lake.list("inbox/"):
        if item.key.endswith(ANNOUNCEMENT_SUFFIX):
            _note_announcement(hub, item.key)
            continue
        try:
            node, _date, name = keys.parse_inbox(item.key)
        except BadInput as refused:
            # A node may write any key under its own prefix; one that is no frame must not stop those that are.
            log.warning("inbox object left where it is: %s", refused.message)
            continue
        parsed = _parsed(name)
        with hub.archive.transaction() as session:
            frame = rows.discover(
                session,
                inbox_key=item.key,
                etag=item.etag,
                name=name,
                node_id=node,
                obs_req=parsed.mission if parsed else None,
                kind=parsed.kind if parsed else "unknown",
                start_utc=parsed.start_utc if parsed else None,
            )
            if frame is not None:
                found.append(frame.id)
    return batches(found, "frames", chunk_size=hub.settings.chunk_size)


def _parsed(name: str) -> FrameName | None:
    try:
        return parse_name(name)
    except BadInput:
        return None  # registered all the same: `run` refuses it with the parser's own words


def _note_announcement(hub: Hub, key: str) -> None:
    try:
        said = json.loads(hub.lake.get_bytes(key, max_bytes=MAX_ANNOUNCEMENT_BYTES))
        with hub.archive.transaction() as session:
            rows.announce(
                session,
                node_id=keys.parse_inbox(key)[0],
                name=str(said["name"]),
                obs_req=said.get("mission"),
                size=int(said["size"]),
                sha256=str(said["sha256"]),
                expires_at=database_now(session) + timedelta(seconds=hub.settings.announce_ttl_s),
            )
    except (ValueError, KeyError, TypeError, BadInput, ObjectMissing) as error:
        # An announcement only makes a mission wait; a broken one must not stop the frames behind it.
        log.warning("announcement %s ignored: %s", key, error)
    hub.lake.delete(key)


def run(hub: Hub, frame_id: str) -> None:
    """Ingest one frame: check, identify, file the raw pixels, commit, free the inbox."""
    with hub.archive.transaction() as session:
        if not rows.claim_step(session, frame_id, "ingest"):
            return
        frame = rows.get(session, frame_id)
    source = frame.inbox_key or frame.raw_key  # requeued: its bytes lie in quarantine
    if source is None:
        raise StarloomError(f"frame {frame_id} has no bytes anywhere", code="no-object", retryable=False)
    seen = hub.lake.stat(source)
    if seen is None:
        _vanished(hub, frame, source)
        return
    with hub.lake.local_copy(source) as path:
        try:
            name = parse_name(frame.name)
            if name.node != frame.node_id:
                raise BadInput(
                    f"{frame.name}: sent with the credential of node {frame.node_id}",
                    code="node-mismatch",
                    hint="The TelID in the name must be the node whose credential sent the frame.",
                )
            info = inspect_file(path)
            header = normalise(read_frame(path)[1])
        except BadInput as refused:
            message: str | None = refused.message
            stored = _quarantine(hub, frame, seen, path, refused)
        else:
            message = None
            stored = _file(hub, frame, seen, name, info, header)
    write_receipt(hub, stored, message=message)
    _free_inbox(hub, frame, seen.etag)


def _vanished(hub: Hub, frame: Frame, source: str) -> None:
    """An object that was listed is gone: its node took it back, or somebody tidied the lake by hand."""
    with hub.archive.transaction() as session:
        hint = "Send the frame again."
        stored = rows.quarantine(session, frame.id, "object-missing", f"{source} is gone. {hint}")
        rows.leave_inbox(session, frame.id)
    write_receipt(hub, stored)


def _quarantine(hub: Hub, frame: Frame, seen: Stored, path: Path, refused: BadInput) -> Frame:
    """Keep the bytes and say why they were refused."""
    target = keys.quarantine(frame.node_id, sha256_of(path), frame.name)
    if seen.key != target:
        _copy_once(hub, seen, target)
    with hub.archive.transaction() as session:
        return rows.quarantine(session, frame.id, refused.code, refused.hint, raw_key=target)


def _file(
    hub: Hub, frame: Frame, seen: Stored, name: FrameName, info: FrameInfo, header: NormalisedHeader
) -> Frame:
    raw_key = keys.raw(frame.node_id, name.start_utc, info.sha256, compressed=info.compressed)
    version = _copy_once(hub, seen, raw_key)
    filter_name = header.value("filter")
    with hub.archive.transaction() as session:
        mission = missions.find(session, name.mission) if name.mission else None
        instrument = missions.instrument_of(
            session,
            frame.node_id,
            camera=header.value("camera"),
            telescope=header.value("telescope"),
            binning=header.value("binning"),
            focal_length_mm=header.value("focal_length_mm"),
            pixel_size_um=header.value("pixel_size_um"),
        )
        return rows.record_ingest(
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
            header=header.as_json(),
            embargo_until=mission.embargo_until if mission else None,
            licence=mission.licence if mission else None,
            credit=mission.credit if mission else None,
        )


def _copy_once(hub: Hub, seen: Stored, target: str) -> str | None:
    """Copy within the lake what was read; the target is named by its content, so one already there is the same.

    Raises
    ------
    Conflict
        ``source-changed``: the node has overwritten the object since; the frame is parked and read again.
    """
    try:
        return hub.lake.copy(seen.key, target, if_absent=True, if_match=seen.etag).version
    except Conflict as conflict:
        if conflict.code != "key-exists":
            raise
        there = hub.lake.stat(target)
        return there.version if there else None


def _free_inbox(hub: Hub, frame: Frame, etag: str) -> None:
    """Delete the inbox object that was read; one that its node has overwritten meanwhile is a new arrival."""
    if frame.inbox_key is None:
        return
    now = hub.lake.stat(frame.inbox_key)
    if now is not None and now.etag == etag:
        hub.lake.delete(frame.inbox_key)
    with hub.archive.transaction() as session:
        rows.leave_inbox(session, frame.id)


def summary(hub: Hub, frame_ids: list[str]) -> list[dict[str, Any]]:
    """Return one row per frame for the run's table: name, node, band, outcome, reason."""
    with hub.archive.session() as session:
        found = [rows.get(session, frame_id) for frame_id in frame_ids]
    return [
        {
            "frame": frame.name,
            "node": frame.node_id,
            "mission": frame.obs_req,
            "band": frame.band,
            "outcome": rows.state_of(frame),
            "reason": frame.disposition_code or frame.solve_code or frame.measure_code or "",
            "start": _iso(frame.start_utc),
        }
        for frame in found
    ]


def _iso(moment: datetime | None) -> str:
    return moment.isoformat() if moment else ""
