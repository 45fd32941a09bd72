"""Photometry of rendered frames, whose stars, noise and zero point are known."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.stats import mad_std
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from starloom.astrometry.detect import detect_stars
from starloom.calibration.saturation import saturation_from_histogram
from starloom.photometry import FramePhotometry, PhotometryOptions, cone_of, photometer
from starloom.photometry.sources import COLUMNS
from starloom.refcat import default_refcat
from starloom.sky import FrameTruth, Sky, field_sky
from starloom.sky.network import TARGET, TELESCOPES
from starloom.sky.render import render

NODES = {telescope.node: telescope for telescope in TELESCOPES}


@dataclass(frozen=True)
class Case:
    """A rendered frame, its truth and the true stars' places and fluxes on it."""

    image: NDArray[np.generic]
    truth: FrameTruth
    sky: Sky
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]

    def measure(self, x=None, y=None, saturation_adu=None, **options) -> FramePhotometry:
        """Detect and measure; or measure at given places."""
        stars = detect_stars(self.image, saturation_adu=saturation_adu)
        if x is not None:
            one = np.ones(len(x))
            stars = replace(
                stars,
                x=x,
                y=y,
                flux=one,
                peak=one,
                fwhm_px=one * stars.frame_fwhm_px,
                ellipticity=0 * one,
                saturated=np.zeros(len(x), bool),
                theta_deg=0 * one,
                centroid_err_px=0.1 * one,
            )
        return photometer(
            self.image,
            self.truth.wcs,
            stars,
            default_refcat().cone(*cone_of(self.truth.wcs, self.image.shape)),
            PhotometryOptions(
                match_arcsec=2 * NODES[self.truth.node].scale_arcsec, saturation_adu=saturation_adu, **options
            ),
        )

    def alone(self, radius_px: float) -> NDArray[np.bool_]:
        """True stars inside the frame whose neighbours within a radius have 2 % of their flux at most."""
        places = np.column_stack([self.x, self.y])
        total = [self.flux[near].sum() for near in cKDTree(places).query_ball_point(places, radius_px)]
        inside = (places > 30).all(axis=1) & (places < [self.truth.width - 31, self.truth.height - 31]).all(axis=1)
        return inside & (np.array(total) < 1.02 * self.flux)


@cache
def case(node: str, seed: int, full_well_adu: float | None = None) -> Case:
    telescope = NODES[node]
    if full_well_adu is not None:
        telescope = replace(telescope, full_well_adu=full_well_adu)
    sky = field_sky(*TARGET, telescope.radius_deg * 1.3, seed=seed)
    frame = render(telescope, sky, TARGET, seed=seed, start=datetime(2026, 10, 8, tzinfo=UTC))
    x, y = frame.truth.to_wcs().all_world2pix(sky.ra_deg, sky.dec_deg, 0, quiet=True)
    flux = 10 ** (-0.4 * (sky.mag - frame.truth.zero_point_mag))
    on = np.isfinite(x + y) & (x > -50) & (y > -50) & (x < telescope.width + 50) & (y < telescope.height + 50)
    return Case(frame.image, frame.truth, sky, x[on], y[on], flux[on])


@pytest.mark.parametrize("node", list(NODES))
def test_zero_point_is_right_within_its_error(node):
    measured = [(case(node, seed).measure(), case(node, seed).truth) for seed in (1, 2)]
    for photometry, truth in measured:
        assert photometry.zero_point_mag is not None
        assert photometry.zero_point_err is not None
        assert abs(photometry.zero_point_mag - truth.zero_point_mag) < 3 * photometry.zero_point_err
        # The catalogue is in another band: 0.2 mag a star.
        assert photometry.scatter_mag == pytest.approx(0.2, abs=0.07)
        # The mean's own error, and on it what hidden stars and the curve of growth leave in doubt.
        assert 0.7 < photometry.zero_point_err / (0.2 / np.sqrt(photometry.calibrators)) < 2.0
        assert photometry.calibrators >= 25
        assert photometry.sky_sigma_adu == pytest.approx(truth.noise_adu, rel=0.03)


@pytest.mark.parametrize("node", list(NODES))
def test_fluxes_are_total_fluxes(node):
    it = case(node, 1)
    measured = it.measure()
    sources = measured.sources
    distance, star = cKDTree(np.column_stack([it.x, it.y])).query(
        np.column_stack([sources["x"].to_numpy(), sources["y"].to_numpy()])
    )
    good = (distance < 0.3) & it.alone(6 * measured.fwhm_px)[star]
    bright = good & (it.flux[star] > 100 * np.median(sources["flux_err_adu"].to_numpy()))
    assert bright.sum() >= 5
    assert np.median(sources["flux_adu"].to_numpy()[bright] / it.flux[star][bright]) == pytest.approx(1, abs=0.02)


