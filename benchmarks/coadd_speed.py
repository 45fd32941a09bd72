"""What a stack costs as a whole process: ours, SWarp, Siril, seiza and reproject in turn, on the same frames.

    python benchmarks/coadd_speed.py A12 MIX18 [--rounds 2] [--scale 0.25] [--peers swarp siril seiza reproject]
    python benchmarks/coadd_speed.py A12 --memory-limit 1.5 [--memory 1.2GB]

CPU-seconds (children included) and the largest resident memory are the kernel's own account of each process
(``wait4``), the median of the rounds; contenders run in turn, for the machine may be shared. Everybody gets two
threads. SWarp and ours put the frames onto one grid; Siril and seiza register them themselves and keep a frame's
grid, at its scale: the like of it is ours without a target. reproject only resamples: what one frame of each
telescope costs, times their numbers, on one thread. Ours first runs once for nothing, which compiles what is
compiled once on a machine; ``--cold`` tells what that cost.

``--memory-limit`` runs ours once under a hard limit in GB and says how the limit was set; ``--times 10`` gives it
every frame ten times, under ten names: the engine cannot know, and nobody has to keep 26 GB of frames.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from coadd_engines import (
    Usage,
    memory_limit,
    reproject_frame,
    scratch,
    seiza,
    siril,
    starloom_process,
    swarp,
)
from coadd_sets import SkySet, arguments, find_set
from peers import show

REPROJECT = {
    "reproject_interp, bilinear": ("interp", {"order": "bilinear"}),
    "reproject_adaptive": ("adaptive", {}),
    "reproject_exact": ("exact", {}),
}


def reproject_all(found: SkySet, function: str, settings: dict[str, Any]) -> Usage:
    """One frame of each telescope, scaled up to the set."""
    cpu = wall = rss = 0.0
    telescopes = [frame["telescope"] for frame in found.frames]
    for telescope in dict.fromkeys(telescopes):
        used = reproject_frame(found.paths()[telescopes.index(telescope)], found.target, function, **settings)
        cpu += used.cpu_s * telescopes.count(telescope)
        wall += used.wall_s * telescopes.count(telescope)
        rss = max(rss, used.max_rss_mb)
    return Usage(cpu, wall, rss, "")


def contenders(found: SkySet, folder: Path, peers: list[str], extra: list[str]) -> dict[str, Callable[[], Usage]]:
    paths = found.paths()
    result: dict[str, Callable[[], Usage]] = {
        "starloom": partial(starloom_process, paths, folder / "ours.fits", target=found.target, extra=extra)
    }
    if "swarp" in peers:
        result["SWarp, LANCZOS3 CLIPPED"] = partial(swarp, paths, folder / "swarp.fits", found.target)
    if "siril" in peers or "seiza" in peers:
        # Without a grid, as those two: at the frames' own scale.
        own = [*extra, "--scale", str(min(frame["scale_arcsec"] for frame in found.frames))]
        result["starloom, own grid"] = partial(starloom_process, paths, folder / "own.fits", extra=own)
    if "siril" in peers:
        result["Siril, register + stack"] = partial(siril, paths, folder / "siril.fits")
    if "seiza" in peers:
        result["seiza, register + stack"] = partial(seiza, paths, folder / "seiza.fits")
    if "reproject" in peers:
        for name, (function, settings) in REPROJECT.items():
            result[f"{name}, resampling only"] = partial(reproject_all, found, function, settings)
    return result


def table(found: SkySet, used: dict[str, list[Usage]]) -> list[dict[str, Any]]:
    ours = [one.cpu_s for one in used["starloom"]]
    rows = []
    for name, runs in used.items():
        # Each round's own ratio: what slows the machine slows both.
        ratios = [run.cpu_s / mine for run, mine in zip(runs, ours, strict=False)]
        cpu = [run.cpu_s for run in runs]
        rows.append({
            "set": found.name, "": name, "CPU-s": round(statistics.median(cpu), 2),
            "from-to": f"{min(cpu):.2f}-{max(cpu):.2f}",
            "wall s": round(statistics.median(run.wall_s for run in runs), 2),
            "max RSS MB": round(max(run.max_rss_mb for run in runs)),
            "CPU over ours": round(statistics.median(ratios), 2), "rounds": len(runs),
        })  # fmt: skip
    return rows


def renamed(paths: list[Path], folder: Path, times: int) -> list[Path]:
    """Give every frame ``times`` names; links, so that no frame is stored twice."""
    links = [folder / f"{path.stem}-{k}{path.suffix}" for k in range(times) for path in paths]
    for link, path in zip(links, times * paths, strict=True):
        link.symlink_to(path.absolute())
    return links


def limited(found: SkySet, folder: Path, limit_gb: float, times: int, extra: list[str]) -> dict[str, Any]:
    how, wrapper, before = memory_limit(round(limit_gb * 1e9))
    paths = renamed(found.paths(), folder, times)
    row = {"set": found.name, "frames": len(paths), "limit": f"{limit_gb:g} GB, {how}"}
    try:
        used = starloom_process(
            paths,
            folder / "limited.fits",
            target=found.target,
            extra=extra,
            before=before,
            wrapper=wrapper,
        )
    except RuntimeError as error:
        return row | {"completes": "no", "CPU-s": "", "wall s": "", "max RSS MB": str(error).strip()[-300:]}
    return row | {
        "completes": "yes",
        "CPU-s": round(used.cpu_s, 2),
        "wall s": round(used.wall_s, 2),
        "max RSS MB": round(used.max_rss_mb),
    }


def main() -> None:
    parser = arguments(__doc__, sets=["A12"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peers", nargs="*", default=["swarp"], help="swarp siril seiza reproject")
    parser.add_argument("--ours", default="--no-streaks", help="further options of `starloom stack`")
    parser.add_argument("--memory", help="budget given to ours, as `--memory` of `starloom stack`")
    parser.add_argument("--memory-limit", type=float, help="only ours, under this hard limit, GB")
    parser.add_argument(
        "--times", type=int, default=1, help="names under which each frame comes, with --memory-limit"
    )
    parser.add_argument("--cold", action="store_true", help="also tell the first run, which compiles")
    options = parser.parse_args()
    extra = shlex.split(options.ours) + (["--memory", options.memory] if options.memory else [])
    rows, under = [], []
    for name in options.sets:
        found = find_set(name, options.data, options.scale)
        with scratch() as folder:
            if options.memory_limit:
                under.append(limited(found, folder, options.memory_limit, options.times, extra))
                continue
            work = contenders(found, folder, options.peers, extra)
            used: dict[str, list[Usage]] = {contender: [] for contender in work}
            first = starloom_process(found.paths()[:2], folder / "warm.fits", target=found.target, extra=extra)
            if options.cold:
                used["starloom, first run, 2 frames"] = [first]
            for round_number in range(options.rounds):
                for contender, run in work.items():
                    # What reproject costs is far from close: once.
                    if round_number == 0 or not contender.startswith("reproject"):
                        used[contender].append(run())
            rows += table(found, used)
    if under:
        show("Under a hard limit of memory", under)
    if rows:
        frames = np.unique([row["set"] for row in rows])
        show(f"Stacking {', '.join(frames)}, two threads, Lanczos-3, clipped", rows)


if __name__ == "__main__":
    main()
