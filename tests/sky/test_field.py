from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from starloom.refcat import CatalogStars, StarsRefcat, default_refcat
from starloom.sky.field import Sky, field_sky, offset_position


def test_catalogue_stars_are_scattered_as_asked() -> None:
    field = field_sky(343.91, 55.85, 1.5, seed=1, mag_limit=11.0)
    known = default_refcat().cone(343.91, 55.85, 1.5)
    assert field.in_catalog.all()
    assert len(field) == len(known) > 400
    gap = np.hypot(
        (field.ra_deg[:, None] - known.ra_deg) * np.cos(np.radians(known.dec_deg)),
        field.dec_deg[:, None] - known.dec_deg,
    )
    nearest = gap.argmin(axis=1)
    assert np.sqrt((gap.min(axis=1) ** 2).mean() / 2) * 3600 == pytest.approx(0.1, rel=0.1)
    assert (field.mag - known.mag[nearest]).std() == pytest.approx(0.2, rel=0.15)


def test_faint_stars_fill_the_circle_evenly(sky: Sky) -> None:
    faint = ~sky.in_catalog
    north = sky.dec_deg[faint] - 55.85
    east = (sky.ra_deg[faint] - 343.91) * np.cos(np.radians(55.85))
    assert faint.sum() > 1000
    assert np.hypot(north, east).max() < 0.61
    assert (np.hypot(north, east) < 0.6 / np.sqrt(2)).mean() == pytest.approx(0.5, abs=0.04)
    assert sky.mag[faint].max() <= 16.0
    assert np.all(np.diff(sky.mag) >= 0)


def test_the_seed_decides() -> None:
    first, again, other = (field_sky(343.91, 55.85, 0.3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.mag, again.mag)
    assert len(first) != len(other) or not np.array_equal(first.mag, other.mag)


def test_truth_table_round_trip(sky: Sky, tmp_path: Path) -> None:
    sky.write_csv(tmp_path / "stars.csv")
    table = np.genfromtxt(tmp_path / "stars.csv", delimiter=",", names=True)
    np.testing.assert_allclose(table["ra_deg"], sky.ra_deg, atol=1e-8)
    np.testing.assert_allclose(table["mag"], sky.mag, atol=1e-4)
    assert table["in_catalog"].sum() == sky.in_catalog.sum()


@pytest.mark.parametrize("centre", [(10.0, 0.0), (359.9, 80.0), (200.0, -89.9), (0.0, 90.0)])
def test_offset_is_the_asked_distance_away(centre: tuple[float, float]) -> None:
    ra, dec = offset_position(*centre, 10.0, np.linspace(0, 6, 13))
    a, b = np.radians(dec), np.radians(centre[1])
    cosine = np.sin(a) * np.sin(b) + np.cos(a) * np.cos(b) * np.cos(np.radians(ra - centre[0]))
    np.testing.assert_allclose(np.degrees(np.arccos(cosine)), 10.0, atol=1e-9)


class Moving(StarsRefcat):
    """A catalogue whose stars move north by half an arcsecond a year, some without a colour."""

    def __init__(self, known: float = 1.0, error_arcsec: float = 0.0) -> None:
        rng = np.random.default_rng(4)
        self.mag = rng.uniform(8.0, 11.0, 400)
        self.colour = np.where(np.arange(400) < 20, np.nan, rng.normal(0.8, 0.4, 400))
        north = np.where(rng.random(400) < known, 500.0, np.nan)
        super().__init__(
            CatalogStars(
                100.0 + rng.uniform(-0.3, 0.3, 400),
                rng.uniform(-0.3, 0.3, 400),
                self.mag,
                "VT",
                "moving",
                2000.0,
                mags={"BT": self.mag + self.colour, "VT": self.mag},
                position_err_arcsec=np.full(400, error_arcsec),
                pm_ra_masyr=0.0 * north,
                pm_dec_masyr=north,
                pm_err_masyr=np.zeros(400),
            )
        )


EXACT = {"seed": 1, "mag_limit": 11.0, "mag_scatter": 0.0, "position_scatter_arcsec": 0.0}


def test_stars_move_to_the_epoch() -> None:
    then = field_sky(100.0, 0.0, 0.5, refcat=Moving(), **EXACT)  # type: ignore[arg-type]
    now = field_sky(100.0, 0.0, 0.5, refcat=Moving(), epoch=2026.0, **EXACT)  # type: ignore[arg-type]
    np.testing.assert_allclose((now.dec_deg - then.dec_deg) * 3600, 13.0, atol=1e-6)
    np.testing.assert_allclose(now.ra_deg, then.ra_deg, atol=1e-10)


def test_stars_of_unknown_motion_move_too() -> None:
    catalog = Moving(known=0.0)
    then = field_sky(100.0, 0.0, 0.5, refcat=catalog, **EXACT)  # type: ignore[arg-type]
    still = field_sky(100.0, 0.0, 0.5, refcat=catalog, epoch=2026.0, draw_motion=False, **EXACT)  # type: ignore[arg-type]
    np.testing.assert_allclose(still.dec_deg, then.dec_deg, atol=1e-10)
    now = field_sky(100.0, 0.0, 0.5, refcat=catalog, epoch=2026.0, **EXACT)  # type: ignore[arg-type]
    moved = np.abs(np.concatenate([now.dec_deg - then.dec_deg, now.ra_deg - then.ra_deg])) * 3600
    stated = catalog.cone(100.0, 0.0, 0.5, epoch=2026.0).position_err_arcsec
    assert stated is not None
    # The catalogue states the error that this motion makes: 68 % lie within it, and its tails are long.
    assert np.mean(moved < np.median(stated)) == pytest.approx(0.68, abs=0.05)
    assert moved.max() > 4 * np.median(stated)


def test_errors_can_be_the_catalogues_own() -> None:
    catalog = Moving(known=0.5, error_arcsec=0.07)
    wanted = EXACT | {"position_scatter_arcsec": None}
    exact = field_sky(100.0, 0.0, 0.5, refcat=catalog, epoch=2026.0, draw_motion=False, **EXACT)  # type: ignore[arg-type]
    shaken = field_sky(100.0, 0.0, 0.5, refcat=catalog, epoch=2026.0, draw_motion=False, **wanted)  # type: ignore[arg-type]
    assert np.std(shaken.dec_deg - exact.dec_deg) * 3600 == pytest.approx(0.07, rel=0.1)


def test_the_colour_term_turns_about_the_mean_colour() -> None:
    catalog = Moving()
    red = field_sky(100.0, 0.0, 0.5, colour_term=-0.3, refcat=catalog, **EXACT)  # type: ignore[arg-type]
    offset = catalog.colour - np.nanmean(catalog.colour)
    expected = np.sort(catalog.mag - 0.3 * np.where(np.isnan(offset), 0.0, offset))
    np.testing.assert_allclose(red.mag, expected, atol=1e-9)
