"""What only the hub can measure: nodes that fall silent, refused frames, queues and disks that fill.

``sweep`` looks every few minutes. What begins or ends is an event ``starloom.alert.{kind}.began`` or ``.ended``,
which automations turn into notifications (docs/alerts.md). It waits in the archive until Prefect accepts it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from sqlalchemy import text as sql
from sqlmodel import Session, and_, case, col, func, select

from starloom.archive import conditions
from starloom.archive.conditions import Measured
from starloom.archive.engine import database_now
from starloom.archive.models import WAITING, Condition, Frame, Mission, Node, StatusEvent
from starloom.settings import Settings

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Nothing that is looked at changes within minutes.
EVERY_S = 300.0
#: Frames of a node below which a share of them says nothing.
ENOUGH = 10
#: What has begun ends this far below its limit.
CLEARANCE = 0.9


class Teller(Protocol):
    """Whoever publishes an event, and raises where it was not accepted: `PrefectApi`."""

    def emit(self, event: str, resource: str, payload: dict[str, Any]) -> None:
        """Publish one event."""


def watch(hub: Hub, teller: Teller, *, every_s: float = EVERY_S) -> int:
    """Look at everything, tell what has begun and what has ended; return how many were told.

    Parameters
    ----------
    teller
        Who publishes events.
    every_s
        Seconds that must have passed on this machine since the last look; what is untold is told in any case.

    Raises
    ------
    Unavailable
        Archive or Prefect does not answer; what was not told is told by the next sweep.
    """
    stamp = hub.settings.home / "run" / "watched"
    if not stamp.is_file() or time.time() - stamp.stat().st_mtime >= every_s:
        for kind, measure in MEASURES.items():
            with hub.archive.session() as session:
                measured = list(measure(session, hub.settings))  # on SQLite no lock is held meanwhile
            with hub.archive.transaction() as session:
                conditions.note(session, kind, measured)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    return tell(hub, teller)


def tell(hub: Hub, teller: Teller) -> int:
    """Publish what nobody has been told yet; at least once, since it is noted after it was accepted."""
    with hub.archive.session() as session:
        waiting = conditions.untold(session)
    for condition in waiting:
        word = "began" if condition.ended_at is None else "ended"
        teller.emit(f"starloom.alert.{condition.kind}.{word}", _resource(condition), _payload(condition, word))
        with hub.archive.transaction() as session:
            conditions.note_told(session, condition)
        log.warning("%s %s %s: %s", condition.kind, condition.subject, word, condition.message)
    return len(waiting)


def _resource(condition: Condition) -> str:
    return f"starloom.alert.{condition.kind}.{condition.subject}"


def _payload(condition: Condition, word: str) -> dict[str, Any]:
    what = TITLES[condition.kind].format(subject=condition.subject)
    return {
        "kind": condition.kind,
        "about": condition.subject,
        "subject": what if word == "began" else f"over: {what}",
        "message": condition.message,
        "value": condition.value,
        "since": condition.began_at.isoformat(),
    }


def silent_nodes(session: Session, settings: Settings) -> Iterator[Measured]:
    """Measure for each registered node the hours since its last frame; one that never sent any has not begun."""
    now = database_now(session)
    # A look into the index for each node, where a join would walk all frames.
    last = select(func.max(Frame.received_at)).where(Frame.node_id == Node.id).scalar_subquery()
    for node, seen in session.exec(select(Node.id, last)):
        if seen is None:
            continue
        hours = (now - seen).total_seconds() / 3600
        yield Measured(
            "node-silent", node, hours, settings.alert_node_silent_h, settings.alert_node_silent_h,
            f"The last frame of {node} arrived {seen:%Y-%m-%d %H:%M} UTC, {hours:.0f} h ago. "
            f"Its owner: `starloom node list`. Its frames: `starloom frames list --node {node}`.",
            f"A frame of {node} arrived {seen:%Y-%m-%d %H:%M} UTC.",
        )  # fmt: skip


def refused_frames(session: Session, settings: Settings) -> Iterator[Measured]:
    """Measure for each registered node the share of the last day's frames that were quarantined."""
    since = database_now(session) - timedelta(days=1)
    bad = func.sum(case((col(Frame.disposition) == "quarantined", 1), else_=0))
    counted = (
        select(Node.id, func.count(), bad)
        .join(Frame, and_(col(Frame.node_id) == Node.id, col(Frame.received_at) >= since))
        .group_by(col(Node.id))
    )
    for node, count, refused in session.exec(counted):
        if count < ENOUGH:
            continue
        limit = settings.alert_quarantined_fraction
        yield Measured(
            "frames-quarantined", node, refused / count, limit, CLEARANCE * limit,
            f"{refused} of the {count} frames that {node} sent in the last day were refused. "
            f"The codes: `starloom frames list --node {node}`; its owner reads the same in the receipts.",
            f"{refused} of the {count} frames that {node} sent in the last day were refused.",
        )  # fmt: skip


