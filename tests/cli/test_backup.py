"""`starloom backup`, `restore`, `reconcile`, `doctor` as their user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from starloom.archive import missions
from starloom.hub import Hub
from tests.cli.conftest import Run


@pytest.fixture
def place(hub: Hub, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup with mission `old`, and an archive that has got `new` since."""
    monkeypatch.setenv("STARLOOM_LAKE_URL", hub.settings.lake_url)  # a folder: no server is started for a restore
    create(hub, "old")
    assert run("backup", tmp_path / "backups").code == 0
    create(hub, "new")
    hub.archive.dispose()
    return tmp_path / "backups"


def create(hub: Hub, mission: str) -> None:
    with hub.archive.transaction() as session:
        missions.create_mission(session, mission)


def test_backup_says_what_it_holds(hub: Hub, run: Run, tmp_path: Path) -> None:
    said = run("backup", tmp_path / "backups", "--json").json
    assert Path(said["where"]).is_dir()
    assert said["manifest"]["rows"]["mission"] == 0
    assert said["manifest"]["files"][0]["bytes"] == said["bytes"]


def test_restore_refuses_and_obeys(run: Run, place: Path) -> None:
    said = run("restore", place, "--json")
    assert (said.code, said.error["code"]) == (1, "archive-not-empty")
    said = run("restore", place, "--force")
    assert said.code == 0
    assert "starloom up" in said.out
    assert [mission["id"] for mission in run("mission", "list", "--json").json] == ["old"]


def test_restore_into_a_home_that_lost_its_archive(run: Run, place: Path, home: Path) -> None:
    for path in home.glob("archive.sqlite*"):
        path.unlink()
    said = run("restore", place, "--json").json
    assert said["rows"]["mission"] == 1
    assert said["reconciled"]["frames_registered"] == []


def test_reconcile_of_a_hub_that_lost_nothing(hub: Hub, run: Run) -> None:
    said = run("reconcile")
    assert (said.code, said.out.split(".")[0]) == (0, "Archive and lake agree")
    assert run("reconcile", "--dry-run", "--json").json["dry_run"] is True


def test_a_place_that_is_none(hub: Hub, run: Run, tmp_path: Path) -> None:
    assert run("backup", "ftp://elsewhere", "--json").error["code"] == "bad-place"
    assert run("restore", tmp_path / "nothing", "--json").code == 1


def test_doctor_ends_with_one_where_there_is_a_problem(hub: Hub, run: Run) -> None:
    said = run("doctor", "--only", "archive", "--only", "lake", "--json")
    assert (said.code, said.json["well"]) == (0, True)
    said = run("doctor", "--only", "prefect")
    assert said.code == 1
    assert "→" in said.out
    assert run("doctor", "--only", "weather", "--json").error["code"] == "no-such-check"
