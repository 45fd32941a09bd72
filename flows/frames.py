"""``process-frames``: a batch of landed frames through ingest, calibrate, plate-solve, extract-metadata."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from starloom.batches import FrameBatch
from tasks.frames import calibrate, extract_metadata, ingest, plate_solve, quicklooks, report


@flow(
    name="process-frames",
    flow_run_name="{batch.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=4),  # type: ignore[arg-type]
    persist_result=False,
)
def process_frames(batch: FrameBatch) -> dict[str, int] | State[Any]:
    """Take a batch of landed frames through the four steps. A bad frame never stops its neighbours."""
    chunks = ingest.map(batch.chunks())
    chunks = extract_metadata.map(plate_solve.map(calibrate.map(chunks)))
    chunks.wait()
    done = [chunk.result() for chunk in chunks if chunk.state.is_completed()]
    outcomes = report(batch, {frame_id: s for chunk in done for frame_id, s in chunk.seconds.items()})
    quicklooks(batch, return_state=True)  # decoration: it never fails the run
    broken = [chunk for chunk in chunks if not chunk.state.is_completed()]
    if broken:
        return Failed(message=f"{len(broken)} of {len(chunks)} chunks did not get through; sweep takes them up.")
    return outcomes
