"""Mask and variance of the frames in the stack: what is masked never arrives, what is noisier weighs less."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from starloom.calibration.calibrated_file import MaskBit, Planes, mark, write_planes
from starloom.coadd import StackOptions, StackPlan, make_plan, read_input, stack_files
from starloom.coadd.engine import LOWER_LIMIT, SATURATED
from starloom.coadd.inputs import open_frame
from starloom.coadd.inside import relative_weights, weights_at
from starloom.coadd.mapping import FrameMap


def with_planes(path, mask=None, variance=None):
    """Write a frame again as a calibrated file of the hub, with its planes."""
    with fits.open(path) as hdus:
        data, header = hdus[0].data.copy(), hdus[0].header.copy()
    return write_planes(Planes(data, header, mask, variance), path.with_suffix(".fits.fz"))


def stacked(paths, out, **options):
    report = stack_files(paths, out, StackOptions(**({"scale_arcsec": 1.0} | options)))
    with fits.open(out) as hdus:
        planes = {name: hdus[name].data.copy() for name in ("SCI", "WEIGHT", "COVERAGE", "FLAGS")}
        return report.products[0], planes, WCS(hdus["SCI"].header)


def place(path, wcs, x, y):
    """Where a frame's pixel lies in the stack."""
    header = fits.getheader(path, 1 if path.name.endswith(".fz") else 0)
    sx, sy = wcs.all_world2pix(*WCS(header).all_pix2world(x, y, 0), 0)
    return round(float(sx)), round(float(sy))


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos3"])
def test_a_masked_pixel_does_not_reach_the_stack(field, tmp_path, kernel):
    """Two warm pixels side by side, which no test of shape tells from a star."""
    spot = [(150, 140, 900.0), (151, 140, 900.0), (150, 141, 900.0)]
    raw = [
        field.frame(tmp_path / f"{n}.fits", seed=n, extra=spot if n == 0 else None, dra=3.0 * n) for n in range(2)
    ]
    clean = field.frame(tmp_path / "clean.fits", seed=0)
    mask = np.zeros((300, 300), np.uint8)
    mask[140, 150:152] = mask[141, 150] = MaskBit.HOT
    masked = [with_planes(raw[0], mask), raw[1]]
    options = {"kernel": kernel, "combine": "mean"}
    _, shown, wcs = stacked(raw, tmp_path / "raw.out.fits", **options)
    _, gone, _ = stacked(masked, tmp_path / "masked.out.fits", **options)
    _, truth, _ = stacked([clean, raw[1]], tmp_path / "clean.out.fits", **options)
    x, y = place(raw[0], wcs, 150, 140)
    box = np.s_[y - 8 : y + 9, x - 8 : x + 9]
    assert shown["SCI"].shape == gone["SCI"].shape == truth["SCI"].shape
    assert np.abs(shown["SCI"] - truth["SCI"])[box].max() > 150  # negative control
    assert np.abs(gone["SCI"] - truth["SCI"])[box].max() < 5 * 8  # the other frame alone: its noise, no peak
    assert gone["COVERAGE"][y, x] == 1
    reach = 1 if kernel == "bilinear" else 3
    hole = gone["COVERAGE"][box] == 1
    assert (2 * reach) ** 2 <= hole.sum() <= (2 * reach + 4) ** 2  # grown by the kernel, and no farther
    assert (gone["COVERAGE"] == truth["COVERAGE"]).mean() > 0.999


