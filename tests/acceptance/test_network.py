"""A simulated night of three unlike telescopes against its truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from photutils.aperture import ApertureStats, CircularAnnulus
from scipy.spatial import cKDTree

from starloom.archive import frames as rows
from starloom.archive.models import Frame, RevisionInput
from starloom.coadd import StackPlan
from starloom.coadd.engine import STREAK

pytestmark = pytest.mark.slow

Floats = NDArray[np.float64]


@dataclass
class Product:
    """A published stack, opened, with the true stars' places on it."""

    header: fits.Header
    data: NDArray[np.float32]
    bad: NDArray[np.bool_]
    coverage: NDArray[np.int16]
    rejected: NDArray[np.float32]
    flags: NDArray[np.uint8]
    wcs: WCS
    scale_arcsec: float
    x: Floats
    y: Floats
    flux: Floats
    """True fluxes, units of the stack's zero point."""

    @property
    def offered(self) -> Floats:
        """Frames at each pixel, rejected ones too."""
        return np.maximum(self.coverage / np.clip(1 - self.rejected, 1e-3, None), 1)


@pytest.fixture(params=[0, 1], ids=["revision 1", "revision 2"])
def revision(request: pytest.FixtureRequest, network: Any) -> Any:
    return network.revisions[request.param]


@pytest.fixture
def product(revision: Any, network: Any) -> Product:
    with fits.open(revision.files[0]) as hdus:
        header, data = hdus["SCI"].header.copy(), np.asarray(hdus["SCI"].data, np.float32)
        coverage = np.array(hdus["COVERAGE"].data)
        rejected = np.array(hdus["REJECTED"].data)
        flags = np.array(hdus["FLAGS"].data)
    wcs, sky = WCS(header), network.truth.sky
    x, y = wcs.all_world2pix(sky.ra_deg, sky.dec_deg, 0)
    bad = ~np.isfinite(data)
    flux = 10 ** (-0.4 * (sky.mag - header["MAGZPT"]))
    clean = np.where(bad, np.float32(0), data)
    return Product(header, clean, bad, coverage, rejected, flags, wcs, header["CD2_2"] * 3600, x, y, flux)


def lonely_stars(product: Product, radius_px: float, within: float) -> NDArray[np.intp]:
    """Return bright stars on covered ground whose neighbours within two radii hold little of their flux."""
    ny, nx = product.data.shape
    tree, far = cKDTree(np.column_stack([product.x, product.y])), 2 * radius_px
    bright = np.flatnonzero(
        (product.flux > 10 ** (0.4 * (25 - 13)))
        & (product.flux < 10 ** (0.4 * (25 - 8.5)))
        & (product.x > far)
        & (product.y > far)
        & (product.x < nx - far - 1)
        & (product.y < ny - far - 1)
    )
    chosen = []
    for star in bright:
        near = product.flux[tree.query_ball_point([product.x[star], product.y[star]], far)].sum()
        rows_, columns = (slice(int(v - far), int(v + far) + 1) for v in (product.y[star], product.x[star]))
        if near < (1 + within) * product.flux[star] and product.coverage[rows_, columns].min() >= 3:
            chosen.append(star)
    return np.array(chosen, np.intp)


def truths(network: Any, plan: StackPlan) -> list[tuple[Any, Any]]:
    """Return each used frame of a plan with its truth."""
    known = {
        path.name: truth for path, truth in network.truth.frames.items() if path not in network.truth.duplicate
    }
    frames = network.frames()
    return [(frame, known[frames[frame.input.id].name]) for frame in plan.used]


def test_flux_scales_are_right_to_a_percent(revision, network, record_property):
    (plan,) = revision.plans
    product = np.array([f.scale * truth.flux_scale for f, truth in truths(network, plan)])
    assert len(product) in (11, 12)
    record_property("worst flux scale", float(np.max(np.abs(product / np.median(product) - 1))))
    np.testing.assert_allclose(product / np.median(product), 1, atol=0.01)


