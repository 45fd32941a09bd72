"""Mosaics, bands, pointings, poles and coordinate systems, all through `stack_files` as anybody would call it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK4, FK5, Galactic, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy import ndimage

from starloom.coadd import StackOptions, stack_files

NOISE = 8.0
SIDE = 200
#: Centres of the tiles (arcsec east, north) and their skies: 40 px of overlap, but for the last tile, which leaves
#: 20 px to its western neighbour free.
TILES = {"sw": (-80, -80, 500.0), "se": (80, -80, 530.0), "nw": (-80, 80, 470.0), "ne": (140, 80, 610.0)}


@pytest.fixture
def mosaic(make_sky, tmp_path):
    """A mosaic of 2 x 2 tiles with two frames each: its sky, its frames' paths and the product's path."""
    folder = tmp_path
    sky = make_sky(half_arcmin=5.0)
    paths = []
    for k, (name, (east, north, level)) in enumerate(TILES.items()):
        for n in range(2):
            paths.append(
                sky.frame(
                    folder / f"{name}{n}.fits", size=(SIDE, SIDE), dra=east + 2.3 * n, ddec=north - 1.7 * n,
                    sky=level + 7 * n, noise=NOISE, zp=25 - 0.1 * k, seed=2 * k + n, rot=1.0 * n,
                )
            )  # fmt: skip
    target = folder / "target.hdr"
    header = fits.getheader(sky.frame(folder / "grid.fits", size=(440, 560)))
    header.totextfile(target)
    out = folder / "mosaic.fits"
    (product,) = stack_files(paths, out, StackOptions(target=target)).products
    assert product.n_used == 8
    assert product.shape == (440, 560)
    return sky, paths, out


def test_a_mosaic_covers_its_target_and_leaves_the_gap_empty(mosaic):
    _, paths, out = mosaic
    with fits.open(out) as hdus:
        sci, weight, coverage = (hdus[name].data for name in ("SCI", "WEIGHT", "COVERAGE"))
        wcs = WCS(hdus["SCI"].header)
    np.testing.assert_array_equal(np.isfinite(sci), coverage > 0)
    np.testing.assert_array_equal(weight > 0, coverage > 0)
    assert coverage.max() == 8 - 2 * 1  # the middle, where all tiles but the shifted one meet
    # Coverage by the frames' own outlines, half a kernel within and without.
    yy, xx = np.indices(sci.shape)
    sky = wcs.all_pix2world(xx, yy, 0)
    sure, maybe = np.zeros(sci.shape, int), np.zeros(sci.shape, int)
    for path in paths:
        x, y = WCS(fits.getheader(path)).all_world2pix(*sky, 0)
        sure += (np.abs(x - (SIDE - 1) / 2) < SIDE / 2 - 3.5) & (np.abs(y - (SIDE - 1) / 2) < SIDE / 2 - 3.5)
        maybe += (np.abs(x - (SIDE - 1) / 2) < SIDE / 2 + 0.5) & (np.abs(y - (SIDE - 1) / 2) < SIDE / 2 + 0.5)
    assert (coverage <= maybe).all()
    # Below the outline's own count only where the clip took a pixel.
    assert (coverage < sure).mean() < 0.002
    gap = (maybe == 0)[220:420, 260:320]
    assert gap.any()
    assert np.isnan(sci[220:420, 260:320][gap]).all()


def test_seams_of_a_mosaic_do_not_show(mosaic):
    _, _, out = mosaic
    with fits.open(out) as hdus:
        sci, coverage = hdus["SCI"].data.astype(float), hdus["COVERAGE"].data
    sky = np.nanmedian(sci)
    sigma = 1.4826 * np.nanmedian(np.abs(sci - sky))
    objects = ndimage.binary_dilation(np.nan_to_num(sci - sky) > 3 * sigma, iterations=5)
    yy, xx = np.indices(sci.shape)
    east, north = 279.5 - xx, yy - 219.5

    def level(e0, e1, n0, n1):
        inside = (east > e0) & (east < e1) & (north > n0) & (north < n1) & (coverage > 0) & ~objects
        assert inside.sum() > 500
        return np.median(sci[inside])

    # 16 px on either side of the edges of the overlaps, 5 px off for the frames' turns and dithers.
    for a, b in [
        ((-44, -28, -175, -25), (-16, 16, -175, -25)),
        ((-16, 16, -175, -25), (28, 44, -175, -25)),
        ((-175, -25, -44, -28), (-175, -25, -16, 16)),
        ((-175, -25, -16, 16), (-175, -25, 28, 44)),
        ((45, 175, -44, -28), (45, 175, -16, 16)),
        ((45, 175, -16, 16), (45, 175, 28, 44)),
    ]:
        assert abs(level(*a) - level(*b)) < 0.2 * sigma
    # And no tile is bent to meet the others: the sky behind them is flat.
    for e, n, _ in TILES.values():
        for de in (-60, 60):
            for dn in (-60, 60):
                assert abs(level(e + de - 30, e + de + 30, n + dn - 30, n + dn + 30) - sky) < 0.3 * sigma


def test_fluxes_are_right_all_over_a_mosaic(mosaic):
    sky, _, out = mosaic
    stars = sky.fluxes(out)
    bright = stars.truth > 4e4
    ratio = stars.flux[bright] / stars.truth[bright]
    assert bright.sum() > 40
    assert abs(np.median(ratio) - 1) < 0.004
    assert np.abs(ratio - 1).max() < 0.03
    assert np.hypot(stars.dx, stars.dy)[bright].max() < 0.1


def test_bands_and_pointings_become_a_product_each(make_sky, tmp_path):
    near, far = make_sky(), make_sky(dec=22.0)
    paths = [
        sky.frame(tmp_path / f"{band}{where}{n}.fits", size=(120, 120), seed=n, ddec=3.0 * n, band=band)
        for n in range(2)
        for band, where, sky in (("V", "near", near), ("R", "near", near), ("V", "far", far))
    ]
    products = stack_files(paths, tmp_path / "out.fits").products
    found = {(p.band, p.pointing): p for p in products}
    assert set(found) == {("V", 1), ("V", 2), ("R", 1)}
    assert {p.path.name for p in products} == {"out_V_p1.fits", "out_V_p2.fits", "out_R_p1.fits"}
    assert all(p.n_used == 2 for p in products)
    for key, declination in ((("V", 1), 20.0), (("V", 2), 22.0), (("R", 1), 20.0)):
        assert fits.getval(found[key].path, "CRVAL2", "SCI") == pytest.approx(declination, abs=0.01)
    ids = sorted(frame.id for p in products for frame in p.frames)
    assert ids == sorted(path.name for path in paths)


@pytest.mark.parametrize("dec", [89.97, -89.99])
def test_a_mosaic_over_a_pole_crosses_ra_0(make_sky, tmp_path, dec):
    # The pole lies on the mosaic, so its frames' corners have all right ascensions.
    sky = make_sky(ra=0.003, dec=dec, half_arcmin=4.5)
    plane = sky.frame(tmp_path / "centre.fits", size=(9, 9))
    wcs = WCS(fits.getheader(plane))
    paths = []
    for n, (east, north) in enumerate([(-70, -70), (70, -70), (-70, 70), (70, 70)]):
        # Offsets on the tangent plane: near a pole an offset in RA means nothing.
        ra, declination = (float(v) for v in wcs.all_pix2world(4 - east, 4 + north, 0))
        tile = make_sky(ra=ra, dec=declination)
        tile.ra, tile.dec, tile.flux = sky.ra, sky.dec, sky.flux
        paths.append(tile.frame(tmp_path / f"{n}.fits", size=(180, 180), seed=n, rot=37.0 * n, sky=500 + 20 * n))
    out = tmp_path / "out.fits"
    (product,) = stack_files(paths, out).products
    assert product.n_used == 4
    assert max(product.shape) < 460
    stars = sky.fluxes(out)
    bright = stars.truth > 4e4
    assert bright.sum() > 15
    np.testing.assert_allclose(stars.flux[bright] / stars.truth[bright], 1, atol=0.03)
    assert np.hypot(stars.dx, stars.dy)[bright].max() < 0.12


def told_in(path, frame, axes, cards):
    """Say a frame's TAN WCS in another celestial system: exact, for the projection knows no north."""
    with fits.open(path, mode="update") as hdus:
        header = hdus[0].header
        wcs = WCS(header)
        centre = wcs.pixel_to_world(*(wcs.wcs.crpix - 1))
        beside = centre.directional_offset_by(0 * u.deg, 1 * u.arcmin)
        there, north = centre.transform_to(frame), beside.transform_to(frame)
        turn = there.position_angle(north).rad
        # A direction at position angle p of the old system has p + turn in the new one.
        east_north = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        cd = east_north @ wcs.pixel_scale_matrix
        header["CTYPE1"], header["CTYPE2"] = axes
        header["CRVAL1"], header["CRVAL2"] = there.spherical.lon.deg, there.spherical.lat.deg
        for i in (0, 1):
            for j in (0, 1):
                header[f"CD{i + 1}_{j + 1}"] = cd[i, j]
        del header["RADESYS"]
        header.update(cards)
    return path


