"""Trails: what the masks of `starloom.coadd.streaks` leave of them in a co-add, and what they cost.

    python benchmarks/coadd_streaks.py [REALISATIONS [FRAMES ...]]

Frames of mixed seeing (2 to 5 px) and noise on one grid; their noise is correlated as by Lanczos-3 resampling.
Trails have the frame's own profile. Frames are averaged with the found trails left out, and nothing else, so that
no clip helps. Columns:

- found: trails of which at least nine tenths of the centre line are masked
- residual: largest mean along the trail, over all distances from its centre, in deviations of a pixel of the stack
- off, on: noise of the stack outside of the trails over that of all frames, and on them over that of the others
- star: mean flux bias of the stars
- false: share of the frames that is masked though further than 4 FWHM from any trail
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from starloom.coadd.inputs import InputFrame
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, Streak, Tile
from starloom.coadd.streaks import find_streaks

SIZE = 768
Image = np.ndarray


@dataclass
class Scene:
    """A simulated set: frames without and with trails, and their truth."""

    noise: list[Image]
    stars: list[Image]
    trails: list[Image]
    lines: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)
    fwhm: list[float] = field(default_factory=list)
    sigma: list[float] = field(default_factory=list)
    positions: Image | None = None

    def plan(self) -> StackPlan:
        ny, nx = self.noise[0].shape
        frames = tuple(
            PlanFrame(
                input=InputFrame(
                    id=str(i),
                    path=Path(f"{i}.fits"),
                    band="r",
                    node="n",
                    exposure_s=1,
                    sky_sigma_adu=s,
                    fwhm_arcsec=f,
                ),
                shape=(ny, nx),
                wcs_cards={},
                sigma=s,
                weight=1 / s**2,
                fwhm_px=f,
            )
            for i, (s, f) in enumerate(zip(self.sigma, self.fwhm, strict=True))
        )
        return StackPlan(
            band="r",
            pointing=1,
            grid={"NAXIS1": nx, "NAXIS2": ny},
            frames=frames,
            options=StackOptions(),
            tiles=(),
        )

    def warp(self, frame: PlanFrame, tile: Tile) -> Image:
        i = int(frame.input.id)
        cut = np.s_[tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx]
        return self.noise[i][cut] + self.stars[i][cut] + self.trails[i][cut]


def shifted_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Image:
    """White noise resampled at a random phase by Lanczos-3."""
    noise = rng.normal(0, sigma, shape)
    taps = np.arange(-2, 4)
    for axis in (0, 1):
        x = rng.uniform(0, 1) - taps
        kernel = np.sinc(x) * np.sinc(x / 3)
        noise = ndimage.convolve1d(noise, kernel / kernel.sum(), axis=axis, mode="wrap")
    return noise.astype(np.float32)


def moffat(fwhm: float, beta: float, r2: Image) -> Image:
    alpha2 = fwhm**2 / 4 / (2 ** (1 / beta) - 1)
    return (beta - 1) / (math.pi * alpha2) * (1 + r2 / alpha2) ** -beta


def star_image(shape: tuple[int, int], x: Image, y: Image, flux: Image, fwhm: float, beta: float) -> Image:
    out = np.zeros(shape)
    for xs, ys, f in zip(x, y, flux, strict=True):
        half = int(min(12 * fwhm, 60)) if f > 500 else int(5 * fwhm)
        x0, x1, y0, y1 = max(0, int(xs) - half), int(xs) + half, max(0, int(ys) - half), int(ys) + half
        yy, xx = np.mgrid[y0 : min(y1, shape[0]), x0 : min(x1, shape[1])]
        out[y0:y1, x0:x1] += f * moffat(fwhm, beta, (xx - xs) ** 2 + (yy - ys) ** 2)
    return out.astype(np.float32)


def across(shape: tuple[int, int], line: tuple[float, float, float]) -> Image:
    """Distance of pixels from a line given by a point and an angle (rad)."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    x, y, angle = line
    return (yy - y) * math.cos(angle) - (xx - x) * math.sin(angle)


def trail_image(
    shape: tuple[int, int], line: tuple[float, float, float], peak: float, fwhm: float, beta: float
) -> Image:
    alpha2 = fwhm**2 / 4 / (2 ** (1 / beta) - 1)
    return (peak * (1 + across(shape, line) ** 2 / alpha2) ** (0.5 - beta)).astype(np.float32)


def make_scene(
    n: int, strength: float, seed: int, *, size: int = SIZE, trailed: int = 1, beta: float = 3.0
) -> Scene:
    rng = np.random.default_rng(seed)
    shape = (size, size)
    m = int(size * size / 1500)
    x, y = rng.uniform(0, size, m), rng.uniform(0, size, m)
    flux = 30 * rng.pareto(1.0, m).clip(0.3, 2000)
    scene = Scene([], [], [], positions=np.stack([x, y, flux]))
    for i in range(n):
        fwhm, sigma = rng.uniform(2, 5), rng.uniform(0.8, 1.25)
        noise = shifted_noise(rng, shape, sigma)
        scene.noise.append(noise)
        scene.sigma.append(float(noise.std()))
        scene.fwhm.append(fwhm)
        scene.stars.append(star_image(shape, x, y, flux, fwhm, beta))
        scene.trails.append(np.zeros(shape, np.float32))
        if i < trailed and strength > 0:
            line = (*rng.uniform(0.2 * size, 0.8 * size, 2), rng.uniform(0, math.pi))
            scene.lines[i] = [line]
            scene.trails[i] += trail_image(shape, line, strength * scene.sigma[i], fwhm, beta)
    return scene


