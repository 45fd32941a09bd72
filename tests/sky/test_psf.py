from __future__ import annotations

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.sky.psf import Psf, draw_stars, make_psf

SHAPES: list[dict[str, float]] = [
    {},
    {"trail_px": 7.0, "trail_angle_deg": 30.0},
    {"donut_px": 9.0},
    {"donut_px": 6.0, "obstruction": 0.0},
]


def one_star(psf: Psf, x: float, y: float, flux: float = 1e6) -> np.ndarray:
    image = np.zeros((141, 141), np.float32)
    draw_stars(image, np.array([x]), np.array([y]), np.array([flux]), psf, noise_adu=1.0)
    return image.astype(float)


def moments(image: np.ndarray) -> tuple[float, float, float, float, float]:
    rows, columns = np.indices(image.shape)
    total = image.sum()
    x, y = (image * columns).sum() / total, (image * rows).sum() / total
    dx, dy = columns - x, rows - y
    return x, y, (image * dx**2).sum() / total, (image * dy**2).sum() / total, (image * dx * dy).sum() / total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("x", "y"), [(70.0, 70.0), (70.37, 69.81), (69.99, 70.5), (70.0625, 70.94)])
def test_light_and_place_are_kept(shape: dict[str, float], x: float, y: float) -> None:
    image = one_star(make_psf(2.5, 3.0, **shape), x, y)
    assert image.sum() == pytest.approx(1e6, rel=1e-4)
    assert moments(image)[:2] == pytest.approx((x, y), abs=3e-4)


def test_the_profile_is_the_moffat_it_claims_to_be() -> None:
    fwhm, beta = 4.0, 3.0
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    image = one_star(make_psf(fwhm, beta), 70.0, 70.0)
    fine = (np.arange(-20, 20) + 0.5) / 40
    for column in (70, 72, 75, 80):
        dx, dy = np.meshgrid(column - 70 + fine, fine)
        expected = 1e6 * (beta - 1) / (np.pi * alpha**2) * np.mean((1 + (dx**2 + dy**2) / alpha**2) ** -beta)
        assert image[70, column] == pytest.approx(expected, rel=3e-3)


def test_a_trail_has_its_length_and_direction() -> None:
    still, drawn = make_psf(2.5, 4.5), make_psf(2.5, 4.5, trail_px=9.0, trail_angle_deg=60.0)
    _, _, xx0, yy0, _ = moments(one_star(still, 70.0, 70.0)[50:91, 50:91])
    _, _, xx, yy, xy = moments(one_star(drawn, 70.0, 70.0)[50:91, 50:91])
    # A uniform line of length L adds a variance of L² / 12 along itself.
    assert (xx - xx0) + (yy - yy0) == pytest.approx(81 / 12, rel=0.05)
    assert np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) == pytest.approx(60.0, abs=0.5)


def test_an_out_of_focus_star_is_a_ring() -> None:
    image = one_star(make_psf(2.0, 4.0, donut_px=14.0, obstruction=0.4), 70.0, 70.0)
    assert image[70, 70] < 0.5 * image[70, 75]
    half = image[70] > image[70].max() / 2
    assert np.flatnonzero(half)[-1] - np.flatnonzero(half)[0] == pytest.approx(14, abs=1.5)


def test_stars_off_the_edge_leave_only_what_falls_on_the_frame() -> None:
    psf = make_psf(3.0)
    whole = np.zeros((60, 60), np.float32)
    at = np.array([20.3]), np.array([30.6]), np.array([1e5])
    draw_stars(whole, *at, psf, noise_adu=1.0)
    part = np.zeros((60, 40), np.float32)
    draw_stars(part, at[0] - 20, at[1], at[2], psf, noise_adu=1.0)
    np.testing.assert_allclose(part, whole[:, 20:], rtol=2e-3, atol=1.0)
    outside = np.zeros((60, 40), np.float32)
    draw_stars(outside, np.array([-500.0, 300.0]), np.array([10.0, 5000.0]), np.full(2, 1e5), psf, noise_adu=1.0)
    assert not outside.any()


@pytest.mark.parametrize(
    "wrong", [{"fwhm_px": 0.5}, {"fwhm_px": 2.0, "beta": 1.0}, {"fwhm_px": 2.0, "trail_px": -1.0}]
)
def test_impossible_profiles_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput) as error:
        make_psf(**wrong)
    assert error.value.code == "bad-psf"
