"""Tiles: the unit of work. Independent of each other, idempotent, of bounded memory, the same bits anywhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from starloom.coadd.combine import FrameNoise, combine
from starloom.coadd.plan import StackPlan, Tile
from starloom.coadd.warp import FrameWarper

_MARGIN_PX = 24
"""Tiles are computed this much larger, so that a trail is followed and masked alike across their seams."""


def _padded(plan: StackPlan, tile: Tile) -> tuple[Tile, tuple[slice, slice]]:
    ny, nx = plan.shape
    x0, y0 = max(0, tile.x0 - _MARGIN_PX), max(0, tile.y0 - _MARGIN_PX)
    x1, y1 = min(nx, tile.x0 + tile.nx + _MARGIN_PX), min(ny, tile.y0 + tile.ny + _MARGIN_PX)
    inner = (slice(tile.y0 - y0, tile.y0 - y0 + tile.ny), slice(tile.x0 - x0, tile.x0 - x0 + tile.nx))
    return Tile(x0=x0, y0=y0, nx=x1 - x0, ny=y1 - y0), inner


def tile_path(workdir: Path, tile: Tile) -> Path:
    """Return where a tile's result lies."""
    return workdir / f"{tile.name}.npz"


def _is_done(path: Path, digest: str) -> bool:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return str(saved["digest"]) == digest
    except (OSError, ValueError, KeyError, BadZipFile):
        return False


def stack_tile(plan: StackPlan, tile: Tile, workdir: Path) -> Path:
    """Warp and combine one tile; does nothing where its result for this very plan exists.

    Returns
    -------
    Path
        ``.npz`` with ``sci``, ``weight``, ``rejected`` (float32), ``coverage`` (int16), each of the tile's
        shape, and ``used``, ``clipped`` (int64, one per frame with a weight): pixels offered and rejected.
    """
    path, digest = tile_path(workdir, tile), plan.digest()
    if _is_done(path, digest):
        return path
    padded, inner = _padded(plan, tile)
    used = plan.used
    # Only the frames that touch this tile are held: memory follows the depth here, not the number of frames.
    planes, weights, indices = [], [], []
    for index, frame in enumerate(used):
        warped = FrameWarper(plan, frame).warp_weighted(padded)
        if warped is not None:
            planes.append(warped[0])
            weights.append(warped[1])
            indices.append(index)
    noises = [FrameNoise.of(plan, used[index]) for index in indices]
    result = combine(planes, noises, plan.options, (padded.ny, padded.nx), weights)
    offered, clipped = np.zeros(len(used), np.int64), np.zeros(len(used), np.int64)
    for position, index in enumerate(indices):
        offered[index] = int(np.isfinite(planes[position][inner]).sum())
        clipped[index] = int(result.masks[position][inner].sum())
    workdir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{tile.name}-", suffix=".npz", dir=workdir)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(
                stream,
                digest=np.array(digest),
                sci=result.sci[inner],
                weight=result.weight[inner],
                coverage=result.coverage[inner],
                rejected=result.rejected[inner],
                used=offered,
                clipped=clipped,
            )
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def run_tiles(
    plan: StackPlan,
    workdir: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Make all tiles of a plan; any number of threads gives the same bits, for a tile sums in plan order."""
    done: list[Path] = []

    def note(path: Path) -> None:
        done.append(path)
        if progress:
            progress(len(done), len(plan.tiles))

    if threads <= 1:
        for tile in plan.tiles:
            note(stack_tile(plan, tile, workdir))
        return done
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(stack_tile, plan, tile, workdir) for tile in plan.tiles]
        try:
            for future in futures:
                note(future.result())
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return done
