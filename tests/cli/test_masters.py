"""`masters`: what there is, of what, what waits; built and applied again from the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from starloom.archive import frames as rows
from starloom.archive import missions
from starloom.calibration import step as calibration
from starloom.frames import format_name
from starloom.frames import step as ingest
from starloom.frames.name import FrameName
from starloom.lake import keys
from starloom.sky.camera import Camera
from starloom.sky.night import frame_name, write_compressed

START = datetime(2026, 10, 8, 20, tzinfo=UTC)
CAMERA = Camera(shape=(60, 80))
CARDS = {"INSTRUME": "Test CCD", "EXPTIME": 60.0, "CCD-TEMP": -10.0, "GAIN": 100}


@pytest.fixture
def node(hub: Any) -> Any:
    with hub.archive.transaction() as session:
        missions.register_node(session, "T42", filters={"V": "V"})
        missions.create_mission(session, "550")
    return hub


def send(hub: Any, folder: Path, kind: str, n: int, first: int = 0) -> list[str]:
    for k in range(first, first + n):
        start = START + timedelta(minutes=k)
        if kind == "light":
            name = frame_name("550", "T42", start + timedelta(hours=3))
        else:
            name = format_name(FrameName(kind=kind, node="T42", start_utc=start, mission=None, compressed=True))
        image = CAMERA.expose(900.0 if kind == "light" else 0.0, 60.0, np.random.default_rng(k))
        write_compressed(folder / name, image, fits.Header(CARDS))
        hub.lake.put_file(folder / name, keys.inbox("T42", "20261008", name))
    ids = [frame_id for batch in ingest.discover(hub) for frame_id in batch.frame_ids]
    for frame_id in ids:
        ingest.run(hub, frame_id)
    return ids


def test_a_hub_without_masters_says_how_they_come(run: Any, node: Any) -> None:
    assert run("masters", "list", "--json").json == []
    assert "Cal-dark_" in run("masters", "list").out
    assert "Nothing is due" in run("masters", "build", "--now").out
    assert "the best there is" in run("masters", "outdated").out


def test_from_waiting_to_built_to_shown(run: Any, node: Any, tmp_path: Path) -> None:
    send(node, tmp_path, "dark", 2)
    (row,) = run("masters", "list", "--json").json
    assert (row["kind"], row["state"], row["why"], row["id"]) == ("dark", "waits", "2 of at least 3 frames", None)
    assert run("masters", "build", "--now", "--json").json == []
    names = send(node, tmp_path, "dark", 2, first=2)
    assert len(names) == 2
    (row,) = run("masters", "list", "--json").json
    assert row["why"] == "frames are still coming"
    assert run("masters", "build", "--json").json == []
    (row,) = run("masters", "build", "--now", "--node", "T42", "--json").json
    assert (row["kind"], row["state"], row["n_frames"], row["node"]) == ("dark", "current", 4, "T42")
    (listed,) = run("masters", "list", "--json").json
    assert (listed["id"], listed["exposure_s"], listed["temperature_c"]) == (row["id"], 60.0, -10.0)
    shown = run("masters", "show", str(row["id"]), "--json").json
    assert shown["stats"]["noise_adu"] == pytest.approx(4.2, rel=0.2)
    assert len(shown["frames"]) == 4
    assert shown["frames"][0].startswith("Cal-dark_TelID-T42_")
    assert shown["key"].startswith("masters/T42/")
    text = run("masters", "show", str(row["id"])).out
    assert "noise adu" in text
    assert "Cal-dark_TelID-T42_" in text


def test_frames_that_came_before_their_dark_are_offered(run: Any, node: Any, tmp_path: Path) -> None:
    (frame_id,) = send(node, tmp_path, "light", 1)
    calibration.run(node, frame_id)
    with node.archive.transaction() as session:
        for step in ("solve", "measure"):
            rows.settle_step(session, frame_id, step)  # type: ignore[arg-type]
    send(node, tmp_path, "dark", 3)
    run("masters", "build", "--now")
    (row,) = run("masters", "outdated", "--json").json
    assert (row["id"], row["why"], row["state"]) == (frame_id, ["no dark before"], "ready")
    with node.archive.session() as session:
        assert rows.get(session, frame_id).calibrate == "ok"
    assert "sweep" in run("masters", "outdated", "--again").out
    with node.archive.session() as session:
        assert rows.get(session, frame_id).calibrate == "pending"
    calibration.run(node, frame_id)
    assert run("masters", "outdated", "--json").json == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "7"), "no-such-master"),
        (("list", "--node", "T99"), "no-such-node"),
        (("build", "--node", "T99"), "no-such-node"),
        (("outdated", "--node", "T99"), "no-such-node"),
    ],
)
def test_what_is_not_there_is_no_traceback(run: Any, node: Any, words: tuple[str, ...], code: str) -> None:
    answer = run("masters", *words, "--json")
    assert (answer.code, answer.error["code"]) == (1, code)
