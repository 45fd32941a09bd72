from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs.utils import pixel_to_pixel
from reproject import reproject_exact, reproject_interp

from starloom.coadd.inputs import InputFrame, wcs_from_cards
from starloom.coadd.jit import ABSENT
from starloom.coadd.mapping import FrameMap
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan, Streak, Tile, make_tiles
from starloom.coadd.warp import Warper, noise_factor

NOISE = 8.0


class ArraySource:
    """A frame in memory that hands out only what is asked for."""

    def __init__(self, data, mask=None):
        self._data, self._mask, self.shape, self.has_mask = data, mask, data.shape, mask is not None
        self.pixels_read = 0

    def read(self, y0, lo, hi, x0, out):
        for row, (a, b) in enumerate(zip(lo, hi, strict=True)):
            if a < b:
                out[row, a - x0 : b - x0] = self._data[y0 + row, a:b]
                self.pixels_read += int(b - a)
        return True

    def mask(self, y0, y1, x0, x1):
        return None if self._mask is None else self._mask[y0:y1, x0:x1]

    def close(self):
        pass


def tan(shape, scale, rot=0.0, *, dx=0.0, dy=0.0, sip=0.0):
    c, s, d = np.cos(np.radians(rot)), np.sin(np.radians(rot)), scale / 3600
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "RADESYS": "ICRS",
        "CRPIX1": (shape[1] + 1) / 2 + dx, "CRPIX2": (shape[0] + 1) / 2 + dy,
        "CD1_1": -d * c, "CD1_2": -d * s, "CD2_1": -d * s, "CD2_2": d * c,
    }  # fmt: skip
    if sip:
        cards |= {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2}
        cards |= {"A_2_0": sip, "B_0_2": -sip}
    return cards


def setup(data, *, grid_shape=(300, 320), grid_scale=1.0, scale=1.0, rot=23.0, sip=3e-6, mask=None, pixfrac=0.8,
          saturation=None, fwhm=2.5, noise=NOISE, dx=0.0, dy=0.0, **fields):  # fmt: skip
    """Return plan, frame, source and warper of one frame in memory."""
    item = InputFrame(
        id="a", path=Path("a.fits"), band="V", node="T1", exposure_s=60.0, sky_sigma_adu=noise,
        fwhm_arcsec=fwhm * scale, saturation_adu=saturation,
    )  # fmt: skip
    frame = PlanFrame(
        input=item, shape=data.shape, wcs_cards=tan(data.shape, scale, rot, sip=sip, dx=dx, dy=dy),
        area=(grid_scale / scale) ** 2, **fields,
    )  # fmt: skip
    grid = tan(grid_shape, grid_scale) | {"NAXIS1": grid_shape[1], "NAXIS2": grid_shape[0]}
    plan = StackPlan(
        band="V", pointing=1, grid=grid, frames=(frame,), options=StackOptions(pixfrac=pixfrac), tiles=()
    )
    source = ArraySource(data.astype(np.float32), mask)
    return plan, frame, source, Warper(plan, frame, source, FrameMap.of(plan, frame))


def warped(warper, plan, tile=None):
    tile = tile or Tile(x0=0, y0=0, nx=plan.shape[1], ny=plan.shape[0])
    out = np.full((tile.ny, tile.nx), np.nan, np.float32)
    saturated = np.full(out.shape, -ABSENT, np.float32)
    assert warper.warp(tile, out, saturated)
    return out, saturated


def sky_and_stars(shape=(280, 300), fwhm=2.5, seed=1, noise=NOISE, n=60):
    rng = np.random.default_rng(seed)
    data = 1000 + rng.normal(0, noise, shape)
    yy, xx = np.indices(shape)
    for _ in range(n):
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        data += 10 ** rng.uniform(2, 3.5) * np.exp(-4 * np.log(2) * ((xx - x) ** 2 + (yy - y) ** 2) / fwhm**2)
    return data.astype(np.float32)


def wcs_pair(plan, frame):
    return wcs_from_cards({k: v for k, v in plan.grid.items() if k[:5] != "NAXIS"}), wcs_from_cards(
        frame.wcs_cards
    )


