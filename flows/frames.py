"""``process-frames``: a batch of landed frames through ingest, calibrate, plate-solve, extract-metadata."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from starloom.batches import FrameBatch
from tasks.frames import calibrate, extract_metadata, ingest, plate_solve, report


@flow(
    name="process-frames",
    flow_run_name="{batch.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
)
def process_frames(batch: FrameBatch) -> dict[str, int]:
    """Take a batch of landed frames through the four steps. A bad frame never stops its neighbours."""
    chunks = ingest.map(batch.chunks())
    chunks = extract_metadata.map(plate_solve.map(calibrate.map(chunks)))
    chunks.wait()
    return report(batch)