def masked(shape: tuple[int, int], streaks: tuple[Streak, ...]) -> Image:
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    out = np.zeros(shape, bool)
    for s in streaks:
        dx, dy = s.x1 - s.x0, s.y1 - s.y0
        t = np.clip(((xx - s.x0) * dx + (yy - s.y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        out |= np.hypot(xx - s.x0 - t * dx, yy - s.y0 - t * dy) <= s.half_width
    return out


def measure(scene: Scene, plan: StackPlan) -> dict[str, float]:
    shape = scene.noise[0].shape
    masks = [masked(shape, frame.streaks) for frame in plan.frames]
    weights = [(~mask) * frame.weight for mask, frame in zip(masks, plan.frames, strict=True)]
    total = np.maximum(np.sum(weights, axis=0), 1e-9)

    def mean(images: list[Image]) -> Image:
        return np.sum([w * image for w, image in zip(weights, images, strict=True)], axis=0) / total

    def plain(images: list[Image], keep: list[bool]) -> Image:
        w = [f.weight if k else 0 for f, k in zip(plan.frames, keep, strict=True)]
        return np.sum([a * image for a, image in zip(w, images, strict=True)], axis=0) / sum(w)

    everything = [True] * len(masks)
    noise, ideal, left = mean(scene.noise), plain(scene.noise, everything), mean(scene.trails)
    sky = float(ideal.std())
    near_any, false = np.zeros(shape, bool), 0.0
    residual, on, found, true = 0.0, [], 0, 0
    for i, mask in enumerate(masks):
        near = np.zeros(shape, bool)
        for line in scene.lines.get(i, []):
            u = np.abs(across(shape, line))
            near |= u < 4 * scene.fwhm[i]
            true += 1
            found += bool(mask[u < 0.7].mean() > 0.9)
            profile = [float(left[(u >= r) & (u < r + 1)].mean()) for r in range(int(4 * scene.fwhm[i]))]
            residual = max(residual, max(profile) / sky)
            core = u < scene.fwhm[i]
            others = plain(scene.noise, [j != i for j in range(len(masks))])
            on.append(float(noise[core].std() / others[core].std()))
        near_any |= near
        false += float((mask & ~near).mean()) / len(masks)
    x, y, flux = scene.positions
    radius = 1.5 * max(scene.fwhm)
    stars, truth = mean(scene.stars), plain(scene.stars, everything)
    bias = []
    for xs, ys, f in zip(x, y, flux, strict=True):
        if f < 300 or not (radius < xs < shape[1] - radius and radius < ys < shape[0] - radius):
            continue
        cut = np.s_[int(ys - radius) : int(ys + radius) + 2, int(xs - radius) : int(xs + radius) + 2]
        bias.append(float(stars[cut].sum() / truth[cut].sum() - 1))
    return {
        "found": found / true if true else math.nan,
        "residual": residual,
        "off": float(noise[~near_any].std() / ideal[~near_any].std()),
        "on": float(np.mean(on)) if on else math.nan,
        "star": float(np.mean(bias)),
        "false": false,
        "width": max((s.half_width for f in plan.frames for s in f.streaks), default=0.0),
    }


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:] if a.isdigit()]
    realisations, depths = (numbers or [10])[0], numbers[1:] or [2, 3, 5, 10]
    columns = ("found", "residual", "worst", "off", "on", "star %", "false %", "half width px")
    print(f"{'n':>3} {'sigma':>6} " + " ".join(f"{c:>9}" for c in columns))
    for n in depths:
        for strength in (0.0, 0.5, 1.5, 6.0, 100.0):
            rows = []
            for seed in range(realisations):
                scene = make_scene(n, strength, 1000 * n + seed)
                rows.append(measure(scene, find_streaks(scene.plan(), scene.warp)))
            mean = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
            worst = max(r["residual"] for r in rows)
            figures = [mean["found"], mean["residual"], worst, mean["off"], mean["on"]]
            text = " ".join(f"{v:9.3f}" for v in figures)
            print(
                f"{n:3d} {strength:6.1f} {text} {100 * mean['star']:9.4f} {100 * mean['false']:9.4f}"
                f" {mean['width']:9.1f}",
                flush=True,
            )
    cost()


def cost() -> None:
    """CPU time a resampled value, without trails and with one in each of some frames."""
    for n, size, trailed in ((10, 2048, 0), (10, 2048, 3), (40, 1024, 0)):
        scene = make_scene(n, 1.5, 5, size=size, trailed=trailed)
        whole = [a + b + c for a, b, c in zip(scene.noise, scene.stars, scene.trails, strict=True)]

        def warp(frame: PlanFrame, tile: Tile, whole: list[Image] = whole) -> Image:
            cut = np.s_[tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx]
            return whole[int(frame.input.id)][cut]

        best = math.inf
        for _ in range(3):
            before = time.process_time()
            find_streaks(scene.plan(), warp)
            best = min(best, time.process_time() - before)
        print(
            f"{n} frames of {size} x {size}, {trailed} trails: {best:.2f} CPU-s, "
            f"{1e9 * best / n / size**2:.1f} ns a value"
        )


if __name__ == "__main__":
    main()
