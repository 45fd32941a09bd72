"""WCS cards: a polynomial map of a frame onto the sky, as TAN-SIP."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from starloom.astrometry.seams import WcsCards
from starloom.astrometry.tangent import deproject, project

Floats = NDArray[np.float64]
Sky = Callable[[Floats, Floats], tuple[Floats, Floats]]

# Everything that describes the primary celestial WCS, whoever wrote it; alternates (CTYPE1A) are left alone.
WCS_KEYWORD = re.compile(
    r"WCSAXES|WCSNAME|CTYPE[12]|CRVAL[12]|CRPIX[12]|CUNIT[12]|CDELT[12]|CROTA[12]|CD[12]_[12]|PC[12]_[12]"
    r"|PC00[12]00[12]|PV[12]_\d+|PS[12]_\d+|CRDER[12]|CSYER[12]|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH"
    r"|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|WAT[12]_\d{3}|A_DMAX|B_DMAX|PLTSOLVD"
)


@dataclass(frozen=True)
class PlaneMap:
    """A polynomial from pixels to the tangent plane.

    Parameters
    ----------
    ra0_deg, dec0_deg
        Tangent point, degrees ICRS; the sky position of the reference pixel.
    x0, y0
        Reference pixel, 0-based.
    unit_px
        Pixels that make the unit of the polynomial, so that its terms are of like size.
    powers
        Exponents ``(p, q)`` of the terms ``u^p v^q`` with ``u = (x - x0) / unit_px``.
    terms
        Coefficients of ξ and η in degrees, shape ``(len(powers), 2)``.
    """

    ra0_deg: float
    dec0_deg: float
    x0: float
    y0: float
    unit_px: float
    powers: tuple[tuple[int, int], ...]
    terms: Floats

    @property
    def order(self) -> int:
        """Highest total power."""
        return max(p + q for p, q in self.powers)

    @property
    def cd(self) -> Floats:
        """The linear part: the CD matrix, degrees per pixel."""
        term = dict(zip(self.powers, self.terms, strict=True))
        return np.stack([term[1, 0], term[0, 1]], axis=1) / self.unit_px

    @property
    def scale_arcsec(self) -> float:
        """Geometric mean of the plate scale at the reference pixel, arcsec per pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.cd))) * 3600)

    def magnified(self, factor: int) -> PlaneMap:
        """Return the map of the grid whose cells of ``factor``² pixels are the pixels of this one."""
        if factor == 1:
            return self
        shift = (factor - 1) / 2
        return replace(
            self,
            x0=factor * self.x0 + shift,
            y0=factor * self.y0 + shift,
            unit_px=factor * self.unit_px,
        )

    def plane(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return standard coordinates (degrees) of 0-based pixel positions."""
        u = (np.asarray(x, np.float64) - self.x0) / self.unit_px
        v = (np.asarray(y, np.float64) - self.y0) / self.unit_px
        plane = monomials(u, v, self.powers) @ self.terms
        return plane[..., 0], plane[..., 1]

    def sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return right ascension and declination (degrees) of 0-based pixel positions."""
        return deproject(*self.plane(x, y), self.ra0_deg, self.dec0_deg)

    def displacement_px(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Return the distortion, pixels: how far the full map moves a position from the linear one."""
        xi, eta = self.plane(x, y)
        linear = np.linalg.inv(self.cd) @ np.stack([np.ravel(xi), np.ravel(eta)])
        shape = np.shape(xi)
        return (
            linear[0].reshape(shape) - (np.asarray(x, np.float64) - self.x0),
            linear[1].reshape(shape) - (np.asarray(y, np.float64) - self.y0),
        )

    def cards(self, shape: tuple[int, int]) -> WcsCards:
        """Return the map as TAN or TAN-SIP cards for a frame of ``shape`` (ny, nx), inverse terms included.

        References
        ----------
        Shupe et al. 2005, ASP Conf. Ser. 347, 491 (SIP).
        """
        sip = self.order > 1
        cd = self.cd
        cards: WcsCards = {
            "WCSAXES": 2,
            "CTYPE1": "RA---TAN-SIP" if sip else "RA---TAN",
            "CTYPE2": "DEC--TAN-SIP" if sip else "DEC--TAN",
            "CRVAL1": self.ra0_deg,
            "CRVAL2": self.dec0_deg,
            "CRPIX1": self.x0 + 1.0,
            "CRPIX2": self.y0 + 1.0,
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            **{f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in (0, 1) for j in (0, 1)},
            "RADESYS": "ICRS",
            "EQUINOX": 2000.0,
        }
        if not sip:
            return cards
        inverse_cd = np.linalg.inv(cd)
        cards |= {"A_ORDER": self.order, "B_ORDER": self.order}
        for (p, q), term in zip(self.powers, self.terms, strict=True):
            if p + q >= 2:
                a, b = inverse_cd @ term / self.unit_px ** (p + q)
                cards |= {f"A_{p}_{q}": float(a), f"B_{p}_{q}": float(b)}
        return cards | self._inverse_cards(shape)

    def _inverse_cards(self, shape: tuple[int, int]) -> WcsCards:
        """Fit AP and BP on a grid over the frame; programs that do not iterate rely on them."""
        ny, nx = shape
        x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 25), np.linspace(0, ny - 1, 25)))
        du, dv = self.displacement_px(x, y)
        order = self.order + 2
        powers = tuple((p, q) for p in range(order + 1) for q in range(order + 1 - p) if p + q)
        u = (x - self.x0 + du) / self.unit_px
        v = (y - self.y0 + dv) / self.unit_px
        basis = monomials(u, v, powers)
        terms = np.linalg.lstsq(basis, -np.stack([du, dv], axis=1), rcond=None)[0]
        cards: WcsCards = {"AP_ORDER": order, "BP_ORDER": order}
        for (p, q), (a, b) in zip(powers, terms, strict=True):
            scale = self.unit_px ** (p + q)
            cards |= {f"AP_{p}_{q}": float(a / scale), f"BP_{p}_{q}": float(b / scale)}
        return cards


def astropy_wcs(cards: WcsCards) -> WCS:
    """Return the astropy WCS of a set of cards."""
    header = fits.Header()
    for key, value in cards.items():
        header[key] = value
    return WCS(header, fix=False)


def map_from_cards(cards: WcsCards, shape: tuple[int, int]) -> PlaneMap:
    """Return a polynomial map about the frame's centre that follows any celestial WCS: linear for TAN, else cubic.

    Parameters
    ----------
    cards
        FITS WCS cards.
    shape
        ``(ny, nx)`` of the frame.
    """
    ny, nx = shape
    x0, y0 = (nx - 1) / 2, (ny - 1) / 2
    sky = _plain_sky(cards) or _any_sky(cards)
    ra0, dec0 = (float(v) for v in sky(np.array(x0), np.array(y0)))
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    xi, eta = project(*sky(x, y), ra0, dec0)
    unit = float(np.hypot(nx, ny) / 2)
    powers = polynomial(3 if "A_ORDER" in cards or "PV1_1" in cards else 1)
    basis = monomials((x - x0) / unit, (y - y0) / unit, powers)
    terms: Floats = np.linalg.lstsq(basis, np.stack([xi, eta], axis=1), rcond=None)[0].astype(np.float64)
    return PlaneMap(ra0 % 360.0, dec0, x0, y0, unit, powers, terms)


def _any_sky(cards: WcsCards) -> Sky:
    wcs = astropy_wcs(cards)
    return lambda x, y: wcs.all_pix2world(x, y, 0)


def _plain_sky(cards: WcsCards) -> Sky | None:
    """Return the sky of the plainest cards, TAN with a CD matrix, in a tenth of the time that WCSLIB takes."""
    names = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2")
    plain = cards.get("CTYPE1") == "RA---TAN" and cards.get("CTYPE2") == "DEC--TAN"
    odd = any(key.startswith(("PV", "PC", "A_", "B_", "LONPOLE", "LATPOLE")) for key in cards)
    degrees = all(str(cards.get(f"CUNIT{i}", "deg")).strip() == "deg" for i in (1, 2))
    if not plain or odd or not degrees or any(name not in cards for name in names):
        return None
    ra0, dec0, x0, y0, a, b, c, d = (float(cards[name]) for name in names)

    def sky(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        x, y = x - (x0 - 1.0), y - (y0 - 1.0)
        return deproject(a * x + b * y, c * x + d * y, ra0, dec0)

    return sky


def polynomial(order: int) -> tuple[tuple[int, int], ...]:
    """Return the exponents of all terms up to a total power."""
    return tuple((p, n - p) for n in range(order + 1) for p in range(n, -1, -1))


def monomials(u: Floats, v: Floats, powers: tuple[tuple[int, int], ...]) -> Floats:
    """Return ``u^p v^q``, shape ``(*u.shape, len(powers))``; by products, which cost a twentieth of powers."""
    us, vs = [np.ones_like(u)], [np.ones_like(v)]
    for _ in range(max(p + q for p, q in powers)):
        us.append(us[-1] * u)
        vs.append(vs[-1] * v)
    return np.stack([us[p] * vs[q] for p, q in powers], axis=-1)
