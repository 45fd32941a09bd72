"""The combination of a tile's frames: against plain numpy, against truth, and the same bits for any tiling."""

import warnings

import numpy as np
import pytest
from scipy import ndimage

from starloom.coadd.combine import FrameNoise, combine_tile, reach_px
from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import StackOptions, Tile

X0, Y0 = 3 * 32 + 11, 32 + 5


def lattice(tile, value=0.0):
    shape = [(last // 32 + 1) - first // 32 + 1 for first, last in _ends(tile)]
    return np.full(shape, value, np.float32)


def _ends(tile):
    return (tile.y0, tile.y0 + tile.ny - 1), (tile.x0, tile.x0 + tile.nx - 1)


def spread(nodes, tile):
    y, x = np.mgrid[tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx] / 32
    place = [y - tile.y0 // 32, x - tile.x0 // 32]
    return ndimage.map_coordinates(nodes.astype(float), place, order=1)


def run(cube, noises, combine="clipped", relative=None, sky=None, inner=None, tile=None, clip_sigma=5.0):
    ny, nx = cube.shape[1:]
    tile = tile or Tile(x0=X0, y0=Y0, nx=nx, ny=ny)
    inner = inner or (slice(0, ny), slice(0, nx))
    sky = lattice(tile) if sky is None else sky
    options = StackOptions(combine=combine, clip_sigma=clip_sigma)
    return combine_tile(cube.copy(), noises, relative, options, sky, tile, inner)


def sky_cube(n, shape=(60, 70), seed=1, sigma=1.0, absent=0.1):
    rng = np.random.default_rng(seed)
    cube = rng.normal(0, sigma, (n, *shape)).astype(np.float32)
    cube[rng.random(cube.shape) < absent] = ABSENT
    return cube


def star(fwhm_px, y, x, shape, beta=None, flux=1.0):
    """A star of a Gaussian or Moffat profile, integrated over pixels (5 × 5 points each)."""
    sub = (np.arange(5 * shape[0]) + 0.5) / 5 - 0.5, (np.arange(5 * shape[1]) + 0.5) / 5 - 0.5
    r2 = (sub[0][:, None] - y) ** 2 + (sub[1][None] - x) ** 2
    if beta is None:
        s2 = (fwhm_px / 2.35482) ** 2
        fine = np.exp(-r2 / 2 / s2) / (2 * np.pi * s2)
    else:
        a2 = (fwhm_px / 2) ** 2 / (2 ** (1 / beta) - 1)
        fine = (1 + r2 / a2) ** -beta * (beta - 1) / (np.pi * a2)
    return flux * fine.reshape(shape[0], 5, shape[1], 5).mean((1, 3))


def unlike(n, seed=3):
    rng = np.random.default_rng(seed)
    return [FrameNoise(float(s), float(s**-2), float(f), 2.0) for s, f in rng.uniform((0.7, 2), (1.5, 4), (n, 2))]


def plain_rejection(cube, noises, relative, clip, sky):
    """The rule of combine_tile's docstring, written plainly."""
    v = np.where(cube < ABSENT, cube, np.nan).astype(float)
    there = np.isfinite(v)
    count = there.sum(0)
    sigma2 = np.array([x.sigma**2 for x in noises])[:, None, None] / relative
    total = (sigma2 * there).sum(0)
    size = np.where(there, np.array([x.fwhm_px**2 for x in noises])[:, None, None], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        c = np.nanmedian(v, axis=0)
        least = np.nanmin(v, axis=0)
    c = np.where(count == 2, least + 0.4 * np.sqrt(total), c)
    base = np.where(count == 2, total, np.pi / 2 * total / np.maximum(count, 1) ** 2)
    own = np.where(count == 2, 0, 1)
    ordered = np.sort(size, axis=0)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, 0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(v) - 1)[None], 0)[0]
    last = np.maximum(count - 1, 0)
    first, third = (np.take_along_axis(ordered, rank[None], 0)[0] for rank in (last // 4, last - last // 4))
    kernel = np.outer([1, 2, 1], [1, 2, 1])
    here = count > 0
    smooth = ndimage.convolve(np.where(here, c, 0), kernel, mode="constant")
    smooth /= np.maximum(ndimage.convolve(here.astype(float), kernel, mode="constant"), 1)
    side = 2 * int(np.ceil(1.5 * max(x.fwhm_px for x in noises))) + 1
    top = ndimage.maximum_filter(np.where(here, smooth, -np.inf), side, mode="constant", cval=-np.inf)
    bottom = ndimage.minimum_filter(np.where(here, smooth, np.inf), side, mode="constant", cval=np.inf)
    contrast = np.maximum(top - bottom - 2.5 * np.sqrt(base), 0) * (1 + 2.77 / low)
    level = np.maximum(top - sky - 3 * np.sqrt(base), 0)
    hit = np.zeros(v.shape, bool)
    eight = np.ones((3, 3), bool)
    for k, x in enumerate(noises):
        share = x.alike + 1.3 * np.maximum(high / x.fwhm_px**2 - 1, 1 - low / x.fwhm_px**2)
        share += 0.4 * (1 - first / third)
        photons = level / x.gain if x.gain else 0
        bound = clip**2 * (base + own * sigma2[k] + photons) + (share * contrast) ** 2
        times = np.where(there[k], (v[k] - c) ** 2 / bound, 0)
        seeds = times > 1
        flooded = (
            ndimage.binary_dilation(seeds, eight, 8, mask=seeds | (times > (2 / clip) ** 2))
            if seeds.any()
            else seeds
        )
        wide = ndimage.binary_dilation(flooded, eight)
        for level_, steps in ((4, 2), (150, 3)):
            wide |= ndimage.binary_dilation(times > level_, eight, steps)
        hit[k] = wide & there[k]
    return hit & (hit.sum(0) < count)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12, 31])
@pytest.mark.parametrize("combine", ["mean", "median"])
def test_mean_and_median_are_those_of_numpy(n, combine):
    cube, noises = sky_cube(n, absent=0.3), unlike(n)
    got = run(cube, noises, combine)
    v = np.where(cube < ABSENT, cube, np.nan).astype(float)
    there = np.isfinite(v)
    w = np.array([x.weight for x in noises])[:, None, None] * there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = np.nanmedian(v, axis=0) if combine == "median" else np.nansum(w * v, axis=0) / w.sum(0)
    np.testing.assert_allclose(got.sci, truth, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.weight, w.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(got.coverage, there.sum(0))
    np.testing.assert_array_equal(got.offered, there.sum((1, 2)))
    assert not got.rejected.any()
    assert not got.clipped.any()


def test_sums_of_a_thousand_frames_keep_six_digits():
    rng = np.random.default_rng(5)
    cube = (1e5 + rng.normal(0, 1, (1000, 3, 80))).astype(np.float32)
    noises = [FrameNoise(1.0, float(w), 3.0) for w in rng.uniform(0.1, 3, 1000)]
    got = run(cube, noises, "mean")
    w = np.array([x.weight for x in noises])
    np.testing.assert_allclose(got.sci, np.einsum("n,nyx->yx", w / w.sum(), cube.astype(float)), rtol=1e-7)
    np.testing.assert_allclose(got.weight, w.sum(), rtol=1e-7)


@pytest.mark.parametrize("n", [2, 3, 6, 13])
@pytest.mark.parametrize("within", [False, True])
def test_rejection_is_the_rule_written_plainly(n, within):
    shape = (75, 90)
    tile = Tile(x0=X0, y0=Y0, nx=shape[1], ny=shape[0])
    rng = np.random.default_rng(n)
    noises = unlike(n)
    cube = np.array([rng.normal(0, x.sigma, shape) + star(x.fwhm_px, 40.3, 30.6, shape, flux=3e3) for x in noises])
    cube[:, 50:, 60:] += 40
    for k in range(n):
        y, x = rng.integers(5, 60, 2)
        cube[k, y, x : x + 5] += (9, 30, 80, 300, 4000)[k % 5]
    cube = cube.astype(np.float32)
    cube[rng.random(cube.shape) < 0.08] = ABSENT
    cube[0, :, :20] = ABSENT
    relative = rng.uniform(0.3, 1, (n, *lattice(tile).shape)).astype(np.float32) if within else None
    inverse = np.ones(cube.shape)
    if within:
        inverse = np.array([spread(1 / nodes, tile) for nodes in relative])
    sky = lattice(tile, 0.5)
    got = run(cube, noises, relative=relative, sky=sky)
    hit = plain_rejection(cube, noises, 1 / inverse, 5.0, 0.5)
    there = cube < ABSENT
    np.testing.assert_array_equal(got.clipped, hit.sum((1, 2)))
    assert hit.any()
    good = there & ~hit
    np.testing.assert_array_equal(got.coverage, good.sum(0))
    np.testing.assert_allclose(got.rejected, hit.sum(0) / np.maximum(there.sum(0), 1), rtol=1e-6)
    w = np.array([x.weight for x in noises])[:, None, None] * good
    if within:
        w = w * np.array([spread(nodes, tile) for nodes in relative])
    np.testing.assert_allclose(got.weight, w.sum(0), rtol=2e-6)
    some = w.sum(0) > 0
    np.testing.assert_allclose(
        got.sci[some], ((w * cube).sum(0) / np.where(some, w.sum(0), 1))[some], rtol=2e-5, atol=2e-5
    )
    assert np.isnan(got.sci[~some]).all()


def test_a_frame_that_is_wrong_all_over_is_rejected_by_the_rule():
    shape, noises = (70, 130), unlike(5)
    cube = np.array([np.random.default_rng(k).normal(0, x.sigma, shape) for k, x in enumerate(noises)], np.float32)
    cube[3, :, 40:] += 30
    cube[1, 20:30] = ABSENT
    got = run(cube, noises)
    hit = plain_rejection(cube, noises, np.ones(cube.shape), 5.0, 0.0)
    assert hit[3, :, 44:].all()
    np.testing.assert_array_equal(got.clipped, hit.sum((1, 2)))
    np.testing.assert_array_equal(got.coverage, ((cube < ABSENT) & ~hit).sum(0))


def test_a_weight_that_is_the_inverse_variance_comes_out_as_it_went_in():
    noise = FrameNoise(1.0, 0.1, 3.0, inverse_variance=0.1)
    assert noise.spent == noise.weight != noise.weight**2 / noise.weight
    got = run(sky_cube(1, absent=0.0), [noise], "mean")
    assert (got.weight == np.float32(0.1)).all()


@pytest.mark.parametrize("combine", ["clipped", "mean", "median"])
def test_bits_do_not_depend_on_the_tiling(combine):
    n, shape = 7, (150, 170)
    rng = np.random.default_rng(8)
    noises = unlike(n)
    cube = np.array([rng.normal(0, x.sigma, shape) + star(x.fwhm_px, 70.3, 77.6, shape, flux=1e4) for x in noises])
    for _ in range(60):
        k, y, x = rng.integers(0, (n, *shape))
        cube[k, y : y + 2, x : x + 9] += 10 ** rng.uniform(0.8, 3)
    # Faint tails that lead across a seam from a ray well outside.
    for y in range(5, 45, 5):
        k = 3 + y % 4
        cube[k, y, 61 - 8] += 100
        cube[k, y, 61 - 7 : 61 + 1] += 4 * noises[k].sigma
    cube = cube.astype(np.float32)
    cube[2, :80] = ABSENT
    big = Tile(x0=X0, y0=Y0, nx=shape[1], ny=shape[0])
    relative = rng.uniform(0.3, 1, (n, *lattice(big).shape)).astype(np.float32)
    whole = run(cube, noises, combine, relative=relative, tile=big)
    margin = reach_px(noises)
    clipped, offered = np.zeros(n, int), np.zeros(n, int)
    for y in range(0, shape[0], 53):
        for x in range(0, shape[1], 61):
            ya, xa = max(y - margin, 0), max(x - margin, 0)
            yb, xb = min(y + 53 + margin, shape[0]), min(x + 61 + margin, shape[1])
            tile = Tile(x0=X0 + xa, y0=Y0 + ya, nx=xb - xa, ny=yb - ya)
            inner = slice(y - ya, min(y + 53, shape[0]) - ya), slice(x - xa, min(x + 61, shape[1]) - xa)
            gy, gx = tile.y0 // 32 - Y0 // 32, tile.x0 // 32 - X0 // 32
            sy, sx = lattice(tile).shape
            part = run(
                cube[:, ya:yb, xa:xb],
                noises,
                combine,
                relative=relative[:, gy : gy + sy, gx : gx + sx],
                tile=tile,
                inner=inner,
            )
            for name in ("sci", "weight", "coverage", "rejected"):
                np.testing.assert_array_equal(
                    getattr(part, name), getattr(whole, name)[y : y + 53, x : x + 61], err_msg=name
                )
            clipped += part.clipped
            offered += part.offered
    np.testing.assert_array_equal(clipped, whole.clipped)
    np.testing.assert_array_equal(offered, whole.offered)
    assert (clipped.sum() > 0) == (combine == "clipped")


@pytest.mark.parametrize("combine", ["clipped", "mean", "median"])
def test_no_frames_and_nothing_there(combine):
    none = run(np.empty((0, 20, 30), np.float32), [], combine)
    gone = run(np.full((3, 20, 30), ABSENT), unlike(3), combine)
    for got in (none, gone):
        assert np.isnan(got.sci).all()
        assert not got.weight.any()
        assert not got.coverage.any()
        assert not got.rejected.any()
    assert none.clipped.shape == (0,)
    np.testing.assert_array_equal(gone.offered, 0)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_pure_noise_pays_less_than_a_percent(n):
    cube = sky_cube(n, (300, 300), seed=n, absent=0)
    noises = [FrameNoise(1.0, 1.0, 3.0)] * n
    got = run(cube, noises)
    assert got.sci.std() * np.sqrt(n) < 1.01
    assert abs(got.sci.mean()) < 4 / np.sqrt(n * got.sci.size)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("amplitude", [8, 30, 1000])
def test_cosmic_rays_go_also_from_stars(n, amplitude):
    shape = (120, 120)
    rng = np.random.default_rng(n)
    sky = sum(star(3.0, y, x, shape, flux=5e2) for y, x in ((60.2, 30.7), (60.4, 90.1)))
    cube = (sky + rng.normal(0, 1, (n, *shape))).astype(np.float32)
    clean = cube.copy()
    hits = [(20, 20 + 4 * i) for i in range(4)] + [(100 + i, 40) for i in range(8)]
    for i, (y, x) in enumerate(hits):
        cube[i % 2 if i < 4 else 0, y, x] += amplitude
    if amplitude >= 30:
        cube[1, 60, 91] += amplitude + 30
    noises = [FrameNoise(1.0, 1.0, 3.0, 1.0)] * n
    got, truth = run(cube, noises), run(clean, noises, "mean")
    there = np.zeros(shape, bool)
    for y, x in hits:
        there[y - 2 : y + 3, x - 2 : x + 3] = True
    residual = (got.sci - truth.sci)[there]
    # What is left differs as the mean of fewer frames does: by noise, not by the ray.
    assert abs(residual.mean()) < 4 / np.sqrt(there.sum()) + 0.05
    assert np.abs(residual).max() < 5 / np.sqrt(max(n - 1, 1)) + 0.5
    if amplitude >= 30:
        assert got.rejected[60, 91] > 0


def test_a_trail_goes_with_its_skirts():
    n, shape = 5, (200, 200)
    rng = np.random.default_rng(4)
    cube = rng.normal(0, 1, (n, *shape))
    y, x = np.mgrid[: shape[0], : shape[1]]
    across = (y - 0.37 * x - 40) / np.hypot(1, 0.37)
    clean = cube.copy()
    cube[2] += 6 * np.exp(-(across**2) / 2 / 1.5**2)
    noises = [FrameNoise(1.0, 1.0, 3.0)] * n
    got, truth = run(cube.astype(np.float32), noises), run(clean.astype(np.float32), noises, "mean")
    for low, high in ((0, 2), (2, 4), (4, 6)):
        ring = (np.abs(across) >= low) & (np.abs(across) < high)
        assert abs((got.sci - truth.sci)[ring].mean()) < 0.05 * 6 / n


SEEING = {
    "mixed": ([2, 2.5, 3, 3, 3.5, 4, 5, 6, 6], None),
    "few": ([2, 6, 3], None),
    "two": ([2, 6], None),
    "undersampled": ([1.4, 1.4, 1.5, 3, 4, 5], None),
    "one sharp": ([1.4, 5, 5.5, 6, 6], None),
    "wings": ([2, 2.5, 3, 3.5, 4, 5, 6], [2.5, 4, 2.5, 3, 4, 2.5, 4]),
}


@pytest.mark.parametrize("case", SEEING)
@pytest.mark.parametrize("flux", [2e3, 2e5])
def test_unlike_seeing_does_not_eat_stars(case, flux):
    fwhm, beta = SEEING[case]
    beta = beta or [None] * len(fwhm)
    shape, rng = (81, 81), np.random.default_rng(7)
    y, x = np.mgrid[: shape[0], : shape[1]] - 40
    aperture = np.hypot(y, x) < 15
    noises = [FrameNoise(1.0, 1.0, f, 2.0) for f in fwhm]
    bias = []
    for _ in range(3):
        place = 40 + rng.uniform(-0.5, 0.5, 2)
        clean = np.array([star(f, *place, shape, b, flux) for f, b in zip(fwhm, beta, strict=True)])
        cube = (clean + rng.normal(0, np.sqrt(1 + clean / 2))).astype(np.float32)
        got, truth = run(cube, noises), run(cube, noises, "mean")
        bias.append((got.sci - truth.sci)[aperture].sum() / truth.sci[aperture].sum())
    assert abs(np.mean(bias)) < 0.003
