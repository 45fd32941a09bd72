"""What sweep watches: begun once, ended once, never forgotten, never repeated."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from starloom import watching
from starloom.archive import conditions, missions
from starloom.archive.models import Frame, StatusEvent
from starloom.errors import Unavailable
from starloom.hub import Hub
from starloom.settings import Settings

Usage = namedtuple("Usage", "total used free")


@dataclass
class Recorder:
    """Takes events as Prefect does, or does not answer."""

    said: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    away: bool = False

    def emit(self, event: str, resource: str, payload: dict[str, Any]) -> None:
        if self.away:
            raise Unavailable("away", code="prefect-unavailable")
        self.said.append((event, resource, payload))

    def take(self) -> list[str]:
        """Return the events since the last time as `kind.word subject`, and forget them."""
        events = [f"{event.removeprefix('starloom.alert.')} {payload['about']}" for event, _, payload in self.said]
        self.said.clear()
        return events


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub.open(Settings(home=tmp_path / "home"))
    made.archive.migrate()
    made.lake.prepare()
    yield made
    made.archive.dispose()


@pytest.fixture
def prefect() -> Recorder:
    return Recorder()


def frame(hub: Hub, *, hours: float = 0.0, **values: Any) -> None:
    """Add a frame that was received so many hours ago."""
    received = datetime.now(UTC) - timedelta(hours=hours)
    with hub.archive.transaction() as session:
        session.add(Frame(**{"name": "f", "node_id": "T1", "received_at": received, **values}))


def look(hub: Hub, prefect: Recorder) -> list[str]:
    watching.watch(hub, prefect, every_s=0.0)
    return prefect.take()


def register(hub: Hub, *nodes: str) -> None:
    with hub.archive.transaction() as session:
        for node in nodes:
            missions.register_node(session, node)


def test_a_quiet_hub_says_nothing(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1", "T2")
    frame(hub, hours=1)
    assert look(hub, prefect) == []


def test_a_silent_node_is_told_once_and_heard_again_once(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1", "T2", "T3")
    frame(hub, hours=80)
    frame(hub, hours=1, node_id="T2")
    frame(hub, hours=500, node_id="stranger")  # never registered: nobody expects it
    assert look(hub, prefect) == ["node-silent.began T1"]
    assert look(hub, prefect) == []
    frame(hub)
    assert look(hub, prefect) == ["node-silent.ended T1"]
    assert look(hub, prefect) == []
    with hub.archive.session() as session:
        assert conditions.lasting(session) == []


def test_what_is_said_names_node_age_and_remedy(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    frame(hub, hours=80)
    watching.watch(hub, prefect, every_s=0.0)
    (event, resource, payload) = prefect.said[0]
    assert (event, resource) == ("starloom.alert.node-silent.began", "starloom.alert.node-silent.T1")
    assert payload["subject"] == "node T1 is silent"
    assert "80 h ago" in payload["message"]
    assert "starloom frames list --node T1" in payload["message"]


def test_refused_frames_are_a_share_of_a_node_s_day(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    for n in range(9):
        frame(hub, name=str(n), disposition="quarantined" if n < 8 else "active")
    assert look(hub, prefect) == []  # eight of nine, but nine are too few to say
    frame(hub, name="9")
    frame(hub, name="old", hours=25, disposition="quarantined")
    assert look(hub, prefect) == ["frames-quarantined.began T1"]
    for n in range(33):
        frame(hub, name=f"more{n}")
    assert look(hub, prefect) == []  # 8 of 43: below the limit of 20 %, above nine tenths of it
    for n in range(3):
        frame(hub, name=f"yet{n}")
    assert look(hub, prefect) == ["frames-quarantined.ended T1"]  # 8 of 46


def test_queues_of_frames_and_missions(hub: Hub, prefect: Recorder) -> None:
    few = Hub(hub.settings.model_copy(update={"alert_waiting_frames": 2}), hub.lake, hub.archive)
    soon = datetime.now(UTC)
    frame(hub, name="a", hours=1, next_attempt_at=soon)
    frame(hub, name="done", hours=100, ready_at=soon)
    frame(hub, name="set aside", hours=100, disposition="quarantined", next_attempt_at=soon)
    assert look(few, prefect) == []
    frame(hub, name="b", hours=7, next_attempt_at=soon)
    assert sorted(look(few, prefect)) == ["queue-filling.began frames", "queue-filling.began oldest-frame"]
    with hub.archive.transaction() as session:
        missions.create_mission(session, "550")
        missions.set_status(session, "550", "COMPLETE")
    assert look(few, prefect) == []
    with hub.archive.transaction() as session:
        (event,) = session.exec(select(StatusEvent).where(StatusEvent.new_status == "COMPLETE")).all()
        event.created_at = soon - timedelta(hours=7)
    assert look(few, prefect) == ["queue-filling.began missions"]
    with hub.archive.transaction() as session:
        missions.set_status(session, "550", "CANCELLED")
    assert look(few, prefect) == ["queue-filling.ended missions"]


def test_disks_of_home_and_lake(hub: Hub, prefect: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    full = 0.5
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 100 * full, 100 - 100 * full))
    assert look(hub, prefect) == []
    full = 0.91
    assert look(hub, prefect) == ["disk-filling.began home"]  # the lake's folder lies on the same disk
    full = 0.89
    assert look(hub, prefect) == []
    full = 0.87
    assert look(hub, prefect) == ["disk-filling.ended home"]


def test_the_real_disk_is_measured(hub: Hub) -> None:
    with hub.archive.session() as session:
        (found,) = watching.full_disks(session, hub.settings)
    usage = os.statvfs(hub.settings.home)
    assert found.value == pytest.approx(
        1 - usage.f_bavail / (usage.f_blocks - usage.f_bfree + usage.f_bavail), abs=0.01
    )


def test_nothing_is_forgotten_while_prefect_is_away(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    frame(hub, hours=80)
    prefect.away = True
    with pytest.raises(Unavailable):
        look(hub, prefect)
    prefect.away = False
    # Told with the next sweep, though it is not time to look again.
    assert watching.watch(hub, prefect, every_s=3600.0) == 1
    assert prefect.take() == ["node-silent.began T1"]
    frame(hub)
    prefect.away = True
    with pytest.raises(Unavailable):
        look(hub, prefect)
    prefect.away = False
    assert look(hub, prefect) == ["node-silent.ended T1"]


def test_what_ended_before_anybody_was_told_is_not_told(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    frame(hub, hours=80)
    prefect.away = True
    with pytest.raises(Unavailable):
        look(hub, prefect)
    frame(hub)
    prefect.away = False
    assert look(hub, prefect) == []


def test_it_does_not_look_with_every_sweep(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    assert look(hub, prefect) == []
    frame(hub, hours=80)
    assert watching.watch(hub, prefect, every_s=300.0) == 0
    assert look(hub, prefect) == ["node-silent.began T1"]


def test_what_is_looked_at_no_more_has_ended(hub: Hub, prefect: Recorder) -> None:
    register(hub, "T1")
    frame(hub, hours=80)
    assert look(hub, prefect) == ["node-silent.began T1"]
    with hub.archive.transaction() as session:
        for row in session.exec(select(Frame)).all():
            session.delete(row)
    assert look(hub, prefect) == ["node-silent.ended T1"]
