"""Lines with their subject: as text, as JSON, in threads, in Prefect's log of a run."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from starloom.dispatch.embedded import program_environment
from starloom.dispatch.services import checkout, python
from starloom.telemetry import begin, context, logs
from starloom.telemetry.context import about
from tests.dispatch.server import RunningPrefect

log = logging.getLogger("starloom.test")


@pytest.fixture(autouse=True)
def begun() -> Iterator[None]:
    begin()
    yield
    context._origins.pop("run", None)


def as_json(record: logging.LogRecord) -> dict[str, object]:
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_line_says_what_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    with about(mission="550", node="T42"), about(frame="f1", node=None):
        log.warning("seeing %.1f px", 2.34)
    log.warning("nothing bound")
    bound, free = caplog.records
    said = as_json(bound)
    assert (said.pop("time") or "").startswith("20")  # type: ignore[attr-defined]
    assert said == {
        "level": "WARNING", "logger": "starloom.test", "message": "seeing 2.3 px",
        "mission": "550", "frame": "f1", "node": "T42",
    }  # fmt: skip
    assert bound.getMessage() == "mission=550 frame=f1 node=T42 seeing 2.3 px"
    assert free.getMessage() == "nothing bound"
    assert set(as_json(free)) == {"time", "level", "logger", "message"}


def test_a_line_adds_to_what_is_bound(caplog: pytest.LogCaptureFixture) -> None:
    with about(mission="550", event=7):
        log.error("refused", extra={"mission": "551"})
    assert (as_json(caplog.records[0])["mission"], as_json(caplog.records[0])["event"]) == ("551", 7)


def test_errors_are_one_line_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with about(frame="f1"):
        try:
            raise ValueError("nobody foresaw this")
        except ValueError:
            log.exception("parked")
    said = as_json(caplog.records[0])
    assert said["message"] == "parked"
    assert "ValueError: nobody foresaw this" in str(said["exception"])


def test_threads_do_not_mix_their_subjects(caplog: pytest.LogCaptureFixture) -> None:
    def work(frame: str) -> None:
        with about(frame=frame):
            meet.wait(timeout=10)
            log.warning("of %s", frame)

    meet = threading.Barrier(2)
    with about(mission="550"):
        pair = [threading.Thread(target=contextvars.copy_context().run, args=(work, name)) for name in "ab"]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
    for record in caplog.records:
        said = as_json(record)
        assert said["message"] == f"of {said['frame']}"
        assert said["mission"] == "550"


def test_the_origin_is_asked_for_every_line(caplog: pytest.LogCaptureFixture) -> None:
    runs = iter(["r1", "r2"])
    context.provide("run", lambda: next(runs))
    log.warning("one")
    log.warning("two")
    assert [as_json(record)["run"] for record in caplog.records] == ["r1", "r2"]
    assert caplog.records[0].getMessage() == "one"  # Prefect's log of a run knows the run


def test_lines_of_others_have_the_same_form(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("prefect.flow_runs").warning("Finished", extra={"flow_run_id": "r1"})
    said = as_json(caplog.records[0])
    assert (said["logger"], said["run"], said["message"]) == ("prefect.flow_runs", "r1", "Finished")


RUN = """
import logging
from prefect import flow
import tasks
from starloom.telemetry.context import about

@flow
def some() -> None:
    with about(mission="550", frame="f1"):
        logging.getLogger("starloom.test").info("%d stars", 12)

some()
"""


def test_a_runs_lines_are_json_with_its_id(prefect_server: RunningPrefect) -> None:
    """Prefect's own logging, told by its environment: every line of a run's standard error is JSON."""
    settings = prefect_server.settings.model_copy(update={"log_format": "json"})
    done = subprocess.run(
        [*python()[:1], "-c", RUN],
        env=program_environment(settings, checkout()),
        cwd=checkout(), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (ours,) = [line for line in lines if line["logger"] == "starloom.test"]
    assert (ours["message"], ours["mission"], ours["frame"]) == ("12 stars", "550", "f1")
    finished = [line for line in lines if line["logger"] == "prefect.flow_runs"]
    assert {line["run"] for line in finished} == {ours["run"]}
    # Where Prefect speaks of itself it has a handler of its own.
    assert "PREFECT_LOGGING_HANDLERS_DEBUG_FORMATTER" in program_environment(settings, checkout())
    kept = prefect_server.api.logs(ours["run"])
    assert "mission=550 frame=f1 12 stars" in [line["message"] for line in kept]


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_programs_lines_are_as_the_setting_says(tmp_path: Path, form: str) -> None:
    script = """
import logging
from starloom.settings import load_settings
from starloom.telemetry import begin, logs
from starloom.telemetry.context import about

begin()
logs.configure(load_settings())
with about(mission="550"):
    logging.getLogger("starloom.test").info("told")
logging.getLogger("starloom.test").debug("too fine")
"""
    env = {**os.environ, "STARLOOM_HOME": str(tmp_path), "STARLOOM_LOG_FORMAT": form}
    done = subprocess.run(
        [*python()[:1], "-c", script],
        env=env,
        cwd=checkout(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    if form == "json":
        assert json.loads(line)["mission"] == "550"
    else:
        assert line.endswith("INFO starloom.test mission=550 told")
