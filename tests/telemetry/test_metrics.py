"""What Prometheus reads: the right numbers, at a cost that history does not raise, on both databases."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from pydantic import SecretStr
from sqlalchemy import event, text

from starloom.archive import Archive, metering, missions
from starloom.archive.models import Condition, Frame, Revision, StatusEvent
from starloom.dispatch.health import Health
from starloom.settings import Settings
from starloom.telemetry import metrics
from starloom.telemetry.families import ARCHIVE, FAMILIES
from starloom.telemetry.metrics import RelayMetrics, archive_metrics, registry_of

NOW = datetime.now(UTC)
OK = dict.fromkeys(("ingest", "calibrate", "solve", "measure"), "ok")
UNSOLVABLE = OK | {"solve": "failed", "measure": "pending", "solve_code": "too-few-stars"}
DONE_AGAIN = OK | {"measure": "pending", "ready_at": NOW, "next_attempt_at": NOW}
Key = tuple[str, tuple[tuple[str, str], ...]]


def samples(archive: Archive) -> dict[Key, float]:
    """Return what the archive says, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in archive_metrics(archive)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> Key:
    return (f"starloom_{name}", tuple(sorted(labels.items())))


def frame(name: str, hours: float, **values: Any) -> Frame:
    received = NOW - timedelta(hours=hours)
    return Frame(name=name, node_id=values.pop("node", "T1"), received_at=received, raw_bytes=1000, **values)


@pytest.fixture
def filled(archive: Archive) -> Archive:
    """A day of two nodes, a frame of the year before, two missions, claims of every kind."""
    with archive.transaction() as session:
        session.add_all(
            [
                frame("ready", 2, **OK, ready_at=NOW),
                frame("ready-just-now", 0.5, **OK, ready_at=NOW),
                frame("unsolvable", 3, **UNSOLVABLE),
                frame("refused", 4, node="T2", ingest="failed", ingest_code="truncated",
                      disposition="quarantined", disposition_code="truncated"),
                frame("waits-for-solving", 5, node="T2", next_attempt_at=NOW, ingest="ok", calibrate="ok"),
                frame("waits-for-ingest", 1, node="T2", next_attempt_at=NOW),
                frame("done-again", 6, node="T2", **DONE_AGAIN),
                frame("dark", 7, kind="dark", ingest="ok"),
                frame("mosaic", 7, plane="CFA", ingest="ok", calibrate="ok"),
                frame("of-last-year", 9000, **OK, ready_at=NOW),
                frame("waits-since-yesterday", 30, next_attempt_at=NOW + timedelta(hours=3), ingest="ok"),
            ]
        )  # fmt: skip
        for name in ("m1", "m2", "m3"):
            missions.create_mission(session, name)
        session.flush()
        for name in ("m1", "m2"):
            missions.set_status(session, name, "COMPLETE")
        session.flush()
        for epoch, (status, hours, seconds) in enumerate(
            [("published", 1, 7.0), ("published", 2, 90.0), ("expired", 3, None), ("published", 50, 1.0)], start=1
        ):
            begun = NOW - timedelta(hours=hours)
            done = None if seconds is None else begun + timedelta(seconds=seconds)
            session.add(
                Revision(mission_id="m3", n=epoch, epoch=epoch, status=status, token="t", claimed_at=begun,
                         published_at=done, lease_until=begun)
            )  # fmt: skip
        session.add(
            Revision(
                mission_id="m1", n=1, epoch=1, token="t", claimed_at=NOW, lease_until=NOW + timedelta(hours=1)
            )
        )
        session.add(Condition(kind="node-silent", subject="T9", value=80, message="silent"))
    with archive.transaction() as session:
        for one in session.exec(text("SELECT id FROM status_event WHERE mission_id = 'm1'")).all():  # type: ignore[call-overload]
            asked = session.get(StatusEvent, one[0])
            asked.surplus_runs, asked.created_at = 2, NOW - timedelta(hours=2)
    return archive


