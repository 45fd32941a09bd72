"""``ingest``: look into the inbox on a schedule and hand what arrived to ``process-frames``."""

from __future__ import annotations

from prefect import flow

from tasks.batches import discover_frames, start_batch
from tasks.showing import show_table


@flow(name="ingest", persist_result=False)
def ingest() -> int:
    """Register every new object of the inbox and start its processing. Costs what the backlog costs."""
    batches = discover_frames()
    started = [start_batch(batch, return_state=True) for batch in batches]
    show_table(
        "batches",
        [
            {"batch": batch.name, "frames": len(batch.frame_ids), "start": state.name}
            for batch, state in zip(batches, started, strict=True)
        ],
        "Batches handed to process-frames",
    )
    for state in started:
        state.result()  # one that could not be started fails the run; sweep takes its frames up
    return sum(len(batch.frame_ids) for batch in batches)
