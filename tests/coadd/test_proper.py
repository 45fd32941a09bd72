import numpy as np
import pytest
from scipy import fft, ndimage

from starloom.coadd.combine import FrameNoise
from starloom.coadd.jit import ABSENT
from starloom.coadd.plan import Tile
from starloom.coadd.proper import combine_proper, proper_psf, proper_reach_px
from starloom.coadd.proper_filters import CORE, Filters, placed
from starloom.coadd.proper_holes import outside
from starloom.coadd.psf import moffat_psf

FWHMS, SIGMAS = (2.0, 3.0, 5.0), (1.5, 1.0, 0.6)
PSFS = [moffat_psf(fwhm, 3.5, 35) for fwhm in FWHMS]
NOISES = [FrameNoise(sigma, 1 / sigma**2, fwhm) for sigma, fwhm in zip(SIGMAS, FWHMS, strict=True)]
WEIGHTS = np.array([noise.weight for noise in NOISES])
SIDE = 160
STARS = tuple(np.ravel(a) for a in np.meshgrid(np.arange(40, 130, 40), np.arange(40, 130, 40)))
OPTIMUM = np.sqrt(sum(w * (p.astype(float) ** 2).sum() for w, p in zip(WEIGHTS, PSFS, strict=True)))


def seen(plane, psf):
    return fft.irfft2(fft.rfft2(plane) * placed(psf.astype(float), plane.shape), s=plane.shape)


def sky(side=SIDE, flux=1.0, stars=STARS):
    light = np.zeros((side, side))
    light[stars[1], stars[0]] = flux
    return np.stack([seen(light, psf) for psf in PSFS])


def noise(seed, side=SIDE):
    return np.random.default_rng(seed).normal(size=(3, side, side)) * np.array(SIGMAS)[:, None, None]


def holes(seed, size=3, share=0.01, side=SIDE):
    at = np.random.default_rng(seed).random((3, side, side)) < share / size**2
    return np.stack([ndimage.maximum_filter(mask, size) for mask in at])


def combined(cube, missing=None, relative=None, tile=None, inner=None, which=(0, 1, 2)):
    which = list(which)
    cube = (cube if missing is None else np.where(missing, ABSENT, cube))[which].astype(np.float32)
    tile = tile or Tile(x0=0, y0=0, nx=cube.shape[2], ny=cube.shape[1])
    inner = inner or (slice(0, cube.shape[1]), slice(0, cube.shape[2]))
    return combine_proper(cube, [NOISES[i] for i in which], [PSFS[i] for i in which], relative, tile, inner)


def score(plane, psf):
    return seen(plane, psf[::-1, ::-1])


def efficiency(missing=None):
    """Signal-to-noise ratio of stars in the matched filter over the analytic optimum without holes."""
    psf = proper_psf(NOISES, PSFS, 81)
    response = score(combined(sky(), missing).sci, psf)[STARS[1], STARS[0]].mean()
    ideal, ours = [], []
    for seed in range(4):
        frames = noise(seed)
        ours.append(score(combined(frames, missing).sci, psf)[24:-24, 24:-24])
        # The optimum's own noise in the same realisations, whose spread is thus not a matter of luck.
        ideal.append(sum(w * score(f, p) for w, f, p in zip(WEIGHTS, frames, PSFS, strict=True))[24:-24, 24:-24])
    return response / np.std(ours) / (OPTIMUM**2 / np.std(ideal))


def test_nothing_is_lost():
    assert efficiency() > 0.999


def test_holes_cost_what_they_hide():
    assert efficiency(holes(5)) ** 2 > 0.98