def full_queues(session: Session, settings: Settings) -> Iterator[Measured]:
    """Measure how many frames wait, how long the first has, and how long the first mission waits for its stack."""
    now = database_now(session)
    # A frame with something to be done has a time for it, parked or not.
    busy = select(func.count(), func.min(Frame.received_at)).where(sql(WAITING), col(Frame.ready_at).is_(None))
    count, oldest = session.exec(busy).one()
    hours = 0.0 if oldest is None else (now - oldest).total_seconds() / 3600
    said = f"{count} frames wait, the first for {hours:.1f} h. "
    remedy = "`starloom status` says what runs; `starloom frames show ID` says what a frame waits for."
    number = float(settings.alert_waiting_frames)
    yield Measured("queue-filling", "frames", count, number, CLEARANCE * number, said + remedy, said)
    limit = settings.alert_waiting_h
    yield Measured("queue-filling", "oldest-frame", hours, limit, CLEARANCE * limit, said + remedy, said)
    asked = session.exec(
        select(func.min(StatusEvent.created_at))
        .join(Mission, col(Mission.id) == StatusEvent.mission_id)
        .where(StatusEvent.state == "open", StatusEvent.new_status == "COMPLETE", Mission.status == "COMPLETE")
    ).one()
    hours = 0.0 if asked is None else (now - asked).total_seconds() / 3600
    said = f"A mission has waited for its stack for {hours:.1f} h. "
    remedy = "`starloom status`, open events, says for what."
    fine = "No mission waits long for its stack any more."
    yield Measured("queue-filling", "missions", hours, limit, CLEARANCE * limit, said + remedy, fine)


class DiskUsage(Protocol):
    """As `shutil.disk_usage` says it, bytes; what is kept for root is in neither ``used`` nor ``free``."""

    @property
    def used(self) -> int:
        """What is taken."""

    @property
    def free(self) -> int:
        """What is left for people."""


def disk_usages(settings: Settings) -> dict[str, tuple[Path, DiskUsage]]:
    """Return the disks that this process sees: the home's, and the lake's where that is a folder elsewhere.

    What an S3 service or a PostgreSQL server has left is not to be learnt from here.
    """
    disks = {"home": settings.home}
    lake = urlsplit(settings.lake_url)
    if lake.scheme == "file":
        disks["lake"] = Path(unquote(lake.path))
    found: dict[str, tuple[Path, DiskUsage]] = {}
    seen = set()
    for name, folder in disks.items():
        if not folder.is_dir() or (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        found[name] = (folder, shutil.disk_usage(folder))
    return found


def full_disks(_: Session, settings: Settings) -> Iterator[Measured]:
    """Measure how full the disks are that this process sees."""
    for name, (folder, usage) in disk_usages(settings).items():
        # As `df` counts: what is kept for root is nobody's.
        full = usage.used / (usage.used + usage.free)
        limit = settings.alert_disk_fraction
        said = f"The disk of {name} ({folder}) is full to {full:.0%}, {usage.free / 1e9:.1f} GB are free."
        yield Measured("disk-filling", name, full, limit, limit - 0.02, said, said)


Measure = Callable[[Session, Settings], Iterator[Measured]]
MEASURES: dict[str, Measure] = {
    "node-silent": silent_nodes,
    "frames-quarantined": refused_frames,
    "queue-filling": full_queues,
    "disk-filling": full_disks,
}
TITLES = {
    "node-silent": "node {subject} is silent",
    "frames-quarantined": "many frames of {subject} are refused",
    "queue-filling": "work piles up ({subject})",
    "disk-filling": "the disk of {subject} is filling",
}
