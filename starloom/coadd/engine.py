"""The work of a tile: read what it needs of every frame, resample, combine; nothing is written in between."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.budget import Layout, choose_layout
from starloom.coadd.combine import Combined, FrameNoise, combine_tile, reach_px
from starloom.coadd.fused.limits import mark_limits
from starloom.coadd.jit import ABSENT
from starloom.coadd.mapping import FrameMap, sky_level_nodes
from starloom.coadd.pixels import FrameSource, open_source
from starloom.coadd.plan import PlanFrame, StackPlan, Tile, make_tiles
from starloom.coadd.proper import combine_proper, proper_reach_px
from starloom.coadd.resample.finish import cut_streak
from starloom.coadd.warp import Warper
from starloom.errors import BadInput

Floats = NDArray[np.float32]

SATURATED, LOWER_LIMIT, STREAK = 1, 2, 4
"""Bits of the product's ``FLAGS``: some frame was saturated here; every frame was, and the value is a limit; a
trail was left out here."""


@dataclass(frozen=True)
class TilePlanes:
    """What a tile came to: planes of its shape, and pixels offered and rejected of each frame with a weight."""

    sci: Floats
    weight: Floats
    coverage: NDArray[np.int16]
    rejected: Floats
    flags: NDArray[np.uint8]
    offered: NDArray[np.int64]
    clipped: NDArray[np.int64]


@dataclass(frozen=True)
class _OpenFrame:
    source: FrameSource
    frame_map: FrameMap
    warper: Warper


class Engine:
    """The frames of a plan, open for reading, and what turns them into tiles. Threads share one.

    Parameters
    ----------
    plan
        What to make.
    layout
        From `choose_layout`; None: chosen here.

    Raises
    ------
    BadInput
        What the reader and the map raise: ``unreadable``, ``wcs-too-curved``, ``memory-too-small``.

    Notes
    -----
    The pixels of a tile do not depend on how the grid is cut, on the number of threads, or on what was made
    before: every operation looks no further than the margin, and sums run over the frames in plan order.
    ``proper`` is the exception: it works in Fourier space, hence always on the same tiles.
    """

    def __init__(self, plan: StackPlan, layout: Layout | None = None) -> None:
        self.plan = plan
        self._noises = FrameNoise.of_plan(plan)
        self.margin_px = margin_px(plan)
        self.layout = layout or choose_layout(plan, self.margin_px)
        self._open: dict[str, _OpenFrame] = {}
        self._opening = threading.Lock()
        # As many cubes as threads: whoever comes beyond waits, so that memory is bounded whatever calls `make`.
        self._cubes: queue.SimpleQueue[Floats] = queue.SimpleQueue()
        for _ in range(self.layout.threads):
            self._cubes.put(np.empty(0, np.float32))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all frames."""
        for opened in self._open.values():
            opened.source.close()
        self._open.clear()

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """The grid, cut as the layout says."""
        return make_tiles(self.plan.shape, self.layout.tile_size)

    def _opened(self, frame: PlanFrame) -> _OpenFrame:
        found = self._open.get(frame.input.id)
        if found is None:
            with self._opening:
                found = self._open.get(frame.input.id)
                if found is None:
                    source = open_source(frame.input.path, checkpoint_px=self.layout.checkpoint_px)
                    frame_map = FrameMap.of(self.plan, frame)
                    found = _OpenFrame(source, frame_map, Warper(self.plan, frame, source, frame_map))
                    self._open[frame.input.id] = found
        return found

    def resampled(self, frame: PlanFrame, tile: Tile) -> Floats | None:
        """Return one frame on a tile, output units, sky matched, NaN where it has nothing; None: no overlap."""
        out = np.empty((tile.ny, tile.nx), np.float32)
        saturated = np.full_like(out, -ABSENT)
        if not self._opened(frame).warper.warp(tile, out, saturated):
            return None
        out[out >= ABSENT] = np.nan
        return out

    def make(self, tile: Tile) -> TilePlanes:
        """Make one tile; waits while as many as the layout allows are being made."""
        held = self._cubes.get()
        try:
            padded, inner = _padded(self.plan, tile, self.margin_px)
            size = len(self.plan.used) * padded.ny * padded.nx
            if held.size < size:
                # Planes that are never written never become memory: not every frame touches every tile.
                held = np.empty(size, np.float32)
            return self._make(padded, inner, held[:size].reshape(-1, padded.ny, padded.nx))
        finally:
            self._cubes.put(held)

    def _make(self, padded: Tile, inner: tuple[slice, slice], cube: Floats) -> TilePlanes:
        used = self.plan.used
        saturated = np.full((padded.ny, padded.nx), -ABSENT, np.float32)
        members: list[int] = []
        for index, frame in enumerate(used):
            if self._opened(frame).warper.warp(padded, cube[len(members)], saturated):
                members.append(index)
        level = sky_level_nodes(self.plan, padded)
        relative = self._relative([used[index] for index in members], padded, level)
        result = self._combine(cube[: len(members)], members, relative, level, padded, inner)
        offered, clipped = np.zeros(len(used), np.int64), np.zeros(len(used), np.int64)
        offered[members], clipped[members] = result.offered, result.clipped
        flags = np.empty(result.sci.shape, np.uint8)
        mark_limits(saturated[inner], result.coverage, result.sci, flags, SATURATED, LOWER_LIMIT)
        trailed = [used[index] for index in members if used[index].streaks]
        if trailed:
            flags |= _streaked(trailed, padded)[inner]
        return TilePlanes(result.sci, result.weight, result.coverage, result.rejected, flags, offered, clipped)

    def _combine(
        self,
        cube: Floats,
        members: Sequence[int],
        relative: Floats | None,
        level: Floats,
        padded: Tile,
        inner: tuple[slice, slice],
    ) -> Combined:
        noises = [self._noises[index] for index in members]
        if self.plan.options.combine != "proper":
            return combine_tile(cube, noises, relative, self.plan.options, level, padded, inner)
        # A transform spreads what is wrong in a pixel over its surroundings: outliers have to go before.
        clip = self.plan.options.model_copy(update={"combine": "clipped"})
        clipped = combine_tile(cube, noises, relative, clip, level, padded, inner)
        psfs = [psf_of(self.plan.used[index]) for index in members]
        made = combine_proper(cube, noises, psfs, relative, padded, inner)
        return replace(clipped, sci=made.sci, weight=made.weight, coverage=made.coverage)

    def _relative(self, frames: Sequence[PlanFrame], tile: Tile, like: Floats) -> Floats | None:
        lattices = [self._opened(frame).frame_map.relative(tile) for frame in frames]
        if all(lattice is None for lattice in lattices):
            return None
        return np.stack([np.ones_like(like) if lattice is None else lattice for lattice in lattices])

    def run(
        self,
        tiles: Iterable[Tile],
        sink: Callable[[Tile, TilePlanes], None],
        *,
        threads: int | None = None,
        progress: Callable[[Tile], None] | None = None,
    ) -> None:
        """Make tiles with ``threads`` (the layout's), and hand each to ``sink`` in the thread that made it.

        ``progress`` is called in the caller's thread. The first error stops the work and is raised.
        """

        def work(tile: Tile) -> Tile:
            sink(tile, self.make(tile))
            return tile

        threads = threads or self.layout.threads
        with ThreadPoolExecutor(threads) as pool:
            waiting = iter(tiles)
            running: set[Future[Tile]] = set()
            try:
                while True:
                    # A short queue: an error or an interrupt is not followed by a thousand tiles.
                    running |= {pool.submit(work, t) for t in islice(waiting, 2 * threads - len(running))}
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        tile = future.result()
                        if progress:
                            progress(tile)
            except BaseException:
                for future in running:
                    future.cancel()
                raise


