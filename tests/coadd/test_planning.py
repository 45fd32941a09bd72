from __future__ import annotations

import pytest
from astropy.io import fits

from starloom.coadd import StackOptions, make_plan, read_input, stack_files
from starloom.coadd.combine import FrameNoise
from starloom.errors import BadInput


@pytest.fixture
def elsewhere(make_sky):
    return make_sky(ra=40.0, dec=-30.0)


def reported(plans):
    return sorted((f.input.id, f.reason) for plan in plans for f in plan.frames)


def test_stray_of_a_band_without_a_group_is_reported_once(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"v{n}.fits", seed=n) for n in range(2)]
    paths.append(elsewhere.frame(tmp_path / "r.fits", seed=7, band="R"))
    paths.append(elsewhere.frame(tmp_path / "v9.fits", seed=8))
    plans = make_plan([read_input(p) for p in paths], target_radec=(150.0, 20.0))
    assert len(plans) == 1
    assert reported(plans) == [
        ("r.fits", "off-target"),
        ("v0.fits", None),
        ("v1.fits", None),
        ("v9.fits", "off-target"),
    ]


def test_group_without_a_usable_frame_is_reported_with_its_reasons(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"a{n}.fits", seed=n) for n in range(2)]
    lost = [elsewhere.frame(tmp_path / f"b{n}.fits", seed=n, known_zp=False, size=(90, 90)) for n in range(2)]
    options = StackOptions(min_common_stars=50)
    plans = make_plan([read_input(p) for p in (*lost, *paths)], options)
    assert len(plans) == 1
    told = dict(reported(plans))
    assert set(told) == {"a0.fits", "a1.fits", "b0.fits", "b1.fits"}
    assert told["b0.fits"] == told["b1.fits"] == "too-few-stars"


def test_error_names_every_frame_and_its_reason(field, elsewhere, tmp_path):
    paths = [elsewhere.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    with pytest.raises(BadInput, match=r"0\.fits off-target, 1\.fits off-target") as info:
        make_plan([read_input(p) for p in paths], target_radec=(150.0, 20.0))
    assert info.value.code == "nothing-to-stack"


def test_frame_without_a_weight_has_no_scale(field, elsewhere, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(2)]
    paths.append(elsewhere.frame(tmp_path / "off.fits", seed=7))
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out, target_radec=(150.0, 20.0)).products
    assert [f.scale is None for f in product.frames] == [False, False, True]
    with fits.open(out) as hdus:
        scale = hdus["PROVENANCE"].data["SCALE"]
    assert scale[0] == pytest.approx(1, abs=0.01)
    assert str(scale[2]) == "nan"


def test_digest_follows_what_decides_the_pixels(field, tmp_path):
    items = [read_input(field.frame(tmp_path / f"{n}.fits", seed=n)) for n in range(2)]
    (plan,) = make_plan(items)
    assert plan.digest() == plan.digest()
    moved = [item.model_copy(update={"path": item.path, "provenance": {"raw_key": "k"}}) for item in items]
    assert make_plan(moved)[0].digest() == plan.digest()
    (with_gain,) = make_plan([item.model_copy(update={"gain_e_per_adu": 2.0}) for item in items])
    assert with_gain.digest() != plan.digest()
    # The digest is kept; a copy with other frames must not inherit it.
    assert plan.model_copy(update={"frames": plan.frames[:1]}).digest() != plan.digest()
    assert plan.model_copy().digest() == plan.digest()


def test_gain_in_the_header_is_the_photon_noise_of_the_clip(field, tmp_path):
    path = field.frame(tmp_path / "a.fits", zp=24.0)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EGAIN"] = 1.7
    item = read_input(path)
    assert item.gain_e_per_adu == pytest.approx(1.7)
    (plan,) = make_plan([item])
    noise = FrameNoise.of(plan, plan.frames[0])
    assert noise.gain == pytest.approx(1.7 / plan.frames[0].scale)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("Johnson V", "V"),
        ("V", "V"),
        ("r DECam SDSS c0002 6415.0 1480.0", "r"),
        ("Lum", "Clear"),
        ("My Filter", "My Filter"),
        (None, "unknown"),
    ],
)
def test_band_of_a_file_is_what_its_filter_means(field, tmp_path, name, band):
    path = field.frame(tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdus:
        del hdus[0].header["BAND"]
        if name is not None:
            hdus[0].header["FILTER"] = name
    assert read_input(path).band == band


def test_extension_with_the_image_and_split_keywords(field, tmp_path):
    paths = []
    for n in range(2):
        with fits.open(field.frame(tmp_path / f"p{n}.fits", seed=n)) as hdus:
            data, header = hdus[0].data.copy(), hdus[0].header.copy()
        primary = fits.PrimaryHDU()
        for key in ("BAND", "TELID", "EXPTIME", "DATE-OBS", "MJD-OBS", "SATURATE", "MAGZPT", "MAGZERR"):
            primary.header[key] = header.pop(key)
        table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])])
        path = tmp_path / f"m{n}.fits"
        fits.HDUList([primary, fits.ImageHDU(data, header), table]).writeto(path)
        paths.append(path)
    item = read_input(paths[0])
    assert (item.band, item.node, item.exposure_s, item.zero_point_mag) == ("V", "T1", 60.0, 25.0)
    assert item.saturation_adu == 1e7
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out).products
    assert product.n_used == 2
    stars = field.fluxes(out)
    assert abs(float((stars.flux / stars.truth).mean()) - 1) < 0.01
