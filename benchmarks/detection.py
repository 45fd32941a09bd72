"""Detection: what it costs and what it finds, beside sep and seiza on the same pixels in the same run.

    python benchmarks/detection.py [--small] [--rounds 5]

Every kind of frame has the truth beside it. CPU-seconds are the least and the median of several rounds, in which
ours and the peers take turns. *Complete* are true stars of S/N 20 and more (matched filter, sky noise) in a list,
*false* its entries that lie on no star, *rms* the error per axis of lone unsaturated stars of S/N 100 and more,
beside the least that any estimate has (Cramér-Rao), *pull* error over stated error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import seiza
import sep
from exposure import Detector, expose, stars_light
from numpy.typing import NDArray
from peers import show
from scipy.spatial import cKDTree

from starloom.astrometry import detect_stars
from starloom.sky.cluster import globular
from starloom.sky.psf import Psf, make_psf

Floats = NDArray[np.float64]
LARGE, MIDDLE = (4000, 6000), (2000, 3000)
COLUMNS = (
    "stars", "complete", "false", "rms px", "bound", "pull 10-100", "pull 100+", "FWHM", "called",
)  # fmt: skip
BRIGHT_SNR, COMPLETE_SNR = 100.0, 20.0


@dataclass
class Scene:
    """A frame and its stars; ``width_px`` is what a list should call their width."""

    kind: str
    data: NDArray[np.uint16]
    x: Floats
    y: Floats
    snr: Floats
    psf: Psf
    detector: Detector
    width_px: float
    tolerance_px: float


@dataclass
class Found:
    """A list as a detector gave it, brightest first."""

    x: Floats
    y: Floats
    fwhm_px: float = float("nan")
    error_px: Floats | None = None
    saturated: NDArray[np.bool_] | None = None
    about: str = ""


def scene(
    kind: str,
    shape: tuple[int, int],
    n: int,
    psf: Psf,
    detector: Detector,
    *,
    seed: int,
    width_px: float,
    tolerance_px: float = 1.5,
    cluster: int = 0,
) -> Scene:
    rng = np.random.default_rng(seed)
    ny, nx = shape
    x, y = rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n)
    # Counts that grow 2.3 times a magnitude, from S/N 5 to 3000.
    snr = (5**-0.9 + rng.random(n) * (3000**-0.9 - 5**-0.9)) ** (-1 / 0.9)
    if cluster:
        ra, dec, mag = globular(200.0, 0.0, cluster, 0.03, 12.0, seed=seed, depth_mag=6)
        x = np.r_[x, (ra - 200) * 1800 + nx / 2]
        y = np.r_[y, dec * 1800 + ny / 2]
        snr = np.r_[snr, 8 * 10 ** (-0.4 * (mag - 17.5))]
    one = detector.limit_flux(psf) / 5
    on = (x > -30) & (x < nx + 30) & (y > -30) & (y < ny + 30)
    x, y, snr = x[on], y[on], snr[on]
    data = expose(stars_light(shape, x, y, snr * one, psf, detector.noise_adu), detector, rng)
    return Scene(kind, data, x, y, snr, psf, detector, width_px, tolerance_px)


def scenes(small: bool) -> list[Callable[[], Scene]]:
    large = MIDDLE if small else LARGE
    n = 1000 if small else 4000
    quiet = Detector(sky_adu=600.0, hot_share=0.0)
    hot = replace(quiet, hot_share=1e-3, hot_columns=6, cosmic_rays=40.0)
    slope = replace(quiet, sky_adu=2000.0, gradient=(0.5, 0.3, 0.2), vignetting=0.4)
    made: list[Callable[[], Scene]] = [
        lambda: scene("plain", large, n, make_psf(3.0), quiet, seed=1, width_px=3.0),
        lambda: scene("gradient", large, n, make_psf(3.0), slope, seed=2, width_px=3.0),
        lambda: scene("hot pixels", large, n, make_psf(3.0), hot, seed=3, width_px=3.0),
        lambda: scene(
            "trailed 10 px", MIDDLE, 600, make_psf(2.5, trail_px=10, trail_angle_deg=35), quiet, seed=4,
            width_px=2.5, tolerance_px=3.0,
        ),
        lambda: scene(
            "donut 12 px", MIDDLE, 600, make_psf(2.5, donut_px=12), quiet, seed=5, width_px=12.0, tolerance_px=3.0
        ),
        lambda: scene("globular", (1600, 1600), 400, make_psf(2.5), quiet, seed=6, width_px=2.5, cluster=20_000),
    ]  # fmt: skip
    for fwhm in (1.5, 2.0, 4.0, 5.0):
        made.append(
            lambda f=fwhm: scene(f"FWHM {f} px", MIDDLE, 800, make_psf(f), quiet, seed=7, width_px=f)  # type: ignore[misc]
        )
    return made


def ours(data: NDArray[Any]) -> Found:
    stars = detect_stars(data, max_stars=6000)
    about = " ".join([f"trail {stars.trail_px:.1f} px"] * stars.trailed + ["defocused"] * stars.defocused)
    return Found(stars.x, stars.y, stars.frame_fwhm_px, stars.centroid_err_px, stars.saturated, about)


def with_sep(data: NDArray[Any]) -> Found:
    pixels = data.astype(np.float32)
    sky = sep.Background(pixels)
    sky.subfrom(pixels)
    sep.set_extract_pixstack(1_000_000)
    sep.set_sub_object_limit(8192)
    found = sep.extract(pixels, 4.0, err=sky.globalrms)
    found = found[np.argsort(-found["flux"])]
    fwhm = (
        2.0 * sep.flux_radius(pixels, found["x"][:300], found["y"][:300], np.full(len(found[:300]), 12.0), 0.5)[0]
    )
    typical = float(np.median(fwhm))
    x, y, _ = sep.winpos(pixels, found["x"], found["y"], np.full(len(found), typical / 2.3548))
    return Found(x, y, typical)


def with_seiza(data: NDArray[Any]) -> Found:
    found = seiza.detect(data.astype(np.float32), max_stars=6000)
    return Found(np.array([s.x for s in found], float), np.array([s.y for s in found], float))


DETECTORS = {"starloom": ours, "sep": with_sep, "seiza": with_seiza}


def quality(it: Scene, found: Found) -> dict[str, str]:
    if not len(found.x):
        return {"stars": "0"}
    ny, nx = it.data.shape
    truth, listed = cKDTree(np.column_stack([it.x, it.y])), cKDTree(np.column_stack([found.x, found.y]))
    distance, star = truth.query(listed.data)
    inside = (it.x > 12) & (it.x < nx - 13) & (it.y > 12) & (it.y < ny - 13)
    wanted = inside & (it.snr > COMPLETE_SNR)
    alone = truth.query(truth.data, k=2)[0][:, 1] > 8 * it.tolerance_px
    complete = np.mean(listed.query(truth.data)[0][wanted & alone] < it.tolerance_px)
    room = it.detector.top - it.detector.pedestal - 2 * it.detector.sky_adu
    clear = it.snr * it.detector.limit_flux(it.psf) / 5 * it.psf.peak < 0.8 * room
    good = (distance < it.tolerance_px) & (alone & inside & clear & (it.snr > BRIGHT_SNR))[star]
    dx, dy = found.x[good] - it.x[star[good]], found.y[good] - it.y[star[good]]
    row = {
        "stars": str(len(found.x)),
        "complete": f"{100 * complete:.1f} %",
        "false": f"{100 * np.mean(distance > 2 * it.tolerance_px):.2f} %",
        "rms px": f"{np.sqrt(np.mean(np.r_[dx, dy] ** 2)):.4f}" if good.any() else "",
        "bound": f"{np.sqrt(np.mean([bound(it, s) ** 2 for s in it.snr[star[good]]])):.4f}" if good.any() else "",
        "FWHM": f"{100 * (found.fwhm_px / it.width_px - 1):+.1f} %" if np.isfinite(found.fwhm_px) else "",
        "called": found.about,
    }
    if found.error_px is not None:
        for name, low, high in (("pull 10-100", 10, 100), ("pull 100+", 100, 1e9)):
            some = (distance < it.tolerance_px) & (alone & inside & clear & (it.snr > low) & (it.snr < high))[star]
            off = np.r_[found.x - it.x[star], found.y - it.y[star]] / np.tile(found.error_px, 2)
            row[name] = f"{1.4826 * np.median(np.abs(off[np.tile(some, 2)])):.2f}" if some.sum() > 9 else ""
    return row


def bound(it: Scene, snr: float) -> float:
    """Least error per axis that any unbiased estimate has, from sky and photons."""
    flux = snr * it.detector.limit_flux(it.psf) / 5
    stamp = it.psf.phases[0, 0].astype(float)
    variance = it.detector.noise_adu**2 + flux * stamp / it.detector.gain
    along = [8 * (it.psf.phases[p].astype(float) - stamp) * flux for p in ((0, 1), (1, 0))]
    xx, xy, yy = ((a * b / variance).sum() for a, b in ((along[0], along[0]), along, (along[1], along[1])))
    return float(np.sqrt(0.5 * np.trace(np.linalg.inv(np.array([[xx, xy], [xy, yy]])))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="6 megapixels instead of 24")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    for make in scenes(options.small):
        it = make()
        cost: dict[str, list[float]] = {name: [] for name in DETECTORS}
        found: dict[str, Found] = {}
        for _ in range(options.rounds):
            for name, detector in DETECTORS.items():
                began = time.process_time()
                found[name] = detector(it.data)
                cost[name].append(time.process_time() - began)
        for name in DETECTORS:
            rows.append(
                {"frame": f"{it.kind}, {it.data.size / 1e6:.0f} Mpix", "": name}
                | {"CPU-s least": f"{min(cost[name]):.3f}", "median": f"{median(cost[name]):.3f}"}
                | dict.fromkeys(COLUMNS, "")
                | quality(it, found[name])
            )
        show(it.kind, rows[-len(DETECTORS) :])


if __name__ == "__main__":
    main()