def test_a_dead_column_and_a_saturated_core_leave_no_trace_in_a_dithered_stack(field, tmp_path):
    frames, truth = [], []
    for n in range(4):
        clean = field.frame(tmp_path / f"c{n}.fits", seed=n, dra=5.0 * n, ddec=4.0 * n)
        with fits.open(clean) as hdus:
            data, header = hdus[0].data.copy(), hdus[0].header.copy()
        mask = np.zeros(data.shape, np.uint8)
        data[:, 120] -= 60.0  # a column of 7 sigma, which the clip may take for sky
        mark(mask, np.broadcast_to(np.arange(300) == 120, data.shape), MaskBit.DEAD)
        y, x = np.unravel_index(np.argmax(data[40:-40, 40:-40]), (220, 220))
        core = np.s_[y + 38 : y + 43, x + 38 : x + 43]
        data[core] = np.minimum(data[core], 1500.0)
        header["SATURATE"] = 1e7  # nothing but the mask tells
        mask[core] |= np.uint8(MaskBit.SATURATED)
        frames.append(write_planes(Planes(data, header, mask), tmp_path / f"f{n}.fits.fz"))
        truth.append(clean)
    _, got, wcs = stacked(frames, tmp_path / "got.out.fits")
    _, want, _ = stacked(truth, tmp_path / "want.out.fits")
    sigma = 1.4826 * np.nanmedian(np.abs(want["SCI"] - np.nanmedian(want["SCI"])))
    x0, y0 = place(truth[1], wcs, 120, 60)
    _, y1 = place(truth[1], wcs, 120, 240)
    along = np.s_[min(y0, y1) : max(y0, y1), x0 - 1 : x0 + 2]
    assert abs(np.nanmean((got["SCI"] - want["SCI"])[along])) < 0.3 * sigma
    assert got["COVERAGE"][along].min() >= 2
    centre = np.s_[60:-60, 60:-60]
    # A core that is saturated in every frame is no hole: the mask says so, and what is left there is a limit.
    core_px = got["FLAGS"][centre] == SATURATED | LOWER_LIMIT
    assert core_px.any()
    assert np.ptp(np.argwhere(core_px), axis=0).max() < 10
    assert got["SCI"][centre][core_px].max() > np.nanmedian(want["SCI"]) + 50 * sigma
    assert np.isfinite(got["SCI"][centre]).all()


def test_masked_cores_do_not_tie_the_scale_but_lone_defects_cost_no_star(field, tmp_path):
    rng = np.random.default_rng(1)
    paths, masked = [], []
    for n, zp in enumerate((25.0, 24.5)):
        path = field.frame(tmp_path / f"{n}.fits", seed=n, zp=zp)
        hot = rng.random((300, 300)) < 0.01
        with fits.open(path, mode="update") as hdus:
            hdus[0].data[hot] += 400.0
        paths.append(path)
        masked.append(with_planes(path, hot.astype(np.uint8) * np.uint8(MaskBit.HOT)))
    (plan,) = make_plan([read_input(path) for path in masked])
    assert plan.frames[0].scale / plan.frames[1].scale == pytest.approx(10**-0.2, rel=0.01)
    (clean,) = make_plan([read_input(field.frame(tmp_path / f"k{n}.fits", seed=n)) for n in range(2)])
    assert plan.frames[1].n_common_stars > 0.6 * clean.frames[1].n_common_stars


def vignetted(field, path, seed, *, noise=8.0, **options):
    """A flat-fielded frame whose corners are twice as noisy as its middle, and its variance."""
    field.frame(path, seed=seed, noise=noise, **options)
    v, u = np.meshgrid(*(np.linspace(-1, 1, 300),) * 2, indexing="ij")
    factor = 1 + 0.5 * (u**2 + v**2)
    with fits.open(path, mode="update") as hdus:
        extra = np.random.default_rng(seed + 50).normal(0, 1, (300, 300)) * noise * np.sqrt(factor**2 - 1)
        hdus[0].data += extra.astype(np.float32)
    return with_planes(path, None, (noise * factor).astype(np.float32) ** 2)