def test_the_day_by_node_and_state(filled: Archive) -> None:
    said = samples(filled)
    states = {
        (dict(labels)["node"], dict(labels)["state"]): value
        for (name, labels), value in said.items()
        if name == "starloom_frames"
    }
    assert states == {
        ("T1", "ready"): 2, ("T1", "solve-failed"): 1, ("T1", "filed"): 1, ("T1", "split"): 1,
        ("T2", "quarantined"): 1, ("T2", "processing"): 2, ("T2", "ready"): 1,
    }  # fmt: skip
    assert said[key("frames_last_hour", node="T1")] == 1
    assert said[key("frames_last_hour", node="T2")] == 0
    assert said[key("frames_bytes")] == 9000
    assert said[key("frames_refused", state="quarantined", code="truncated")] == 1
    assert said[key("frames_refused", state="solve-failed", code="too-few-stars")] == 1
    assert said[key("frames_solved_ratio", node="T1")] == pytest.approx(2 / 3)


def test_what_waits_and_since_when(filled: Archive) -> None:
    said = samples(filled)
    waiting = {dict(labels)["step"]: v for (name, labels), v in said.items() if name == "starloom_frames_waiting"}
    # One that is READY already waits for nobody.
    assert waiting == {"ingest": 1, "calibrate": 1, "solve": 1, "measure": 0}
    passed = (datetime.now(UTC) - NOW).total_seconds()
    for name, hours in (
        (key("frames_waiting_oldest_seconds", step="calibrate"), 30),
        (key("frames_waiting_oldest_seconds", step="ingest"), 1),
        (key("event_oldest_seconds"), 2),
    ):
        assert hours * 3600 <= said[name] <= hours * 3600 + passed
    assert said[key("frames_waiting_oldest_seconds", step="measure")] == 0
    assert said[key("events_open", asks="stack")] == 2


def test_missions_claims_and_stacks(filled: Archive) -> None:
    said = samples(filled)
    assert said[key("missions", status="COMPLETE")] == 2
    assert said[key("missions", status="OPEN")] == 1
    assert said[key("claims_held")] == 1
    assert said[key("missions_outstanding")] == 1
    assert said[key("claims", status="published")] == 2
    assert said[key("claims", status="expired")] == 1
    assert said[key("surplus_runs")] == 2
    assert said[key("conditions", kind="node-silent")] == 1
    buckets = [said[key("stack_seconds_bucket", le=bound)] for bound in ("5.0", "10.0", "120.0", "+Inf")]
    assert buckets == [0, 1, 2, 2]
    assert said[key("stack_seconds_gsum")] == pytest.approx(97)
    assert said[key("archive_size_bytes")] > 50_000


def test_names_from_outside_are_bounded(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_NODES", 2)
    with archive.transaction() as session:
        session.add_all(frame(f"f{n}{i}", 1, node=f"N{n}") for n in range(5) for i in range(5 - n))
    said = samples(archive)
    states = {dict(labels)["node"]: v for (name, labels), v in said.items() if name == "starloom_frames"}
    assert states == {"N0": 5, "N1": 4, "(others)": 6}


def test_no_question_walks_the_frames_there_are(filled: Archive) -> None:
    """Every question about frames, claims and events goes through an index, by the database's own plan."""
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(filled.engine, "before_cursor_execute", note)
    samples(filled)
    event.remove(filled.engine, "before_cursor_execute", note)
    tables = ("frame", "revision", "status_event")
    questions = [one for one in asked if any(f"FROM {table}" in one[0].replace("\n", " ") for table in tables)]
    assert len(questions) >= 6
    explain = "EXPLAIN QUERY PLAN " if filled.is_sqlite else "EXPLAIN "
    for statement, parameters in questions:
        with filled.engine.connect() as connection:
            if not filled.is_sqlite:  # three rows are no reason to take an index: would it be possible?
                connection.exec_driver_sql("SET enable_seqscan = off")
            plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + statement, parameters))
        walks = re.findall(rf"(?:Seq Scan on|SCAN) (?:{'|'.join(tables)})\b(?! USING INDEX)", plan)
        assert not walks, (statement, plan)


