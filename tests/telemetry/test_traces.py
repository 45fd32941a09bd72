"""One trace from the node to READY, kept on the frame's row; nothing at all where traces are off."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from starloom.archive.models import Announcement
from starloom.dispatch.services import checkout, python
from starloom.lake import keys
from starloom.node.submit import submit
from starloom.telemetry import begin, context, traces
from tests.telemetry.spans import Spans, otlp_receiver

STEPS = ("ingest", "calibrate", "solve", "measure")
ELSEWHERE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_frames_steps_join_the_trace_that_its_node_began(station: Any, frames: Any, spans: Spans) -> None:
    station.create()
    submit(station.hub.lake, frames(1))
    (frame,) = station.process()
    assert frame.ready_at is not None
    trace = spans.trace_of("submit")
    assert [spans.trace_of(name) for name in ("discover", *STEPS)] == [trace] * 5
    assert frame.traceparent.split("-")[1] == f"{trace:032x}"
    (solve,) = spans.named("solve")
    assert solve.attributes["starloom.frame"] == frame.id
    assert f"{solve.parent.span_id:016x}" == frame.traceparent.split("-")[2]


def test_frames_that_were_not_announced_have_traces_of_their_own(station: Any, frames: Any, spans: Spans) -> None:
    station.create()
    for n in (1, 2):
        station.send(frames(n))
    first, second = (station.frame(frame_id) for frame_id in station.discover())
    station.process([first.id, second.id])
    assert {span.context.trace_id for span in spans.named("ingest")} == {
        int(frame.traceparent.split("-")[1], 16) for frame in (first, second)
    }


def test_a_failed_step_says_so_and_its_line_names_the_trace(
    station: Any, frames: Any, spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from starloom.frames import step as ingest

    begin()
    station.send(frames(1))
    (frame_id,) = station.discover()

    def broken(*_: Any) -> None:
        raise ValueError("nobody foresaw this")

    monkeypatch.setattr(ingest, "examine_apart", broken)
    station.process([frame_id])
    (span,) = spans.named("ingest")
    assert not span.status.is_ok
    assert span.events[0].attributes["exception.message"] == "nobody foresaw this"
    (parked,) = [record for record in caplog.records if "parked" in record.getMessage()]
    assert isinstance(parked, context.AboutRecord)
    assert parked.subject()["frame"] == frame_id


def test_a_trace_context_is_a_strangers_word(station: Any, frames: Any) -> None:
    path = frames(1)
    inbox = keys.inbox("T42", "20261009", path.name)
    said = '{"name": "%s", "size": 1, "sha256": "%s", "traceparent": "%s"}'
    for traceparent in ("00-xyz", ELSEWHERE + "' OR 1", "x" * 5000):
        body = (said % (path.name, "0" * 64, traceparent)).encode()
        station.hub.lake.put_bytes(body, keys.announcement(inbox))
        station.discover()
    with station.hub.archive.session() as session:
        assert session.exec(select(Announcement)).all() == []


def test_links_are_bounded(spans: Spans) -> None:
    with traces.span("bind"):
        traces.link([None, "00-xyz", *(f"00-{n:032x}-{n:016x}-01" for n in range(1, 1000))])
    (bind,) = spans.named("bind")
    assert [link.context.trace_id for link in bind.links] == list(range(1, traces.MAX_LINKS + 1))


def test_a_parent_that_makes_no_sense_begins_a_new_trace(spans: Spans) -> None:
    for parent in ("", "00-00000000000000000000000000000000-0000000000000000-01", "nonsense"):
        with traces.span("solve", parent=parent):
            pass
    assert all(span.parent is None for span in spans.named("solve"))
    with traces.span("solve", parent=ELSEWHERE):
        assert (traces.trace_id() or "") == ELSEWHERE.split("-")[1]


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_environment_decides(environment: dict[str, str], wanted: bool) -> None:
    assert traces.is_wanted(environment) is wanted


SUBMIT = """
import sys
from starloom.telemetry import traces
with traces.span("submit", mission="550"):
    said = traces.traceparent()
print(said, "opentelemetry" in sys.modules)
"""


def run(environment: dict[str, str]) -> list[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        [*python()[:1], "-c", SUBMIT],
        env=clean | environment, cwd=checkout(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_off_it_costs_nothing() -> None:
    assert run({}) == ["None", "False"]


def test_a_receiver_gets_what_a_program_traced(tmp_path: Path) -> None:
    with otlp_receiver() as (address, found):
        said, loaded = run({"OTEL_EXPORTER_OTLP_ENDPOINT": address})
    assert loaded == "True"
    (resource,) = found
    named = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert named["service.name"] == "starloom"
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("submit", said.split("-")[1])
    assert {item.key: item.value.string_value for item in span.attributes} == {"starloom.mission": "550"}