def test_magnitudes_are_right_within_the_stated_error(product, record_property):
    # 4.5 FWHM of a typical frame: all but a few thousandths of the light.
    radius = 26 / product.scale_arcsec
    stars = lonely_stars(product, radius, within=0.02)
    assert len(stars) >= 10
    x, y = product.x[stars], product.y[stars]
    total, _, _ = sep.sum_circle(product.data, x, y, radius, subpix=7)
    ring = CircularAnnulus(np.column_stack([x, y]), 1.2 * radius, 2 * radius)
    total -= ApertureStats(product.data, ring).median * np.pi * radius**2
    tree = cKDTree(np.column_stack([product.x, product.y]))
    true = np.array([product.flux[tree.query_ball_point(xy, radius)].sum() for xy in zip(x, y, strict=True)])
    error = -2.5 * np.log10(total / true)
    record_property("zero point off by, mag", float(np.median(error)))
    record_property("stated error, mag", product.header["MAGZERR"])
    assert abs(np.median(error)) <= 3 * product.header["MAGZERR"]
    assert product.header["MAGZERR"] < 0.05
    assert 1.4826 * np.median(np.abs(error - np.median(error))) < 0.03


def test_positions_are_right_to_a_tenth_of_a_pixel(product, record_property):
    stars = lonely_stars(product, 20 / product.scale_arcsec, within=0.05)
    assert len(stars) >= 15
    x, y = product.x[stars], product.y[stars]
    sky = sep.Background(product.data, mask=product.bad, bw=48, bh=48)
    found_x, found_y, _ = sep.winpos(
        product.data - sky.back(), x, y, np.full(len(x), 6.5 / product.scale_arcsec / 2.3548), subpix=11
    )
    dx, dy = found_x - x, found_y - y
    record_property("positions off by, px", [float(np.median(dx)), float(np.median(dy))])
    record_property("worst star, px", float(np.hypot(dx, dy).max()))
    assert abs(np.median(dx)) < 0.1
    assert abs(np.median(dy)) < 0.1
    assert np.percentile(np.hypot(dx, dy), 90) < 0.1


def test_trail_leaves_less_than_a_tenth_of_the_noise(product, network, record_property):
    truth = network.truth.frames[network.truth.trail[0]]
    trail, wcs = truth.trail, truth.to_wcs()
    length = np.hypot(trail.x1 - trail.x0, trail.y1 - trail.y0)
    ux, uy = (trail.x1 - trail.x0) / length, (trail.y1 - trail.y0) / length
    rows_, columns = np.indices(product.data.shape)
    fx, fy = wcs.all_world2pix(*product.wcs.all_pix2world(columns.ravel(), rows_.ravel(), 0), 0, quiet=True)
    across = ((fx - trail.x0) * uy - (fy - trail.y0) * ux).reshape(product.data.shape)
    along = ((fx - trail.x0) * ux + (fy - trail.y0) * uy).reshape(product.data.shape)
    # At its ends the trail may leave the others' footprints; nothing tells it from sky where one frame is alone.
    shared = product.offered > 1.5
    free = (along > 10) & (along < length - 10) & ~product.bad & ~starry(product) & shared
    on, beside = free & (np.abs(across) < 2.5), free & (np.abs(across) > 10) & (np.abs(across) < 25)
    assert on.sum() > 3000
    flat = product.data - sep.Background(product.data, mask=product.bad, bw=48, bh=48).back()
    sigma = 1.4826 * np.median(np.abs(flat[beside] - np.median(flat[beside])))
    left = float(flat[on].mean() - flat[beside].mean())
    record_property("left of the trail, sigma", left / sigma)
    assert abs(left) <= 0.1 * sigma
    # There was a trail to be lost: it was found, and left out of its frame before anything was rejected.
    assert np.mean(product.flags[on] & STREAK > 0) > 0.95
    assert np.mean(product.flags[beside] & STREAK > 0) < 0.2
    assert np.median(product.rejected[beside]) == 0


