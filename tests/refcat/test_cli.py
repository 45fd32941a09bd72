from __future__ import annotations

import json
from pathlib import Path

import pytest

from starloom.cli import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("STARLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STARLOOM_REFCAT_ONLINE", raising=False)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "field.csv"
    path.write_text("alpha,delta,Vmag,e_Vmag\n10.0,20.0,9.0,0.01\n10.1,20.1,10.0,0.02\n10.2,20.2,-99,0\n")
    return path


def test_a_catalogue_comes_and_goes(run, file: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    terms = tmp_path / "LICENCE"
    terms.write_text("Do as you like.\n")
    words = ("refcat", "import", str(file), "--epoch", "2010.0", "--release", "r1", "--licence", str(terms))
    code, out, _ = run(*words, "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["name"], said["stars"], said["read"], said["without_magnitude"]) == ("field", 2, 3, 1)
    assert (said["licence"], said["version"], said["bands"]) == ("Do as you like.", "r1", ["V"])

    code, out, _ = run("refcat", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["Tycho-2"]["kind"] == "shipped"
    assert rows["Tycho-2"]["proper_motion"] is True
    assert (rows["field"]["kind"], rows["field"]["stars"]) == ("imported", 2)

    code, out, _ = run("refcat", "show", "field")
    assert code == 0
    assert "Do as you like." in out

    code, _, err = run(*words)
    assert code == 1
    assert "refcat-exists" in err
    assert run(*words, "--replace")[0] == 0
    assert run("refcat", "remove", "field")[0] == 0
    assert run("refcat", "show", "field")[0] == 1


def test_the_columns_can_be_told(run, file: Path) -> None:  # type: ignore[no-untyped-def]
    file.write_text("x,y,bright\n1.0,20.0,9.0\n")
    code, _, err = run("refcat", "import", str(file))
    assert code == 1
    assert "--column" in err
    code, out, _ = run(
        "refcat", "import", str(file), "--column", "ra=x", "--column", "dec=y", "--column", "mag_r=bright",
        "--unit", "ra=h", "--epoch", "2016", "--name", "told", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["band"] == "r"
    code, _, _ = run("refcat", "import", str(file), "--column", "ra")
    assert code == 2


@pytest.mark.parametrize("name", ["../out", ".hidden", "a/b", "x" * 65])
def test_a_name_is_a_name(run, file: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("refcat", "import", str(file), "--name", name, "--epoch", "2010")
    assert code == 1
    assert "refcat-name" in err
    assert run("refcat", "remove", name)[0] == 1


def test_online_services_are_listed_where_on(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("STARLOOM_REFCAT_ONLINE", "true")
    _, out, _ = run("refcat", "list", "--json")
    online = {row["name"]: row for row in json.loads(out) if row["kind"] == "online"}
    assert set(online) == {"gaia", "panstarrs", "apass"}
    _, out, _ = run("refcat", "show", "gaia", "--json")
    assert json.loads(out)["licence"].startswith("CC BY-SA")
