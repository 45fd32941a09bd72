"""What combining costs per value, by number of frames and mode, beside numpy and astropy.

python benchmarks/coadd_combine.py [--frames 2 3 5 12 ...] [--megabytes 120] [--side 1060] [--peers] [--stages]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable

import numpy as np
from astropy.stats import sigma_clip
from numpy.typing import NDArray

from starloom.coadd import combine
from starloom.coadd.combine import FrameNoise, combine_tile, reach_px
from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import StackOptions, Tile

Plane = NDArray[np.float32]

_STARS_PER_PX = 4e-4
_BAD_PART = 0.01
_BAD_PX = 6
"""Side of a hole around a bad pixel, as wide as Lanczos-3."""
_STAGES = ("candidates", "signals", "scan", "flood", "sums")
_RAYS_PER_PX = 5e-5
"""Of 4.5 px each: some 1,300 on a frame of 26 Mpix, what a few minutes bring."""


def _star(fwhm_px: float, reach: int) -> Plane:
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    sigma = fwhm_px / 2.35482
    return np.asarray(np.exp(-(y**2 + x**2) / 2 / sigma**2) / (2 * np.pi * sigma**2), np.float32)


def make_cube(n: int, shape: tuple[int, int], seed: int = 1) -> tuple[Plane, list[FrameNoise]]:
    """Render frames of unit noise: stars of unlike seeing, cosmic rays, bad pixels, 5 % absent along an edge."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    reach = 16
    fwhm = rng.uniform(2.2, 3.6, n)
    stars = int(_STARS_PER_PX * ny * nx)
    at = np.stack([rng.integers(0, ny, stars), rng.integers(0, nx, stars)]).T
    flux = 10 ** rng.uniform(1.5, 4.5, stars)
    cube = rng.standard_normal((n, ny, nx), dtype=np.float32)
    for k in range(n):
        field = np.zeros((ny + 2 * reach, nx + 2 * reach), np.float32)
        stamp = _star(fwhm[k], reach)
        for (y, x), f in zip(at, flux, strict=True):
            field[y : y + 2 * reach + 1, x : x + 2 * reach + 1] += f * stamp
        cube[k] += field[reach:-reach, reach:-reach]
        for _ in range(rng.poisson(_RAYS_PER_PX * ny * nx)):
            y, x, turn, length = (
                rng.uniform(0, ny),
                rng.uniform(0, nx),
                rng.uniform(0, 2 * np.pi),
                rng.integers(1, 9),
            )
            along = np.arange(length)
            ys = np.clip(y + along * np.sin(turn), 0, ny - 1).astype(int)
            xs = np.clip(x + along * np.cos(turn), 0, nx - 1).astype(int)
            cube[k, ys, xs] += 10 ** rng.uniform(0.9, 3)
        for y, x in rng.integers(0, (ny - _BAD_PX, nx - _BAD_PX), (int(_BAD_PART * ny * nx / _BAD_PX**2), 2)):
            cube[k, y : y + _BAD_PX, x : x + _BAD_PX] = ABSENT
        edge = int(rng.uniform(0, 0.1) * nx)
        cube[k, :, slice(0, edge) if k % 2 else slice(nx - edge, nx)] = ABSENT
    return cube, [FrameNoise(1.0, 1.0, float(f), 1.5, 3.6) for f in fwhm]


def ns_per_value(call: Callable[[Plane], object], cube: Plane, repeats: int) -> float:
    """Return the least CPU time of several calls, ns per value of the cube (each on a fresh copy)."""
    best = math.inf
    for _ in range(repeats):
        copy = cube.copy()
        start = time.thread_time()
        call(copy)
        best = min(best, time.thread_time() - start)
    return 1e9 * best / cube.size


def _ours(mode: str, noises: list[FrameNoise]) -> Callable[[Plane], object]:
    def call(cube: Plane) -> object:
        _, ny, nx = cube.shape
        tile = Tile(x0=0, y0=0, nx=nx, ny=ny)
        sky = np.zeros(((ny - 1) // 32 + 2, (nx - 1) // 32 + 2), np.float32)
        options = StackOptions.model_validate({"combine": mode})
        return combine_tile(cube, noises, None, options, sky, tile, (slice(0, ny), slice(0, nx)))

    return call


def stages(cube: Plane, noises: list[FrameNoise], repeats: int) -> dict[str, float]:
    """Return what each stage of the clipped mean takes in the quickest of several calls, ns per value."""
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            start = time.thread_time()
            result = function(*args)
            spent[name] = spent.get(name, 0.0) + time.thread_time() - start
            return result

        return call

    originals = {name: getattr(combine, name) for name in _STAGES}
    best: dict[str, float] = {}
    try:
        for name, function in originals.items():
            setattr(combine, name, timed(name, function))
        for _ in range(repeats):
            spent.clear()
            _ours("clipped", noises)(cube.copy())
            if not best or sum(spent.values()) < sum(best.values()):
                best = dict(spent)
    finally:
        for name, function in originals.items():
            setattr(combine, name, function)
    return {name: 1e9 * best.get(name, 0.0) / cube.size for name in _STAGES}


def _nanmedian(cube: Plane) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.nanmedian(cube, axis=0)


def _sigma_clip(cube: Plane) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.nanmean(sigma_clip(cube, sigma=5, axis=0, masked=False), axis=0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 3, 5, 12, 18, 30, 100, 300, 1000])
    parser.add_argument("--megabytes", type=float, default=120, help="size of the cube, at most")
    parser.add_argument("--side", type=int, default=1060, help="of the tile, margin included, px, at most")
    parser.add_argument("--stages", action="store_true", help="also what each stage of the clipped mean takes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="numpy and astropy too, on a tenth of the rows")
    options = parser.parse_args()
    print("ns per value, margin included (one core)")
    print(
        "| frames | tile | margin px | mean | median | clipped |"
        + ("".join(f" {name} |" for name in _STAGES) if options.stages else "")
        + (" nanmedian | sigma_clip |" if options.peers else "")
    )
    columns = 3 + len(_STAGES) * options.stages + 2 * options.peers
    print("|---:|---|---:|" + "---:|" * columns)
    for n in options.frames:
        side = min(options.side, int(math.sqrt(options.megabytes * 1e6 / 4 / n)))
        cube, noises = make_cube(n, (side, side))
        row = [ns_per_value(_ours(mode, noises), cube, options.repeats) for mode in ("mean", "median", "clipped")]
        if options.stages:
            row += stages(cube, noises, options.repeats).values()
        if options.peers:
            few = np.where(cube < ABSENT, cube, np.float32(np.nan))[:, : max(side // 10, 1)]
            row += [ns_per_value(peer, few, 2) for peer in (_nanmedian, _sigma_clip)]
        cells = " | ".join(f"{value:.2f}" for value in row)
        print(f"| {n} | {side}² | {reach_px(noises)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
