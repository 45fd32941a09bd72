"""The four steps of a frame as tasks over chunks of a batch; each frame commits its own outcome."""

from __future__ import annotations

from prefect import task

import starloom.astrometry.step
import starloom.calibration.step
import starloom.frames.step
import starloom.photometry.step
import starloom.quicklook.step
from starloom.batches import FrameBatch, FrameChunk, advance
from starloom.hub import current_hub
from tasks.retrying import FRAMES_S, UPKEEP_S, is_last_try, retrying
from tasks.showing import show_image, show_table


@task(**retrying(FRAMES_S), task_run_name="ingest {chunk.name}")
def ingest(chunk: FrameChunk) -> FrameChunk:
    """Check each frame, file its raw pixels for ever and free the inbox."""
    return advance(current_hub(), chunk, starloom.frames.step.run, last_try=is_last_try())


@task(**retrying(FRAMES_S), task_run_name="calibrate {chunk.name}")
def calibrate(chunk: FrameChunk) -> FrameChunk:
    """Settle what was done to each frame's pixels; a colour mosaic goes on as one frame a colour."""
    hub = current_hub()
    chunk = advance(hub, chunk, starloom.calibration.step.run, last_try=is_last_try())
    return starloom.calibration.step.with_planes(hub, chunk)


@task(**retrying(FRAMES_S), task_run_name="plate-solve {chunk.name}")
def plate_solve(chunk: FrameChunk) -> FrameChunk:
    """Solve the chunk's frames that still need it. Safe to repeat."""
    return advance(current_hub(), chunk, starloom.astrometry.step.run, last_try=is_last_try())


@task(**retrying(FRAMES_S), task_run_name="extract-metadata {chunk.name}")
def extract_metadata(chunk: FrameChunk) -> FrameChunk:
    """Measure each frame and file header, weather, photometry and source list."""
    return advance(current_hub(), chunk, starloom.photometry.step.run, last_try=is_last_try())


@task(**retrying(FRAMES_S), task_run_name="quicklook {batch.name}")
def quicklooks(batch: FrameBatch) -> int:
    """Draw the frames that the setting ``quicklook`` asks for and show some of them with the run."""
    hub = current_hub()
    whole = FrameChunk(name=batch.name, frame_ids=batch.frame_ids)
    shown = starloom.quicklook.step.of_batch(hub, starloom.calibration.step.with_planes(hub, whole).frame_ids)
    for each in shown:
        show_image("quicklook", each.url, f"{each.name}: {each.verdict}")
    return len(shown)


@task(**retrying(UPKEEP_S), task_run_name="report {batch.name}")
def report(batch: FrameBatch, seconds: dict[str, float]) -> dict[str, int]:
    """Attach the table of frames, colour planes in their mosaic's place, and count the outcomes."""
    hub = current_hub()
    whole = FrameChunk(name=batch.name, frame_ids=batch.frame_ids)
    ids = starloom.calibration.step.with_planes(hub, whole).frame_ids
    rows = starloom.frames.step.summary(hub, ids, seconds)
    show_table("frames", rows, f"Frames of {batch.name}")
    outcomes: dict[str, int] = {}
    for row in rows:
        outcomes[str(row["outcome"])] = outcomes.get(str(row["outcome"]), 0) + 1
    return outcomes
