"""Submit a frame: check, name, compress without loss, announce, upload, and know whether it was sent before.

A node speaks only to the lake, with a credential that can write under its own inbox and read its own receipts.
The announcement is a small object beside the frame, so that the hub knows what is on its way before the bulk
has arrived and a mission that becomes COMPLETE in between waits for it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starloom import interruption
from starloom.disk import is_full
from starloom.errors import BadInput, Conflict, StarloomError
from starloom.frames import (
    Bounds,
    FrameInfo,
    FrameName,
    compress,
    describe_file,
    format_name,
    inspect_file,
    parse_name,
    sha256_of,
)
from starloom.frames.opening import opened
from starloom.lake import DiskFull, Lake, LakeDenied, ObjectMissing, keys
from starloom.telemetry import traces

MAX_RECEIPT_BYTES = 64 * 1024
#: Metadata of the inbox object, by which a second submission knows the first.
DIGEST = "pixel-digest"
#: States in which a frame holds its name: another frame of that name would be refused by the hub.
HOLDING = frozenset({"ready", "processing", "filed", "split", "solve-failed", "measure-failed"})


@dataclass(frozen=True)
class Submission:
    """What ``submit`` did with one file."""

    file: str
    node: str
    name: str
    state: str
    """``sent``; ``already-known``: the hub has these pixels; ``waiting``: something of this name lies unread in
    the inbox, and this credential may not look whether it is the same."""
    key: str | None
    nbytes_in: int
    nbytes_sent: int
    saving_fraction: float
    pixel_digest: str
    hint: str = ""
    earlier_frame_id: str | None = None
    """Frame of this name that the hub had told of before: its receipt is not this frame's."""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def name_for(path: Path, mission: str | None, node: str | None) -> FrameName:
    """Return the name a file travels under: its own where it follows the grammar, else one built from the header.

    Raises
    ------
    BadInput
        Neither the file's name nor the options say which mission, node and start time it belongs to.
    """
    try:
        own = parse_name(path.name.removesuffix(".gz"))
    except BadInput:
        own = None
    if own is not None:
        if mission is not None and own.mission != mission:
            belongs = f"mission {own.mission}" if own.mission else f"no mission, it is a {own.kind} frame"
            raise BadInput(
                f"{path.name}: the name says {belongs}, the option says {mission}",
                code="mission-mismatch",
                hint="Leave --mission out, or rename the file.",
            )
        if node is not None and own.node != node:
            raise BadInput(
                f"{path.name}: the name says node {own.node}, the option says {node}",
                code="node-mismatch",
                hint="Send each node's frames with that node's own credential.",
            )
        return own
    if mission is None or node is None:
        raise BadInput(
            f"{path.name}: its name follows no grammar of ours, and --mission and --node are not given",
            code="bad-name",
            hint="Rename the file, or give --mission and --node; the start time is then read from the header.",
        )
    start = describe_file(path).value("start_utc")
    if start is None:
        raise BadInput(
            f"{path.name}: the header does not say when the exposure started",
            code="no-start-time",
            hint="Name the file ObsReq-{id}_TelID-{node}_{ISO 8601 UTC start}.fits.",
        )
    return FrameName(kind="light", mission=mission, node=node, start_utc=start, compressed=True)


def receipt(lake: Lake, node: str, name: str) -> dict[str, Any] | None:
    """Return the hub's latest word on a frame, or None while there is none."""
    try:
        data = lake.get_bytes(keys.receipt(node, name), max_bytes=MAX_RECEIPT_BYTES)
    except ObjectMissing:
        return None
    try:
        loaded = json.loads(data)
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise StarloomError(
            f"the receipt of {name} is not a JSON object",
            code="bad-receipt",
            hint="Tell the hub's operator; `starloom frames show` says what became of the frame.",
        )
    return loaded


