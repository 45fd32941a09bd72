"""A cost model of the co-add: fitted on small runs, held to large ones, and put on paper for a cluster.

    python benchmarks/coadd_scaling.py [--frames 10 30 100 300] [--scale 0.25] [--threads 1 2] [--json]
    python benchmarks/coadd_scaling.py A12 MIX18 --scale 1

With names of sets it only tells what each stage of their stacking took.

Each run is a process of its own that stacks frames of telescope A, all distinct (``A300`` of `coadd_sets`), and
accounts for its CPU-seconds by stage. The stages' costs per frame, per input pixel, per value (a frame's pixel
laid on the grid) and per output pixel are fitted, none negative, on runs of 10 and 30 frames at two sizes of frame
and on a coarser grid; the other runs are predicted from their sizes alone. The goal is 20 %, for CPU-seconds, wall
and peak memory. Wall-clock is CPU shared by the threads in the stages that were seen to be parallel; a machine
that does something else meanwhile makes it longer.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from coadd_engines import run, scratch
from coadd_sets import PLAIN, SkySet, arguments, find_set, tangent_header
from peers import show
from scipy.optimize import nnls

from starloom.coadd.budget import BASE_BYTES, FRAME_BYTES, tile_bytes

#: What each stage's cost is proportional to; "one" is the loading of its compiled loops.
STAGES: dict[str, tuple[str, ...]] = {
    "start": ("one",),
    "measure": ("one", "frames", "input px"),
    "plan": ("one", "frames", "input px"),
    "open": ("one", "frames"),
    "decode": ("frames", "read px"),
    "warp": ("one", "frames", "values"),
    "combine": ("one", "output px", "values"),
    "write": ("one", "output px"),
}
_PAPER_TILE_PX = 128
_IN_TILES = ("open", "decode", "warp", "combine")
#: Files are mapped: what is read of the frames and written of the product counts as the process's own.
MEMORY = ("one", "layout bytes", "file bytes", "product bytes")
#: Of a pixel of all planes of a product.
_PRODUCT_BYTES = 15


@dataclass(frozen=True)
class Run:
    """One process: its sizes, its stages' CPU and wall seconds, and its peak memory."""

    name: str
    threads: int
    sizes: dict[str, float]
    cpu_s: dict[str, float]
    wall_s: dict[str, float]
    total_cpu_s: float
    total_wall_s: float
    peak_mb: float


class Account:
    """CPU-seconds by what was called, over all threads."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                with self._lock:
                    self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.thread_time() - started

        return wrapper


class _TimedSource:
    """A frame's reader whose reads are accounted for."""

    def __init__(self, source: Any, account: Account) -> None:
        self._source = source
        self.read = account.timed("decode", source.read)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def child(paths: list[Path], out: Path, target: Path, threads: int, memory: int | None) -> None:
    """Stack in this process and print its account as JSON; what `starloom stack` does, with a clock in it."""
    marks = {"start": (time.process_time(), 0.0)}
    began = time.perf_counter()
    import starloom.coadd.engine as module
    from starloom.coadd import StackOptions
    from starloom.coadd.engine import Engine, Warper
    from starloom.coadd.product import ProductFile
    from starloom.coadd.stack import plan_files

    marks["start"] = (time.process_time(), time.perf_counter() - began)

    def mark(stage: str) -> None:
        before = [sum(values) for values in zip(*marks.values(), strict=True)]
        marks[stage] = (time.process_time() - before[0], time.perf_counter() - began - before[1])

    def told(stage: str, done: int, total: int) -> None:
        if stage == "read" and done == total:
            mark("measure")

    account = Account()
    open_source = module.open_source
    module.open_source = lambda *a, **k: _TimedSource(open_source(*a, **k), account)  # type: ignore[assignment]
    module.combine_tile = account.timed("combine", module.combine_tile)
    Warper.warp = account.timed("warp", Warper.warp)  # type: ignore[method-assign]
    options = StackOptions(target=target, threads=threads, memory_bytes=memory, streaks=False)
    (plan,) = plan_files(paths, options, progress=told)
    mark("plan")
    with Engine(plan) as engine, ProductFile(plan, out) as product:
        layout = {
            "bytes": engine.layout.bytes,
            "margin": engine.margin_px,
            "padding": padding(engine.margin_px, engine.layout.tile_size),
        }
        add = account.timed("write", product.add)
        engine.run(engine.tiles, add)
        mark("tiles")
        product.finish()
    mark("write")
    cpu = {stage: used[0] for stage, used in marks.items()}
    tiles = cpu.pop("tiles")
    inside = account.cpu_s
    cpu |= {"decode": inside["decode"], "warp": inside["warp"] - inside["decode"], "combine": inside["combine"]}
    cpu["write"] += inside["write"]
    cpu["open"] = max(0.0, tiles - inside["warp"] - inside["combine"] - inside["write"])
    wall = {stage: used[1] for stage, used in marks.items()}
    print(json.dumps({"cpu": cpu, "wall": wall, "layout": layout}))