def local_area(plan, frame):
    grid, own = wcs_pair(plan, frame)
    yy, xx = np.indices(plan.shape, float)
    x = [pixel_to_pixel(grid, own, xx + dx, yy + dy) for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
    return np.abs((x[0][0] - x[1][0]) * (x[2][1] - x[3][1]) - (x[0][1] - x[1][1]) * (x[2][0] - x[3][0]))


@pytest.mark.parametrize(
    ("kernel", "grid_scale"),
    [("nearest", 1.0), ("bilinear", 1.0), ("bilinear", 0.7), ("area", 1.0), ("area", 1.9)],
)
def test_kernels_are_those_of_reproject(kernel, grid_scale):
    data = sky_and_stars(n=0)
    shape = (int(300 / grid_scale), int(320 / grid_scale))
    plan, frame, _, warper = setup(
        data, kernel=kernel, grid_shape=shape, grid_scale=grid_scale, noise=0.0, node_px=4
    )
    got, _ = warped(warper, plan)
    grid, own = wcs_pair(plan, frame)
    if kernel == "area":
        want, _ = reproject_exact((data, own), grid, shape_out=plan.shape)
    else:
        order = {"nearest": "nearest-neighbor", "bilinear": "bilinear"}[kernel]
        want, _ = reproject_interp((data, own), grid, shape_out=plan.shape, order=order)
    both = (got < ABSENT) & np.isfinite(want)
    x, y = pixel_to_pixel(grid, own, *np.meshgrid(*(np.arange(n, dtype=float) for n in plan.shape[::-1])))
    interior = (x > 2) & (y > 2) & (x < data.shape[1] - 3) & (y < data.shape[0] - 3)
    assert both[interior].all()
    off = (got / local_area(plan, frame) - want)[interior]
    if kernel == "nearest":
        # Positions right to 0.001 px may fall to either side of a pixel's border.
        assert np.mean(np.abs(off) > 1e-2) < 2e-3
        off = off[np.abs(off) < 1e-2]
    assert np.sqrt(np.mean(off**2)) < 1e-3 * NOISE


def plain_lanczos(data, x, y, stretch):
    total, norm = np.zeros(x.shape), np.zeros(x.shape)
    for j in range(-3, 5):
        for i in range(-3, 5):
            column, row = np.floor(x).astype(int) + i, np.floor(y).astype(int) + j
            u, v = (x - column) / stretch, (y - row) / stretch
            w = np.sinc(u) * np.sinc(u / 3) * np.sinc(v) * np.sinc(v / 3) * (np.abs(u) < 3) * (np.abs(v) < 3)
            total += w * np.pad(data, 4)[row + 4, column + 4]
            norm += w
    return total / norm


@pytest.mark.parametrize(
    ("grid_scale", "reach", "rot", "node_px", "worst"),
    [(1.0, 2, 23.0, 4, 6e-3), (1.25, 3, 23.0, 4, 6e-3), (1.0, 2, 2.0, 16, 1e-3), (0.97, 2, 186.0, 16, 1e-3)],
)
def test_lanczos_is_that_of_plain_numpy(grid_scale, reach, rot, node_px, worst):
    data = sky_and_stars(n=0)
    sip = 0.0 if node_px > 4 else 3e-6
    plan, frame, _, warper = setup(
        data, kernel="lanczos3", node_px=node_px, grid_scale=grid_scale, rot=rot, sip=sip
    )
    got, _ = warped(warper, plan)
    grid, own = wcs_pair(plan, frame)
    x, y = pixel_to_pixel(grid, own, *np.meshgrid(*(np.arange(n, dtype=float) for n in plan.shape[::-1])))
    inside = (x >= reach) & (y >= reach) & (x < data.shape[1] - reach - 1) & (y < data.shape[0] - reach - 1)
    assert np.mean((got < ABSENT) != inside) < 1e-3
    inside &= got < ABSENT
    want = plain_lanczos(data.astype(float), x[inside], y[inside], max(grid_scale, 1.0))
    off = got[inside] / local_area(plan, frame)[inside] - want
    # The table's 1024 phases where the frame is turned; polynomials where it lies along the grid.
    assert np.sqrt(np.mean(off**2)) < worst / 6 * NOISE
    assert np.abs(off).max() < worst * NOISE


@pytest.mark.parametrize("rot", [0.0, 31.0, 180.0])
@pytest.mark.parametrize(
    ("kernel", "ratio"), [("lanczos3", 0.5), ("lanczos3", 1.25), ("bilinear", 0.5), ("area", 1.0), ("area", 3.0),
                          ("drizzle", 1.0), ("drizzle", 2.0)]
)  # fmt: skip
def test_flux_is_kept_at_all_scales(kernel, ratio, rot):
    shape = (120, 130)
    yy, xx = np.indices(shape)
    data = 5e4 * np.exp(-4 * np.log(2) * ((xx - 61.3) ** 2 + (yy - 57.8) ** 2) / 3.0**2)
    size = (int(160 / ratio), int(170 / ratio))
    plan, _, _, warper = setup(
        data, kernel=kernel, grid_shape=size, grid_scale=ratio, rot=rot, sip=1e-5, scale=1.0, fwhm=3.0
    )
    got, _ = warped(warper, plan)
    assert got[got < ABSENT].sum() == pytest.approx(data.sum(), rel=1e-3)


def everything():
    """A frame with all that goes wrong: NaN, hot pixels, saturated stars, a mask, streaks, a frame's edge."""
    data = sky_and_stars(shape=(260, 250), n=40)
    rng = np.random.default_rng(5)
    for value in (np.nan, 5000.0, 0.0, 6.5e4):
        y, x = rng.integers(0, 250, (2, 12))
        data[y, x] = value
    data[0, 5], data[100, 0], data[259, 249] = 4000.0, 4000.0, np.nan
    mask = np.zeros(data.shape, bool)
    mask[50:54, 200:203] = True
    return data, {
        "mask": mask, "saturation": 6e4, "scale": 1.1, "shift_px": (3.25, -1.5),
        "sky": (5.0, 3.0, -2.0, 4.0, 1.0, -3.0),
        "streaks": (Streak(x0=20, y0=30, x1=290, y1=222, half_width=2.5),),
        "registration": ((0.2, 0.1, 0.0, 0.05, 0.0, 0.0), (0.0, 0.0, -0.1, 0.0, 0.1, 0.0)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "grid_scale", "rot"),
    [
        ("lanczos3", 1.0, 23.0), ("lanczos3", 1.0, 2.0), ("lanczos3", 1.0, -7.0), ("lanczos3", 0.98, 184.0),
        ("lanczos3", 1.2, 23.0), ("bilinear", 1.0, 23.0), ("nearest", 1.0, 23.0), ("area", 1.0, 23.0),
        ("drizzle", 1.0, 23.0),
    ],
)  # fmt: skip
def test_bits_do_not_depend_on_the_tiles(kernel, grid_scale, rot):
    data, fields = everything()
    plan, _, _, warper = setup(data, kernel=kernel, grid_scale=grid_scale, rot=rot, **fields)
    whole, limits = warped(warper, plan)
    assert 0.02 < np.mean(whole == ABSENT) < 0.6
    assert (limits > -ABSENT).sum() > 12
    tiles = [*make_tiles(plan.shape, 47), Tile(x0=3, y0=101, nx=311, ny=1), Tile(x0=159, y0=0, nx=2, ny=300)]
    for tile in tiles:
        wide = np.full((tile.ny, tile.nx + 5), np.nan, np.float32)
        out, saturated = wide[:, 2:-3], np.full((tile.ny, tile.nx), -ABSENT, np.float32)
        here = np.s_[tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx]
        if warper.warp(tile, out, saturated):
            assert np.array_equal(out.view(np.int32), whole[here].view(np.int32))
            assert np.array_equal(saturated, limits[here])
            assert np.isnan(wide[:, :2]).all()
            assert np.isnan(wide[:, -3:]).all()
        else:
            assert np.isnan(out).all()
            assert (whole[here] == ABSENT).all()


def test_threads_share_a_warper():
    data, fields = everything()
    plan, _, _, warper = setup(data, kernel="lanczos3", **fields)
    tiles = make_tiles(plan.shape, 40)
    alone = [warped(warper, plan, tile)[0].tobytes() for tile in tiles if warps(warper, tile)]
    with ThreadPoolExecutor(4) as pool:
        together = list(
            pool.map(lambda t: warped(warper, plan, t)[0].tobytes(), [t for t in tiles if warps(warper, t)])
        )
    assert together == alone


def warps(warper, tile):
    out = np.empty((tile.ny, tile.nx), np.float32)
    return warper.warp(tile, out, np.full_like(out, -ABSENT))


def test_bad_pixels_take_their_surroundings_with_them():
    data = sky_and_stars(n=0)
    clean, _ = warped(setup(data, kernel="lanczos3", saturation=6e4)[3], setup(data)[0])
    data[140, 150], data[100, 90], data[60, 200] = np.nan, 3000.0, 6.4e4
    mask = np.zeros(data.shape, bool)
    mask[200, 100] = True
    plan, frame, _, warper = setup(data, kernel="lanczos3", saturation=6e4, mask=mask)
    got, limits = warped(warper, plan)
    grid, own = wcs_pair(plan, frame)
    x, y = pixel_to_pixel(grid, own, *np.meshgrid(*(np.arange(n, dtype=float) for n in plan.shape[::-1])))
    touched = np.zeros(plan.shape, bool)
    for row, column in ((140, 150), (100, 90), (60, 200), (200, 100)):
        touched |= (np.abs(x - column) < 2.999) & (np.abs(y - row) < 2.999)
    lost = (got == ABSENT) & (clean < ABSENT)
    assert np.mean(lost != touched) < 1e-4
    assert np.array_equal(got[~lost], clean[~lost])
    core = (np.abs(x - 200) < 0.3) & (np.abs(y - 60) < 0.3)
    assert (limits[core] > 2e4).all()
    assert (limits[np.hypot(x - 200, y - 60) > 5] == -ABSENT).all()


def test_shift_moves_everything_that_the_frame_brings():
    data, fields = everything()
    plan, _, _, warper = setup(data, kernel="bilinear", node_px=4, **fields | {"shift_px": (0.0, 0.0)})
    still, _ = warped(warper, plan)
    plan, _, _, warper = setup(data, kernel="bilinear", node_px=4, **fields | {"shift_px": (11.0, -4.0)})
    moved, _ = warped(warper, plan)
    a, b = still[: plan.shape[0] - 4, 11:], moved[4:, : plan.shape[1] - 11]
    assert np.mean((a == ABSENT) != (b == ABSENT)) < 1e-3
    both = (a < ABSENT) & (b < ABSENT)
    assert np.percentile(np.abs(a - b)[both], 99.9) < 0.05


def test_a_rotated_tile_reads_a_parallelogram():
    data = sky_and_stars(shape=(400, 400), n=0)
    plan, _, source, warper = setup(data, kernel="lanczos3", rot=45.0, grid_shape=(300, 300))
    warped(warper, plan, Tile(x0=86, y0=86, nx=128, ny=128))
    assert 128**2 < source.pixels_read < 1.25 * 128**2  # its bounding box holds 2.1 times as many


@pytest.mark.parametrize(
    ("kernel", "ratio", "pixfrac"),
    [
        ("lanczos3", 1.0, 1.0),
        ("lanczos3", 1.25, 1.0),
        ("bilinear", 1.2, 1.0),
        ("nearest", 1.1, 1.0),
        ("area", 1.7, 1.0),
        ("drizzle", 0.8, 0.6),
    ],
)
def test_noise_factors_are_those_of_resampled_noise(kernel, ratio, pixfrac):
    data = np.random.default_rng(9).normal(1000, NOISE, (400, 400))
    plan, frame, _, warper = setup(
        data, kernel=kernel, grid_scale=ratio, rot=0.0, sip=5e-5, dx=0.3, pixfrac=pixfrac, noise=0.0,
        grid_shape=(int(380 / ratio), int(380 / ratio)),
    )  # fmt: skip
    got, _ = warped(warper, plan)
    there = got < ABSENT
    area = local_area(plan, frame)
    sd = np.std((got / np.sqrt(area) - 1000 * np.sqrt(area))[there]) / NOISE
    assert sd == pytest.approx(noise_factor(kernel, ratio**2, pixfrac), rel=0.03)


def test_drizzle_weighs_drops_by_their_overlap():
    rng = np.random.default_rng(3)
    data = rng.normal(100, 10, (40, 40)).astype(np.float32)
    plan, frame, _, warper = setup(
        data, kernel="drizzle", grid_scale=0.7, rot=35.0, sip=0.0, grid_shape=(40, 40), pixfrac=0.6, noise=0.0
    )
    got, _ = warped(warper, plan)
    grid, own = wcs_pair(plan, frame)
    fine = (np.arange(50) + 0.5) / 50 - 0.5
    area = local_area(plan, frame)
    for row, column in rng.integers(8, 32, (40, 2)):
        gx, gy = np.meshgrid(column + fine, row + fine)
        x, y = pixel_to_pixel(grid, own, gx.ravel(), gy.ravel())
        i, j = np.rint(x).astype(int), np.rint(y).astype(int)
        hit = (np.abs(x - i) < 0.3) & (np.abs(y - j) < 0.3)
        if hit.mean() > 0.05:
            assert got[row, column] / area[row, column] == pytest.approx(data[j[hit], i[hit]].mean(), abs=1.0)
        elif not hit.any():
            assert got[row, column] == ABSENT