SYSTEMS = {
    "galactic": (Galactic(), ("GLON-TAN", "GLAT-TAN"), {}),
    "fk5 j1975": (FK5(equinox="J1975"), ("RA---TAN", "DEC--TAN"), {"RADESYS": "FK5", "EQUINOX": 1975.0}),
    "fk4 b1950": (FK4(equinox="B1950"), ("RA---TAN", "DEC--TAN"), {"RADESYS": "FK4", "EQUINOX": 1950.0}),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_frames_of_other_celestial_systems_meet_icrs_ones(field, tmp_path, system):
    frame, axes, cards = SYSTEMS[system]
    icrs = field.frame(tmp_path / "icrs.fits", size=(240, 240), seed=1)
    other = field.frame(tmp_path / "other.fits", size=(240, 240), seed=2, rot=11.0, dra=4.0, zp=24.5, sky=800.0)
    sky = SkyCoord(field.ra, field.dec, unit="deg")
    before = WCS(fits.getheader(other)).world_to_pixel(sky)
    told_in(other, frame, axes, cards)
    after = WCS(fits.getheader(other)).world_to_pixel(sky)
    # The tool of this test does what it says: the same sky on the same pixels.
    np.testing.assert_allclose(after, before, atol=0.02)
    out = tmp_path / "out.fits"
    for paths in ([icrs, other], [other, icrs]):
        (product,) = stack_files(paths, out).products
        assert product.n_used == 2
        assert min(f.n_common_stars for f in product.frames) > 10
        assert max(product.shape) < 340
        stars = field.fluxes(out)
        bright = stars.truth > 3e4
        np.testing.assert_allclose(stars.flux[bright] / stars.truth[bright], 1, atol=0.03)
        assert np.hypot(stars.dx, stars.dy)[bright].max() < 0.1
