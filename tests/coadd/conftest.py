from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from scipy.special import erf


def tan_header(nx, ny, scale, rot, ra, dec, *, flip=False, sip=0.0):
    c, s, d = np.cos(np.radians(rot)), np.sin(np.radians(rot)), scale / 3600
    fx = 1 if flip else -1
    h = fits.Header()
    suffix = "-SIP" if sip else ""
    h["CTYPE1"], h["CTYPE2"] = "RA---TAN" + suffix, "DEC--TAN" + suffix
    h["CRVAL1"], h["CRVAL2"] = ra % 360, dec
    h["CRPIX1"], h["CRPIX2"] = (nx + 1) / 2, (ny + 1) / 2
    h["CUNIT1"] = h["CUNIT2"] = "deg"
    h["CD1_1"], h["CD1_2"], h["CD2_1"], h["CD2_2"] = fx * d * c, -d * s, fx * d * s, d * c
    h["RADESYS"] = "ICRS"
    if sip:
        h["A_ORDER"] = h["B_ORDER"] = 2
        h["A_2_0"], h["B_0_2"] = sip, -sip
    return h


def render(shape, x, y, flux, fwhm):
    sigma = fwhm / 2.35482
    r = int(6 * sigma + 3)
    # Rendered with a rim and cut, so that stars on the border are there in part, as on a real frame.
    rim = 2 * r + 2
    image = np.zeros((shape[0] + 2 * rim, shape[1] + 2 * rim))
    x, y = np.asarray(x) + rim, np.asarray(y) + rim
    for xs, ys, f in zip(x, y, flux, strict=True):
        ix, iy = round(float(xs)), round(float(ys))
        if not (r < ix < image.shape[1] - r - 1 and r < iy < image.shape[0] - r - 1):
            continue
        k = 1 / (sigma * np.sqrt(2))
        edge = np.arange(-r, r + 2) - 0.5
        ex, ey = erf((edge + ix - xs) * k), erf((edge + iy - ys) * k)
        image[iy - r : iy + r + 1, ix - r : ix + r + 1] += f * np.outer(np.diff(ey), np.diff(ex)) / 4
    return image[rim:-rim, rim:-rim]


