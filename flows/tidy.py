"""``tidy``: what takes long and hurries nobody; apart from ``sweep``, so that a slow lake delays no mission."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from tasks.showing import show_table
from tasks.sweep import find_forgotten, prune_archive, scrub, tell_nodes, tidy_lake


@flow(name="tidy", persist_result=False)
def tidy() -> dict[str, int] | State[Any]:
    """Remove orphans and spent rows, check a share of the raw frames by their hash, write receipts left out."""
    parts: dict[str, State[Any]] = {
        "frames_found": find_forgotten(return_state=True),
        "receipts_written": tell_nodes(return_state=True),
        "objects_removed": tidy_lake(return_state=True),
        "rows_removed": prune_archive(return_state=True),
    }
    done: dict[str, int] = {name: state.result() for name, state in parts.items() if state.is_completed()}
    checked = scrub(return_state=True)
    if checked.is_completed():
        done |= checked.result()
    if any(done.values()):
        show_table("tidy", [{"what": name, "count": count} for name, count in done.items()], "What tidy did")
    failed = [name for name in parts if name not in done] + ["scrub"] * (not checked.is_completed())
    if failed:
        return Failed(message=f"not done: {', '.join(failed)}; the next run tries again")
    return done