def starry(product: Product) -> NDArray[np.bool_]:
    """Return the pixels near a true star, further out around the bright ones."""
    mask = np.zeros(product.data.shape, bool)
    ny, nx = mask.shape
    for x, y, flux in zip(product.x, product.y, product.flux, strict=True):
        r = (8 if flux < 10**4.8 else 14 if flux < 10**5.6 else 25) / product.scale_arcsec
        if not (-r < x < nx + r and -r < y < ny + r):
            continue
        rows_ = np.arange(max(0, int(y - r)), min(ny, int(y + r) + 2))
        columns = np.arange(max(0, int(x - r)), min(nx, int(x + r) + 2))
        mask[np.ix_(rows_, columns)] |= np.hypot(columns[None] - x, rows_[:, None] - y) < r
    return mask


def test_weights_say_what_the_noise_is(product, revision):
    with fits.open(revision.files[0]) as hdus:
        weight = np.asarray(hdus["WEIGHT"].data)
    empty = ~starry(product) & ~product.bad & (product.coverage >= 8)
    flat = product.data - sep.Background(product.data, mask=product.bad, bw=48, bh=48).back()
    pull = flat[empty] * np.sqrt(weight[empty]) / product.header["NOISECOR"]
    assert 1.4826 * np.median(np.abs(pull - np.median(pull))) == pytest.approx(1, abs=0.1)


def outcome(network: Any, kind: str) -> Frame:
    (path,) = getattr(network.truth, kind)
    found: list[Frame] = network.named(path)
    return found[-1]


def test_bad_frames_are_reported_for_what_they_are(network):
    corrupt = outcome(network, "corrupt")
    assert (rows.state_of(corrupt), corrupt.disposition_code) == ("quarantined", "truncated")
    misnamed = outcome(network, "misnamed")
    assert (rows.state_of(misnamed), misnamed.disposition_code) == ("quarantined", "bad-name")
    first, second = network.named(network.truth.duplicate[0])
    assert rows.state_of(first) == "ready"
    assert (second.disposition, second.duplicate_of) == ("duplicate", first.id)


def test_off_target_frame_has_no_weight(network):
    frame = outcome(network, "off_target")
    assert "off-target" in frame.flags
    for revision in network.revisions:
        (told,) = [row for row in revision.published.inputs if row["frame"] == frame.name]
        assert (told["weight_pct"], told["reason"]) == (0.0, "off-target")
    entries: list[RevisionInput] = [entry for entry in network.inputs() if entry.frame_id == frame.id]
    assert [(e.weight, e.reason, e.scale) for e in entries] == [(0.0, "off-target", None)] * 2


def test_late_frame_makes_revision_two_and_keeps_revision_one(network):
    first, second = network.revisions
    late = outcome(network, "late")
    before, after = ({row["frame"] for row in revision.published.inputs} for revision in (first, second))
    assert after - before == {late.name}
    assert before <= after
    assert (first.published.n, second.published.n) == (1, 2)
    assert all(path.is_file() for path in (*first.files, *second.files))
    assert first.files != second.files
    assert second.plans[0].grid == first.plans[0].grid
    assert fits.getheader(first.files[0], "SCI")["NCOMBINE"] == 11
    assert fits.getheader(second.files[0], "SCI")["NCOMBINE"] == 12


def test_products_are_fetched_and_checked(network: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "starloom", "mission", "fetch", "550", "--json", "--out", str(tmp_path)]
    env = {**os.environ, "STARLOOM_HOME": str(network.hub.settings.home)}
    for n in (1, 2):
        done = subprocess.run(
            [*command, "--revision", str(n)], env=env, capture_output=True, text=True, check=True
        )
        (row,) = json.loads(done.stdout)
        assert Path(row["sci"]).read_bytes() == network.revisions[n - 1].files[0].read_bytes()
        assert Path(row["preview"]).read_bytes().startswith(b"\x89PNG")
    refused = subprocess.run([*command, "--revision", "3"], env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["code"] == "no-product"