def _streaked(frames: Sequence[PlanFrame], tile: Tile) -> NDArray[np.uint8]:
    """Return the flag of those pixels of a tile that lie on a frame's streak."""
    plane = np.zeros((tile.ny, tile.nx), np.float32)
    for frame in frames:
        dx, dy = frame.shift_px
        for s in frame.streaks:
            cut_streak(s.x0 - dx, s.y0 - dy, s.x1 - dx, s.y1 - dy, s.half_width, tile.x0, tile.y0, plane)
    return np.where(plane == ABSENT, np.uint8(STREAK), np.uint8(0))


def margin_px(plan: StackPlan) -> int:
    """Return how far around a pixel its value depends on others."""
    reach = reach_px(FrameNoise.of_plan(plan))
    if plan.options.combine == "proper" and plan.used:
        reach += proper_reach_px([psf_of(frame) for frame in plan.used])
    return reach


def psf_of(frame: PlanFrame) -> Floats:
    """Return the PSF that a plan has for a frame, on the output grid.

    Raises
    ------
    BadInput
        ``no-psf``: the plan has not been through `stages.prepared`.
    """
    if frame.psf is None:
        raise BadInput(
            f"the plan has no PSF for {frame.input.id}",
            code="no-psf",
            hint="Proper co-addition needs a plan from `starloom stack-plan --combine proper`.",
        )
    return np.asarray(frame.psf, np.float32)


def _padded(plan: StackPlan, tile: Tile, margin: int) -> tuple[Tile, tuple[slice, slice]]:
    ny, nx = plan.shape
    x0, y0 = max(0, tile.x0 - margin), max(0, tile.y0 - margin)
    x1, y1 = min(nx, tile.x0 + tile.nx + margin), min(ny, tile.y0 + tile.ny + margin)
    inner = (slice(tile.y0 - y0, tile.y0 - y0 + tile.ny), slice(tile.x0 - x0, tile.x0 - x0 + tile.nx))
    return Tile(x0=x0, y0=y0, nx=x1 - x0, ny=y1 - y0), inner
