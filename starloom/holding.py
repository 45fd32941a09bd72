"""Holding a mission: the claim, its lease renewed from a thread, its working folder, and giving it back.

Nothing heavy is loaded here: a run knows whether the mission is its own before it loads what stacks.

The working folder of a claim is what `workdir` says, in the hub's home, and belongs to its epoch alone: a task
that is run again finds the tiles that are done, and a holder that was taken over writes beside its successor. It
is removed when the claim ends; `tidy_work` removes those of holders that died.
"""

from __future__ import annotations

import contextvars
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import BaseModel, Field

from starloom.archive import claims, giving_back, revisions
from starloom.errors import StarloomError, Unavailable
from starloom.telemetry import traces
from starloom.telemetry.context import about

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Pauses between tries to claim while the archive does not answer, seconds.
CLAIM_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
#: File in a claim's working folder that tells its tasks, wherever they run, that the claim is lost.
LOST = "lost"
#: Working folders of dead claims are removed when nothing was added to them for so long, seconds.
WORK_GRACE_S = 600.0
_FOLDER = re.compile(r"r(\d+)e(\d+)")


class ClaimRef(BaseModel):
    """A claim as tasks pass it on."""

    mission_id: str
    revision_id: int
    n: int = Field(description="Revision number, from 1.")
    epoch: int = Field(description="Raised by every claim; fences every write.")
    token: str
    traceparent: str | None = Field(default=None, description="Trace of the stack, where traces are on.")

    def claim(self) -> claims.Claim:
        """Return the archive's own form."""
        return claims.Claim(**self.model_dump(exclude={"traceparent"}))


class TileBatch(BaseModel):
    """A work unit of a plan, for one task."""

    name: str
    unit: Path
    traceparent: str | None = None


class PlanRef(BaseModel):
    """A plan on disk, and its work units."""

    folder: Path
    band: str
    pointing: int
    units: list[Path]
    traceparent: str | None = None

    def batches(self) -> list[TileBatch]:
        """Return the work units as tasks take them."""
        return [
            TileBatch(
                name=f"{self.band} p{self.pointing} {n} of {len(self.units)}",
                unit=unit,
                traceparent=self.traceparent,
            )
            for n, unit in enumerate(self.units, 1)
        ]


class StackRef(BaseModel):
    """A published revision."""

    name: str
    mission_id: str
    n: int
    products: list[dict[str, Any]] = Field(description="Name, keys, address of the preview.")
    told: list[dict[str, Any]] = Field(description="A row a product, for people.")
    inputs: list[dict[str, Any]] = Field(description="A row a frame of each product, for people.")


@contextmanager
def claimed(hub: Hub, mission_id: str, event_id: int, *, holder: str) -> Iterator[ClaimRef]:
    """Hold a mission: claim it, renew the lease from a thread, and give it back with the reason on failure.

    Raises
    ------
    AlreadyClaimed
        Another run holds the mission, or the event has been dealt with.
    """
    with about(mission=mission_id, event=event_id):
        claim = _claim(hub, mission_id, event_id, holder)
        with traces.span("stack", mission=mission_id, event=event_id, revision=claim.n), _held(hub, claim) as held:
            yield held


@contextmanager
def _held(hub: Hub, claim: claims.Claim) -> Iterator[ClaimRef]:
    """Keep the lease of a claim while it is used, and give the mission back with the reason on failure."""
    stop = threading.Event()
    # In a copy of the caller's context, so that its warnings reach the log of the run that holds the mission.
    renewing = partial(contextvars.copy_context().run, _keep_lease, hub, claim, stop)
    keeper = threading.Thread(target=renewing, name="lease", daemon=True)
    keeper.start()
    reference = ClaimRef(
        mission_id=claim.mission_id,
        revision_id=claim.revision_id,
        n=claim.n,
        epoch=claim.epoch,
        token=claim.token,
        traceparent=traces.traceparent(),
    )
    try:
        yield reference
    except claims.LeaseLost:
        raise
    except BaseException as error:  # also a run that is cancelled, or a worker that is told to end
        _fail(hub, claim, error)
        raise
    finally:
        stop.set()
        keeper.join(timeout=hub.settings.lease_renew_s)
        shutil.rmtree(workdir(hub, reference), ignore_errors=True)