def test_vignetted_corners_weigh_less_and_the_stack_is_better_for_it(field, tmp_path):
    """Each frame's noisy corner lies under another's middle."""
    field.flux[:] = 0.0
    field.flux[::7] = 5e4
    frames = [vignetted(field, tmp_path / f"{n}.fits", n, dra=110.0 * n) for n in range(2)]
    product, got, wcs = stacked(frames, tmp_path / "w.out.fits", combine="mean")
    plain = []
    for n, frame in enumerate(frames):
        with fits.open(frame) as hdus:
            fits.PrimaryHDU(hdus[1].data, hdus[1].header).writeto(tmp_path / f"p{n}.fits")
        plain.append(tmp_path / f"p{n}.fits")
    _, unweighted, _ = stacked(plain, tmp_path / "u.out.fits", combine="mean")
    x, y = place(frames[0], wcs, 4, 150)  # the edge of one frame over the middle of the other
    far = place(frames[0], wcs, 290, 150)
    assert got["COVERAGE"][y, x] + got["COVERAGE"][far[1], far[0]] >= 3
    both = got["COVERAGE"] == 2
    sd = lambda image: 1.4826 * np.median(np.abs(image - np.median(image)))  # noqa: E731
    rows, cols = np.indices(both.shape)
    strip = both & (np.abs(rows - y) < 60) & ((np.abs(cols - x) < 25) | (np.abs(cols - far[0]) < 25))
    assert sd(got["SCI"][strip]) < 0.96 * sd(unweighted["SCI"][strip])
    # The stated weight is the noise that is there, under one frame or two, in the corner as in the middle.
    worth = []
    for depth in (1, 2):
        there = got["COVERAGE"] == depth
        for low, high in ((0, 30), (30, 70), (70, 100)):
            least, most = np.percentile(got["WEIGHT"][there], [low, high])
            part = there & (got["WEIGHT"] >= least) & (got["WEIGHT"] <= most)
            worth.append(sd(got["SCI"][part]) * np.sqrt(np.median(got["WEIGHT"][part])))
    np.testing.assert_allclose(worth, np.mean(worth), rtol=0.04)
    assert product.noise_factor < np.mean(worth) < 1.05  # pixels that fall on pixels are hardly smoothed
    corner = (got["COVERAGE"] == 1) & (got["WEIGHT"] < np.percentile(got["WEIGHT"][got["COVERAGE"] == 1], 10))
    middle = got["WEIGHT"] > np.percentile(got["WEIGHT"], 90)
    assert np.median(got["WEIGHT"][corner]) < 0.5 * np.median(got["WEIGHT"][middle])


def test_the_plan_carries_the_weights_and_its_digest_knows_them(field, tmp_path):
    frame = vignetted(field, tmp_path / "a.fits", 1)
    (plan,) = make_plan([read_input(frame)])
    again = StackPlan.model_validate_json(plan.model_dump_json())
    assert again.digest() == plan.digest()
    mesh = np.array(plan.frames[0].relative_weight)
    assert mesh.shape == (16, 16)
    assert mesh[8, 8] / mesh[0, 0] == pytest.approx(4, rel=0.25)
    assert np.median(mesh) == pytest.approx(1, abs=0.1)
    flat = plan.model_copy(
        update={"frames": tuple(f.model_copy(update={"relative_weight": None}) for f in plan.frames)}
    )
    assert flat.digest() != plan.digest()
    assert FrameMap.of(plan, plan.frames[0]).relative(plan.tiles[0]).max() > 0.9
    assert FrameMap.of(flat, flat.frames[0]).relative(plan.tiles[0]) is None


def test_weights_are_smooth_and_bounded():
    rng = np.random.default_rng(1)
    variance = (100 * (1 + 0.05 * rng.standard_normal((400, 600)))).astype(np.float32)
    assert relative_weights(variance) is None  # the same everywhere
    assert relative_weights(None) is None
    assert relative_weights(np.full((50, 50), np.nan, np.float32)) is None
    variance[:100] = np.nan
    variance[:, 300:] *= 3
    mesh = relative_weights(variance)
    assert np.isfinite(mesh).all()
    assert np.max(mesh) <= 4
    x, y = np.array([10.0, 590.0, np.nan]), np.array([390.0, 390.0, 5.0])
    got = weights_at(mesh, (400, 600), x, y)
    assert got[0] / got[1] == pytest.approx(3, rel=0.05)
    assert np.isnan(got[2])


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_planes_are_read_by_section_from_any_file(field, tmp_path, suffix):
    path = field.frame(tmp_path / "a.fits")
    mask = np.zeros((300, 300), np.uint8)
    mask[10, 20] = MaskBit.COSMIC
    variance = np.full((300, 300), 64, np.float32)
    with fits.open(path) as hdus:
        out = fits.HDUList([hdus[0].copy(), fits.ImageHDU(mask, name="MASK"), fits.ImageHDU(variance, name="VAR")])
        out.append(fits.ImageHDU(np.ones((5, 5), np.uint8), name="MASK"))
        out.writeto(tmp_path / f"b{suffix}")
    with open_frame(tmp_path / f"b{suffix}") as frame:
        assert np.array_equal(frame.variance(), variance)
    with open_frame(path) as frame:
        assert frame.variance() is None
