"""Frames that cannot be stacked stop nothing, and are reported."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from astropy.io import fits

from starloom.coadd import make_plan, read_input, stack_files
from starloom.coadd.stack import plan_files
from starloom.errors import BadInput


def changed(path, **cards):
    """Change a frame's header; None deletes a card."""
    with fits.open(path, mode="update") as hdus:
        for key, value in cards.items():
            if value is None:
                del hdus[0].header[key]
            else:
                hdus[0].header[key] = value
    return path


def counts(path):
    """Make a frame one of photon counts: 0 nearly everywhere, here and there 1."""
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[:] = np.random.default_rng(1).random(hdus[0].data.shape) < 0.02
    return path


def text(path):
    path.write_text("not a picture")
    return path


def cut(path):
    """Leave a frame as a broken transfer does: with its header and half of its pixels."""
    path.write_bytes(path.read_bytes()[:200_000])
    return path


def cube(path):
    with fits.open(path) as hdus:
        data, header = np.stack([hdus[0].data] * 3), hdus[0].header
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return path


pytestmark = pytest.mark.filterwarnings("ignore:File may have been truncated")

FAULTS = {
    "bad-noise": counts,
    "unreadable": cut,
    "not-2d": cube,
    "colour-mosaic": lambda path: changed(path, BAYERPAT="RGGB"),
    "no-wcs": lambda path: changed(path, CTYPE1=None),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_frame_that_cannot_be_stacked_is_left_out_and_reported(field, tmp_path, reason):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(3)]
    FAULTS[reason](paths[1])
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out).products
    assert product.n_used == 2
    assert {f.id: f.reason for f in product.frames} == {"0.fits": None, "2.fits": None, "1.fits": reason}
    (left,) = [f for f in product.frames if f.reason]
    assert (left.weight, left.scale, left.relative_weight, left.rejected_fraction) == (0, None, 0, 0)
    with fits.open(out) as hdus:
        assert sorted(hdus["PROVENANCE"].data["REASON"]) == ["", "", reason]
        assert hdus["COVERAGE"].data.max() == 2


def test_one_frame_of_each_fault_leaves_the_others_of_any_band(field, tmp_path):
    faulty = [make(field.frame(tmp_path / f"{reason}.fits")) for reason, make in FAULTS.items()]
    faulty.append(text(tmp_path / "text.fits"))
    faulty.append(counts(field.frame(tmp_path / "r.fits", band="R")))
    good = [field.frame(tmp_path / f"{band}.fits", seed=3, band=band) for band in "VB"]
    plans = plan_files([*faulty, *good])
    assert [(plan.band, len(plan.used)) for plan in plans] == [("V", 1), ("B", 1)]
    told = {f.input.id: (f.reason, f.input.band) for plan in plans for f in plan.frames if f.reason}
    assert told == {f"{reason}.fits": (reason, "V") for reason in FAULTS} | {
        "not-2d.fits": ("not-2d", "unknown"),
        "text.fits": ("unreadable", "unknown"),
        "r.fits": ("bad-noise", "R"),
    }


def test_without_a_frame_left_the_error_names_each_with_its_reason(field, tmp_path):
    paths = [counts(field.frame(tmp_path / "a.fits")), text(tmp_path / "b.fits")]
    with pytest.raises(BadInput, match=r"a\.fits bad-noise, b\.fits unreadable") as info:
        stack_files(paths, tmp_path / "o.fits")
    assert info.value.code == "nothing-to-stack"
    unsolved = [changed(field.frame(tmp_path / f"{n}.fits"), CTYPE1=None) for n in range(2)]
    with pytest.raises(BadInput, match=r"0\.fits no-wcs, 1\.fits no-wcs") as info:
        stack_files(unsolved, tmp_path / "o.fits")
    assert (info.value.code, "starloom solve" in info.value.hint) == ("no-wcs", True)
    assert not (tmp_path / "o.fits").exists()


def test_frames_of_one_name_in_two_folders_keep_apart(field, tmp_path):
    (tmp_path / "x").mkdir()
    good = field.frame(tmp_path / "a.fits")
    bad = counts(field.frame(tmp_path / "x" / "a.fits"))
    (plan,) = plan_files([bad, good])
    assert {f.input.id: f.reason for f in plan.frames} == {"0002:a.fits": None, "0001:a.fits": "bad-noise"}


def test_a_frame_of_the_archive_that_has_gone_bad_since_is_left_out(field, tmp_path):
    # Described once, its pixels are only looked at again when a mission is planned.
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(3)]
    items = [read_input(path).bare() for path in paths]
    counts(paths[0])
    paths[1].unlink()
    (plan,) = make_plan(items)
    assert {f.input.id: f.reason for f in plan.frames} == {
        "0.fits": "bad-noise", "1.fits": "unreadable", "2.fits": None,
    }  # fmt: skip
    assert plan.model_validate_json(plan.model_dump_json()).digest() == plan.digest()


@pytest.mark.parametrize(
    "cards",
    [
        {"CD1_1": 0.0, "CD1_2": 0.0},
        {"CD1_1": None, "CD1_2": None, "CD2_1": None, "CD2_2": None},
        {"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CRVAL2": 200.0},
        {"CUNIT1": "furlong"},
    ],
    ids=["singular", "no scale", "no projection", "linear", "beyond the pole", "no unit"],
)
def test_a_wcs_that_means_nothing_is_none(field, tmp_path, cards):
    path = changed(field.frame(tmp_path / "a.fits", size=(64, 64)), **cards)
    with pytest.raises(BadInput, match=r"a\.fits") as info:
        read_input(path)
    assert info.value.code == "no-wcs"


def test_photon_counts_of_a_survey_stop_no_other_band(shared_data, tmp_path):
    """GALEX's FUV image of 0 and 1 photon a pixel has no sky noise."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("GALEX_FUV", "SDSS_r"):
        shutil.copy(shared_data / "sn2010h_surveys" / f"{name}.fits.gz", folder)
    (plan,) = plan_files(sorted(folder.iterdir()))
    assert (plan.band, [f.reason for f in plan.frames]) == ("r", [None, "bad-noise"])