def _claim(hub: Hub, mission_id: str, event_id: int, holder: str) -> claims.Claim:
    """Claim, and ask again where the archive does not answer: it may have claimed and not said so."""
    token = secrets.token_hex(16)
    for pause_s in CLAIM_PAUSES_S:
        try:
            return claims.claim(hub.archive, mission_id, event_id, holder, hub.settings.lease_s, token=token)
        except Unavailable as error:
            log.warning("not claimed yet: %s", error.message)
            time.sleep(pause_s)
    return claims.claim(hub.archive, mission_id, event_id, holder, hub.settings.lease_s, token=token)


def _fail(hub: Hub, claim: claims.Claim, error: BaseException) -> None:
    """Give the mission back; where that cannot be done, its lease runs out."""
    record, fatal = record_of(error)
    try:
        giving_back.fail(hub.archive, claim, record, fatal=fatal, budget=hub.budget)
    except StarloomError as trouble:
        log.warning("not given back: %s", trouble.message)


def record_of(error: BaseException) -> tuple[dict[str, Any], bool]:
    """Return an error as the archive keeps it, and whether it is fatal: no further attempt can help."""
    if isinstance(error, StarloomError):
        return error.as_dict(), not error.retryable
    said = f"{type(error).__name__}: {error}"
    if not isinstance(error, Exception):
        return {"code": "cut-off", "message": said, "retryable": True}, False
    refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
    if isinstance(error, httpx.HTTPError) and not refused:
        # Prefect went away beneath the run.
        return {"code": "prefect-unavailable", "message": said, "retryable": True}, False
    return {"code": "unexpected", "message": said, "retryable": False}, False


def _keep_lease(hub: Hub, claim: claims.Claim, stop: threading.Event) -> None:
    while not stop.wait(hub.settings.lease_renew_s):
        try:
            claims.renew(hub.archive, claim, hub.settings.lease_s)
        except claims.LeaseLost as lost:
            log.warning("r%d epoch %d: %s", claim.n, claim.epoch, lost.message)
            _spread(hub, claim, lost)
            return
        except StarloomError as error:
            # The archive may be back before the lease runs out; publish checks the epoch in any case.
            log.warning("lease not renewed: %s", error.message)
        except Exception:  # whatever it is, it must not end the thread: the lease would run out beneath the work
            log.exception("lease not renewed")


def _spread(hub: Hub, claim: claims.Claim, lost: claims.LeaseLost) -> None:
    """Let the tasks of a lost claim stop: what they still make would be thrown away."""
    folder = _folder(hub, claim.mission_id, claim.n, claim.epoch)
    if folder.is_dir():
        (folder / LOST).write_text(f"{lost.code}\n{lost.message}", encoding="utf-8")


def check_held(folder: Path) -> None:
    """Raise `LeaseLost`, or `MissionCancelled`, where the claim whose working folder this is has been lost."""
    try:
        code, _, why = (folder / LOST).read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return
    raise (claims.MissionCancelled if code == claims.MissionCancelled.code else claims.LeaseLost)(why)


def workdir(hub: Hub, claim: ClaimRef) -> Path:
    """Return the working folder of a claim."""
    return _folder(hub, claim.mission_id, claim.n, claim.epoch)


def _folder(hub: Hub, mission_id: str, n: int, epoch: int) -> Path:
    return hub.settings.home / "work" / mission_id / f"r{n}e{epoch}"


def tidy_work(hub: Hub) -> int:
    """Remove the working folders, on this machine, of claims that nobody holds; return how many."""
    found = [path for path in (hub.settings.home / "work").glob("*/r*e*") if _FOLDER.fullmatch(path.name)]
    if not found:
        return 0
    with hub.archive.session() as session:
        held = revisions.held_epochs(session)
    removed = 0
    for path in found:
        n, epoch = (int(part) for part in _FOLDER.fullmatch(path.name).groups())  # type: ignore[union-attr]
        try:
            idle_s = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # its claim has ended meanwhile
        if (path.parent.name, n, epoch) in held or idle_s < WORK_GRACE_S:
            continue
        shutil.rmtree(path, ignore_errors=True)
        about_it = {"mission": path.parent.name}
        log.info("r%d epoch %d: working folder of a dead claim removed", n, epoch, extra=about_it)
        removed += 1
    return removed