def padding(margin_px: int, tile_px: int) -> float:
    """Return the pixels that are worked on over those that a tile keeps."""
    return (1 + 2 * margin_px / tile_px) ** 2


def values_on_grid(found: SkySet, grid: fits.Header) -> float:
    """How many frame pixels land on the grid, all frames together: footprints on a lattice."""
    nx, ny = grid["NAXIS1"], grid["NAXIS2"]
    x, y = (a.ravel() for a in np.meshgrid((np.arange(60) + 0.5) * nx / 60, (np.arange(60) + 0.5) * ny / 60))
    ra, dec = WCS(grid, fix=False).all_pix2world(x, y, 0)
    share = 0.0
    for frame, path in zip(found.frames, found.paths(".fits"), strict=True):
        fx, fy = WCS(fits.getheader(path), fix=False).all_world2pix(ra, dec, 0, quiet=True)
        share += float(np.mean((fx > 0) & (fy > 0) & (fx < frame["nx"] - 1) & (fy < frame["ny"] - 1)))
    return share * nx * ny


def measure(found: SkySet, threads: int, coarser: float, memory: int | None) -> Run:
    """Stack a set in a process of its own, on its grid made ``coarser`` times coarser."""
    grid = fits.Header.fromtextfile(found.target)
    nx, ny = round(grid["NAXIS1"] / coarser), round(grid["NAXIS2"] / coarser)
    grid = tangent_header(nx, ny, PLAIN["A"].scale_arcsec * coarser)
    with scratch() as folder:
        target = folder / "target.hdr"
        grid.totextfile(target)
        words = [sys.executable, __file__, "--child", folder / "out.fits", target, str(threads), str(memory or 0)]
        used = run([*words, *found.paths()])
    told = json.loads(used.output.strip().splitlines()[-1])
    n, pixels = len(found.frames), found.megapixels * 1e6
    # A tile's margin is read, resampled and combined too; how wide and how many the layout says before the work.
    layout = told["layout"]
    sizes = {
        "one": 1.0, "frames": float(n), "input px": pixels, "output px": float(nx * ny),
        "values": values_on_grid(found, grid) * layout["padding"], "read px": pixels * layout["padding"],
        "layout bytes": float(layout["bytes"]), "product bytes": float(nx * ny * _PRODUCT_BYTES),
        "file bytes": float(sum(path.stat().st_size for path in found.paths())),
        "margin px": float(layout["margin"]),
    }  # fmt: skip
    name = f"{n} x {pixels / n / 1e6:.2f} Mpix on {nx * ny / 1e6:.2f}"
    return Run(name, threads, sizes, told["cpu"], told["wall"], used.cpu_s, used.wall_s, used.max_rss_mb)


def fit(runs: list[Run], terms: tuple[str, ...], values: list[float]) -> dict[str, float]:
    """Costs per unit of each term, none negative; every run counts by its relative error."""
    design = np.array([[one.sizes[term] for term in terms] for one in runs])
    weight = 1 / np.maximum(np.array(values), 1e-3 * max(values) + 1e-9)
    size = design.max(axis=0)
    found = nnls(design / size * weight[:, None], np.array(values) * weight)[0] / size
    return dict(zip(terms, found.tolist(), strict=True))


