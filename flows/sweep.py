"""``sweep``: what is due is tried again, what was left behind is tidied, what nobody announced is found."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from starloom.batches import FrameBatch
from starloom.mastering import MasterWork
from tasks.batches import start_batch
from tasks.masters import start_masters
from tasks.showing import show_table
from tasks.sweep import (
    due_batches,
    end_hung_runs,
    learn_instruments,
    masters_due,
    reconcile_missions,
    reopen_stale_missions,
    tidy_work,
    watch,
)


@flow(name="sweep", persist_result=False)
def sweep() -> dict[str, int] | State[Any]:
    """Give missions back, reopen stale ones, retry what is due, have masters built, learn instruments.

    No part waits for another: a lake that is down must not keep a mission from being given back. What takes long
    is ``tidy``'s.
    """
    parts: dict[str, State[Any]] = {
        "missions_given_back": reconcile_missions(return_state=True),
        "missions_reopened": reopen_stale_missions(return_state=True),
        "runs_ended": end_hung_runs(return_state=True),
        "conditions_told": watch(return_state=True),
    }
    found = due_batches(return_state=True).result(raise_on_failure=False)
    batches: list[FrameBatch] = found if isinstance(found, list) else []
    starts = [start_batch(batch, return_state=True) for batch in batches]
    wanted = masters_due(return_state=True).result(raise_on_failure=False)
    works: list[MasterWork] = wanted if isinstance(wanted, list) else []
    starts += [start_masters(work, return_state=True) for work in works]
    parts |= {
        "instruments_learnt": learn_instruments(return_state=True),
        "folders_removed": tidy_work(return_state=True),
    }
    done: dict[str, int] = {name: state.result() for name, state in parts.items() if state.is_completed()}
    if isinstance(found, list):
        done["frames_retried"] = sum(len(batch.frame_ids) for batch in batches)
    if isinstance(wanted, list):
        done["masters_due"] = len(works)
    if any(done.values()):
        show_table("sweep", [{"what": name, "count": count} for name, count in done.items()], "What sweep did")
    failed = [name for name in (*parts, "frames_retried", "masters_due") if name not in done]
    failed += [f"start of {state.name}" for state in starts if not state.is_completed()]
    if failed:
        return Failed(message=f"not done: {', '.join(failed)}; the next sweep tries again")
    return done
