"""Is the hub alive? Asked from outside Prefect, by a program of its own that starts, looks and says so.

It shares with the hub what it must in order to look (settings, archive, Prefect's API, the relay's file) and
nothing else: no run, no worker, no automation. What it cannot notice is the death of its own machine; for that it
proves the hub's life to a service elsewhere, which raises the alarm when it hears nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlmodel import Session, col, func, select

from starloom.archive import Archive
from starloom.archive.claims import HELD
from starloom.archive.engine import database_now, missing_file
from starloom.archive.models import Mission, Revision, StatusEvent
from starloom.dispatch.heartbeat import Heartbeat
from starloom.dispatch.rest import PrefectApi
from starloom.dispatch.webhook import call
from starloom.errors import StarloomError
from starloom.settings import Settings

#: A check that has not answered after this long is itself a sign: a file system or a database that hangs.
CHECK_S = 60.0
#: Workers beat every 30 s.
WORKER_SILENT_S = 90.0
#: sweep runs every minute and takes seconds.
SWEEP_SILENT_S = 900.0
#: An event may wait while frames of its mission are in flight (``settle_max_s``); this much longer is too long.
CLAIM_SILENT_S = 1800.0


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Parameters
    ----------
    check
        Name of the check.
    ok
        Whether what it looked at lives.
    message
        What was seen.
    """

    check: str
    ok: bool
    message: str


class Dead(Exception):
    """Raised by a check: what it looked at does not live; the message says how that shows."""


def check_relay(settings: Settings) -> str:
    """Read the relay's last sign of life."""
    said = Heartbeat(settings.home, "relay").read()
    if said is None:
        raise Dead(f"the relay has left no sign of life in {settings.home}")
    if not said["alive"]:
        raise Dead(f"the relay was last seen {said['at'][:19]}, pid {said['pid']}")
    if said["trouble"]:
        raise Dead(f"the relay gets nowhere: {said['trouble']}")
    return f"last seen {said['at'][:19]}"


def ask_relay(url: str) -> str:
    """Ask the health page of a relay on another machine; it answers 503 where it gets nowhere."""
    call(url)
    return "it answers that all is well"


def check_prefect(settings: Settings) -> str:
    """Ask the server whether it and its database answer."""
    with PrefectApi.from_settings(settings) as api:
        if not api.is_healthy():
            raise Dead(f"Prefect at {settings.prefect_api_url} does not answer")
        api.workers(settings.work_pool)  # the health page answers without the database
    return settings.prefect_api_url


def check_worker(settings: Settings) -> str:
    """Look at the last heartbeat of the pool's workers."""
    with PrefectApi.from_settings(settings) as api:
        workers = api.workers(settings.work_pool)
    seen = [(datetime.fromisoformat(w["last_heartbeat_time"]), w) for w in workers if w["last_heartbeat_time"]]
    if not seen:
        raise Dead(f"no worker of pool {settings.work_pool} has ever been heard of")
    last, worker = max(seen, key=lambda pair: pair[0])
    age = (datetime.now(UTC) - last).total_seconds()
    if age > max(WORKER_SILENT_S, 3.0 * (worker.get("heartbeat_interval_seconds") or 0)):
        raise Dead(f"no worker of pool {settings.work_pool} since {last:%Y-%m-%d %H:%M:%S} ({worker['name']})")
    return f"{worker['name']} {age:.0f} s ago"


def check_sweep(settings: Settings) -> str:
    """Look when sweep last ended well."""
    with PrefectApi.from_settings(settings) as api:
        last = api.last_success("sweep/sweep")
    if last is None:
        raise Dead("sweep has never ended well")
    ended = datetime.fromisoformat(last["end_time"])
    age = (datetime.now(UTC) - ended).total_seconds()
    if age > max(SWEEP_SILENT_S, 5.0 * settings.sweep_interval_s):
        raise Dead(f"sweep last ended well {ended:%Y-%m-%d %H:%M:%S}")
    return f"{age:.0f} s ago"


