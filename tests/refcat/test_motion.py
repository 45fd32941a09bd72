from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time

from starloom.refcat.motion import move, position_error_arcsec, separation_deg, usual_motion_masyr

# Barnard's star, Groombridge 1830, one that passes near the pole, one across RA 0, an ordinary one: J2000.
RA = np.array([269.452, 178.245, 30.0, 359.9999, 83.8])
DEC = np.array([4.693, 37.719, 89.9995, -20.0, -5.4])
PM_RA = np.array([-801.6, 4002.6, 900.0, 5000.0, 3.0])
PM_DEC = np.array([10362.4, -5817.9, 1500.0, 10.0, -8.0])


@pytest.mark.parametrize("years", [26.4, -85.0])
def test_stars_move_as_astropy_moves_them(years: float) -> None:
    there = SkyCoord(
        RA * u.deg, DEC * u.deg, pm_ra_cosdec=PM_RA * u.mas / u.yr, pm_dec=PM_DEC * u.mas / u.yr,
        # Far and at rest along the line of sight: no perspective term, which no catalogue of ours can know.
        distance=np.full(5, 20.0) * u.pc, radial_velocity=np.zeros(5) * u.km / u.s,
        obstime=Time(2000.0, format="jyear", scale="tdb"),
    ).apply_space_motion(Time(2000.0 + years, format="jyear", scale="tdb"))  # fmt: skip
    ra, dec = move(RA, DEC, PM_RA, PM_DEC, years)
    off = [separation_deg(ra[i], dec[i], there.ra.deg[i], there.dec.deg[i]) * 3600 for i in range(len(RA))]
    # What is left is the light-time of astropy's space motion.
    assert max(off) < 1e-3, off
    assert ((ra >= 0) & (ra < 360)).all()


def test_a_star_passes_over_the_pole() -> None:
    ra, dec = move(np.array([30.0]), np.array([89.999]), np.array([0.0]), np.array([720.0]), 10.0)
    assert dec[0] == pytest.approx(90 - 0.001, abs=1e-6)
    assert ra[0] == pytest.approx(210.0, abs=1e-6)


def test_unknown_motion_stays_and_is_allowed_for() -> None:
    nan = np.array([np.nan])
    ra, dec = move(np.array([10.0]), np.array([20.0]), nan, nan, 26.0)
    assert (ra[0], dec[0]) == (pytest.approx(10.0, abs=1e-12), pytest.approx(20.0, abs=1e-12))
    mag = np.array([11.5])
    known = position_error_arcsec(np.array([60.0]), np.array([2.0]), np.array([True]), mag, years=26.0)
    unknown = position_error_arcsec(np.array([60.0]), nan, np.array([False]), mag, years=26.0)
    assert known[0] == pytest.approx(np.hypot(0.060, 0.052))
    assert unknown[0] == pytest.approx(np.hypot(0.060, 26 * usual_motion_masyr(mag)[0] / 1000))
    # Tycho-2's own error in 2026 is 0.12 arcsec; 26 years unmodelled are more than twice that.
    assert 0.25 < unknown[0] < 0.35


def test_error_grows_from_the_epoch_it_is_least_in() -> None:
    error = position_error_arcsec(
        np.array([50.0]), np.array([2.0]), np.array([True]), np.array([10.0]), years=20.0, years_of_error=35.0
    )
    assert error[0] == pytest.approx(np.hypot(0.050, 0.070))


def test_brighter_stars_usually_move_faster() -> None:
    speeds = usual_motion_masyr(np.array([3.0, 6.0, 9.0, 12.0, 15.0, np.nan]))
    assert (np.diff(speeds) <= 0).all()
    assert 4 < speeds[-1] < speeds[0] < 100
