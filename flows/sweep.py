"""``sweep``: what is due is tried again, what was left behind is tidied, what nobody announced is found."""

from __future__ import annotations

from prefect import flow

from tasks.frames import start_batch
from tasks.sweep import due_batches, free_leases, reopen_stale_missions, tidy_lake


@flow(name="sweep")
def sweep() -> dict[str, int]:
    """Retry what is due, free expired leases, reopen stale missions and remove orphans past their grace."""
    batches = due_batches()
    for batch in batches:
        start_batch(batch)
    return {
        "frames_retried": sum(len(batch.frame_ids) for batch in batches),
        "leases_freed": free_leases(),
        "missions_reopened": reopen_stale_missions(),
        "objects_removed": tidy_lake(),
    }
