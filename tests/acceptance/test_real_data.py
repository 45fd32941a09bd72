"""Public frames of real telescopes, where the shared data sets lie beside the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from starloom.cli.app import app
from starloom.coadd import read_input, stack_files

DATA = Path(__file__).parents[2].parent / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not beside the repository"),
]


def run(*words: object) -> dict | list:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_solve_and_stack_from_the_command_line(tmp_path):
    frames = sorted((DATA / "hatp32_microobs").glob("*.FITS.gz"))[4:9]
    rows = run("solve", *frames, "--out", tmp_path / "solved")
    assert [row["solved"] for row in rows] == [True] * 5
    out = tmp_path / "stack.fits"
    report = run("stack", *sorted((tmp_path / "solved").iterdir()), "--out", out)
    (product,) = report["products"]
    assert (product["band"], product["n_used"]) == ("Clear", 5)
    scales = [frame["scale"] for frame in product["frames"]]
    np.testing.assert_allclose(scales, np.median(scales), rtol=0.05)
    with fits.open(out) as hdus:
        assert hdus["COVERAGE"].data.max() == 5
        # 5.165"/px: HAT-P-32 is nearly undersampled, so the grid stays as fine as the frames.
        assert hdus["SCI"].header["CD2_2"] * 3600 == pytest.approx(5.165, rel=0.1)


def test_mosaic_of_tiles_with_unlike_backgrounds(tmp_path):
    out = tmp_path / "m17.fits"
    (product,) = stack_files(sorted((DATA / "m17_2mass").glob("*.fits*")), out).products
    assert product.n_used == 8
    with fits.open(out) as hdus:
        data, coverage = hdus["SCI"].data, hdus["COVERAGE"].data
    assert (coverage > 0).mean() > 0.8
    # Tiles differ by up to a count in their background; where they meet, the mosaic must not step.
    seams = (coverage[:, 1:] != coverage[:, :-1]) & (coverage[:, 1:] > 0) & (coverage[:, :-1] > 0)
    step = data[:, 1:] - data[:, :-1]
    plain = np.isfinite(step) & ~seams
    noise = 1.4826 * np.median(np.abs(step[plain] - np.median(step[plain])))
    assert abs(np.nanmedian(step[seams])) < 0.3 * noise


def test_two_telescopes_cutouts_without_common_stars_are_tied_by_their_headers(tmp_path):
    paths = sorted((DATA / "bok_mosaic3_ra217").glob("*ooi*.fits"))
    report = stack_files(paths, tmp_path / "out.fits")
    assert sorted((p.band, p.n_used) for p in report.products) == [("g", 3), ("r", 3), ("z", 2)]
    stated = {path.name: fits.getheader(path)["MAGZERO"] for path in paths}
    for frame in (frame for product in report.products for frame in product.frames):
        assert frame.n_common_stars < 5
        # Its own word is all there is: of single frames nothing tells better.
        assert -2.5 * np.log10(frame.scale) == pytest.approx(stated[frame.id] - 25, abs=0.02)


def test_survey_cutouts_stack_by_band(tmp_path):
    paths = sorted((DATA / "decam_unwise_ra187").glob("*ooi*.fits"))
    report = stack_files(paths, tmp_path / "out.fits")
    assert sorted((p.band, p.n_used) for p in report.products) == [("g", 2), ("r", 3), ("z", 4)]
    assert {read_input(path).band for path in paths} == {"g", "r", "z"}
