"""Tiles as files: what a work unit leaves behind, whole or absent, for whoever assembles the product."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from starloom.coadd.engine import Engine, TilePlanes
from starloom.coadd.plan import StackPlan, Tile
from starloom.disk import whole_or_absent
from starloom.errors import BadInput

_MAGIC = b"starloom tile 1\n"


def tile_path(workdir: Path, tile: Tile) -> Path:
    """Return where a tile's result lies."""
    return workdir / f"{tile.name}.tile"


def write_tile(path: Path, digest: str, tile: Tile, planes: TilePlanes) -> None:
    """Write a tile's planes, one after the other, behind a line of JSON; whole or not at all."""
    arrays = {field.name: np.ascontiguousarray(getattr(planes, field.name)) for field in fields(planes)}
    head = {
        "digest": digest,
        "tile": tile.model_dump(),
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_or_absent(path) as partial, partial.open("wb") as stream:
        stream.write(_MAGIC + json.dumps(head).encode() + b"\n")
        for array in arrays.values():
            array.tofile(stream)


def read_tile(path: Path, digest: str, tile: Tile, n_frames: int) -> TilePlanes:
    """Read a tile's planes.

    Raises
    ------
    BadInput
        ``missing-tile``: absent, of another plan or tile, or damaged.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it is no tile")
            head = json.loads(stream.readline(100_000))
            if head["digest"] != digest or head["tile"] != tile.model_dump():
                raise ValueError("it belongs to another plan")
            shapes = {field.name: [tile.ny, tile.nx] for field in fields(TilePlanes)}
            shapes |= {"offered": [n_frames], "clipped": [n_frames]}
            arrays = {}
            for name, dtype, shape in head["arrays"]:
                if shape != shapes[name]:
                    raise ValueError(f"its {name} has shape {shape}")
                array = np.fromfile(stream, np.dtype(dtype), int(np.prod(shape)))
                arrays[name] = array.reshape(shape)
            return TilePlanes(**arrays)
    except FileNotFoundError as error:
        raise BadInput(
            f"{path} is missing", code="missing-tile", hint="Run the work unit of this tile first."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} cannot be used: {error}", code="missing-tile", hint="Run the work unit of this tile again."
        ) from error


def is_made(path: Path, digest: str, tile: Tile, n_frames: int) -> bool:
    """Tell whether a tile's result is there, of this very plan."""
    try:
        read_tile(path, digest, tile, n_frames)
    except BadInput:
        return False
    return True


def make_tiles_in(
    engine: Engine,
    tiles: Sequence[Tile],
    workdir: Path,
    *,
    threads: int | None = None,
    progress: Callable[[Tile], None] | None = None,
) -> None:
    """Make those of the tiles that are not there yet."""
    plan: StackPlan = engine.plan
    digest, n = plan.digest(), len(plan.used)
    left = [tile for tile in tiles if not is_made(tile_path(workdir, tile), digest, tile, n)]

    def sink(tile: Tile, planes: TilePlanes) -> None:
        write_tile(tile_path(workdir, tile), digest, tile, planes)

    engine.run(left, sink, threads=threads, progress=progress)
