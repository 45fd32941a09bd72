"""How much memory a co-add may take, and how its tiles are cut so that it does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from starloom.coadd.pixels.kept import MOST_BYTES as KEPT_BYTES
from starloom.coadd.plan import StackPlan
from starloom.errors import BadInput

#: Python with astropy and the compiled loops, once a plan is made, and what GZIP tiles may keep: memory of its
#: own, without mapped files.
BASE_BYTES = 180_000_000 + KEPT_BYTES
#: Of a frame that is open: its map, header, and the reader's own tables, beside the checkpoints.
FRAME_BYTES = 120_000
#: Planes of a tile beside the cube: results, what values are compared with, window of the frame being resampled.
#: Measured: 12 frames of 26 Mpix and two threads take 470 MB, where this says 489.
_SCRATCH_PLANES = 21
_TILE_SIZES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)
_CHECKPOINTS_PX = (256, 512, 1024, 2048, 4096)
_CHECKPOINT_BYTES = 8
#: Tiles above this leave the processor's cache and gain nothing.
_CUBE_BYTES = 160_000_000
#: Proper co-addition works in Fourier space, where a pixel depends on its tile: its tiles are the same everywhere.
PROPER_TILE = 512


@dataclass(frozen=True)
class Layout:
    """How a plan is worked on: side of a tile (output px), threads, the reader's checkpoints, memory."""

    tile_size: int
    threads: int
    checkpoint_px: int
    bytes: int


def free_bytes() -> int:
    """Return the memory that is free: of the machine, or of the control group that this process lives in."""
    free = [_meminfo()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return max(0, min(free))


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 4_000_000_000
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 4_000_000_000)


def choose_layout(plan: StackPlan, margin_px: int) -> Layout:
    """Cut a plan's work so that it stays within ``options.memory_bytes`` (default: half of what is free).

    The result does not depend on it, but for ``proper``, whose tiles are always `PROPER_TILE` a side.

    Raises
    ------
    BadInput
        ``memory-too-small``, with what would do.
    """
    budget = plan.options.memory_bytes or max(free_bytes() // 2, 1_000_000_000)
    frames = plan.used
    fixed = BASE_BYTES + FRAME_BYTES * len(frames)
    least = 0
    for threads in range(plan.options.threads, 0, -1):
        for size in _sizes(plan):
            # Sharing pays only until the machine waits for memory: as many threads as there are, then large tiles.
            spacing = _spacing(plan, (budget - fixed) // 3)
            need = fixed + _checkpoints(plan, spacing) + threads * tile_bytes(len(frames), size + 2 * margin_px)
            if need <= budget:
                return Layout(size, threads, spacing, need)
            least = need
    enough = least + 50_000_000
    raise BadInput(
        f"{len(frames)} frames need at least {least / 1e9:.2f} GB, and the budget is {budget / 1e9:.2f} GB",
        code="memory-too-small",
        hint=f"Give --memory {enough / 1e9:.1f}GB or more; of a hub, STARLOOM_STACK_MEMORY_BYTES={enough}.",
    )


def tile_bytes(n_frames: int, side_px: int) -> int:
    """Return the memory of one thread at work on a tile, margin included, that all frames touch."""
    return (n_frames + _SCRATCH_PLANES) * side_px**2 * 4


def _sizes(plan: StackPlan) -> tuple[int, ...]:
    if plan.options.combine == "proper":
        return (PROPER_TILE,)
    if plan.options.tile_size is not None:
        return (plan.options.tile_size,)
    return tuple(s for s in _TILE_SIZES if len(plan.used) * s * s * 4 <= _CUBE_BYTES) or (_TILE_SIZES[-1],)


def _spacing(plan: StackPlan, most_bytes: int) -> int:
    fitting = (s for s in _CHECKPOINTS_PX if _checkpoints(plan, s) <= most_bytes)
    return next(fitting, _CHECKPOINTS_PX[-1])


def _checkpoints(plan: StackPlan, spacing: int) -> int:
    return sum(frame.shape[0] * -(-frame.shape[1] // spacing) * _CHECKPOINT_BYTES for frame in plan.used)
