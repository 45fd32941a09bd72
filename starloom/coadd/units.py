"""Work units: tiles of one plan, described by a small JSON document that any machine can carry out.

A folder made by `write_units` holds ``plan.json`` and one ``unit-NNNN.json`` for each share of the tiles. Whatever
runs the units (threads, Dask, containers, a batch system) needs the folder and the frames; it leaves one file a
tile beside the plan, whole or not at all, and a unit that is run again makes only what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from starloom.coadd.budget import choose_layout
from starloom.coadd.engine import Engine, margin_px
from starloom.coadd.inputs import InputFrame
from starloom.coadd.plan import StackPlan, Tile, make_tiles
from starloom.coadd.product import ProductInfo, assemble
from starloom.coadd.tiles import make_tiles_in, tile_path
from starloom.disk import whole_or_absent
from starloom.errors import BadInput

PLAN_NAME = "plan.json"


class WorkUnit(BaseModel):
    """Tiles of one plan, for one process on any machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    plan_sha256: str = Field(description="Digest of the plan in ``plan.json`` beside this document.")
    tiles: tuple[Tile, ...]
    threads: int = Field(default=1, ge=1, description="How many of its tiles are made at a time.")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a document.

        Raises
        ------
        BadInput
            ``bad-unit``, naming the file.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise BadInput(
                f"{path} is no work unit: {error}",
                code="bad-unit",
                hint="Units are written by `starloom stack-plan`.",
            ) from error


def read_plan(path: Path) -> StackPlan:
    """Read a plan.

    Raises
    ------
    BadInput
        ``bad-plan``, naming the file.
    """
    try:
        return StackPlan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(
            f"{path} is no plan: {error}", code="bad-plan", hint="Plans are written by `starloom stack-plan`."
        ) from error


def with_layout(plan: StackPlan) -> StackPlan:
    """Cut a plan's tiles so that a process of its budget can make any of them."""
    layout = choose_layout(plan, margin_px(plan))
    return plan.model_copy(update={"tiles": make_tiles(plan.shape, layout.tile_size)})


def write_units(plan: StackPlan, folder: Path, tiles_per_unit: int, *, threads: int = 1) -> list[Path]:
    """Write a plan and its work units; tiles of a unit lie side by side, so that it reads each frame once.

    Parameters
    ----------
    plan
        From `with_layout`.
    folder
        Where plan and units go, and later the tiles.
    tiles_per_unit
        The last unit may have fewer.
    threads
        See `WorkUnit`.

    Returns
    -------
    list of Path
        The unit documents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / PLAN_NAME, plan.model_dump_json())
    units = []
    for number, start in enumerate(range(0, len(plan.tiles), tiles_per_unit)):
        unit = WorkUnit(
            name=f"unit-{number:04d}",
            plan_sha256=plan.digest(),
            tiles=plan.tiles[start : start + tiles_per_unit],
            threads=threads,
        )
        units.append(folder / f"{unit.name}.json")
        _write(units[-1], unit.model_dump_json())
    return units


def run_unit(
    path: Path,
    *,
    frames: Path | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[Tile], None] | None = None,
) -> list[Path]:
    """Carry out one work unit: make those of its tiles that are not there yet.

    Parameters
    ----------
    path
        The unit's document, with ``plan.json`` beside it.
    frames
        Folder that holds the frames on this machine; None: where the plan says.
    memory_bytes
        Budget of this process; None: the plan's.

    Returns
    -------
    list of Path
        The unit's tile files.

    Raises
    ------
    BadInput
        ``bad-unit``, ``bad-plan``, ``unreadable``, ``memory-too-small``.
    """
    unit = WorkUnit.read(path)
    plan = read_plan(path.with_name(PLAN_NAME))
    if plan.digest() != unit.plan_sha256:
        raise BadInput(
            f"{path} belongs to another plan than {path.with_name(PLAN_NAME)}",
            code="bad-unit",
            hint="Keep the documents of different plans in folders of their own.",
        )
    if memory_bytes is not None:
        options = plan.options.model_copy(update={"memory_bytes": memory_bytes})
        plan = plan.model_copy(update={"options": options})
    if frames is not None:
        plan = _moved(plan, frames)
    with _shared(plan) as engine:
        make_tiles_in(engine, unit.tiles, path.parent, threads=unit.threads, progress=progress)
    return [tile_path(path.parent, tile) for tile in unit.tiles]


@dataclass
class _Shared:
    engine: Engine
    users: int = 0


_engines: dict[tuple[str, tuple[Path, ...]], _Shared] = {}
_engines_lock = threading.Lock()


@contextmanager
def _shared(plan: StackPlan) -> Iterator[Engine]:
    """Give the process's engine for a plan: units that run side by side or in turn share what is open and known.

    An engine that nobody uses stays until another plan is worked on.
    """
    key = (plan.digest(), tuple(frame.input.path.absolute() for frame in plan.used))
    with _engines_lock:
        if key not in _engines:
            for idle in [k for k, held in _engines.items() if held.users == 0]:
                _engines.pop(idle).engine.close()
            _engines[key] = _Shared(Engine(plan))
        held = _engines[key]
        held.users += 1
    try:
        yield held.engine
    finally:
        with _engines_lock:
            held.users -= 1


def assemble_units(folder: Path, out: Path) -> ProductInfo:
    """Write the product of a folder whose units have all been carried out.

    Raises
    ------
    BadInput
        ``missing-tile``, ``bad-plan``.
    """
    return assemble(read_plan(folder / PLAN_NAME), folder, out)


def _moved(plan: StackPlan, folder: Path) -> StackPlan:
    def here(item: InputFrame) -> InputFrame:
        return item.model_copy(update={"path": folder / item.path.name})

    frames = tuple(frame.model_copy(update={"input": here(frame.input)}) for frame in plan.frames)
    return plan.model_copy(update={"frames": frames})


def _write(path: Path, text: str) -> None:
    with whole_or_absent(path) as partial:
        partial.write_text(text)
