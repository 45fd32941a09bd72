"""The demo as a stranger runs it: one command, real services, one JSON document; nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from starloom.dispatch.embedded import Embedded
from starloom.errors import BadInput

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(home: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "starloom", "demo", "--home", str(home), *options]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def outcome(home: Path) -> dict[str, Any]:
    done = subprocess.run(command(home, "--json"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def mission(outcome: dict[str, Any], name: str) -> dict[str, Any]:
    return next(m for m in outcome["missions"] if m["id"] == name)


def test_both_missions_are_stacked(outcome: dict[str, Any]) -> None:
    tres1, network = mission(outcome, "TrES-1"), mission(outcome, "550")
    assert (tres1["status"], tres1["revision"], tres1["frames"]["ready"]) == ("STACKED", 1, 14)
    assert (network["status"], network["revision"]) == ("STACKED", 2)
    assert network["frames"] == {"ready": 13, "quarantined": 1, "duplicate": 1}
    for entry in (tres1, network):
        (product,) = entry["products"]
        with fits.open(product["sci"]) as hdus:
            names = ["SCI", "WEIGHT", "COVERAGE", "REJECTED", "FLAGS", "PSF", "PROVENANCE"]
            assert [hdu.name for hdu in hdus[1:]] == names
            assert hdus["SCI"].header["NCOMBINE"] == product["summary"]["n_used"]
        assert Path(product["preview"]).read_bytes().startswith(b"\x89PNG")


def test_every_bad_frame_is_named_for_what_it_is(outcome: dict[str, Any]) -> None:
    said = {(row["state"], row["code"]) for row in outcome["frames"] if row["state"] != "ready"}
    assert said == {("quarantined", "truncated"), ("quarantined", "bad-name"), ("duplicate", "duplicate")}
    astray = [row for row in outcome["frames"] if "off-target" in row["flags"]]
    assert len(astray) == 1
    (product,) = mission(outcome, "550")["products"]
    reasons = [frame["reason"] for frame in product["summary"]["frames"] if frame["reason"]]
    assert reasons == ["off-target"]


def test_the_real_frames_were_calibrated_with_the_darks_of_their_night(outcome: dict[str, Any]) -> None:
    flags = [set(row["flags"]) for row in outcome["frames"] if row["mission"] == "TrES-1"]
    assert len(flags) == 14
    assert all("no-flat" in said and not said & {"no-dark", "uncalibrated"} for said in flags)


def test_one_run_and_one_set_of_products_a_revision(outcome: dict[str, Any]) -> None:
    # A second run would have ended as AlreadyClaimed, which is counted under that name.
    assert outcome["runs"]["TrES-1"]["Completed"] == 1
    assert outcome["runs"]["550"]["Completed"] == 2
    for entry in outcome["missions"]:
        published = sorted(product["key"] for product in [*entry["earlier"], *entry["products"]])
        assert outcome["stacks"][entry["id"]] == published


def test_the_late_frame_makes_a_second_revision_on_the_same_grid(outcome: dict[str, Any]) -> None:
    network = mission(outcome, "550")
    (first,), (second,) = network["earlier"], network["products"]
    assert second["summary"]["n_used"] == first["summary"]["n_used"] + 1
    with fits.open(first["sci"]) as before, fits.open(second["sci"]) as after:
        for card in ("NAXIS1", "NAXIS2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD2_2"):
            assert before["SCI"].header[card] == after["SCI"].header[card]


def test_the_report_stands_alone(outcome: dict[str, Any]) -> None:
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 8
    assert "UPDATE mission SET status" in page
    assert 'src="http' not in page


def test_nothing_is_left_running(outcome: dict[str, Any], home: Path) -> None:
    assert outcome["ui"].startswith("http://127.0.0.1:")
    assert set(Embedded(home).pids().values()) == {None}


def test_an_interruption_leaves_nothing_behind(home: Path, outcome: dict[str, Any], tmp_path: Path) -> None:
    # The second run replaces the first one's folder, which a new home would not show.
    # A shell's background job ignores interrupts, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    said = tmp_path / "said.txt"
    try:
        with said.open("wb") as output:
            child = subprocess.Popen(command(home), stdout=output, stderr=output)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while Embedded(home).pids()["relay"] is None:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    pids = [pid for pid in Embedded(home).pids().values() if pid is not None]
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=300) == 130, said.read_text()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    from starloom.demo.story import fresh_home

    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(BadInput, match="not an earlier demo's"):
        fresh_home(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "mine"
