import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd.inputs import InputFrame
from starloom.coadd.plan import PlanFrame, StackOptions, StackPlan
from starloom.coadd.psf import effective_psf, lone_stars, measure_psf, moffat_psf, psf_side, with_psfs
from starloom.errors import BadInput
from starloom.sky.psf import draw_stars, make_psf


def true_psf(psf, size):
    whole = psf.phases[0, 0].astype(float)
    cut = slice(psf.half - size // 2, psf.half + size // 2 + 1)
    return whole[cut, cut] / whole[cut, cut].sum()


def field(psf, size, count, snr, *, seed=1, faint=0, sky=100.0):
    """Stars on a loose grid, brightest first; noise of 1."""
    rng = np.random.default_rng(seed)
    across = int(np.ceil(np.sqrt(count)))
    side = across * (size + 12) + 20
    at = (np.arange(across) + 0.5) * (side / across)
    x, y = (a.ravel()[:count] + rng.uniform(-2, 2, count) for a in np.meshgrid(at, at))
    flux = np.sort(snr / np.sqrt((true_psf(psf, size) ** 2).sum()) * 10 ** rng.uniform(-0.4, 0.4, count))[::-1]
    image = rng.normal(sky, 1, (side, side)).astype(np.float32)
    draw_stars(image, x, y, flux, psf, noise_adu=1e-9)
    if faint:
        where = rng.uniform(0, side, (2, faint))
        draw_stars(image, *where, rng.uniform(10, 60, faint) * psf.fwhm_px, psf, noise_adu=1e-9)
    return image, x, y, flux


def loss(psf, truth):
    """Share of the signal-to-noise ratio that a matched filter with this PSF loses."""
    return 1 - (psf * truth).sum() / np.sqrt((psf.astype(float) ** 2).sum() * (truth**2).sum())


def centroid(psf, width):
    at = np.arange(len(psf)) - len(psf) // 2
    seen = psf * np.exp(-(at**2 + at[:, None] ** 2) / (2 * width**2))
    return (seen * at).sum() / seen.sum(), (seen * at[:, None]).sum() / seen.sum()


@pytest.mark.parametrize(
    ("fwhm", "beta", "trail", "count", "snr", "most"),
    [
        (2.0, 3.5, 0.0, 40, 100, 1e-3),
        (3.0, 2.5, 0.0, 40, 100, 1e-4),
        (4.0, 4.5, 0.0, 6, 60, 5e-4),
        (3.0, 3.5, 5.0, 40, 100, 5e-4),
        (3.0, 3.5, 0.0, 4, 30, 2e-3),
    ],
)
def test_psf_from_stars(fwhm, beta, trail, count, snr, most):
    psf = make_psf(fwhm, beta, trail_px=trail, trail_angle_deg=30.0)
    size = psf_side(fwhm + trail / 2)
    image, x, y, _ = field(psf, size, count, snr)
    measured = measure_psf(image, np.rint(x), np.rint(y), size=size, fwhm_px=1.1 * (fwhm + trail / 2))
    truth = true_psf(psf, size)
    assert measured.shape == (size, size)
    assert measured.dtype == np.float32
    assert measured.sum() == pytest.approx(1, abs=1e-6)
    assert loss(measured, truth) < most
    assert np.abs(centroid(measured, fwhm)).max() < 0.01
    core = np.hypot(*np.indices(truth.shape) - size // 2) < 2 * fwhm
    assert measured[core].sum() == pytest.approx(truth[core].sum(), abs=0.02)
    assert np.abs(measured[0]).max() < 1e-3 * measured.max()  # no step at the end


def test_neighbours_holes_and_strangers_do_not_enter():
    psf = make_psf(3.0)
    image, x, y, _ = field(psf, 21, 36, 100, faint=150)
    rng = np.random.default_rng(2)
    image[rng.random(image.shape) < 0.01] = np.nan
    # One galaxy and one saturated star, brightest of all.
    v, u = np.indices(image.shape)
    image += 3000 * np.exp(-np.hypot(u - x[0], v - y[0]) / 4)
    image[np.hypot(u - x[1], v - y[1]) < 4] = 5000
    measured = measure_psf(image, x, y, size=21, fwhm_px=3.3)
    assert loss(measured, true_psf(psf, 21)) < 5e-4


def test_too_few_stars():
    image, x, y, _ = field(make_psf(3.0), 21, 2, 100)
    with pytest.raises(BadInput, match="2 usable stars") as error:
        measure_psf(image, x, y, size=21, fwhm_px=3.0)
    assert error.value.code == "too-few-stars"


def test_moffat_is_what_the_sky_draws():
    assert loss(moffat_psf(2.5, 3.5, 21), true_psf(make_psf(2.5, 3.5), 21)) < 1e-4


def test_lone_stars_are_bright_and_alone():
    psf = make_psf(3.0)
    image, x, y, flux = field(psf, 31, 16, 200)
    draw_stars(image, x[:1] + 8.0, y[:1], flux[:1] / 5, psf, noise_adu=1e-9)
    found_x, found_y, found_flux = lone_stars(image, 3.0)
    assert len(found_x) == 15
    assert (np.diff(found_flux) <= 0).all()
    assert np.hypot(found_x[0] - x[1], found_y[0] - y[1]) < 0.3


def test_effective_psf_reads_windows_only():
    psf = make_psf(3.0)
    image, *_ = field(psf, 31, 400, 80, sky=0.0)
    asked = []

    def read(y0, y1, x0, x1):
        asked.append((y1 - y0) * (x1 - x0))
        return image[y0:y1, x0:x1]

    measured = effective_psf(read, image.shape, 3.3, size=21)
    assert loss(measured, true_psf(psf, 21)) < 2e-4
    assert max(asked) <= 512**2
    assert sum(asked) < image.size


def _plan(images, fwhms, weights):
    shape = images[0].shape
    header = fits.Header()
    for key, value in {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": shape[1] / 2,
        "CRPIX2": shape[0] / 2, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "CUNIT1": "deg", "CUNIT2": "deg",
    }.items():  # fmt: skip
        header[key] = value
    cards = dict(header)
    frames = tuple(
        PlanFrame(
            input=InputFrame(
                id=str(n), path="none", band="r", node="a", exposure_s=1, sky_sigma_adu=1, fwhm_arcsec=fwhm
            ),
            shape=shape,
            wcs_cards=cards,
            weight=weight,
            fwhm_px=fwhm,
        )
        for n, (fwhm, weight) in enumerate(zip(fwhms, weights, strict=True))
    )
    grid = {**cards, "NAXIS1": shape[1], "NAXIS2": shape[0]}
    return StackPlan(band="r", pointing=1, grid=grid, frames=frames, options=StackOptions(), tiles=())


def test_plan_carries_the_psf_of_each_used_frame():
    psf = make_psf(3.0)
    image, *_ = field(psf, 31, 36, 100, sky=0.0)
    plan = _plan([image] * 3, [3.3, 3.3, 4.0], [1.0, 0.0, 1.0])

    def warp(frame, tile):
        part = image[tile.y0 : tile.y0 + tile.ny, tile.x0 : tile.x0 + tile.nx]
        return part if frame.input.id == "0" else np.zeros_like(part)

    made = with_psfs(plan, warp)
    first, unused, starless = (frame.psf for frame in made.frames)
    assert unused is None
    assert np.shape(first) == np.shape(starless) == (psf_side(4.0),) * 2
    assert loss(np.array(first), true_psf(psf, psf_side(4.0))) < 2e-4
    np.testing.assert_allclose(starless, moffat_psf(4.0, 3.5, psf_side(4.0)), rtol=1e-6)
    assert StackPlan.model_validate_json(made.model_dump_json()) == made
    assert with_psfs(plan, warp) == made