@dataclass(frozen=True)
class Model:
    """Fitted costs: CPU-seconds by stage and term, memory (MB) by term, threads' gain by stage."""

    stages: dict[str, dict[str, float]]
    memory: dict[str, float]
    parallel: dict[str, bool]

    @classmethod
    def of(cls, runs: list[Run]) -> Model:
        single = [one for one in runs if one.threads == 1] or runs
        stages = {name: fit(single, terms, [one.cpu_s[name] for one in single]) for name, terms in STAGES.items()}
        # What the process took and no stage saw: the interpreter's start and end.
        rest = float(np.mean([one.total_cpu_s - sum(one.cpu_s.values()) for one in single]))
        stages["start"]["one"] += max(0.0, rest)
        memory = fit(runs, MEMORY, [one.peak_mb for one in runs])
        several = [one for one in runs if one.threads > 1]
        gains = {
            stage: np.median([one.cpu_s.get(stage, _tiles(one)) / max(one.wall_s[stage], 1e-6) for one in several])
            for stage in ("measure", "plan", "tiles")
            if several
        }
        return cls(stages, memory, {stage: bool(gain > 1.3) for stage, gain in gains.items()})

    def cpu_s(self, sizes: dict[str, float]) -> dict[str, float]:
        return {
            stage: sum(cost * sizes[term] for term, cost in terms.items()) for stage, terms in self.stages.items()
        }

    def wall_s(self, sizes: dict[str, float], threads: int) -> float:
        cpu, total = self.cpu_s(sizes), 0.0
        for stage, seconds in cpu.items():
            part = "tiles" if stage in _IN_TILES else stage
            total += seconds / (threads if self.parallel.get(part) else 1)
        return total

    def memory_mb(self, sizes: dict[str, float]) -> float:
        return sum(cost * sizes[term] for term, cost in self.memory.items())


def _tiles(one: Run) -> float:
    return sum(one.cpu_s[stage] for stage in _IN_TILES)


def row(model: Model, one: Run, fitted: bool) -> dict[str, Any]:
    cpu, wall = sum(model.cpu_s(one.sizes).values()), model.wall_s(one.sizes, one.threads)
    memory = model.memory_mb(one.sizes)
    errors = {"CPU": cpu / one.total_cpu_s - 1, "memory": memory / one.peak_mb - 1}
    return {
        "run (Mpix)": one.name, "threads": one.threads, "": "fitted" if fitted else "predicted",
        "CPU-s": round(one.total_cpu_s, 2), "model CPU-s": round(cpu, 2),
        "CPU error %": round(100 * errors["CPU"], 1),
        "wall s": round(one.total_wall_s, 2), "model wall s": round(wall, 2),
        "peak MB": round(one.peak_mb), "model MB": round(memory),
        "memory error %": round(100 * errors["memory"], 1),
        "within 20 %": "yes" if max(map(abs, errors.values())) <= 0.2 else "no",
    }  # fmt: skip


def spent(name: str, one: Run) -> dict[str, Any]:
    """CPU-seconds of one run by stage."""
    stages = {f"{stage} CPU-s": round(seconds, 2) for stage, seconds in one.cpu_s.items()}
    total = {"total CPU-s": round(one.total_cpu_s, 2), "wall s": round(one.total_wall_s, 2)}
    return {"set": name, "threads": one.threads} | stages | total | {"peak MB": round(one.peak_mb)}


def costs(model: Model) -> list[dict[str, Any]]:
    """The fitted costs, in the units one speaks of."""
    units = {"one": ("s", 1.0), "frames": ("ms a frame", 1e3)}
    units |= {term: (f"ns per {term}", 1e9) for term in ("input px", "read px", "output px", "values")}
    return [
        {"stage": stage, "cost": ", ".join(f"{cost * units[t][1]:.2f} {units[t][0]}" for t, cost in terms.items())}
        for stage, terms in model.stages.items()
    ]