def submit(
    lake: Lake, path: Path, *, mission: str | None = None, node: str | None = None, replace: bool = False
) -> Submission:
    """Send one frame to the hub's inbox; a second submission of the same pixels is a no-op that says so.

    Parameters
    ----------
    lake
        The lake, opened with the node's credential.
    path
        The frame.
    mission, node
        For a file whose name does not say.
    replace
        Write over an unread object of the same name in the inbox, and send what differs from a frame of the same
        name that the hub has.

    Raises
    ------
    BadInput
        The file is no frame, or cannot be named, or changed while it was read; nothing was sent.
    Conflict
        ``name-conflict``: another frame has this name.
    StarloomError
        ``disk-full``, on this machine or in the lake; retryable.
    Unavailable
        The lake does not answer; nothing is half-sent, call again.
    """
    before = path.stat() if path.is_file() else None
    info = inspect_file(path)
    frame = name_for(path, mission, node)
    name = format_name(
        FrameName(
            kind=frame.kind,
            mission=frame.mission,
            node=frame.node,
            start_utc=frame.start_utc,
            compressed=True,
        )
    )
    known = receipt(lake, frame.node, name)
    if known is not None and not replace:
        place = known.get("original") or known
        if info.pixel_digest in (known.get("pixel_digest"), place.get("pixel_digest")):
            hint = f"The hub has these pixels; the frame is {known.get('state')}."
            return _not_sent(path, frame.node, name, "already-known", None, info, hint)
        if place.get("pixel_digest") and place.get("state") in HOLDING:
            raise name_taken(path, name, "the hub has")
    try:
        with (
            traces.span("submit", node=frame.node, mission=frame.mission),
            tempfile.TemporaryDirectory(prefix="starloom-submit-") as folder,
        ):
            packed = _packed(path, info, Path(folder) / name)
            after = path.stat()
            if before is None or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise BadInput(
                    f"{path}: it changed while it was read",
                    code="file-changed",
                    hint="Send it when the capture program has closed it.",
                )
            earlier = None if known is None else known.get("frame_id")
            return _send(lake, path, packed, frame, name, info, replace=replace, earlier=earlier)
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFull(
            f"{path}: no space to compress it in {tempfile.gettempdir()}",
            hint="Free some space there, or set TMPDIR to another folder; then try again.",
        ) from error


def _send(
    lake: Lake,
    path: Path,
    packed: Path,
    frame: FrameName,
    name: str,
    info: FrameInfo,
    *,
    replace: bool,
    earlier: str | None,
) -> Submission:
    """Announce and upload a frame that is ready to travel."""
    sent = packed.stat().st_size
    key = keys.inbox(frame.node, datetime.now(UTC).strftime("%Y%m%d"), name)
    announcement = {
        "name": name,
        "node": frame.node,
        "mission": frame.mission,
        "size": sent,
        "sha256": sha256_of(packed),
        "announced_at": datetime.now(UTC).isoformat(),
    }
    if (trace := traces.traceparent()) is not None:
        announcement["traceparent"] = trace
    lake.put_bytes(json.dumps(announcement).encode(), keys.announcement(key))
    try:
        lake.put_file(packed, key, metadata={DIGEST: info.pixel_digest}, if_absent=not replace)
    except Conflict:
        return _waiting(lake, path, frame.node, name, key, info)
    return Submission(
        file=str(path),
        node=frame.node,
        name=name,
        state="sent",
        key=key,
        nbytes_in=info.nbytes,
        nbytes_sent=sent,
        saving_fraction=1.0 - sent / info.nbytes,
        pixel_digest=info.pixel_digest,
        earlier_frame_id=earlier,
    )


def _packed(path: Path, info: FrameInfo, target: Path) -> Path:
    """Return the frame as it travels: as it is where it is compressed already, else compressed into the target."""
    with path.open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    if not info.compressed:
        compress(path, target)
    elif not gzipped:
        return path
    else:
        with opened(path, Bounds()) as (plain, _), target.open("wb") as out:
            shutil.copyfileobj(plain, out, 1 << 20)
    return target


def _waiting(lake: Lake, path: Path, node: str, name: str, key: str, info: FrameInfo) -> Submission:
    """Say what an unread object of the same name means: the same pixels, others, or we may not know."""
    try:
        there = lake.stat(key)
    except LakeDenied:
        there = None
    seen = None if there is None else there.metadata.get(DIGEST)
    if seen is not None and seen != info.pixel_digest:
        raise name_taken(path, name, "in the inbox waits")
    state, hint = "already-known", "It waits in the inbox for the hub."
    if seen is None:
        state = "waiting"
        hint = "An object of this name waits in the inbox; if it is another frame, send this one with --replace."
    return _not_sent(path, node, name, state, key, info, hint)


def _not_sent(
    path: Path, node: str, name: str, state: str, key: str | None, info: FrameInfo, hint: str
) -> Submission:
    return Submission(str(path), node, name, state, key, info.nbytes, 0, 0.0, info.pixel_digest, hint)


def name_taken(path: Path | str, name: str, where: str) -> Conflict:
    """Return the refusal of a frame whose name belongs to another one."""
    return Conflict(
        f"{path}: {where} another frame named {name}, with other pixels",
        code="name-conflict",
        hint="Correct the start time in the name or header; if this frame corrects the other, give --replace.",
    )


def wait_for_receipt(
    lake: Lake, node: str, name: str, timeout_s: float, *, earlier_frame_id: str | None = None
) -> dict[str, Any] | None:
    """Poll the receipt until the frame is settled (ready, refused, duplicate) or the time is up.

    ``earlier_frame_id`` is the frame whose receipt lay there before this one was sent: not waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = receipt(lake, node, name)
        if found is not None and earlier_frame_id is not None and found.get("frame_id") == earlier_frame_id:
            found = None
        if (found is not None and found.get("settled")) or time.monotonic() >= deadline:
            return found
        interruption.check()
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