def check_claims(settings: Settings) -> str:
    """Look whether a mission has asked for its stack for long, and nothing has been claimed or worked on since."""
    url = settings.archive_url.get_secret_value()
    if (path := missing_file(url)) is not None:
        raise Dead(f"there is no archive at {path}")
    archive = Archive(url)
    try:
        with archive.session() as session:
            return _claims_move(session, settings)
    finally:
        archive.dispose()


def _claims_move(session: Session, settings: Settings) -> str:
    now = database_now(session)
    oldest = session.exec(
        select(StatusEvent)
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE", Mission.status == "COMPLETE")
        .order_by(col(StatusEvent.created_at))
        .limit(1)
    ).first()
    if oldest is None:
        return "no mission waits"
    waits = f"mission {oldest.mission_id} waits since {oldest.created_at:%Y-%m-%d %H:%M:%S}"
    if now - oldest.created_at < timedelta(seconds=settings.settle_max_s + CLAIM_SILENT_S):
        return waits
    held = select(func.count()).where(col(Revision.status).in_(HELD), col(Revision.lease_until) > now)
    newest = session.exec(select(Revision).order_by(col(Revision.claimed_at).desc()).limit(1)).first()
    moving = newest is not None and now - newest.claimed_at < timedelta(seconds=CLAIM_SILENT_S)
    if moving or session.exec(held).one():
        return f"{waits}; others are being stacked"
    last = "never" if newest is None else f"{newest.claimed_at:%Y-%m-%d %H:%M:%S}"
    raise Dead(f"{waits}, and nothing is being stacked; last claim: {last}")


CHECKS: dict[str, Callable[[Settings], str]] = {
    "prefect": check_prefect,
    "worker": check_worker,
    "sweep": check_sweep,
    "relay": check_relay,
    "claims": check_claims,
}
#: What cannot be asked while the server does not answer.
_BEHIND_PREFECT = ("worker", "sweep")


def look(settings: Settings, skip: Collection[str] = (), relay_url: str = "") -> list[Finding]:
    """Make every check that is not skipped, all at once, none for longer than `CHECK_S`.

    What lies behind a server that does not answer is left out: one cause, one message.

    Parameters
    ----------
    skip
        Names of checks.
    relay_url
        The relay's health page; empty: its file in the home says enough.
    """
    checks: dict[str, Callable[[], str]] = {
        name: partial(check, settings) for name, check in CHECKS.items() if name not in skip
    }
    if relay_url and "relay" in checks:
        checks["relay"] = partial(ask_relay, relay_url)
    found = _all_at_once(checks, CHECK_S)
    if any(finding.check == "prefect" and not finding.ok for finding in found):
        found = [finding for finding in found if finding.check not in _BEHIND_PREFECT]
    return found


def _all_at_once(checks: dict[str, Callable[[], str]], limit_s: float) -> list[Finding]:
    """Run checks in threads that do not outlive the program: one that hangs must not hide the others."""
    found: dict[str, Finding] = {}

    def run(name: str, check: Callable[[], str]) -> None:
        try:
            found[name] = Finding(name, True, check())
        except Dead as dead:
            found[name] = Finding(name, False, str(dead))
        except StarloomError as error:
            found[name] = Finding(name, False, error.message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and not swallowed
            found[name] = Finding(name, False, f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=item, name=item[0], daemon=True) for item in checks.items()]
    deadline = datetime.now(UTC) + timedelta(seconds=limit_s)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max((deadline - datetime.now(UTC)).total_seconds(), 0.0))
    late = f"it has not answered after {limit_s:.0f} s"
    return [found.get(name, Finding(name, False, late)) for name in checks]


def in_words(findings: Sequence[Finding]) -> str:
    """Return a line a finding, the dead ones first."""
    lines = sorted(findings, key=lambda finding: finding.ok)
    return "\n".join(f"{'ok  ' if f.ok else 'DEAD'} {f.check}: {f.message}" for f in lines)