def on_paper(model: Model, frames: int, nodes: int, threads: int, margin_px: int) -> list[dict[str, Any]]:
    """What ``frames`` of telescope A would take on ``nodes``, each with its share of the grid.

    Frames are measured and tiles made on all nodes; the joint plan and the assembly run on one. A node's share is
    a square; of each frame it decodes whole rows, as RICE is stored, under the square turned by up to 4 degrees.
    """
    telescope = PLAIN["A"]
    frame_px, output_px = telescope.nx * telescope.ny, 6400.0 * 4400.0
    more = padding(margin_px, _PAPER_TILE_PX)
    sizes = {
        "one": 1.0, "frames": float(frames), "input px": frames * float(frame_px), "output px": output_px,
        "values": frames * output_px * 0.9 * more, "read px": frames * float(frame_px) * more,
    }  # fmt: skip
    cpu = model.cpu_s(sizes)
    side = np.sqrt(output_px / nodes)
    rows = min(1.0, side * (np.cos(np.radians(4)) + np.sin(np.radians(4))) / telescope.ny)
    decode = cpu["decode"] * rows
    tiles = cpu["open"] + decode + (cpu["warp"] + cpu["combine"]) / nodes
    parts = {
        "measure, on all nodes": cpu["measure"] / nodes / threads,
        "joint plan, on one": cpu["plan"],
        "tiles, on all nodes": tiles / threads,
        "of these, decoding": decode / threads,
        "write, on one": cpu["write"],
        "start": cpu["start"],
    }
    total = sum(seconds for name, seconds in parts.items() if not name.startswith("of these"))
    need = BASE_BYTES + frames * FRAME_BYTES + threads * tile_bytes(frames, _PAPER_TILE_PX)
    return [
        *({"part": name, "figure": f"{seconds:.1f} s"} for name, seconds in parts.items()),
        {"part": f"in all, {frames} frames, {nodes} nodes of {threads} threads", "figure": f"{total:.1f} s"},
        {
            "part": f"memory of a node, tiles of {_PAPER_TILE_PX} px, margin included",
            "figure": f"{need / 1e9:.1f} GB",
        },
    ]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        out, target, threads, memory, *paths = sys.argv[2:]
        child([Path(p) for p in paths], Path(out), Path(target), int(threads), int(memory) or None)
        return
    parser: argparse.ArgumentParser = arguments(__doc__, sets=[], scale=0.25)
    parser.add_argument("--frames", nargs="*", type=int, default=[10, 30, 100, 300])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--memory-mb", type=int, help="budget of every run")
    options = parser.parse_args()
    memory = options.memory_mb * 1_000_000 if options.memory_mb else None
    if options.sets:
        runs = [
            (name, measure(find_set(name, options.data, options.scale), threads, 1.0, memory))
            for name in options.sets
            for threads in options.threads
        ]
        show("Where the time goes", [spent(name, one) for name, one in runs])
        return
    small, large = sorted(options.frames)[:2], sorted(options.frames)[2:]

    def at(n: int, scale: float, threads: int, coarser: float = 1.0) -> Run:
        return measure(find_set(f"A{n}", options.data, scale), threads, coarser, memory)

    # The first run compiles what is compiled once on a machine.
    at(min(small), options.scale / 2, 1)
    fitted = [
        at(n, options.scale / share, 1, coarser) for n in small for share, coarser in ((1, 1), (2, 1), (1, 2))
    ]
    fitted += [at(n, options.scale, threads) for n in small for threads in options.threads if threads > 1]
    model = Model.of(fitted)
    rows = [row(model, one, True) for one in fitted]
    for n in large:
        rows += [row(model, at(n, options.scale, threads), False) for threads in options.threads]
    show("Costs by stage", costs(model))
    show("The model against what was measured", rows)
    show(
        "On paper: 10^4 frames of 26 Mpix on 100 nodes",
        on_paper(model, 10_000, 100, 2, int(fitted[-1].sizes["margin px"])),
    )


if __name__ == "__main__":
    main()
