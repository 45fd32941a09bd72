"""Frames as nodes send them: every pixel type, hot sensors, gradients, trails, donuts, clusters, half a frame."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from starloom.astrometry import StarList, Unsolved, detect_stars
from starloom.calibration import superpixels
from starloom.sky.cluster import globular
from starloom.sky.psf import Psf, draw_stars, make_psf

SKY, NOISE = 600.0, 25.0
SHAPE = (600, 900)

Floats = NDArray[np.float64]


class Field:
    """Stars of known places on a noisy sky, S/N 8 to 2000 under a matched filter."""

    def __init__(self, psf: Psf, n: int, seed: int, shape: tuple[int, int] = SHAPE) -> None:
        self.rng = np.random.default_rng(seed)
        self.x, self.y = self.rng.uniform(0, shape[1] - 1, n), self.rng.uniform(0, shape[0] - 1, n)
        one = NOISE / np.sqrt((psf.phases[0, 0].astype(float) ** 2).sum())
        self.snr = 8.0 * self.rng.random(n) ** -1.0
        self.snr = np.minimum(self.snr, 2000.0)
        self.light = np.zeros(shape, np.float32)
        draw_stars(self.light, self.x, self.y, self.snr * one, psf, noise_adu=NOISE)

    def image(self, sky: float | Floats = SKY) -> Floats:
        """Expose: a gain of 1, no read noise."""
        level = self.light.astype(float) + sky
        return level + np.sqrt(level) * self.rng.standard_normal(level.shape)

    def found_share(self, found: StarList, brighter: float, within: float = 1.5) -> float:
        there = (self.snr > brighter) & (self.x > 12) & (self.y > 12)
        there &= (self.x < self.light.shape[1] - 13) & (self.y < self.light.shape[0] - 13)
        distance, _ = cKDTree(np.column_stack([found.x, found.y])).query(np.column_stack([self.x, self.y]))
        return float(np.mean(distance[there] < within))

    def false_share(self, found: StarList, within: float = 2.0) -> float:
        distance, _ = cKDTree(np.column_stack([self.x, self.y])).query(np.column_stack([found.x, found.y]))
        return float(np.mean(distance > within))

    def offsets(self, found: StarList, brighter: float) -> tuple[Floats, Floats]:
        """Errors of the stars that have no neighbour, x and y."""
        truth = cKDTree(np.column_stack([self.x, self.y]))
        distance, star = truth.query(np.column_stack([found.x, found.y]))
        apart = truth.query(truth.data, k=2)[0][:, 1] > 6 * found.frame_fwhm_px + found.trail_px
        good = (distance < 3) & apart[star] & (self.snr[star] > brighter) & ~found.saturated
        return found.x[good] - self.x[star[good]], found.y[good] - self.y[star[good]]


@pytest.fixture(scope="module")
def plain() -> Field:
    return Field(make_psf(3.0), 150, seed=1)


@pytest.mark.parametrize(
    ("dtype", "scale", "pedestal"),
    [
        ("uint8", 0.02, 0.0),
        ("int16", 1.0, -400.0),
        (">u2", 1.0, 100.0),
        ("uint16", 16.0, 0.0),
        ("int32", 1.0, 5e6),
        (">i4", 1.0, -5e6),
        ("uint32", 1.0, 3e9),
        ("int64", 1.0, 1e12),
        ("float32", 1e-3, -0.6),
        (">f8", 1.0, 1e7),
        ("float64", 1e-20, 0.0),
    ],
)
def test_any_pixel_type_and_pedestal_gives_the_same_stars(dtype: str, scale: float, pedestal: float) -> None:
    field = Field(make_psf(3.0), 150, seed=2)
    image = field.image() * scale + pedestal
    kind = np.dtype(dtype).kind
    if kind in "iu":
        image = np.clip(np.rint(image), np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = detect_stars(image.astype(dtype))
    # Eight bits keep half a level of noise, and clip bright stars.
    assert field.found_share(found, 20) > 0.95
    assert field.false_share(found) < 0.03
    assert found.noise_adu == pytest.approx(np.hypot(NOISE * scale, 0.29 if kind in "iu" else 0.0), rel=0.1)
    assert found.background_adu == pytest.approx(SKY * scale + pedestal, abs=0.3 * NOISE * scale)


def test_the_same_sky_gives_the_same_list(plain: Field) -> None:
    image = plain.image().astype(np.float32)
    a, b = detect_stars(image), detect_stars(image.astype(">f4"))
    assert np.array_equal(a.x, b.x)
    assert np.array_equal(a.flux, b.flux)


@pytest.mark.parametrize("fwhm", [1.6, 3.0, 5.0])
def test_a_hot_sensor_makes_no_stars(fwhm: float) -> None:
    field = Field(make_psf(fwhm), 300, seed=3, shape=(1000, 1500))
    image = field.image()
    rng = np.random.default_rng(4)
    n = image.size // 1000
    image[rng.integers(0, 1000, n), rng.integers(0, 1500, n)] += rng.uniform(10, 1000, n) * NOISE
    for column in rng.integers(0, 1500, 5):
        image[:, column] += rng.uniform(5, 40) * NOISE
    for _ in range(200):
        steps, angle = np.arange(rng.integers(1, 9)), rng.uniform(0, 2 * np.pi)
        cx = np.rint(rng.uniform(10, 1490) + steps * np.cos(angle)).astype(int)
        cy = np.rint(rng.uniform(10, 990) + steps * np.sin(angle)).astype(int)
        image[cy, cx] += rng.uniform(20, 300) * NOISE
    found = detect_stars(image.astype(np.float32))
    assert field.false_share(found) < 0.01
    assert field.found_share(found, 20) > 0.97
    assert found.frame_fwhm_px == pytest.approx(fwhm, rel=0.05)


@pytest.mark.parametrize("slope", [0.3, 1.8])
def test_twilight_and_moonlight_hide_no_star(slope: float) -> None:
    field = Field(make_psf(3.0), 150, seed=5)
    v, u = np.meshgrid(np.linspace(-1, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1]), indexing="ij")
    sky = SKY * (1 + slope * (0.35 * u + 0.15 * v)) * (1 - 0.3 * (u * u + v * v) / 2)
    found = detect_stars(field.image(sky).astype(np.uint16))
    assert field.found_share(found, 25) > 0.97
    assert field.false_share(found) < 0.02


@pytest.mark.parametrize(
    ("length", "angle", "fwhm"), [(6.0, 30.0, 3.0), (10.0, -50.0, 2.5), (10.0, 90.0, 2.0), (25.0, 10.0, 3.0)]
)
def test_trailed_stars_are_one_star_each_with_its_middle_kept(length: float, angle: float, fwhm: float) -> None:
    field = Field(make_psf(fwhm, trail_px=length, trail_angle_deg=angle), 120, seed=6, shape=(1000, 1400))
    found = detect_stars(field.image().astype(np.uint16))
    assert found.trailed
    assert not found.defocused
    assert found.trail_px == pytest.approx(length, rel=0.06)
    assert np.abs((found.trail_angle_deg - angle + 90) % 180 - 90) < 2
    assert found.frame_fwhm_px == pytest.approx(fwhm, rel=0.1)
    assert field.found_share(found, 25, within=0.3 * length) > 0.93
    # One star, not one for every knot of its trail.
    assert field.false_share(found, within=0.3 * length) < 0.04
    dx, dy = field.offsets(found, 60)
    assert len(dx) > 10
    assert np.hypot(np.median(dx), np.median(dy)) < 0.05
    tilt = np.abs((found.theta_deg - angle + 90) % 180 - 90)
    assert np.median(tilt[:40]) < 5


@pytest.mark.parametrize(("donut", "obstruction"), [(8.0, 0.35), (12.0, 0.35), (12.0, 0.0), (20.0, 0.3)])
def test_defocused_stars_are_one_star_each(donut: float, obstruction: float) -> None:
    field = Field(make_psf(2.5, donut_px=donut, obstruction=obstruction), 60, seed=7, shape=(1200, 1700))
    found = detect_stars(field.image().astype(np.uint16))
    assert found.defocused
    assert not found.trailed
    assert found.trail_px == 0
    assert np.isnan(found.trail_angle_deg)
    assert found.frame_fwhm_px == pytest.approx(donut, rel=0.12)
    assert field.found_share(found, 60, within=0.2 * donut) > 0.85
    assert field.false_share(found, within=0.3 * donut) < 0.05
    dx, dy = field.offsets(found, 20)
    assert len(dx) >= 3
    assert np.hypot(np.median(dx), np.median(dy)) < 0.015 * donut


@pytest.mark.parametrize("beta", [2.5, 4.0, 60.0])
@pytest.mark.parametrize("fwhm", [1.5, 2.0, 3.0, 4.5, 6.0])
def test_the_width_is_that_of_the_profile_and_round_stars_are_neither_trailed_nor_defocused(
    fwhm: float, beta: float
) -> None:
    field = Field(make_psf(fwhm, beta), 150, seed=8)
    found = detect_stars(field.image().astype(np.uint16))
    assert found.frame_fwhm_px == pytest.approx(fwhm, rel=0.05)
    assert np.median(found.fwhm_px[:40]) == pytest.approx(fwhm, rel=0.06)
    assert not found.trailed
    assert not found.defocused
    assert found.frame_ellipticity < 0.1


def test_few_or_crowded_or_blurred_round_stars_are_not_called_trailed_either() -> None:
    for fwhm, n in ((3.0, 8), (2.0, 3000), (3.0, 3000), (8.0, 60), (10.0, 200)):
        found = detect_stars(Field(make_psf(fwhm), n, seed=9).image().astype(np.uint16))
        assert not found.trailed, (fwhm, n)
        assert not found.defocused, (fwhm, n)


def test_the_core_of_a_globular_does_not_swallow_the_list() -> None:
    rng = np.random.default_rng(10)
    scale, shape = 2.0, (900, 1200)
    ra, dec, mag = globular(200.0, 0.0, 8_000, 0.03, 12.0, seed=4)
    x, y = (ra - 200.0) * 3600 / scale + 600, dec * 3600 / scale + 450
    field_x, field_y = rng.uniform(10, 1190, 250), rng.uniform(10, 890, 250)
    on = (x > 0) & (y > 0) & (x < 1199) & (y < 899)
    flux = 4000 * 10 ** (-0.4 * (mag[on] - 15.5))
    image = np.zeros(shape, np.float32)
    psf = make_psf(2.5)
    draw_stars(
        image,
        np.r_[x[on], field_x],
        np.r_[y[on], field_y],
        np.r_[flux, np.full(250, 3000.0)],
        psf,
        noise_adu=NOISE,
    )
    image += SKY
    found = detect_stars((image + np.sqrt(image) * rng.standard_normal(shape)).astype(np.uint16))

    def near(stars: StarList) -> float:
        return float(np.mean(np.hypot(stars.x - 600, stars.y - 450) < 120))

    # The circle is 4 % of the frame.
    assert near(found.brightest(100)) > 0.3
    assert near(found.balanced(100)) < 0.6 * near(found.brightest(100))
    assert len(found.balanced(100)) == 100
    far = np.hypot(field_x - 600, field_y - 450) > 250
    distance, _ = cKDTree(np.column_stack([found.x, found.y])).query(np.column_stack([field_x, field_y]))
    assert np.mean(distance[far] < 1) > 0.97


def test_a_balanced_list_is_the_brightest_of_an_even_sky(plain: Field) -> None:
    found = detect_stars(plain.image().astype(np.uint16))
    balanced = found.balanced(40)
    assert (np.diff(balanced.flux) <= 0).all()
    assert np.isin(found.x[:15], balanced.x).all()
    assert found.balanced(10_000) is found
    assert len(found.balanced(1)) == 1


@pytest.mark.parametrize(
    "noise",
    [
        lambda r, s: r.normal(1000, 10, s),
        lambda r, s: r.poisson(4.0, s).astype(np.uint16),
        lambda r, s: r.poisson(0.1, s).astype(np.uint8),
        lambda r, s: gaussian_filter(r.normal(0, 10, s), 1.0),
        lambda r, s: gaussian_filter(r.normal(0, 10, s), 2.5),
        lambda r, s: 10 * r.standard_t(4, s),
        lambda r, s: r.normal(0, 10, s) + np.linspace(0, 3000, s[1]),
        lambda r, s: r.normal(0, 1, s) * np.linspace(1, 20, s[1]),
    ],
    ids=["white", "photons", "few photons", "smoothed", "more smoothed", "heavy tails", "slope", "uneven"],
)
def test_noise_holds_no_stars(noise: object) -> None:
    image = noise(np.random.default_rng(11), (1200, 1600))  # type: ignore[operator]
    assert detect_stars(image).fault == "too-few-stars"


@pytest.mark.parametrize("void", ["nan", "zero", "noise"])
def test_half_a_frame_is_half_the_stars(void: str) -> None:
    field = Field(make_psf(3.0), 200, seed=12)
    image = field.image()
    image[:, 450:] = {"nan": np.nan, "zero": 0.0, "noise": 0.0}[void]
    if void == "noise":
        # A dome: no sky light, read noise alone.
        image[:, 450:] = np.random.default_rng(13).normal(100, 5, (600, 450))
    found = detect_stars(image if void == "nan" else image.astype(np.uint16))
    assert (found.x > 455).sum() <= 1
    # The sky is not known within a cell of the edge.
    there = field.x < 405
    assert field.false_share(found) < 0.05
    field.x, field.y, field.snr = field.x[there], field.y[there], field.snr[there]
    assert field.found_share(found, 20) > 0.95


def test_satellites_leave_no_row_of_stars() -> None:
    field = Field(make_psf(3.0), 150, seed=14)
    for x0, y0, x1, y1, ridge in ((0, 100, 899, 400, 15.0), (100, 0, 400, 599, 4.0), (0, 450, 899, 460, 150.0)):
        yy, xx = np.mgrid[0:600, 0:900]
        length = np.hypot(x1 - x0, y1 - y0)
        across = ((xx - x0) * (y1 - y0) - (yy - y0) * (x1 - x0)) / length
        field.light += (ridge * NOISE * np.exp(-0.5 * (across / 1.4) ** 2)).astype(np.float32)
    found = detect_stars(field.image().astype(np.uint16))
    assert field.false_share(found) < 0.02
    assert not found.trailed


def test_stars_on_a_bayer_mosaic_are_found_on_its_cells() -> None:
    field = Field(make_psf(3.5), 150, seed=15)
    colour = np.ones(SHAPE)
    colour[0::2, 0::2], colour[1::2, 1::2] = 0.7, 0.5
    found = detect_stars(superpixels((field.image() * colour).astype(np.uint16)))
    field.x, field.y = (field.x - 0.5) / 2, (field.y - 0.5) / 2
    field.light = field.light[::2, ::2]
    assert field.found_share(found, 30, within=0.7) > 0.95
    assert found.frame_fwhm_px == pytest.approx(1.75, rel=0.1)


def test_complex_numbers_are_no_frame() -> None:
    with pytest.raises(Unsolved) as caught:
        detect_stars(np.ones((64, 64), complex))
    assert caught.value.code == "no-sky"
