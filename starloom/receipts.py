"""Receipts: the hub's word to a node about each of its frames, where only that node can read it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starloom.archive.frames import is_settled, state_of
from starloom.archive.models import Frame
from starloom.lake import keys

if TYPE_CHECKING:
    from starloom.hub import Hub


def write_receipt(hub: Hub, frame: Frame, **extra: Any) -> None:
    """Write or replace the receipt of one frame."""
    if not frame.node_id:
        return
    state, settled = state_of(frame), is_settled(frame)
    failed = next(
        (c for c in (frame.measure_code, frame.solve_code, frame.calibrate_code, frame.ingest_code) if c),
        None,
    )
    body = {
        "name": frame.name,
        "frame_id": frame.id,
        "mission": frame.obs_req,
        "state": state,
        "settled": settled,
        "code": frame.disposition_code or failed,
        "hint": frame.disposition_hint,
        "pixel_digest": frame.pixel_digest,
        "received_at": frame.received_at.isoformat(),
        "flags": frame.flags,
        **extra,
    }
    hub.lake.put_bytes(
        json.dumps(body).encode(), keys.receipt(frame.node_id, frame.name), content_type="application/json"
    )
