"""Proper co-addition beside a weighted mean and homogenised frames: point sources, fluxes and cost.

    OMP_NUM_THREADS=1 python benchmarks/coadd_proper.py [REALISATIONS]

Six telescopes whose stars have a FWHM of 2, 2.5, 3, 4, 5 and 6 px, Moffat profiles of unlike slope (one trailed),
unlike noise and flux scales, 1 % of the pixels missing in holes of 1 to 6 px, others in every frame. What is
compared is the signal-to-noise ratio of a point source in the matched filter (each image correlated with its own
PSF), over the analytic optimum ``sqrt(sum_j w_j sum_x P_j²)`` without any hole. The response is that of noiseless
stars with the same holes, the noise that of frames without stars, relative to what the optimum's own image has in
the same realisation. Goal: 0.98 with given PSFs, 0.97 with measured ones.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from starloom.coadd.combine import FrameNoise
from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import Tile
from starloom.coadd.proper import combine_proper, proper_psf, proper_reach_px
from starloom.coadd.proper_filters import placed
from starloom.coadd.psf import lone_stars, measure_psf
from starloom.sky.psf import draw_stars, make_psf

Floats = NDArray[np.float64]
Coadd = Callable[[Floats, NDArray[np.bool_], list[Floats]], tuple[Floats, Floats]]

SIDE, RIM, PSF_SIDE = 512, 48, 43
FWHMS = (2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
BETAS = (3.5, 2.8, 3.5, 4.0, 3.0, 3.5)
TRAILS = (0.0, 0.0, 2.5, 0.0, 0.0, 0.0)
SIGMAS = np.array([1.5, 1.0, 1.3, 0.7, 0.9, 0.6])
ADU_PER_UNIT = (1.0, 3.7, 0.4, 12.0, 1.9, 0.08)
WEIGHTS = 1 / SIGMAS**2
WHOLE = (slice(0, SIDE), slice(0, SIDE))
STARS = tuple(np.ravel(a) for a in np.meshgrid(np.arange(64, SIDE - 48, 48), np.arange(64, SIDE - 48, 48)))


def seen(plane: Floats, psf: Floats) -> Floats:
    return np.asarray(fft.irfft2(fft.rfft2(plane) * placed(psf.astype(np.float64), plane.shape), s=plane.shape))


def score(plane: Floats, psf: Floats) -> Floats:
    return seen(plane, psf[::-1, ::-1])


def true_psfs() -> list[Floats]:
    found = []
    for fwhm, beta, trail in zip(FWHMS, BETAS, TRAILS, strict=True):
        drawn = make_psf(fwhm, beta, trail_px=trail, trail_angle_deg=35.0)
        cut = slice(drawn.half - PSF_SIDE // 2, drawn.half + PSF_SIDE // 2 + 1)
        psf = drawn.phases[0, 0].astype(float)
        found.append(psf[cut, cut])
    return [psf / psf.sum() for psf in found]


def noises() -> list[FrameNoise]:
    return [FrameNoise(float(s), float(1 / s**2), f) for s, f in zip(SIGMAS, FWHMS, strict=True)]


def proper(cube: Floats, missing: NDArray[np.bool_], psfs: list[Floats]) -> tuple[Floats, Floats]:
    frames = np.where(missing, ABSENT, cube).astype(np.float32)
    tile = Tile(x0=0, y0=0, nx=SIDE, ny=SIDE)
    return combine_proper(frames, noises(), psfs, None, tile, WHOLE).sci, proper_psf(noises(), psfs, 101)


def mean_of(cube: Floats, missing: NDArray[np.bool_], weights: Floats) -> Floats:
    there = weights[:, None, None] * ~missing
    return np.asarray((there * cube).sum(axis=0) / there.sum(axis=0))


def weighted(extra: Floats) -> Coadd:
    def coadd(cube: Floats, missing: NDArray[np.bool_], psfs: list[Floats]) -> tuple[Floats, Floats]:
        weights = WEIGHTS * extra
        return mean_of(cube, missing, weights), np.tensordot(weights / weights.sum(), np.stack(psfs), 1)

    return coadd


def homogenised(cube: Floats, missing: NDArray[np.bool_], psfs: list[Floats]) -> tuple[Floats, Floats]:
    worst = placed(psfs[-1], (SIDE, SIDE))
    filled = np.where(missing, mean_of(cube, missing, WEIGHTS), cube)
    total = np.zeros(worst.shape, complex)
    for frame, psf, weight in zip(filled, psfs, WEIGHTS, strict=True):
        own = placed(psf, (SIDE, SIDE))
        total += weight * fft.rfft2(frame) * worst * np.conj(own) / (np.abs(own) ** 2 + 1e-6)
    return fft.irfft2(total / WEIGHTS.sum(), s=(SIDE, SIDE)), psfs[-1]


def sharpest(cube: Floats, missing: NDArray[np.bool_], psfs: list[Floats]) -> tuple[Floats, Floats]:
    best = int(np.argmax([w * (p**2).sum() for w, p in zip(WEIGHTS, psfs, strict=True)]))
    return np.where(missing[best], 0, cube[best]), psfs[best]


def holes(rng: np.random.Generator) -> NDArray[np.bool_]:
    missing = np.zeros((len(FWHMS), SIDE, SIDE), np.bool_)
    for frame in missing:
        for size, share in ((1, 0.003), (3, 0.004), (6, 0.003)):
            frame |= ndimage.maximum_filter(rng.random((SIDE, SIDE)) < share / size**2, size)
    return missing


def measured_psfs(rng: np.random.Generator) -> list[Floats]:
    """PSFs from frames of the same stars with the telescopes' own noise, each in its own unit."""
    side = 700
    x, y = rng.uniform(0, side, (2, 250))
    flux = 10 ** rng.uniform(1.5, 4.0, x.size)
    found = []
    for fwhm, beta, trail, sigma, unit in zip(FWHMS, BETAS, TRAILS, SIGMAS, ADU_PER_UNIT, strict=True):
        image = rng.normal(50, sigma, (side, side)).astype(np.float32)
        psf = make_psf(fwhm, beta, trail_px=trail, trail_angle_deg=35.0)
        draw_stars(image, x, y, flux, psf, noise_adu=1e-3 * sigma)
        image *= np.float32(unit)
        at_x, at_y, _ = lone_stars(image, fwhm)
        found.append(measure_psf(image, at_x, at_y, size=PSF_SIDE, fwhm_px=1.05 * fwhm).astype(float))
    return found