def test_equals_the_formula():
    # With the cores that the filters give to the PSFs; on a periodic sky nothing else is different.
    frames = sky(flux=100.0) + noise(1)
    own = [placed(psf.astype(float), (SIDE, SIDE)) + CORE for psf in PSFS]
    spectra = [fft.rfft2(frame) for frame in frames]
    whole = sum(w * np.conj(p) * m for w, p, m in zip(WEIGHTS, own, spectra, strict=True))
    power = sum(w * abs(p) ** 2 for w, p in zip(WEIGHTS, own, strict=True))
    expected = fft.irfft2(whole / np.sqrt(power * WEIGHTS.sum()), s=(SIDE, SIDE))
    inside = (slice(48, -48),) * 2
    np.testing.assert_allclose(combined(frames).sci[inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_stars_keep_their_flux_and_shape_and_sky_its_level():
    made = combined(100 + sky(flux=1e4), holes(3))
    assert np.median(made.sci) == pytest.approx(100, abs=0.2)
    psf = proper_psf(NOISES, PSFS, 41)
    assert psf.sum() == pytest.approx(1, abs=0.002)
    for x, y in zip(*STARS, strict=True):
        star = made.sci[y - 18 : y + 19, x - 18 : x + 19] - 100
        assert star.sum() == pytest.approx(1e4, rel=6e-3)
        assert np.abs(star / 1e4 - psf[2:-2, 2:-2]).max() < 0.05 * psf.max()


def test_noise_is_white_and_the_weight_tells_it():
    missing = holes(7, size=4, share=0.04)
    pull = [made.sci * np.sqrt(made.weight) for made in (combined(noise(s), missing) for s in range(6))]
    inside = np.stack(pull)[:, 16:-16, 16:-16]
    assert inside.std() == pytest.approx(1, abs=0.01)
    near = missing.any(axis=0)[16:-16, 16:-16]
    assert inside[:, near].std() == pytest.approx(1, abs=0.1)
    blocks = inside.reshape(6, 16, 8, 16, 8).sum(axis=(2, 4))
    assert blocks.std() == pytest.approx(8, rel=0.06)


@pytest.mark.parametrize("uneven", [False, True])
def test_tiles_join(uneven, monkeypatch):
    monkeypatch.setattr("starloom.coadd.proper.NODE_PX", 128)
    side, margin = 384, proper_reach_px(PSFS)
    rng = np.random.default_rng(3)
    frames = sky(side, 10 ** rng.uniform(2, 4, 60), rng.integers(0, side, (2, 60))) + noise(2, side)
    missing = holes(2, side=side)
    missing[0] |= np.add(*np.indices((side, side))) > 500
    lattice = np.random.default_rng(4).uniform(0.6, 1.4, (3, 2, 2))
    rows = np.linspace(0, 1, side // 32 + 1)
    hats = np.stack([1 - rows, rows])
    relative = np.einsum("nij,iy,jx->nyx", lattice, hats, hats).astype(np.float32) if uneven else None
    whole = combined(frames, missing, relative)
    joined, weight = np.zeros((side, side)), np.zeros((side, side))
    for y in (0, 128, 256):
        for x in (0, 128, 256):
            x0, y0 = max(x - margin, 0), max(y - margin, 0)
            x1, y1 = min(x + 128 + margin, side), min(y + 128 + margin, side)
            own = (
                None
                if relative is None
                else relative[:, y0 // 32 : (y1 - 1) // 32 + 2, x0 // 32 : (x1 - 1) // 32 + 2]
            )
            part = combined(
                frames[:, y0:y1, x0:x1],
                missing[:, y0:y1, x0:x1],
                own,
                Tile(x0=x0, y0=y0, nx=x1 - x0, ny=y1 - y0),
                (slice(y - y0, y - y0 + 128), slice(x - x0, x - x0 + 128)),
            )
            joined[y : y + 128, x : x + 128], weight[y : y + 128, x : x + 128] = part.sci, part.weight
    sigma = 1 / np.sqrt(WEIGHTS.sum())
    assert np.abs(joined - whole.sci).max() < 1e-3 * sigma
    np.testing.assert_allclose(weight, whole.weight, rtol=1e-5)


def test_a_frame_that_ends_inside_the_tile():
    missing = np.zeros((3, SIDE, SIDE), bool)
    missing[1, :, 81:] = True
    made = combined(100 + sky(flux=1e4), missing)
    without = combined(100 + sky(flux=1e4), which=(0, 2))
    assert (made.coverage == np.where(missing[1], 2, 3)).all()
    np.testing.assert_allclose(made.sci[:, 81:], without.sci[:, 81:], atol=1e-2)
    assert np.abs(made.sci[20:-20] - 100)[:, 60:64].min() < 0.1  # no ringing between the stars
    pull = np.stack([c.sci * np.sqrt(c.weight) for c in (combined(noise(s), missing) for s in range(6))])
    assert pull[:, 10:-10, 60:81].std() == pytest.approx(1, abs=0.03)
    assert pull[:, 10:-10, 81:100].std() == pytest.approx(1, abs=0.03)


def test_noise_that_differs_over_the_tile(monkeypatch):
    monkeypatch.setattr("starloom.coadd.proper.NODE_PX", 128)
    relative = np.ones((3, 6, 6), np.float32)
    relative[0] = np.linspace(0.7, 1, 6)
    spread = np.interp(np.arange(SIDE) / 32, np.arange(6), np.linspace(0.7, 1, 6))
    pulls = []
    for seed in range(4):
        frames = noise(seed)
        frames[0] /= np.sqrt(spread)
        made = combined(frames, relative=relative)
        pulls.append(made.sci * np.sqrt(made.weight))
    np.testing.assert_allclose(made.weight[5], WEIGHTS[0] * spread + WEIGHTS[1:].sum(), rtol=1e-5)
    assert np.std(pulls) == pytest.approx(1, abs=0.02)
    star = combined(sky(flux=1e4), relative=relative).sci[62:99, 62:99]
    assert star.sum() == pytest.approx(1e4, rel=4e-3)


@pytest.mark.parametrize("which", [(0,), (0, 2)])
def test_one_and_two_frames(which):
    made = combined(sky(flux=1e4) + noise(1), which=which)
    total = WEIGHTS[list(which)].sum()
    np.testing.assert_allclose(made.weight, total, rtol=1e-6)
    star = combined(sky(flux=1e4), which=which).sci[62:99, 62:99]
    expected = proper_psf([NOISES[i] for i in which], [PSFS[i] for i in which], 37)
    np.testing.assert_allclose(star / 1e4, expected, atol=1e-4)


def test_a_saturated_core_stays_a_hole():
    missing = np.zeros((3, SIDE, SIDE), bool)
    far = np.hypot(*(np.indices((SIDE, SIDE)) - 80))
    for index, radius in enumerate((3, 4, 6)):
        missing[index] = far < radius
    made = combined(100 + sky(flux=1e5, stars=(np.array([80]), np.array([80]))), missing)
    assert np.isnan(made.sci[far < 3]).all()
    assert (made.weight[far < 3] == 0).all()
    assert np.isfinite(made.sci[far >= 3]).all()
    expected = 100 + 1e5 * np.pad(proper_psf(NOISES, PSFS, 81), ((40, 39), (40, 39)))
    assert np.abs(made.sci - expected)[far > 14].max() < 1.0
    assert made.weight[80, 84] < 0.5 * made.weight[80, 120]


def test_gaps_are_what_holds_a_square():
    missing = np.zeros((90, 100), bool)
    missing[20:26, 10:60] = True
    missing[40:53, 30:44] = True
    missing[:, 93:] = True
    gap = outside(missing, 12)
    assert not gap[20:26].any(axis=0)[:80].any()
    assert gap[40:53, 30:44].all()
    assert not outside(missing[:, :92], 16).any()


def test_no_frame():
    none = np.full((3, 40, 40), ABSENT, np.float32)
    made = combine_proper(none, NOISES, PSFS, None, Tile(x0=0, y0=0, nx=40, ny=40), (slice(5, 35), slice(5, 40)))
    assert made.sci.shape == made.weight.shape == made.coverage.shape == (30, 35)
    assert np.isnan(made.sci).all()
    assert not made.weight.any()


def test_whitening_kernel_is_finite_and_white():
    filters = Filters(PSFS)
    kernel = filters.whitening(WEIGHTS)
    assert kernel.shape == (2 * filters.radius_px + 1,) * 2
    assert np.abs(kernel[0]).max() < 1e-6 * kernel.max()
    power = sum(w * abs(filters.own(i, (256, 256))) ** 2 for i, w in enumerate(WEIGHTS))
    passed = abs(placed(kernel, (256, 256))) ** 2 * power * WEIGHTS.sum()
    np.testing.assert_allclose(passed, 1, atol=0.01)
