from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from starloom.refcat import default_refcat
from starloom.sky.network import NetworkTruth, make_network
from starloom.sky.telescope import wcs_from_cards

NAME = re.compile(r"ObsReq-550_TelID-(T\d+)_\d{8}T\d{6}\.fits\.fz")


def pixels(path: Path) -> np.ndarray:
    with fits.open(path, checksum=True) as hdus:  # a checksum that is wrong warns, and warnings are errors
        return np.array(hdus[1].data)


def sound(network: NetworkTruth) -> list[Path]:
    return [*network.good, *network.trail, *network.off_target, *network.late, *network.misnamed]


def test_every_kind_is_there_once(network: NetworkTruth) -> None:
    kinds = [network.good, network.trail, network.corrupt, network.duplicate, network.misnamed]
    kinds += [network.off_target, network.late]
    files = [path for kind in kinds for path in kind]
    assert len(set(files)) == len(files) == len(network.frames)
    assert [len(kind) for kind in kinds] == [10, 1, 1, 1, 1, 1, 1]
    assert set(network.arrival) == set(files) - set(network.late)
    assert network.arrival[:10] != network.good
    assert {network.frames[path].node for path in network.good} == set(network.nodes) == {"T17", "T24", "T68"}


def test_names_follow_the_grammar(network: NetworkTruth) -> None:
    for path in {*network.frames} - {*network.misnamed}:
        match = NAME.fullmatch(path.name)
        assert match, path
        assert match[1] == network.frames[path].node
    assert not NAME.fullmatch(network.misnamed[0].name)


def test_files_are_sound_and_lossless(network: NetworkTruth) -> None:
    kinds = set()
    for path in sound(network):
        image, truth = pixels(path), network.frames[path]
        assert image.shape == (truth.height, truth.width)
        kinds.add(image.dtype.newbyteorder("=").name)
        compression = fits.open(path, disable_image_compression=True)
        with compression as hdus:
            assert hdus[1].header["ZCMPTYPE"] == ("GZIP_2" if image.dtype.kind == "f" else "RICE_1")
    assert kinds == {"uint16", "int32", "float32"}


def test_frames_carry_enough_catalogue_stars(network: NetworkTruth) -> None:
    for path, truth in network.frames.items():
        stars = default_refcat().cone(truth.wcs["CRVAL1"], truth.wcs["CRVAL2"], 0.6)
        x, y = truth.to_wcs().all_world2pix(stars.ra_deg, stars.dec_deg, 0, quiet=True)
        assert ((x > 5) & (x < truth.width - 5) & (y > 5) & (y < truth.height - 5)).sum() >= 25, path


def test_truth_agrees_with_the_pixels(network: NetworkTruth) -> None:
    for path in (network.good[0], network.good[4], network.good[-1]):
        truth, data = network.frames[path], pixels(path).astype(np.float64)
        data -= (background := sep.Background(data)).back()
        assert background.globalrms == pytest.approx(truth.noise_adu, rel=0.15)
        stars = network.sky
        x, y = truth.to_wcs().all_world2pix(stars.ra_deg, stars.dec_deg, 0, quiet=True)
        inside = (x > 20) & (x < truth.width - 20) & (y > 20) & (y < truth.height - 20)
        use = inside & (stars.mag > 10.5) & (stars.mag < 12.0)
        found_x, found_y, _ = sep.winpos(data, x[use], y[use], np.full(use.sum(), truth.fwhm_px / 2.355))
        assert use.sum() >= 20
        assert abs(np.median(found_x - x[use])) < 0.03
        assert abs(np.median(found_y - y[use])) < 0.03
        flux, _, _ = sep.sum_circle(data, x[use], y[use], 3.5 * truth.fwhm_px)
        zero_point = np.median(stars.mag[use] + 2.5 * np.log10(flux))
        assert zero_point == pytest.approx(truth.zero_point_mag, abs=0.04)


def test_duplicate_has_the_same_pixels_in_other_bytes(network: NetworkTruth) -> None:
    original = next(p for p in network.good if p.name == network.duplicate[0].name)
    np.testing.assert_array_equal(pixels(original), pixels(network.duplicate[0]))
    assert original.read_bytes() != network.duplicate[0].read_bytes()
    assert "HISTORY" in fits.getheader(network.duplicate[0], 1)
    assert "HISTORY" not in fits.getheader(original, 1)
    assert network.arrival.index(original) < network.arrival.index(network.duplicate[0])


def test_corrupt_file_ends_before_its_data(network: NetworkTruth) -> None:
    path = network.corrupt[0]
    with (
        warnings.catch_warnings(action="ignore", category=AstropyUserWarning),  # "may have been truncated"
        fits.open(path, disable_image_compression=True, memmap=False) as hdus,
    ):
        place = hdus[1].fileinfo()
        assert hdus[1].header["ZBITPIX"] == -32
    assert place["datLoc"] < path.stat().st_size < place["datLoc"] + place["datSpan"]


def test_off_target_frame_is_ten_degrees_away(network: NetworkTruth) -> None:
    cards = network.frames[network.off_target[0]].wcs
    a, b = np.radians(cards["CRVAL2"]), np.radians(network.target_deg[1])
    between = np.radians(cards["CRVAL1"] - network.target_deg[0])
    cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(between)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(10.0, abs=1e-6)


def test_trail_is_bright_along_its_line(network: NetworkTruth) -> None:
    truth, data = network.frames[network.trail[0]], pixels(network.trail[0]).astype(np.float64)
    trail = truth.trail
    assert trail is not None
    along = np.linspace(0.02, 0.98, 800)
    x = trail.x0 + along * (trail.x1 - trail.x0)
    y = trail.y0 + along * (trail.y1 - trail.y0)
    ridge = data[np.rint(y).astype(int), np.rint(x).astype(int)]
    aside = data[np.rint(y + 25).astype(int), np.rint(x).astype(int)]
    assert np.median(ridge - aside) / truth.noise_adu > 8.0


def test_truth_file_says_the_same(network: NetworkTruth) -> None:
    told = json.loads(network.truth_json.read_text(encoding="utf-8"))
    root = network.truth_json.parent
    assert [root / name for name in told["arrival"]] == network.arrival
    assert set(told["filter_names"]) == set(told["nodes"])
    for name, frame in told["frames"].items():
        truth = network.frames[root / name]
        assert frame["zero_point_mag"] == truth.zero_point_mag
        assert wcs_from_cards(frame["wcs"]).wcs.crval[0] == pytest.approx(truth.wcs["CRVAL1"], abs=1e-12)
    table = np.genfromtxt(root / told["stars"], delimiter=",", names=True)
    assert len(table) == len(network.sky)


def test_the_seed_decides_whatever_the_mission_is_called(tmp_path: Path) -> None:
    few = {"frames_per_node": (1, 0, 0)}
    one = make_network(tmp_path / "one", seed=12, mission="550", **few)
    two = make_network(tmp_path / "two", seed=12, mission="7f3a", **few)
    assert [path.name for path in two.good] == ["ObsReq-7f3a_TelID-T17_20261008T203000.fits.fz"]
    for first, second in zip(sound(one), sound(two), strict=True):
        np.testing.assert_array_equal(pixels(first), pixels(second))
    assert list(one.frames.values()) == list(two.frames.values())
