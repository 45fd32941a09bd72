"""Calibration against truth, and its cost beside ccdproc in the same run.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py [ROUNDS]

Three questions. Star fluxes across a field with 20 % vignetting and dark current, before and after, with masters
of a night's series. The defect map learnt from ten dithered lights, in usual, crowded and mosaic fields. What a
master of nine frames of 6 Mpix and one calibrated frame of 24 Mpix cost in CPU seconds and memory; ccdproc, if it
is installed, does the same work in turn. Each part names its goal.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from numpy.typing import NDArray

from starloom.calibration.apply import MasterSet, calibrate
from starloom.calibration.calibrated_file import MaskBit, Planes, read_planes, write_planes
from starloom.calibration.combining import FrameStack
from starloom.calibration.defects import learn_defects
from starloom.calibration.masters import MasterFrame, build_bias, build_dark, build_flat
from starloom.calibration.sensor import sensor_pixels
from starloom.sky.camera import Camera
from starloom.sky.mosaic import mosaic

EXPOSURE_S = 120.0
APERTURE_PX = 8.0


def stacked(folder: Path, frames: list[NDArray[Any]], make: Callable[[FrameStack], MasterFrame]) -> Planes:
    with FrameStack(folder) as stack:
        for frame in frames:
            stack.add(sensor_pixels(frame, fits.Header()))
        made = make(stack)
    return Planes(made.data, fits.Header({"STATS": str(made.stats)[:60]}), made.mask, made.variance)


def stars(shape: tuple[int, int], sky_e: float, x: Any, y: Any, flux_e: Any, fwhm: float) -> NDArray[np.float64]:
    """Electrons of Moffat stars of slope 3 over a sky."""
    light = np.full(shape, sky_e)
    core, half = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1), 20
    v, u = np.indices((2 * half + 1,) * 2) - half
    for cx, cy, flux in zip(x, y, flux_e, strict=True):
        ix, iy = round(float(cx)), round(float(cy))
        if half <= ix < shape[1] - half and half <= iy < shape[0] - half:
            profile = (1 + ((u - cx + ix) ** 2 + (v - cy + iy) ** 2) / core**2) ** -3
            light[iy - half : iy + half + 1, ix - half : ix + half + 1] += flux * profile / profile.sum()
    return light


def flux_errors() -> None:
    """Star fluxes over truth in nine parts of a field, raw and calibrated."""
    camera = Camera(shape=(1500, 2000), vignetting=0.2, dark_e_s=1.0, hot_share=1e-3, gain_e_per_adu=1.5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bias = stacked(folder, camera.series(15, 0.0, 0.0, seed=1), build_bias)
        dark = stacked(folder, camera.series(9, 0.0, EXPOSURE_S, seed=2), lambda s: build_dark(s, EXPOSURE_S))
        flats = camera.series(9, 28_000, 2.0, seed=3)
        flat = stacked(folder, flats, lambda s: build_flat(s, subtract=bias.data, read_noise_adu=4.0))
    gx, gy = (a.ravel() for a in np.meshgrid(np.arange(50, 1950, 60.0), np.arange(50, 1450, 60.0)))
    rng = np.random.default_rng(5)
    x, y = gx + rng.uniform(-8, 8, gx.size), gy + rng.uniform(-8, 8, gx.size)
    truth = np.full(gx.size, 4e5)
    ratios: dict[str, list[NDArray[Any]]] = {"raw": [], "calibrated": []}
    for seed in range(4):
        light = stars(camera.shape, 900.0, x, y, truth, 3.0)
        frame = camera.expose(light, EXPOSURE_S, np.random.default_rng(100 + seed))
        done = calibrate(frame, fits.Header(), MasterSet(None, dark, flat), gain_e_per_adu=1.5, read_noise_adu=4.0)
        assert done is not None
        assert done.planes.mask is not None
        raw = frame - np.float32(np.median(bias.data))
        for label, image in (("raw", raw), ("calibrated", done.planes.data)):
            image = np.ascontiguousarray(image, np.float32)
            image -= sep.Background(image).back()
            flux, _, _ = sep.sum_circle(image, x, y, APERTURE_PX, subpix=7)
            inside = 1 - (1 + (APERTURE_PX / (3.0 / 2 / np.sqrt(2 ** (1 / 3) - 1))) ** 2) ** -2
            clean, _, _ = sep.sum_circle(done.planes.mask.astype(np.float32), x, y, APERTURE_PX)
            ratios[label].append(np.where(clean == 0, flux / (truth / 1.5 * inside), np.nan))
    print("\nStar fluxes across the field, 20 % vignetting, 1 e-/s dark current (goal: within 0.5 %)")
    for label, found in ratios.items():
        ratio = np.nanmean(found, axis=0)
        cells = [
            float(np.nanmedian(ratio[(x * 3 // 2000 == i) & (y * 3 // 1500 == j)]))
            for j in range(3)
            for i in range(3)
        ]
        corner = np.hypot((x - 1000) / 1000, (y - 750) / 750) > 1.1
        print(
            f"  {label:10s} ninths of the field: {min(cells) - 1:+.2%} to {max(cells) - 1:+.2%}; "
            f"corners over centre {np.nanmedian(ratio[corner]) / np.nanmedian(ratio[~corner]) - 1:+.2%}; "
            f"scatter of one star {np.nanstd(ratio):.2%}"
        )


def defect_maps() -> None:
    """Completeness and false share of the map learnt from ten dithered frames."""
    print("\nDefects learnt from ten dithered lights (goal: >= 95 % of hot pixels >= 5 sigma, <= 1 % false)")
    shape, sky_e = (800, 1000), 800.0
    cases = {
        "usual": ({}, 3.0, 600), "crowded (a star in 133 px)": ({}, 3.0, 6000), "sharp, FWHM 1.8": ({}, 1.8, 1200),
        "soft, FWHM 6": ({}, 6.0, 600), "Bayer": ({"bayer": "RGGB"}, 3.0, 600),
    }  # fmt: skip
    for label, (changes, fwhm, count) in cases.items():
        complete, found_hot, false_hot = [], 0, 0
        for seed in range(3):
            camera = Camera(shape=shape, hot_share=2e-3, hot_e_s=(1.5, 150.0), seed=seed, **changes)  # type: ignore[arg-type]
            field, rng = np.random.default_rng([seed, 7]), np.random.default_rng([seed, 8])
            x, y = field.uniform(-60, 1060, count), field.uniform(-60, 860, count)
            flux = 4e5 * 10 ** (-0.4 * field.uniform(0, 6, count))
            with tempfile.TemporaryDirectory() as folder, FrameStack(Path(folder)) as stack:
                for k in range(10):
                    dx, dy = rng.uniform(-15, 15, 2)
                    light = stars(shape, sky_e, x + dx, y + dy, flux, fwhm)
                    if camera.bayer:
                        planes = {c: (light * s).astype("f4") for c, s in zip("RGB", (0.6, 1.0, 0.4), strict=True)}
                        light = mosaic(planes, camera.bayer) / camera.colours
                    frame = camera.expose(light, 60.0, np.random.default_rng([seed, k]), cosmic_rays=200)
                    stack.add(sensor_pixels(frame, fits.Header()))
                learnt = learn_defects(stack, step=2 if camera.bayer else 1)
            noise = np.hypot(np.sqrt(sky_e), camera.read_noise_e) / camera.gain_e_per_adu
            excess = camera.dark_current * 60.0 / camera.gain_e_per_adu / noise
            hot = (learnt.mask & MaskBit.HOT) > 0
            complete.append(hot[camera.hot & (excess > 5)].mean())
            found_hot += int(hot.sum())
            false_hot += int((hot & ~camera.hot).sum())
        print(f"  {label:30s} found {np.mean(complete):6.1%}   false {false_hot / max(found_hot, 1):6.2%}")


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def peak_mb(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def cost(rounds: int) -> None:
    """CPU-s and memory, ours and ccdproc's in turn."""
    try:
        import ccdproc
        from astropy import log
        from astropy.nddata import CCDData, StdDevUncertainty

        log.setLevel("ERROR")
    except ImportError:
        ccdproc = None
        print("\nccdproc is not installed: no comparison (pip install 'ccdproc>=2.5')")
    small = Camera(shape=(2000, 3000), hot_share=1e-3)
    print("\nCost, CPU-s (medians) and peak of the memory that numpy takes, MB")
    frames = [small.expose(0.0, 60.0, np.random.default_rng(k), cosmic_rays=500) for k in range(9)]
    truth = small.bias_level + small.dark_current * 60.0 / small.gain_e_per_adu

    def our_master() -> Planes:
        with tempfile.TemporaryDirectory() as folder:
            return stacked(Path(folder), frames, lambda s: build_dark(s, 60.0))

    def their_master() -> Any:
        return ccdproc.combine(
            [CCDData(frame, unit="adu") for frame in frames], method="average", sigma_clip=True,
            sigma_clip_low_thresh=4, sigma_clip_high_thresh=4, sigma_clip_func=np.ma.median,
            sigma_clip_dev_func="mad_std", mem_limit=350e6, dtype="f4",
        )  # fmt: skip

    spent, made = cpu(our_master)
    row(
        "master of 9 x 6 Mpix, starloom",
        [spent],
        peak_mb(our_master),
        pull(made.data, made.variance, truth, small),
    )
    if ccdproc is not None:
        spent, theirs = cpu(their_master)
        stated = theirs.uncertainty.array**2
        row(
            "master of 9 x 6 Mpix, ccdproc",
            [spent],
            peak_mb(their_master),
            pull(theirs.data, stated, truth, small),
        )
        del theirs
    camera = Camera(shape=(4000, 6000), hot_share=1e-3)
    noise = np.full(camera.shape, 2.0, "f4")
    dark = Planes((camera.bias_level + camera.dark_current * 40).astype("f4"), fits.Header(), None, noise)
    flat = Planes(camera.flat.astype("f4"), fits.Header(), None, noise * np.float32(1e-6))
    light = camera.expose(900.0, 60.0, np.random.default_rng(99))
    masters = MasterSet(None, dark, flat)

    def ours() -> Any:
        return calibrate(light, fits.Header(), masters, gain_e_per_adu=1.5, read_noise_adu=4.0)

    def their() -> Any:
        frame = ccdproc.create_deviation(
            CCDData(light.astype("f4"), unit="adu"), gain=1.5 / ccdproc.core.u.adu * ccdproc.core.u.electron,
            readnoise=6.0 * ccdproc.core.u.electron,
        )  # fmt: skip
        frame = ccdproc.subtract_dark(
            frame, their_dark, dark_exposure=60 * ccdproc.core.u.s, data_exposure=60 * ccdproc.core.u.s
        )
        return ccdproc.flat_correct(frame, their_flat)

    mine, other = [], []
    if ccdproc is not None:
        assert dark.variance is not None
        assert flat.variance is not None
        their_dark = CCDData(dark.data, unit="adu", uncertainty=StdDevUncertainty(np.sqrt(dark.variance)))
        their_flat = CCDData(flat.data, unit="", uncertainty=StdDevUncertainty(np.sqrt(flat.variance)))
    for _ in range(rounds):
        mine.append(cpu(ours)[0])
        if ccdproc is not None:
            other.append(cpu(their)[0])
    row("24 Mpix: dark, flat, variance, mask, starloom", mine, peak_mb(ours))
    if ccdproc is not None:
        row("24 Mpix: dark, flat, uncertainty, ccdproc", other, peak_mb(their))
    done = ours()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "c.fits.fz"
        wrote = [cpu(lambda: write_planes(done.planes, target))[0] for _ in range(rounds)]
        size = target.stat().st_size
        read = [cpu(lambda: read_planes(target))[0] for _ in range(rounds)]
    row(f"writing it with its planes ({size / 1e6:.0f} MB of {9 * light.size / 1e6:.0f})", wrote)
    row("reading it", read)


def pull(data: Any, variance: Any, truth: Any, camera: Camera) -> str:
    good = ~camera.hot[::4, ::4] & (variance[::4, ::4] > 0)
    z = ((data - truth)[::4, ::4] / np.sqrt(np.where(variance > 0, variance, 1))[::4, ::4])[good]
    error = np.std((data - truth)[::4, ::4][~camera.hot[::4, ::4]])
    return f"error {error:.3f} ADU, error / stated {1.4826 * np.median(np.abs(z)):.2f}"


def row(label: str, seconds: list[float], peak: float | None = None, note: str = "") -> None:
    memory = "" if peak is None else f"{peak:7.0f} MB"
    print(f"  {label:50s} {np.median(seconds):7.2f} {memory:>10s}  {note}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    flux_errors()
    defect_maps()
    cost(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
