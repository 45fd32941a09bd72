"""Resampling: CPU time per output pixel of every kernel, against reproject on the same frame and grid.

    python benchmarks/coadd_resample.py [SIDE]

One thread, tiles of 256 x 256, pixels in memory; a SIP frame, turned by as much as the table says: Lanczos-3 is
faster where rows of frame and grid nearly run along each other. "Masked" has 200 hot pixels a
megapixel and a saturated star in each tile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reproject import reproject_exact, reproject_interp

from starloom.coadd import mapping
from starloom.coadd.inputs import InputFrame, wcs_from_cards
from starloom.coadd.jit import ABSENT, compiled
from starloom.coadd.mapping import FrameMap, choose_node_px
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, make_tiles
from starloom.coadd.warp import Warper

ROUNDS = 5


@compiled
def copy_spans(data: Any, y0: int, lo: Any, hi: Any, x0: int, out: Any) -> None:
    for row in range(lo.size):
        for x in range(lo[row], hi[row]):
            out[row, x - x0] = data[y0 + row, x]


class ArraySource:
    has_mask = False

    def __init__(self, data: Any) -> None:
        self.data, self.shape = data, data.shape

    def read(self, y0: int, lo: Any, hi: Any, x0: int, out: Any) -> bool:
        copy_spans(self.data, y0, lo, hi, x0, out)
        return False

    def mask(self, *_: int) -> None:
        return None

    def close(self) -> None:
        pass


def cards(ny: int, nx: int, scale: float, rot: float, *, sip: bool) -> dict[str, Any]:
    c, s = np.cos(np.radians(rot)) * scale / 3600, np.sin(np.radians(rot)) * scale / 3600
    suffix = "-SIP" if sip else ""
    found = {
        "CTYPE1": "RA---TAN" + suffix, "CTYPE2": "DEC--TAN" + suffix, "CRVAL1": 150.0, "CRVAL2": 20.0,
        "CRPIX1": (nx + 1) / 2, "CRPIX2": (ny + 1) / 2, "CD1_1": -c, "CD1_2": -s, "CD2_1": -s, "CD2_2": c,
        "RADESYS": "ICRS",
    }  # fmt: skip
    if sip:
        found |= {"A_ORDER": 3, "B_ORDER": 3, "A_2_0": 2e-7, "B_0_2": -1e-7}
        found |= {"A_3_0": 1e-10, "A_1_2": 1e-10, "B_0_3": 1e-10, "B_2_1": 1e-10}
    return found


def plan_of(shape: tuple[int, int], ratio: float, kernel: str, rot: float = 20.0) -> tuple[StackPlan, PlanFrame]:
    item = InputFrame(
        id="a", path=Path("a.fits"), band="V", node="T1", exposure_s=60.0, sky_sigma_adu=10.0, fwhm_arcsec=2.5,
        saturation_adu=6e4,
    )  # fmt: skip
    frame = PlanFrame(
        input=item, shape=shape, wcs_cards=cards(*shape, 1.0, rot, sip=True), area=ratio**2, kernel=kernel
    )
    ny, nx = (int(side / ratio) for side in shape)
    grid = cards(ny, nx, ratio, 0.0, sip=False) | {"NAXIS1": nx, "NAXIS2": ny}
    plan = StackPlan(
        band="V", pointing=1, grid=grid, frames=(frame,), options=StackOptions(), tiles=make_tiles((ny, nx), 256)
    )
    return plan, frame


def ns_per_px(data: Any, ratio: float, kernel: str, rot: float) -> float:
    plan, frame = plan_of(data.shape, ratio, kernel, rot)
    warper = Warper(plan, frame, ArraySource(data), FrameMap.of(plan, frame))
    spent, pixels = np.inf, 0
    for _ in range(ROUNDS + 1):
        total, pixels = 0.0, 0
        for tile in plan.tiles:
            out = np.empty((tile.ny, tile.nx), np.float32)
            saturated = np.full_like(out, -ABSENT)
            start = time.thread_time()
            warper.warp(tile, out, saturated)
            total += time.thread_time() - start
            pixels += out.size
        spent = min(spent, total)
    return spent / pixels * 1e9


def peer_ns_per_px(data: Any, ratio: float, resample: Callable[[Any, Any, Any], Any]) -> float:
    plan, frame = plan_of(data.shape, ratio, "bilinear")
    grid = wcs_from_cards({k: v for k, v in plan.grid.items() if k[:5] != "NAXIS"})
    start = time.process_time()
    resample((data, wcs_from_cards(frame.wcs_cards)), grid, plan.shape)
    return (time.process_time() - start) / (plan.shape[0] * plan.shape[1]) * 1e9


def main() -> None:
    side = int(next((a for a in sys.argv[1:] if a.isdigit()), 1024))
    rng = np.random.default_rng(1)
    clean = rng.normal(1000, 10, (side, side)).astype(np.float32)
    masked = clean.copy()
    masked.flat[rng.choice(clean.size, clean.size // 5000, replace=False)] = 3000
    for y in range(60, side, 200):
        for x in range(60, side, 200):
            masked[y : y + 6, x : x + 6] = 6.2e4
    print(f"{'kernel':12s} {'frame px/px':>12s} {'turned':>8s} {'clean':>8s} {'masked':>8s}   ns per output pixel")
    for kernel, ratio, rot in (
        ("lanczos3", 1.0, 2.0), ("lanczos3", 1.0, 182.0), ("lanczos3", 1.0, 20.0), ("lanczos3", 1.2, 20.0),
        ("bilinear", 1.0, 20.0), ("nearest", 1.0, 20.0), ("area", 1.0, 20.0), ("area", 2.0, 20.0),
        ("drizzle", 1.0, 20.0),
    ):  # fmt: skip
        cost = [ns_per_px(data, ratio, kernel, rot) for data in (clean, masked)]
        print(f"{kernel:12s} {ratio:12.1f} {rot:8.0f} {cost[0]:8.1f} {cost[1]:8.1f}")
    small = clean[: side // 2, : side // 2]
    for name, ratio, data, resample in (
        ("reproject_interp, bilinear", 1.0, clean, lambda d, w, s: reproject_interp(d, w, s, order="bilinear")),
        ("reproject_exact", 1.0, small, reproject_exact),
        ("reproject_exact", 2.0, small, reproject_exact),
    ):
        print(f"{name:26s} {ratio:8.1f} {peer_ns_per_px(data, ratio, resample):8.1f}")
    plan, frame = plan_of((4176, 6248), 1.0, "lanczos3")
    for name, call in (
        ("node spacing, checked", lambda: choose_node_px(plan.grid, plan.shape, frame.wcs_cards, frame.shape)),
        ("map, checked before", lambda: FrameMap.of(plan, frame)),
    ):
        best = np.inf
        for _ in range(ROUNDS):
            if name.startswith("node"):
                mapping._KNOWN.clear()
            start = time.process_time()
            call()
            best = min(best, time.process_time() - start)
        print(f"{name:26s} {best * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