def compare(realisations: int) -> None:
    truth = true_psfs()
    optimum = np.sqrt(sum(w * (p**2).sum() for w, p in zip(WEIGHTS, truth, strict=True)))
    light = np.zeros((SIDE, SIDE))
    light[STARS[1], STARS[0]] = 1.0
    stars = np.stack([seen(light, psf) for psf in truth])
    methods: dict[str, tuple[Coadd, bool, bool]] = {
        "proper, no holes": (proper, False, False),
        "proper": (proper, True, False),
        "proper, measured PSFs": (proper, True, True),
        "mean, 1/σ²": (weighted(np.ones(len(FWHMS))), True, False),
        "mean, 1/(σ² FWHM²)": (weighted(1 / np.array(FWHMS) ** 2), True, False),
        "homogenised to the worst": (homogenised, True, False),
        "best single frame": (sharpest, True, False),
    }
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    inside = (slice(RIM, -RIM), slice(RIM, -RIM))
    check = []
    for seed in range(realisations):
        rng = np.random.default_rng([seed, 77])
        noise = rng.normal(size=stars.shape) * SIGMAS[:, None, None]
        missing, measured = holes(rng), measured_psfs(rng)
        ideal = sum(w * score(n, p) for w, n, p in zip(WEIGHTS, noise, truth, strict=True))
        check.append(float(np.std(ideal[inside])) / optimum)
        for name, (coadd, holed, own) in methods.items():
            gone = missing if holed else np.zeros_like(missing)
            psfs = measured if own else truth
            shining, psf = coadd(stars, gone, psfs)
            dark, _ = coadd(noise, gone, psfs)
            response = score(np.nan_to_num(shining), psf)[STARS[1], STARS[0]]
            ratio = response.mean() / np.std(score(np.nan_to_num(dark), psf)[inside]) * np.std(ideal[inside])
            fluxes = [shining[b - 20 : b + 21, a - 20 : a + 21].sum() for a, b in zip(*STARS, strict=True)]
            rows[name].append((ratio / optimum**2, float(np.mean(fluxes)), float(np.std(fluxes))))
    print(f"{realisations} realisations of {SIDE} x {SIDE} px, {len(STARS[0])} stars each")
    print(f"noise of the optimum's image over the analytic: {np.mean(check):.4f} ± {error(check):.4f}")
    print(f"{'':28}{'S/N over optimum':>20}{'(S/N)²':>9}{'flux':>9}{'its scatter':>13}")
    for name, values in rows.items():
        ratio, flux, scatter = np.mean(values, axis=0)
        spread = error([value[0] for value in values])
        print(f"{name:28}{ratio:13.4f} ± {spread:.4f}{ratio**2:9.4f}{flux:9.4f}{scatter:13.4f}")


def error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def cost(frames: int) -> None:
    psfs = (true_psfs() * frames)[:frames]
    tile_noises = (noises() * frames)[:frames]
    margin = proper_reach_px(psfs)
    side = SIDE + 2 * margin
    rng = np.random.default_rng(1)
    cube = rng.normal(size=(frames, side, side)).astype(np.float32)
    cube[rng.random(cube.shape) < 0.01] = ABSENT
    spent = []
    for _ in range(3):
        start = time.process_time()
        inner = (slice(margin, -margin), slice(margin, -margin))
        combine_proper(cube.copy(), tile_noises, psfs, None, Tile(x0=0, y0=0, nx=side, ny=side), inner)
        spent.append(time.process_time() - start)
    per = min(spent) / frames / (SIDE**2 / 1e6)
    print(
        f"{frames} frames, tile of {SIDE} px and a margin of {margin}: {per:.3f} CPU-s per output Mpix and frame"
    )


def main() -> None:
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
    for frames in (6, 30):
        cost(frames)


if __name__ == "__main__":
    main()
