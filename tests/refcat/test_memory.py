from __future__ import annotations

import numpy as np
import pytest

from starloom.errors import BadInput
from starloom.refcat import CatalogStars, Refcat, StarsRefcat
from starloom.refcat.motion import usual_motion_masyr
from tests.refcat.conftest import separation, whole_sky


def stars(n: int = 3000, **changes: object) -> CatalogStars:
    ra, dec = whole_sky(n)
    rng = np.random.default_rng(5)
    mag = rng.uniform(3, 12, len(ra))
    known: dict[str, object] = {
        "mags": {"V": mag, "B": mag + 0.6},
        "mag_errs": {"V": np.full(len(ra), 0.02)},
        "position_err_arcsec": np.full(len(ra), 0.05),
    }
    return CatalogStars(ra, dec, mag, "V", "made up", 2000.0, "1", **(known | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ra", "dec", "radius"), [(0.0, 0.0, 5.0), (359.9, -0.1, 8.0), (40.0, 89.0, 6.0), (7.0, 3.0, 180.0)]
)
def test_a_cone_holds_what_is_in_it(ra: float, dec: float, radius: float) -> None:
    given = stars()
    catalog: Refcat = StarsRefcat(given)
    found = catalog.cone(ra, dec, radius)
    inside = separation(given.ra_deg, given.dec_deg, ra, dec) <= radius + 1e-9
    assert len(found) == inside.sum() > 0
    np.testing.assert_array_equal(found.mag, np.sort(given.mag[inside]))
    np.testing.assert_allclose(found.mags["B"], found.mag + 0.6)
    assert (found.band, found.catalog, found.version, found.epoch) == ("V", "made up", "1", 2000.0)


def test_limit_keeps_the_brightest() -> None:
    found = StarsRefcat(stars()).cone(0, 0, 180, limit=9)
    np.testing.assert_array_equal(found.mag, np.sort(stars().mag)[:9])


def test_without_motion_errors_grow_and_positions_stay() -> None:
    given = stars()
    found = StarsRefcat(given).cone(0, 0, 180, epoch=2026.0)
    before = StarsRefcat(given).cone(0, 0, 180)
    np.testing.assert_array_equal(found.ra_deg, before.ra_deg)
    assert found.epoch == 2000.0
    assert found.position_err_arcsec is not None
    np.testing.assert_allclose(
        found.position_err_arcsec, np.hypot(0.05, 26 * usual_motion_masyr(found.mag) / 1000)
    )


def test_with_motion_stars_move_into_the_cone() -> None:
    n = len(stars())
    given = stars(pm_ra_masyr=np.zeros(n), pm_dec_masyr=np.full(n, 3.6e6), pm_err_masyr=np.full(n, 1.0))
    # A degree a year northwards.
    found = StarsRefcat(given).cone(100.0, 20.0, 6.0, epoch=2001.0)
    before = StarsRefcat(given).cone(100.0, 19.0, 5.0)
    assert set(before.mag) <= set(found.mag)
    assert found.epoch == 2001.0
    assert found.position_err_arcsec is not None
    np.testing.assert_allclose(found.position_err_arcsec, np.hypot(0.05, 0.001))


def test_nobody_knows_stays_nobody_knows() -> None:
    assert StarsRefcat(stars(position_err_arcsec=None)).cone(0, 0, 10, epoch=2020).position_err_arcsec is None


def test_the_solver_sees_the_same_stars() -> None:
    given = stars()
    catalog = StarsRefcat(given)
    seen = np.array(catalog.seiza().cone_search(10.0, 10.0, 10.0, limit=10_000))
    found = catalog.cone(10.0, 10.0, 10.0)
    assert catalog.seiza() is catalog.seiza()
    assert len(seen) == len(found) > 5
    np.testing.assert_allclose(np.sort(seen[:, 2]), found.mag, atol=1e-5)


@pytest.mark.parametrize(
    "cone", [(0, 91, 1), (0, 0, -1), (0, 0, 181), (float("nan"), 0, 1), (0, float("nan"), 1), (0, 0, 1, 20_260.0)]
)
def test_impossible_cone_is_refused(cone: tuple[float, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        StarsRefcat(stars()).cone(*cone[:3], epoch=cone[3] if len(cone) > 3 else None)
    assert caught.value.code == "bad-cone"
