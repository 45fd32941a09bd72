"""Commands in a home where nothing was ever set up, and wrong settings: a sentence each, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READERS = [
    ["mission", "list"],
    ["mission", "show", "550"],
    ["mission", "complete", "550"],
    ["mission", "restack", "550"],
    ["mission", "cancel", "550"],
    ["node", "list"],
    ["frames", "list"],
    ["frames", "show", "x"],
    ["frames", "requeue", "x"],
    ["frames", "withdraw", "x", "--reason", "dome"],
]


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_what_needs_the_archive_says_how_to_get_one_and_makes_none(run: Any, home: Path, words: list[str]) -> None:
    answer = run(*words, "--json")
    assert answer.code == 1
    assert answer.error["code"] == "archive-not-ready"
    assert "starloom up" in answer.error["hint"]
    assert str(home / "archive.sqlite") in answer.error["message"]
    assert not home.exists()


def test_an_archive_without_tables_is_not_ready(run: Any, home: Path) -> None:
    home.mkdir()
    (home / "archive.sqlite").touch()
    assert run("mission", "list", "--json").error["code"] == "archive-not-ready"


def test_an_archive_of_another_version_is_told_apart(run: Any, hub: Any) -> None:
    for version, code in (("0000", "archive-outdated"), ("9999", "archive-newer")):
        with hub.archive.transaction() as session:
            session.connection().exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
        assert run("mission", "list", "--json").error["code"] == code


def test_the_first_mission_and_node_set_an_embedded_archive_up(run: Any) -> None:
    assert run("mission", "create", "550", "--ra", "10", "--dec", "-20").code == 0
    assert run("node", "register", "T42").code == 0
    assert [mission["id"] for mission in run("mission", "list", "--json").json] == ["550"]


@pytest.mark.parametrize(
    "words", [["submit", "x.fits"], ["receipts", "Cal-dark_TelID-T1_20260101T000000.fits.fz"]]
)
def test_a_frame_is_not_put_where_no_hub_will_look(run: Any, home: Path, words: list[str]) -> None:
    answer = run(*words, "--json")
    assert (answer.code, answer.error["code"]) == (1, "lake-not-ready")
    assert "STARLOOM_LAKE_URL" in answer.error["hint"]
    assert not home.exists()


def test_status_down_and_relay_before_anything_runs(run: Any) -> None:
    status = run("status", "--json")
    assert status.code == 3
    assert {row["service"]: row["state"] for row in status.json["services"]} == {
        "lake": "silent", "archive": "silent", "prefect": "silent", "worker": "down", "relay": "down",
    }  # fmt: skip
    assert "starloom up" in status.json["hint"]
    assert run("down", "--json").json == {"stopped": []}
    relay = run("relay", "--once", "--json")
    assert (relay.code, relay.error["code"]) == (1, "no-prefect")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("STARLOOM_CHUNK_SIZE", "many", "bad-setting"),
        ("STARLOOM_ENVIRONMENT", "moon", "bad-setting"),
        ("STARLOOM_ARCHIVE_URL", "not a url", "bad-archive-url"),
        ("STARLOOM_ARCHIVE_URL", "oracle9://me:s3cret@x/y", "bad-archive-url"),
        ("STARLOOM_ARCHIVE_URL", "postgresql+psycopg://me:s3cret@127.0.0.1:1/x", "archive-unavailable"),
    ],
)
def test_wrong_settings_are_named_without_their_secrets(
    run: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
) -> None:
    monkeypatch.setenv(name, value)
    answer = run("mission", "list", "--json")
    assert answer.error["code"] == code
    assert answer.code == (3 if code == "archive-unavailable" else 1)
    assert "s3cret" not in answer.out + answer.err
    if code == "bad-setting":
        assert name in answer.error["message"]


def test_a_lake_url_of_no_kind_we_know(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLOOM_LAKE_URL", "ftp://somewhere")
    assert run("submit", "x.fits", "--json").error["code"] == "bad-lake-url"


@pytest.mark.parametrize(
    "words",
    [
        ["mission", "create"],
        ["mission", "create", "1", "--ra", "10"],
        ["mission", "create", "1", "--kernel", "sinc"],
        ["mission", "frobnicate"],
        ["node", "register", "T1", "--filter", "no sign"],
        ["frames", "list", "--disposition", "lost"],
        ["frames", "list", "--limit", "0"],
        ["stack", "a.fits"],
        ["stack", "a.fits", "--out", "b.fits", "--threads", "0"],
        ["solve", "a.fits", "--ra", "1"],
        ["submit"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_one_document(run: Any, words: list[str]) -> None:
    answer = run(*words, "--json")
    assert (answer.code, answer.error["code"]) == (2, "wrong-usage")
    assert run(*words).code == 2


def commands() -> list[list[str]]:
    import typer

    from starloom.cli.app import app

    def walk(command: Any, path: list[str]) -> list[list[str]]:
        found = [path] if path else []
        for name, child in getattr(command, "commands", {}).items():
            found += walk(child, [*path, name])
        return found

    return walk(typer.main.get_command(app), [])


@pytest.mark.parametrize("words", [words for words in commands() if words != ["demo"]], ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(run: Any, words: list[str]) -> None:
    answer = run(*words, "--help")
    assert answer.code == 0
    if words not in (["mission"], ["node"], ["key"], ["frames"], ["masters"], ["refcat"], ["automations"]):
        assert "Example:" in answer.out
        # A worker takes this process's place; a policy is JSON anyway.
        assert "--json" in answer.out or words in (["worker"], ["node", "policy"])


def test_help_loads_nothing_that_takes_its_time(program: Any) -> None:
    answer = program("--help", PYTHONPROFILEIMPORTTIME="1")
    assert answer.code == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.err.splitlines()}
    assert "starloom" in loaded
    heavy = {
        "astropy",
        "minio",
        "numba",
        "numpy",
        "photutils",
        "prefect",
        "pyarrow",
        "scipy",
        "sqlalchemy",
        "sqlmodel",
    }
    assert loaded & heavy == set()


def test_a_reader_that_has_read_enough_is_no_error(home: Path, real: list[Path]) -> None:
    command = f"{sys.executable} -m starloom explain-header '{real[0]}' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
