"""Looking for trails in all frames of a plan, within a memory budget, by any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.plan import PlanFrame, StackPlan, Streak, Tile, make_tiles
from starloom.coadd.streaks.levels import levelled, unlevelled
from starloom.coadd.streaks.lines import Follower, Line
from starloom.coadd.streaks.radon import brightest_segment
from starloom.coadd.streaks.significance import Warp, tile_significance
from starloom.coadd.streaks.trails import trail_of

_CELL_PX = (8, 16, 32)
_COARSE_BYTES = 256_000_000
"""Most that the coarse images of all frames may take; decides the cell, whatever memory there is."""

_TILES_PX = (1024, 512, 256, 128)
_MEMORY_BYTES = 1_000_000_000

_SEED_SIGMA = 6.5
"""Ten million segments are tried a frame; empty sky shows one of 6.5 deviations in a thousand frames."""

_MOST_TRAILS = 40
_MOST_FALSE = 12

Progress = Callable[[int, int], None]
Coarse = NDArray[np.float16]
Item = TypeVar("Item")
Result = TypeVar("Result")


def cell_px(frames: Sequence[PlanFrame]) -> int:
    """Return the side of a cell, output pixels: by the plan alone, so that no budget changes what is found."""
    pixels = sum(frame.shape[0] * frame.shape[1] / frame.area for frame in frames)
    return next((c for c in _CELL_PX if 2 * pixels / c**2 <= _COARSE_BYTES), _CELL_PX[-1])


def _tile_px(n: int, threads: int, memory_bytes: int | None) -> int:
    """Return the side of the tiles that fit: per thread two copies of all frames at half scale, and one frame."""
    budget = (memory_bytes or _MEMORY_BYTES) / max(threads, 1)
    return next((t for t in _TILES_PX if t * t * (2 * n + 24) <= budget), _TILES_PX[-1])


def streaks_of(
    coarse: NDArray[np.floating],
    structure: NDArray[np.floating],
    origin: tuple[int, int],
    cell: int,
    measure: Callable[[Line, tuple[bool, bool]], list[Streak]],
) -> tuple[Streak, ...]:
    """Find the trails of one frame in its coarse image.

    Parameters
    ----------
    coarse
        Excess over the other frames per cell, in units of its noise; NaN where unknown; shape ``(ny, nx)``.
    structure
        What all frames have in common and the sky about has not, in the same units, same shape; NaN where unknown.
    origin
        Output pixel (x, y) of the first cell's corner.
    cell
        Side of a cell, output pixels.
    measure
        Measures a line (output pixels) on the frame's pixels; returns no streak where there is nothing. Is told of
        its start and its end whether the coarse image ends there.

    Returns
    -------
    tuple of Streak
        The most significant first.
    """
    values, known = levelled(np.asarray(coarse, np.float32), np.asarray(structure, np.float32))
    y, x = np.mgrid[: values.shape[0], : values.shape[1]].astype(float)
    found: list[Streak] = []
    trails, false = 0, 0
    while trails < _MOST_TRAILS and false < _MOST_FALSE:
        # Wider than unity where cosmic rays are many: of one cell in twenty at the bound, lines are soon made.
        noise = max(1.0, float(values[known].std())) if known.any() else 1.0
        seed = brightest_segment(values, known)
        if seed is None or seed.significance < _SEED_SIGMA * noise:
            break
        follower = Follower(values, known)
        line = follower.follow(seed)
        streaks: list[Streak] = []
        if follower.is_ridge(line):
            shift_x, shift_y = origin[0] + (cell - 1) / 2, origin[1] + (cell - 1) / 2
            streaks = measure(
                Line(
                    line.x0 * cell + shift_x,
                    line.y0 * cell + shift_y,
                    line.x1 * cell + shift_x,
                    line.y1 * cell + shift_y,
                ),
                follower.is_cut(line),
            )
        found += streaks
        trails, false = (trails + 1, false) if streaks else (trails, false + 1)
        # What is explained is taken out, and so is the seed, or the search would never end.
        reach = max((s.half_width for s in streaks), default=0.0) / cell + 1.5
        for part in (line, Line(seed.x0, seed.y0, seed.x1, seed.y1)):
            t, u = part.along(x, y)
            out = (np.abs(u) <= reach) & (t > -1.5) & (t < part.length + 1.5)
            values[out], known[out] = 0, False
    return tuple(found)


def _mapped(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)


def _assembled(blocks: dict[tuple[int, int], Coarse]) -> tuple[Coarse, tuple[int, int]]:
    """Return the coarse image of a frame, cut to what is known, and its first cell (x, y)."""
    x0, y0 = min(x for x, _ in blocks), min(y for _, y in blocks)
    x1 = max(x + part.shape[1] for (x, _), part in blocks.items())
    y1 = max(y + part.shape[0] for (_, y), part in blocks.items())
    coarse = np.full((y1 - y0, x1 - x0), np.nan, np.float16)
    for (x, y), part in blocks.items():
        coarse[y - y0 : y - y0 + part.shape[0], x - x0 : x - x0 + part.shape[1]] = part
    # Cut, so that meshes and strips lie alike however the grid was tiled.
    known = np.isfinite(coarse)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    cut = coarse[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut, (x0 + int(columns[0]), y0 + int(rows[0]))


def find_streaks(
    plan: StackPlan,
    warp: Warp,
    *,
    threads: int = 1,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> StackPlan:
    """Find the trails in a plan's frames.

    Parameters
    ----------
    plan
        Frames with a weight are compared with each other; two are enough.
    warp
        ``warp(frame, tile)`` returns the frame resampled onto a tile (output units, sky matched, NaN or `ABSENT`
        where it has nothing), or None where they do not overlap. Called from several threads.
    threads, memory_bytes
        Change nothing but time and memory.
    progress
        Called as ``progress(done, total)``.

    Returns
    -------
    StackPlan
        The plan with ``PlanFrame.streaks`` filled in; those of frames without a weight are left alone.
    """
    frames = plan.used
    if len(frames) < 2:
        return plan
    cell, fwhm = cell_px(frames), max(frame.fwhm_px for frame in frames)
    size = _tile_px(len(frames), threads, memory_bytes)
    tiles = make_tiles(plan.shape, size)
    blocks: list[dict[tuple[int, int], Coarse]] = [{} for _ in frames]
    done, total = 0, len(tiles) + len(frames)

    def note() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    middle = np.full((-(-plan.shape[0] // cell), -(-plan.shape[1] // cell)), np.nan, np.float32)

    def compare(tile: Tile) -> tuple[NDArray[np.float32] | None, list[Coarse | None]]:
        return tile_significance(plan, frames, warp, tile, cell, fwhm)

    for tile, (means, parts) in zip(tiles, _mapped(compare, tiles, threads), strict=True):
        x0, y0 = tile.x0 // cell, tile.y0 // cell
        if means is not None:
            middle[y0 : y0 + means.shape[0], x0 : x0 + means.shape[1]] = means
        for mine, part in zip(blocks, parts, strict=True):
            if part is not None:
                mine[x0, y0] = part
        note()
    structure = unlevelled(middle)

    def search(index: int) -> tuple[Streak, ...]:
        mine, frame = blocks[index], frames[index]
        blocks[index] = {}
        if not mine:
            return ()
        coarse, (x0, y0) = _assembled(mine)

        # In units of the noise of a cell's mean.
        here = structure[y0 : y0 + coarse.shape[0], x0 : x0 + coarse.shape[1]] * (cell / frame.sigma)
        return streaks_of(
            coarse,
            here,
            (x0 * cell, y0 * cell),
            cell,
            lambda line, is_cut: trail_of(plan, frames, index, warp, line, is_cut, 0.75 * cell),
        )

    streaks: list[tuple[Streak, ...]] = []
    for found in _mapped(search, range(len(frames)), threads):
        streaks.append(found)
        note()
    filled = iter(streaks)
    return plan.model_copy(
        update={
            "frames": tuple(
                frame.model_copy(update={"streaks": next(filled)}) if frame.weight > 0 else frame
                for frame in plan.frames
            )
        }
    )