@pytest.fixture
def page(filled: Archive, tmp_path: Path) -> Iterator[tuple[str, RelayMetrics]]:
    """The address of a relay's metrics."""
    settings = Settings(home=tmp_path)
    registry = registry_of(settings, filled, None)
    relay = RelayMetrics(registry)
    health = Health(dict, registry)
    port = health.serve("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}/metrics", relay
    health.close()


def read(url: str, accept: str = "text/plain") -> tuple[str, str]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=20) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def test_prometheus_reads_the_page_in_both_forms(page: tuple[str, RelayMetrics]) -> None:
    url, relay = page
    relay.told.labels("event").inc()
    body, kind = read(url)
    assert kind.startswith("text/plain")
    families = {family.name: family for family in parse(body)}
    told = {sample.labels["how"]: sample.value for sample in families["starloom_relay_told"].samples}
    assert told == {"event": 1, "run": 0}
    assert {sample.labels["disk"] for sample in families["starloom_disk_free_bytes"].samples} == {"home"}
    body, kind = read(url, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    described = {f.name: f for f in parse_openmetrics(body)}
    assert described["starloom_stack_seconds"].type == "gaugehistogram"
    assert described["starloom_frames"].documentation == FAMILIES["starloom_frames"].meaning


def test_every_metric_is_described_and_every_description_is_exported(page: tuple[str, RelayMetrics]) -> None:
    url, _ = page
    names = {family.name for family in parse(read(url)[0]) if family.name.startswith("starloom_")}
    known = {name.removesuffix("_total") for name in FAMILIES}
    parts = {"starloom_stack_seconds_gsum", "starloom_stack_seconds_gcount"}
    from starloom.telemetry.families import PREFECT  # exported where Prefect is: tests/dispatch/test_load.py

    created = {name for name in names if name.endswith("_created")}
    assert names - created - parts == known - PREFECT.keys()


def test_an_archive_that_is_away_is_a_number_too(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, archive_url=SecretStr("postgresql+psycopg://u@127.0.0.1:1/none"))
    registry = registry_of(settings, Archive(settings.archive_url.get_secret_value()), None)
    assert registry.get_sample_value("starloom_archive_up") == 0
    assert registry.get_sample_value("starloom_disk_free_bytes", {"disk": "home"}) > 0  # type: ignore[operator]


def test_two_who_ask_at_once_cost_one_look(
    filled: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(metering, "missions_by_status", lambda _: looks.append(1) or {})
    registry: CollectorRegistry = registry_of(Settings(home=tmp_path), filled, None)
    assert looks == []  # registering asks nothing
    for _ in range(3):
        list(registry.collect())
    assert looks == [1]


def test_a_source_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PATIENCE_S", 0.2)
    done = threading.Event()

    def slow() -> list[Metric]:
        done.wait(timeout=60)
        return [GaugeMetricFamily("starloom_prefect_up", "", value=1)]

    source = metrics.Source("prefect", slow, lambda: [GaugeMetricFamily("starloom_prefect_up", "", value=0)])
    assert [source.ask()[0][0].samples[0].value for _ in range(2)] == [0, 0]
    done.set()
    monkeypatch.setattr(metrics, "PATIENCE_S", 60.0)
    assert source.ask()[0][0].samples[0].value == 1  # the look that was under way all the time


def test_names_follow_the_conventions() -> None:
    for name, family in FAMILIES.items():
        assert name.startswith("starloom_")
        assert name.endswith("_total") == (family.kind == "counter")
        assert "ms" not in name.split("_")
    assert ARCHIVE["starloom_stack_seconds"].kind == "gaugehistogram"
