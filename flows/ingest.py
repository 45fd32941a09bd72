"""``ingest``: look into the inbox on a schedule and hand what arrived to ``process-frames``."""

from __future__ import annotations

from prefect import flow

from tasks.frames import discover_frames, start_batch


@flow(name="ingest")
def ingest() -> int:
    """Register every new object of the inbox and start its processing. Costs what the backlog costs."""
    batches = discover_frames()
    for batch in batches:
        start_batch(batch)
    return sum(len(batch.frame_ids) for batch in batches)
