"""One trail of one frame: measured on its own pixels or against the others, and completed beyond them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.plan import PlanFrame, StackPlan, Streak, Tile
from starloom.coadd.streaks.lines import Line
from starloom.coadd.streaks.profile import measured
from starloom.coadd.streaks.significance import Warp

_MOST_OTHERS = 3

_SLACK_BEYOND_PX = 3.0
"""How far a measured trail may be off where it is extended."""


def _less_others(
    frames: Sequence[PlanFrame], index: int, warp: Warp
) -> tuple[Callable[[Tile], NDArray[np.float32] | None], float]:
    """Return a frame less the median of some others of like seeing, tile by tile, and the noise of that."""
    frame = frames[index]
    others = [i for i in range(len(frames)) if i != index]
    others.sort(key=lambda i: abs(frames[i].fwhm_px - frame.fwhm_px))
    others = others[:_MOST_OTHERS]

    def cut(tile: Tile) -> NDArray[np.float32] | None:
        pixels = warp(frame, tile)
        planes = [plane for plane in (warp(frames[i], tile) for i in others) if plane is not None]
        if pixels is None or not planes:
            return None
        cube = np.stack(planes)
        cube = np.sort(np.where(np.abs(cube) < 1e38, cube, np.float32(np.nan)), axis=0)
        count = np.isfinite(cube).sum(axis=0)
        pick = np.minimum(np.stack([np.maximum(count - 1, 0) // 2, count // 2]), len(cube) - 1)
        middle = np.take_along_axis(cube, pick, axis=0).mean(axis=0)
        return np.asarray(np.where(np.abs(pixels) < 1e38, pixels - middle, np.float32(np.nan)), np.float32)

    mean_variance = float(np.mean([frames[i].sigma ** 2 for i in others]))
    return cut, float(np.sqrt(frame.sigma**2 + 1.4 * mean_variance / len(others)))


def _beyond(streak: Streak, backwards: bool, shape: tuple[int, int]) -> Line | None:
    """Return what follows a streak's end (or precedes its start) on the grid; None where that is hardly any."""
    ny, nx = shape
    line = Line(streak.x0, streak.y0, streak.x1, streak.y1)
    if backwards:
        line = Line(line.x1, line.y1, line.x0, line.y0)
    t = line.length + np.arange(0.0, math.hypot(ny, nx))
    x, y = line.at(t)
    inside = (x > 0) & (y > 0) & (x < nx - 1) & (y < ny - 1)
    far = int(inside.sum()) if inside.all() or not inside.any() else int(np.argmin(inside))
    return line.between(line.length, line.length + far) if far > 8 else None


def trail_of(
    plan: StackPlan,
    frames: Sequence[PlanFrame],
    index: int,
    warp: Warp,
    line: Line,
    is_cut: tuple[bool, bool],
    slack_px: float,
) -> list[Streak]:
    """Measure a trail of ``frames[index]`` along a line, on the frame's own pixels if these are flat beside it.

    Parameters
    ----------
    plan
        Its grid limits what is read.
    frames
        The frames that are compared.
    index
        The one with the trail.
    warp
        See `starloom.coadd.streaks.find_streaks`.
    line
        Output pixels, 0-based.
    is_cut
        Whether there is nothing to compare the frame with beyond the line's start and its end.
    slack_px
        How far the trail may be off across ``line``.

    Returns
    -------
    list of Streak
        Empty where the pixels show nothing.
    """
    frame, shape = frames[index], plan.shape

    def own(tile: Tile) -> NDArray[np.float32] | None:
        return warp(frame, tile)

    streaks, clean = measured(own, line, frame.sigma, frame.fwhm_px, shape, slack_px)
    if not (streaks and clean):
        # In a nebula, or among many stars, only what the others have not is seen.
        cut, sigma = _less_others(frames, index, warp)
        streaks = measured(cut, line, sigma, frame.fwhm_px, shape, slack_px)[0] or streaks
    if not streaks:
        return []
    # The frame may go on where the others end, and the trail with it.
    more: list[Streak] = []
    for end, backwards, cut_off in ((streaks[0], True, is_cut[0]), (streaks[-1], False, is_cut[1])):
        rest = _beyond(end, backwards, shape) if cut_off else None
        if rest:
            found, clean = measured(own, rest, frame.sigma, frame.fwhm_px, shape, _SLACK_BEYOND_PX)
            # A short piece is the same trail, measured worse.
            narrow = [s.model_copy(update={"half_width": min(s.half_width, end.half_width)}) for s in found]
            more += narrow if clean else []
    return streaks + more