def test_limiting_magnitude_is_five_sigma():
    it = case("T24", 1)
    measured = it.measure()
    limit_flux = 10 ** (-0.4 * (measured.limiting_mag - measured.zero_point_mag))
    faint = it.alone(8 * measured.fwhm_px) & (np.abs(np.log10(it.flux / limit_flux)) < 0.3)
    assert faint.sum() > 10
    forced = it.measure(it.x[faint], it.y[faint])
    # Forced apertures on stars that nobody would detect: the noise is what a fifth of the limit says.
    noise = forced.sources["flux_adu"].to_numpy() - it.flux[faint]
    # One of them lies under the trail of a cosmic-ray hit.
    assert mad_std(noise) == pytest.approx(limit_flux / 5, rel=0.35)
    # Stars 1.5 mag brighter are all found, stars 0.4 mag fainter mostly not: detection, a matched filter, sees a
    # little further than an aperture.
    sources = it.measure().sources
    places = cKDTree(np.column_stack([sources["x"].to_numpy(), sources["y"].to_numpy()]))
    found = places.query(np.column_stack([it.x, it.y]))[0] < 2
    alone = it.alone(4 * measured.fwhm_px)
    assert found[alone & (it.flux > limit_flux * 4)].mean() > 0.95
    faintest = alone & (it.flux < limit_flux * 0.7)
    assert faintest.sum() > 20
    assert found[faintest].mean() < 0.35


def test_fewer_than_five_calibrators_give_no_zero_point():
    it = case("T17", 1)
    stars = it.measure()
    used = np.flatnonzero(stars.sources["calibrator"].to_numpy())[:4]
    few = it.measure(stars.sources["x"].to_numpy()[used], stars.sources["y"].to_numpy()[used])
    assert (few.zero_point_mag, few.zero_point_err, few.scatter_mag, few.limiting_mag) == (None, None, None, None)
    assert (few.calibrators, few.catalog_band) == (0, None)
    assert np.isnan(few.sources["mag"].to_numpy()).all()
    assert np.isfinite(few.sources["flux_adu"].to_numpy()).all()


def test_no_star_at_all_is_no_error():
    nothing = case("T17", 1).measure(np.zeros(0), np.zeros(0))
    assert nothing.sources.num_rows == 0
    assert nothing.zero_point_mag is None
    assert nothing.ellipticity is None


def test_saturated_stars_are_flagged_and_do_not_calibrate():
    it = case("T17", 1, full_well_adu=6000.0)
    level = saturation_from_histogram(it.image)
    assert level == 6000.0
    measured = it.measure(saturation_adu=level)
    saturated = measured.sources["saturated"].to_numpy()
    assert saturated.sum() >= 5
    assert not (saturated & measured.sources["calibrator"].to_numpy()).any()
    assert abs(measured.zero_point_mag - it.truth.zero_point_mag) < 3 * measured.zero_point_err


def test_sources_survive_parquet():
    measured = case("T68", 1).measure()
    buffer = io.BytesIO()
    pq.write_table(measured.sources, buffer, compression="zstd")
    table = pq.read_table(buffer)
    assert table.equals(measured.sources)
    other = {"saturated": "bool", "calibrator": "bool", "flags": "int16"}
    other["band"] = "dictionary<values=string, indices=int8, ordered=0>"
    assert {name: str(table.schema.field(name).type) for name in table.column_names} == {
        name: other.get(name, "double") for name in COLUMNS
    }
    assert table.schema.field("flux_adu").metadata[b"unit"] == b"adu"
    assert set(table["band"].to_pylist()) == {measured.catalog_band}
    meaning = json.loads(table.schema.metadata[b"photometry"])
    assert meaning["zero_point_mag"] == measured.zero_point_mag
    assert meaning["catalog"] == "Tycho-2"
    assert table.num_rows > 100


def test_masked_pixels_spoil_a_star_and_not_the_frame():
    it = case("T68", 1)
    image = it.image.astype(np.float32).copy()
    image[300:420, 400:520] = np.nan
    measured = replace(it, image=image).measure(it.x[:200], it.y[:200])
    assert measured.zero_point_mag == pytest.approx(it.truth.zero_point_mag, abs=0.15)
