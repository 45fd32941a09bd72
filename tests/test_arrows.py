"""The direction of the imports: flows → tasks → starloom, blocks → starloom; science rooms know no services."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCIENCE = {"frames", "calibration", "astrometry", "photometry", "coadd", "restore", "refcat", "sky", "quicklook"}
SERVICES = {"starloom.archive", "starloom.lake", "starloom.dispatch", "starloom.hub"}


def imports_of(path: Path) -> Iterator[str]:
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative imports hide the direction of the arrows"
            module = item.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in item.names)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def touches(name: str, targets: set[str]) -> bool:
    return any(name == target or name.startswith(f"{target}.") for target in targets)


@pytest.mark.parametrize("path", modules("starloom"), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_knows_nothing_of_prefect_or_of_the_adapters(path: Path) -> None:
    wrong = [n for n in imports_of(path) if touches(n, {"prefect", "prefect_dask", "flows", "tasks", "blocks"})]
    assert wrong == []


@pytest.mark.parametrize("path", modules("starloom"), ids=lambda p: str(p.relative_to(ROOT)))
def test_science_rooms_meet_services_only_in_their_step(path: Path) -> None:
    room = path.relative_to(ROOT / "starloom").parts[0]
    if room in SCIENCE and path.name != "step.py":
        assert [n for n in imports_of(path) if touches(n, SERVICES)] == []


@pytest.mark.parametrize("folder", ["tasks", "blocks"])
def test_adapters_do_not_import_flows(folder: str) -> None:
    assert modules(folder), f"{folder}/ holds no modules"
    for path in modules(folder):
        assert [n for n in imports_of(path) if touches(n, {"flows"})] == [], path


def test_the_walk_sees_the_house() -> None:
    rooms = {p.relative_to(ROOT / "starloom").parts[0] for p in modules("starloom")}
    assert {"frames", "lake", "archive", "astrometry", "coadd", "dispatch"} <= rooms
