"""Targets that move: where they are said to be, and as deep as stars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from starloom.coadd import StackOptions, stack_files
from starloom.coadd.inputs import read_input
from starloom.coadd.moving import Ephemeris, following
from starloom.coadd.planning import make_plan
from starloom.errors import BadInput

START = datetime(2026, 1, 1, tzinfo=UTC)
#: Arcsec a minute, along RA and Dec.
RATE = np.array([9.0, -5.0])


def ephemeris(ra, dec, *, minutes=(-5, 0, 5, 10, 15)):
    at = [START + timedelta(minutes=m) for m in minutes]
    offset = np.outer(np.asarray(minutes) - 3.0, RATE) / 3600
    return Ephemeris(
        utc=at,
        ra_deg=tuple((ra + offset[:, 0] / np.cos(np.radians(dec))) % 360),
        dec_deg=tuple(dec + offset[:, 1]),
    )


@pytest.mark.parametrize("ra", [150.0, 0.01])
def test_the_target_stands_still_and_the_stars_are_rejected(make_sky, tmp_path, ra):
    sky = make_sky(ra=ra)
    path_of = ephemeris(ra, 20.0)
    flux, fwhm = 3e4, 3.0
    paths = []
    for n in range(6):
        middle = START + timedelta(minutes=n, seconds=30)  # 60 s of exposure
        here = path_of.at(middle)
        still = (sky.ra.copy(), sky.dec.copy(), sky.flux.copy())
        sky.ra, sky.dec = np.append(sky.ra, here[0]), np.append(sky.dec, here[1])
        sky.flux = np.append(sky.flux, flux)
        paths.append(sky.frame(tmp_path / f"{n}.fits", seed=n, fwhm=fwhm, dra=5.0 * n))
        sky.ra, sky.dec, sky.flux = still
    out = tmp_path / "out.fits"
    report = stack_files(paths, out, StackOptions(streaks=False, scale_arcsec=1.0), ephemeris=path_of)
    assert [(p.path.name, p.track) for p in report.products] == [
        ("out.fits", "sidereal"), ("out_moving.fits", "moving"),
    ]  # fmt: skip
    with fits.open(tmp_path / "out_moving.fits") as hdus:
        header = hdus["SCI"].header
        sci = np.nan_to_num(hdus["SCI"].data.astype(np.float32), nan=0.0)
        assert header["TRACK"] == "moving"
        x, y = (float(v) for v in WCS(header).all_world2pix(header["TRK-RA"], header["TRK-DEC"], 0))
    assert path_of.at(datetime.fromisoformat(header["TRK-UTC"])) == pytest.approx(
        (header["TRK-RA"], header["TRK-DEC"]), abs=1e-6
    )
    sci -= np.median(sci[sci != 0])
    total, _, _ = sep.sum_circle(sci, [x], [y], 8.0, subpix=7)
    assert total[0] == pytest.approx(flux, rel=0.02)
    wx, wy, _ = sep.winpos(sci, [x], [y], [fwhm / 2.35])
    assert np.hypot(wx[0] - x, wy[0] - y) < 0.05
    with fits.open(out) as hdus:
        plain = np.nan_to_num(hdus["SCI"].data.astype(np.float32))
    plain -= np.median(plain[plain != 0])
    # In the sidereal product the target is in six places, and clipped from all of them.
    smeared, _, _ = sep.sum_circle(plain, [x], [y], 8.0, subpix=7)
    assert abs(smeared[0]) < 0.3 * flux


def test_a_frame_without_a_time_does_not_follow(field, tmp_path):
    paths = [field.frame(tmp_path / f"{n}.fits", seed=n) for n in range(3)]
    with fits.open(paths[1], mode="update") as hdus:
        del hdus[0].header["DATE-OBS"]
    (plan,) = make_plan([read_input(p) for p in paths], StackOptions(streaks=False))
    moved = following(plan, ephemeris(150.0, 20.0))
    assert [frame.reason for frame in moved.frames] == [None, "no-time", None]
    assert moved.digest() != plan.digest()


def test_ephemerides_are_read_and_checked(tmp_path):
    table = tmp_path / "path.csv"
    table.write_text("utc,ra_deg,dec_deg\n2026-01-01T00:00:00,359.9,89.0\n2026-01-01T02:00:00,0.1,89.0\n")
    read = Ephemeris.read(table)
    ra, dec = read.at(datetime(2026, 1, 1, 1, tzinfo=UTC))
    assert min(ra, 360 - ra) < 1e-6
    assert dec == pytest.approx(89.0, abs=1e-4)
    with pytest.raises(BadInput) as caught:
        read.at(datetime(2026, 1, 1, 3, tzinfo=UTC))
    assert caught.value.code == "outside-ephemeris"
    for text in ("utc,ra_deg\n2026-01-01,1\n", "utc,ra_deg,dec_deg\n2026-01-01,1,2\n", "nothing"):
        table.write_text(text)
        with pytest.raises(BadInput) as caught:
            Ephemeris.read(table)
        assert caught.value.code == "bad-ephemeris"
        assert str(table) in caught.value.message