class Sky:
    """A field of known stars around (ra, dec); flux is in units of magnitude 25."""

    def __init__(self, ra=150.0, dec=20.0, half_arcmin=4.0, spacing_arcsec=38.0, seed=3):
        rng = np.random.default_rng(seed)
        self.ra0, self.dec0 = ra, dec
        plane = WCS(tan_header(1, 1, 1.0, 0, ra, dec))
        g = np.arange(-half_arcmin * 60, half_arcmin * 60, spacing_arcsec)
        gx, gy = (a.ravel() + rng.uniform(-5, 5, a.size) for a in np.meshgrid(g, g))
        self.ra, self.dec = plane.all_pix2world(gx, gy, 0)
        self.flux = 10 ** rng.uniform(4.2, 5.3, gx.size)

    def frame(
        self, path: Path, *, size=(300, 300), scale=1.0, rot=0.0, fwhm=3.0, zp=25.0, sky=500.0, noise=8.0,
        dra=0.0, ddec=0.0, flip=False, sip=0.0, seed=0, trail=0.0, extra=None, known_zp=True, compress=False,
        band="V",
    ):  # fmt: skip
        ny, nx = size
        header = tan_header(
            nx, ny, scale, rot, self.ra0 + dra / 3600 / np.cos(np.radians(self.dec0)), self.dec0 + ddec / 3600,
            flip=flip, sip=sip,
        )  # fmt: skip
        x, y = WCS(header).all_world2pix(self.ra, self.dec, 0)
        image = render(size, x, y, self.flux * 10 ** (0.4 * (zp - 25)), fwhm / scale)
        rng = np.random.default_rng(seed)
        image += sky + rng.normal(0, noise, size)
        if trail:
            yy, xx = np.indices(size)
            image += trail * np.exp(-0.5 * (((xx - nx / 2) * 0.6 - (yy - ny / 2) * 0.8) / 1.5) ** 2)
        for px, py, value in extra or ():
            image[py, px] += value
        header["BAND"], header["TELID"], header["EXPTIME"] = band, "T1", 60.0
        header["DATE-OBS"], header["SATURATE"] = f"2026-01-01T00:{seed % 60:02d}:00", 1e7
        header["MJD-OBS"] = Time(header["DATE-OBS"]).mjd
        if known_zp:
            header["MAGZPT"], header["MAGZERR"] = zp, 0.01
        data = image.astype(np.float32)
        if compress:
            hdus = fits.HDUList(
                [
                    fits.PrimaryHDU(),
                    fits.CompImageHDU(np.rint(data).astype(np.int32), header, compression_type="RICE_1"),
                ]
            )
        else:
            hdus = fits.HDUList([fits.PrimaryHDU(data, header)])
        hdus.writeto(path, overwrite=True)
        return path

    def fluxes(self, product: Path, radius_arcsec=8.0):
        """Aperture fluxes, truth and centroids of the isolated stars well inside full coverage."""
        import sep

        with fits.open(product) as hdus:
            sci = hdus["SCI"].data.astype(np.float32)
            header = hdus["SCI"].header.copy()
            coverage = hdus["COVERAGE"].data.astype(np.float32)
        wcs = WCS(header)
        scale = abs(header["CD2_2"]) * 3600
        x, y = wcs.all_world2pix(self.ra, self.dec, 0)
        r = radius_arcsec / scale
        ny, nx = sci.shape
        inside = (x > 3 * r) & (y > 3 * r) & (x < nx - 3 * r) & (y < ny - 3 * r)
        index = np.flatnonzero(inside)
        full = np.array(
            [
                coverage[int(y[i] - 2 * r) : int(y[i] + 2 * r), int(x[i] - 2 * r) : int(x[i] + 2 * r)].min() > 0
                for i in index
            ]
        )
        index = index[full]
        x, y = x[index], y[index]
        sci = np.ascontiguousarray(np.nan_to_num(sci, nan=float(np.nanmedian(sci))))
        # The ring's pixelated area is only near its analytic one: the sky's level must be gone before.
        sci -= np.median(sci)
        flux, _, _ = sep.sum_circle(sci, x, y, r, subpix=7)
        ring, _, _ = sep.sum_circann(sci, x, y, 1.2 * r, 2.0 * r, subpix=1)
        flux = flux - ring * r**2 / ((2.0**2 - 1.2**2) * r**2)
        wx, wy, _ = sep.winpos(
            np.ascontiguousarray(sci - np.float32(np.median(sci))), x, y, np.full(len(x), 3.0 / scale / 2.3548)
        )
        return SimpleNamespace(flux=flux, truth=self.flux[index], dx=wx - x, dy=wy - y)


@pytest.fixture
def field():
    return Sky()


@pytest.fixture
def make_sky():
    return Sky


@pytest.fixture
def mixed(field, tmp_path):
    """Five frames of three unlike telescopes, seeing, rotation, parity and flux scale, one with a trail."""
    f = field.frame
    return [
        f(tmp_path / "a1.fits", seed=1, zp=25.0, rot=3.0, sip=2e-6),
        f(tmp_path / "a2.fits", seed=2, zp=24.7, rot=182.0, dra=12, fwhm=3.4, trail=300.0),
        f(tmp_path / "b1.fits", seed=3, zp=24.4, scale=1.4, size=(220, 220), rot=40.0, flip=True, fwhm=4.2),
        f(
            tmp_path / "b2.fits",
            seed=4,
            zp=24.4,
            scale=1.4,
            size=(220, 220),
            rot=71.0,
            flip=True,
            fwhm=4.0,
            ddec=9,
        ),
        f(
            tmp_path / "c1.fits.fz",
            seed=5,
            zp=25.3,
            scale=0.7,
            size=(420, 420),
            rot=-20.0,
            compress=True,
            sky=900.0,
        ),
    ]


@pytest.fixture
def shared_data():
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not here")
    return folder
