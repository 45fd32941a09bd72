"""Where calibration meets the archive: what a frame's header says was done to it, and mosaics into planes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.archive import frames as rows
from starloom.archive.models import Frame
from starloom.batches import FrameChunk
from starloom.calibration.mosaic import calibration_state
from starloom.receipts import write_receipt

if TYPE_CHECKING:
    from starloom.hub import Hub

#: The AAVSO's names of the bands of a colour camera's own filters: tri-colour blue, green, red.
TRICOLOUR = {"R": "TR", "G1": "TG", "G2": "TG", "B": "TB"}


def header_value(frame: Frame, name: str) -> Any:
    """Return one value of the frame's normalised header, None where the header does not say."""
    return ((frame.header or {}).get(name) or {}).get("value")


def run(hub: Hub, frame_id: str) -> None:
    """Settle the calibration of one frame: ``CALSTAT`` is honoured, a mosaic becomes frames of one colour."""
    with hub.archive.transaction() as session:
        if not rows.claim_step(session, frame_id, "calibrate"):
            return
        frame = rows.get(session, frame_id)
        _, flags = calibration_state(header_value(frame, "calstat"))
        rows.add_flags(frame, *flags)
        mosaic = frame.plane is None and header_value(frame, "bayer_pattern") is not None
        if mosaic:
            rows.add_planes(session, frame, {plane: TRICOLOUR[plane] for plane in rows.PLANES})
        stored = rows.settle_step(session, frame_id, "calibrate", plane=rows.MOSAIC if mosaic else frame.plane)
    if mosaic:
        write_receipt(hub, stored)


def with_planes(hub: Hub, chunk: FrameChunk) -> FrameChunk:
    """Return the chunk with the colour planes of its mosaics, which take the next steps in their place."""
    with hub.archive.session() as session:
        ids = []
        for frame_id in chunk.frame_ids:
            frame = rows.get(session, frame_id)
            ids += rows.plane_ids(frame) if frame.plane == rows.MOSAIC else [frame_id]
    return chunk.model_copy(update={"frame_ids": ids})
