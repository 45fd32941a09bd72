"""`mission`, `node` and `frames`: the operator's words, and what they are refused with."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from starloom.archive import arrivals, missions
from starloom.archive.models import Frame, Solution
from starloom.cli import output

UUID = "0c9a3e4e-7f2b-4a51-9d3e-2f6f5f1f7a10"


def land(hub: Any, n: int = 1, mission: str = "550", **changes: Any) -> Frame:
    name = f"ObsReq-{mission}_TelID-T42_20251201T0130{n:02d}.fits.fz"
    with hub.archive.transaction() as session:
        frame = arrivals.discover(
            session, inbox_key=f"inbox/T42/20251201/{name}", etag="e", name=name, node_id="T42",
            obs_req=mission, kind="light", start_utc=datetime.fromisoformat("2025-12-01T01:30:00+00:00"),
        )  # fmt: skip
        assert frame is not None
        for column, value in changes.items():
            setattr(frame, column, value)
    return frame


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", Console(width=100))


def status(hub: Any, mission: str, to: str) -> None:
    with hub.archive.transaction() as session:
        missions.set_status(session, mission, to)


@pytest.mark.parametrize(
    ("word", "before", "after", "code"),
    [
        ("complete", "OPEN", "COMPLETE", None),
        ("complete", "COMPLETE", "COMPLETE", None),
        ("complete", "FAILED", "COMPLETE", None),
        ("complete", "CANCELLED", "COMPLETE", None),
        ("complete", "STACKING", "STACKING", "mission-stacking"),
        ("complete", "STACKED", "STACKED", "mission-stacked"),
        ("restack", "OPEN", "OPEN", "mission-open"),
        ("restack", "STACKED", "COMPLETE", None),
        ("restack", "STACKING", "COMPLETE", None),
        ("restack", "FAILED", "COMPLETE", None),
        ("restack", "COMPLETE", "COMPLETE", None),
        ("restack", "CANCELLED", "CANCELLED", "mission-cancelled"),
        ("cancel", "OPEN", "CANCELLED", None),
        ("cancel", "STACKED", "CANCELLED", None),
        ("cancel", "CANCELLED", "CANCELLED", None),
    ],
)
def test_what_may_be_asked_of_a_mission_depends_on_its_status(
    run: Any, hub: Any, word: str, before: str, after: str, code: str | None
) -> None:
    run("mission", "create", "550")
    status(hub, "550", before)
    answer = run("mission", word, "550", "--json")
    assert run("mission", "show", "550", "--json").json["mission"]["status"] == after
    if code is None:
        assert (answer.code, answer.json[0]["status"]) == (0, after)
    else:
        assert (answer.code, answer.error["code"]) == (1, code)
        assert "starloom mission" in answer.error["hint"]


@pytest.mark.parametrize("word", ["complete", "restack", "cancel", "show"])
def test_an_unknown_mission_is_no_traceback(run: Any, hub: Any, word: str) -> None:
    answer = run("mission", word, "551", "--json")
    assert (answer.code, answer.error["code"]) == (1, "unknown-mission")


def test_bad_missions_are_refused(run: Any, hub: Any) -> None:
    assert run("mission", "create", "../etc", "--json").error["code"] == "bad-id"
    assert run("mission", "create", "1", "--ra", "nan", "--dec", "0", "--json").error["code"] == "bad-target"
    assert run("mission", "create", "1", "--title", "x" * 300, "--json").error["code"] == "too-long"
    assert run("mission", "create", "1", "--ra", "10", "--dec", "-30.5", "--json").json[0]["dec_deg"] == -30.5
    assert run("mission", "create", "1", "--json").error["code"] == "mission-exists"


def test_tables_fit_100_columns_and_break_no_id(run: Any, hub: Any, narrow: None) -> None:
    run(
        "mission",
        "create",
        UUID,
        "--title",
        "A title of many words that goes on and on",
        "--ra",
        "1",
        "--dec",
        "2",
    )
    frame = land(hub, mission=UUID, band="V", exposure_s=120.0, flags=["uncalibrated", "off-target"])
    for words in (
        ["mission", "list"],
        ["mission", "show", UUID],
        ["frames", "list"],
        ["frames", "show", frame.id],
    ):
        out = run(*words).out
        assert UUID in out or words == ["frames", "list"]  # where its frames' ids are what one copies
        assert "…" not in out
        assert max(map(len, out.splitlines())) <= 100
    listed = run("frames", "list").out
    assert frame.id[:8] in listed
    assert run("frames", "show", frame.id[:8], "--json").json["id"] == frame.id


def test_empty_lists_say_what_to_do(run: Any, hub: Any) -> None:
    assert "mission create" in run("mission", "list").out
    assert "node register" in run("node", "list").out
    assert run("frames", "list").out.strip() == "No such frames."
    assert run("frames", "list", "--json").json == []


def test_complete_says_what_it_waits_for(run: Any, hub: Any) -> None:
    run("mission", "create", "550")
    land(hub)
    assert "1 frames are still in flight" in run("mission", "complete", "550").out
    assert "already" in run("mission", "complete", "550").out


def test_a_frame_is_found_by_id_beginning_of_id_and_name(run: Any, hub: Any) -> None:
    frame = land(hub)
    for word in (frame.id, frame.id[:8], frame.name):
        assert run("frames", "show", word, "--json").json["id"] == frame.id
    assert run("frames", "show", "0" * 8, "--json").error["code"] == "no-such-frame"
    land(hub, 2, id="abcdef01" + "0" * 24)
    land(hub, 3, id="abcdef01" + "1" * 24)
    assert run("frames", "show", "abcdef01", "--json").error["code"] == "ambiguous-id"


def test_withdraw_and_requeue_tell_the_node(run: Any, hub: Any) -> None:
    frame = land(hub, solve="failed", solve_code="too-few-stars")
    assert run("frames", "requeue", frame.id).code == 0
    (told,) = run("receipts", frame.name, "--json").json
    assert (told["state"], told["code"]) == ("processing", None)
    assert run("frames", "withdraw", frame.id, "--reason", "dome closed").code == 0
    (told,) = run("receipts", frame.name, "--json").json
    assert (told["state"], told["hint"]) == ("withdrawn", "dome closed")
    land(hub, 2, id="f" * 32, disposition="duplicate", duplicate_of=frame.id)
    assert run("frames", "requeue", "f" * 32, "--json").error["code"] == "frame-is-duplicate"


def test_a_nodes_filters_are_merged(run: Any, hub: Any) -> None:
    run("node", "register", "T42", "--filter", "Filter 2=R", "--filter", "a=b=I", "--lat", "-31.5")
    answer = run("node", "register", "T42", "--filter", "Filter 3=V", "--json")
    assert answer.json["filters"] == {"Filter 2": "R", "a=b": "I", "Filter 3": "V"}
    assert answer.json["site_lat_deg"] == -31.5
    assert "Filter 2 = R" in run("node", "list").out
    assert run("node", "register", "x/y", "--json").error["code"] == "bad-id"


def test_a_folder_has_no_credentials(run: Any, hub: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("node", "register", "T42", "--credential", "--json")
    assert (answer.code, answer.error["code"]) == (1, "no-credentials")
    monkeypatch.setenv("STARLOOM_LAKE_URL", "s3://theirs")
    monkeypatch.setenv("STARLOOM_LAKE_ENDPOINT", "http://127.0.0.1:1")
    assert run("node", "register", "T42", "--credential", "--json").error["code"] == "foreign-lake"
    assert run("node", "list", "--json").json == []


def test_words_in_brackets_are_shown_as_they_are(run: Any, hub: Any) -> None:
    run("mission", "create", "550", "--title", "[red]M 31[/red]")
    assert "[red]M 31[/red]" in run("mission", "list").out


def test_what_is_done_is_done_though_the_nodes_cannot_be_told(
    run: Any, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starloom.errors import Unavailable

    def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("the lake does not answer", code="lake-unavailable")

    frame = land(hub)
    monkeypatch.setattr(type(hub.lake), "put_bytes", fail)
    for words in (["frames", "withdraw", frame.id, "--reason", "dome"], ["mission", "create", "550"]):
        answer = run(*words, "--json")
        assert answer.code == 0
        assert answer.json
        assert "could not be written" in answer.err
    assert run("frames", "show", frame.id, "--json").json["state"] == "withdrawn"


def test_show_gives_the_wcs_of_a_solved_frame(run: Any, hub: Any) -> None:
    frame = land(hub)
    assert "solution" not in run("frames", "show", frame.id, "--json").json
    with hub.archive.transaction() as session:
        session.add(
            Solution(
                frame_id=frame.id,
                solver="test",
                catalog="none",
                code_version="0",
                ra_deg=10.0,
                dec_deg=20.0,
                scale_arcsec=1.0,
                rotation_deg=0.0,
                parity=1,
                rms_arcsec=0.1,
                rms_px=0.1,
                matches=20,
                order=1,
                wcs={"CTYPE1": "RA---TAN"},
                footprint=[[9.9, 19.9], [10.1, 19.9], [10.1, 20.1], [9.9, 20.1]],
            )
        )
    assert run("frames", "show", frame.id, "--json").json["solution"]["wcs"] == {"CTYPE1": "RA---TAN"}
    assert "10.00000" in run("frames", "show", frame.id).out


def test_metrics_are_printed_as_prometheus_reads_them(run: Any, hub: Any) -> None:
    land(hub)
    found = {(one["name"], *one["labels"].values()): one["value"] for one in run("metrics", "--json").json}
    assert found["starloom_frames_waiting", "ingest"] == 1
    assert 'starloom_frames_waiting{step="ingest"} 1.0' in run("metrics").out
