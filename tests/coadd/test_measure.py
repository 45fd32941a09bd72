from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import make_plan, read_input
from starloom.errors import BadInput
from starloom.sky import Sky, Telescope
from starloom.sky.render import render


def moffat_sky(n: int = 90, seed: int = 2) -> Sky:
    """Bright stars on a lattice, 80" apart: every one of them isolated."""
    rng = np.random.default_rng(seed)
    side = np.linspace(-0.12, 0.12, int(np.sqrt(n)) + 1)
    ra, dec = (a.ravel() for a in np.meshgrid(120 + side / np.cos(np.radians(5)), 5 + side))
    mag = np.sort(rng.uniform(10.5, 13.0, ra.size))
    return Sky(ra, dec, mag, np.ones(ra.size, bool), (120.0, 5.0), 0.2, "V")


def write(path, telescope, *, transparency, seed, sky=None):
    frame = render(
        telescope, sky or moffat_sky(), (120.0, 5.0), seed=seed, start=datetime(2026, 1, 1, tzinfo=UTC),
        transparency=transparency,
    )  # fmt: skip
    header = fits.Header(frame.truth.wcs) + fits.Header({"BAND": "V", "EXPTIME": 60.0})
    fits.PrimaryHDU(frame.image.astype(np.float32), header).writeto(path)
    return frame.truth.flux_scale


@pytest.mark.parametrize("stars", ["measured", "modelled"])
def test_unlike_seeing_with_wings_does_not_shift_the_scale(tmp_path, monkeypatch, stars):
    """Moffat wings: apertures of one size hold 94 % of the light in one frame and 99 % in the other."""
    if stars == "modelled":
        monkeypatch.setattr("starloom.coadd.measure._MIN_GROWTH_STARS", 10_000)
    good = Telescope("A", 1.2, 500, 500, fwhm_px=(3.0, 3.0), cosmic_rays=0, sky_adu=200)
    bad = Telescope("B", 1.2, 500, 500, fwhm_px=(6.0, 6.0), cosmic_rays=0, sky_adu=200)
    truth = [
        write(tmp_path / "a.fits", good, transparency=1.0, seed=1),
        write(tmp_path / "b.fits", bad, transparency=0.8, seed=2),
    ]
    (plan,) = make_plan([read_input(tmp_path / f"{name}.fits") for name in "ab"])
    product = np.array([f.scale for f in plan.frames]) * truth
    assert product[1] / product[0] == pytest.approx(1, abs=0.01)


def test_unknown_saturation_is_told_by_a_plateau(field, tmp_path):
    path = field.frame(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["SATURATE"]
        top = float(np.sort(hdus[0].data.ravel())[-200])
        hdus[0].data = np.minimum(hdus[0].data, np.float32(top))
    assert read_input(path).saturation_adu == pytest.approx(top)


def test_without_a_saturation_level_every_star_counts(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    known = [read_input(p) for p in paths]
    unknown = [item.model_copy(update={"saturation_adu": None}) for item in known]
    (a,), (b,) = make_plan(known), make_plan(unknown)
    assert [f.n_common_stars for f in b.frames] == [f.n_common_stars for f in a.frames]
    np.testing.assert_allclose([f.scale for f in b.frames], [f.scale for f in a.frames])
    with fits.open(paths[0], mode="update") as hdus:
        del hdus[0].header["SATURATE"]
    assert read_input(paths[0]).saturation_adu is None


def test_saturated_stars_do_not_tie_the_scale(field, tmp_path):
    paths = []
    for n, zp in enumerate((25.0, 24.0)):
        path = field.frame(tmp_path / f"{n}.fits", seed=n, zp=zp)
        if n == 0:
            with fits.open(path, mode="update") as hdus:
                hdus[0].data = np.minimum(hdus[0].data, np.float32(6000))
                hdus[0].header["SATURATE"] = 6000.0
        paths.append(path)
    (plan,) = make_plan([read_input(p) for p in paths])
    assert plan.frames[0].scale / plan.frames[1].scale == pytest.approx(10**-0.4, rel=0.01)


def test_blank_frame_is_refused_by_name(field, tmp_path):
    path = field.frame(tmp_path / "blank.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[:] = 7.0
    with pytest.raises(Exception, match=r"blank\.fits") as info:
        read_input(path)
    assert info.value.code == "bad-noise"


def test_a_colour_mosaic_is_refused(tmp_path):
    pixels = np.random.default_rng(1).normal(1000, 10, (64, 64)).astype(np.float32)
    header = fits.Header([("BAYERPAT", "RGGB"), ("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN")])
    fits.PrimaryHDU(pixels, header).writeto(tmp_path / "mosaic.fits")
    with pytest.raises(BadInput, match=r"mosaic\.fits is a colour mosaic") as refused:
        read_input(tmp_path / "mosaic.fits")
    assert refused.value.code == "colour-mosaic"


def test_scales_of_unlike_pixels_hold_in_a_crowded_sky(tmp_path):
    """A bound for crowding; the shift that unlike apertures make shows with more frames (tests/acceptance)."""
    rng = np.random.default_rng(7)
    sky, n = moffat_sky(), 6000
    ra, dec = 120 + rng.uniform(-0.15, 0.15, n), 5 + rng.uniform(-0.15, 0.15, n)
    mag = 17.5 - rng.exponential(0.8, n).clip(0, 3.5)
    crowded = Sky(
        np.append(sky.ra_deg, ra), np.append(sky.dec_deg, dec), np.append(sky.mag, mag), np.ones(n + 100, bool),
        (120.0, 5.0), 0.2, "V",
    )  # fmt: skip
    fine = Telescope("A", 1.5, 500, 500, fwhm_px=(3.0, 3.0), cosmic_rays=0, sky_adu=200)
    coarse = Telescope("B", 3.0, 260, 260, fwhm_px=(2.6, 2.6), cosmic_rays=0, sky_adu=800)
    truth = [
        write(tmp_path / "a.fits", fine, transparency=1.0, seed=1, sky=crowded),
        write(tmp_path / "b.fits", coarse, transparency=0.8, seed=2, sky=crowded),
    ]
    (plan,) = make_plan([read_input(tmp_path / f"{name}.fits") for name in "ab"])
    product = np.array([f.scale for f in plan.frames]) * truth
    assert product[1] / product[0] == pytest.approx(1, abs=0.01)
