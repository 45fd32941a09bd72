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

from starloom.errors import BadInput, StarloomError
from starloom.frames import FrameName, compress, describe_file, format_name, inspect_file, parse_name, sha256_of
from starloom.lake import Lake, ObjectMissing, keys

MAX_RECEIPT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Submission:
    """What ``submit`` did with one file."""

    file: str
    node: str
    name: str
    state: str  #: ``sent``, ``already-known``
    key: str | None
    nbytes_in: int
    nbytes_sent: int
    saving_fraction: float
    pixel_digest: str

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
        own = parse_name(path.name)
    except BadInput:
        own = None
    if own is not None:
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
    loaded = json.loads(data)
    if not isinstance(loaded, dict):
        raise StarloomError(f"the receipt of {name} is not a JSON object", code="bad-receipt")
    return loaded


def submit(lake: Lake, path: Path, *, mission: str | None = None, node: str | None = None) -> Submission:
    """Send one frame to the hub's inbox; a second submission of the same pixels is a no-op that says so.

    Raises
    ------
    BadInput
        The file is no frame, or cannot be named; nothing was sent.
    Unavailable
        The lake does not answer; nothing is half-sent, call again.
    """
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
    if known is not None and known.get("pixel_digest") == info.pixel_digest:
        size = path.stat().st_size
        return Submission(str(path), frame.node, name, "already-known", None, size, 0, 0.0, info.pixel_digest)
    with tempfile.TemporaryDirectory(prefix="starloom-submit-") as folder:
        packed = Path(folder) / name
        if info.compressed:
            shutil.copyfile(path, packed)
        else:
            compress(path, packed)
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
        lake.put_bytes(json.dumps(announcement).encode(), keys.announcement(key))
        lake.put_file(packed, key, metadata={"pixel-digest": info.pixel_digest})
    size = path.stat().st_size
    return Submission(str(path), frame.node, name, "sent", key, size, sent, 1.0 - sent / size, info.pixel_digest)


def wait_for_receipt(lake: Lake, node: str, name: str, timeout_s: float) -> dict[str, Any] | None:
    """Poll the receipt until the frame is settled (ready, refused, duplicate) or the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = receipt(lake, node, name)
        if (found is not None and found.get("settled")) or time.monotonic() > deadline:
            return found
        time.sleep(1.0)
