"""Fitting the PSF to stars that were cut out of one image or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from starloom.errors import BadInput

Plane = NDArray[np.float32]
Floats = NDArray[np.float64]

MIN_STARS, MAX_STARS = 3, 200
_ROUNDS = 4
BORDER_PX = 4
"""Cut more than is wanted: shifting a cutout spoils its rim."""

_TAPER = 0.8
"""Share of the radius from which a PSF fades to nothing: a step at the end would ring in every filter."""

_CLEARLY = 1.3
_UNLIKE = 0.1
_CONTEST = 5.0
"""Standard deviations by which a pixel stands above the model before it is another star's."""

_LEAST_PIXELS = 25
"""Fewest pixels a star must have to itself."""

_MISMATCH = 0.1
"""Share of the light that a star may differ from the model by, pixel for pixel."""


@dataclass(frozen=True)
class Moffat:
    """An elliptical Moffat profile: FWHM (px), slope, ellipticity along x and along the diagonal, centre (px)."""

    fwhm: float
    beta: float
    e1: float = 0.0
    e2: float = 0.0
    x: float = 0.0
    y: float = 0.0

    def drawn(self, size: int, fine: int = 5) -> Floats:
        """Return the profile integrated over ``size`` × ``size`` pixels, 1 in total over the whole plane."""
        at = (np.arange(size * fine) + 0.5) / fine - 0.5 - size // 2
        x, y = at[None, :] - self.x, at[:, None] - self.y
        alpha = self.fwhm / 2 / np.sqrt(2 ** (1 / self.beta) - 1)
        # The shear keeps the area: its matrix has the determinant 1.
        stretch = 1 / np.sqrt(1 - self.e1**2 - self.e2**2)
        r2 = ((1 - self.e1) * x**2 + (1 + self.e1) * y**2 - 2 * self.e2 * x * y) * stretch
        light = (self.beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -self.beta
        return np.asarray(light.reshape(size, fine, size, fine).mean(axis=(1, 3)))


def cutouts(
    image: NDArray[Any], x: Sequence[float] | Floats, y: Sequence[float] | Floats, *, size: int
) -> NDArray[np.float64]:
    """Cut stars out for `psf_of_cutouts`, shape ``(n, size + 8, size + 8)``; NaN beyond the image."""
    half = size // 2 + BORDER_PX
    padded = np.pad(np.asarray(image, np.float64), half, constant_values=np.nan)
    columns, rows = np.rint(np.asarray(x)).astype(int), np.rint(np.asarray(y)).astype(int)
    found = [
        padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
        for row, column in zip(rows, columns, strict=True)
    ]
    return np.array(found).reshape(-1, 2 * half + 1, 2 * half + 1)


def psf_of_cutouts(stars: NDArray[np.float64], *, fwhm_px: float) -> Plane:
    """Measure the PSF from stars cut out of any number of images; see `starloom.coadd.psf.measure_psf`.

    Parameters
    ----------
    stars
        As `cutouts` makes them, brightest first, shape ``(n, side, side)``.

    Notes
    -----
    Each star's flux, place and sky are fitted with a profile; the stars are brought to one centre and averaged,
    without pixels that other sources contest; an elliptical Moffat profile is fitted to the average; four rounds.
    (With the average itself in place of the profile stars would be placed on each other's noise, which makes the
    peak 10 to 30 % too high where they are few and faint.) At last what the average has beyond the profile is kept
    as far as it stands above the noise, ring by ring (Wiener's gain): many stars give their own shape, few the
    profile's, and the wings of either are smooth.
    """
    side = stars.shape[-1]
    stars = stars[_complete(stars, fwhm_px)][:MAX_STARS]
    model = Moffat(fwhm_px, 3.5).drawn(side)
    shift = np.zeros((len(stars), 2))
    own = np.isfinite(stars) & (_radius(side) <= side // 2)
    for _ in range(_ROUNDS):
        # Of a star between others hardly a pixel may be left that is its own.
        enough = own.sum(axis=(1, 2)) >= _LEAST_PIXELS
        stars, shift, own = stars[enough], shift[enough], own[enough]
        if len(stars) < MIN_STARS:
            raise BadInput(
                f"{len(stars)} usable stars, {MIN_STARS} needed for a PSF",
                code="too-few-stars",
                hint="Give more stars, or take a model profile.",
            )
        fitted = _fit(stars, shift, own, model)
        keep = _alike(fitted)
        stars, shift, fitted = stars[keep], (shift + fitted.offset)[keep], fitted.some(keep)
        own = fitted.own
        if len(stars) >= MIN_STARS:
            own = own & ~_contested(fitted)
            mean, error = _mean(fitted, own, model, fwhm_px)
            model, sky = _profile(mean, error, fwhm_px)
            mean = mean - sky
    psf = _centred(_with_rest(model, mean, error, fwhm_px), fwhm_px)
    return finished(psf[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])


@dataclass(frozen=True)
class _Fit:
    """Stars as fitted: centred, without sky, of unit flux, with the pixels that are their own and their noise."""

    light: Floats
    own: NDArray[np.bool_]
    flux: Floats
    offset: Floats
    noise: Floats

    def some(self, keep: NDArray[np.bool_]) -> _Fit:
        return _Fit(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def _complete(stars: NDArray[np.float64], fwhm_px: float) -> NDArray[np.bool_]:
    known = np.isfinite(stars)
    core = _radius(stars.shape[-1]) <= 1.5 * fwhm_px
    return np.asarray(known[:, core].all(axis=1) & (known.mean(axis=(1, 2)) > 0.6))


def _radius(side: int) -> Floats:
    at = np.arange(side) - side // 2
    return np.asarray(np.hypot(at[:, None], at[None, :]))


def _shifted(planes: Floats, shift: Floats) -> Floats:
    """Move each plane by ``-shift`` (x, y) pixels, by Fourier's theorem: no interpolation blurs the core."""
    side = planes.shape[-1]
    fx, fy = fft.rfftfreq(side), fft.fftfreq(side)
    turn = np.exp(2j * np.pi * (shift[:, 1, None, None] * fy[:, None] + shift[:, 0, None, None] * fx))
    return np.asarray(fft.irfft2(fft.rfft2(planes) * turn, s=(side, side)))


def _fit(stars: Floats, shift: Floats, own: NDArray[np.bool_], model: Floats) -> _Fit:
    """Fit flux, sky and the rest of the offset of each star, with the model as it stands."""
    side = model.shape[0]
    # By Fourier's theorem too: differences between pixels are 30 % too small at a FWHM of 2 px.
    steps = 0.1 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    right, left, up, down = _shifted(np.broadcast_to(model, (4, side, side)), -steps)
    terms = np.stack([model, (right - left) / 0.2, (up - down) / 0.2, np.ones_like(model)], axis=-1)
    known = np.isfinite(stars)
    # The model stands in for unknown pixels while the star is moved.
    sky = np.array([np.median(star[there]) for star, there in zip(stars, known, strict=True)])
    core = _radius(side) <= 3
    flux = (np.where(known, stars, 0)[:, core].sum(axis=1) - sky * core.sum()) / model[core].sum()
    placed = _shifted(np.broadcast_to(model, stars.shape), -shift)
    light = _shifted(np.where(known, stars - sky[:, None, None], flux[:, None, None] * placed), shift)
    result, noise = np.zeros((len(stars), 4)), np.zeros(len(stars))
    for index, (plane, mine) in enumerate(zip(light, own, strict=True)):
        result[index] = np.linalg.lstsq(terms[mine], plane[mine], rcond=None)[0]
        # Beyond the core, where a profile may miss by more than the noise.
        beyond = mine & (model < 0.02 * model.max())
        rest = (plane - terms @ result[index])[beyond if beyond.any() else mine]
        noise[index] = 1.4826 * np.median(np.abs(rest - np.median(rest)))
    flux = np.where(result[:, 0] > 0, result[:, 0], np.nan)
    scaled = (light - result[:, 3, None, None]) / flux[:, None, None]
    offset = np.nan_to_num(np.clip(result[:, 1:3] / flux[:, None], -1, 1))
    return _Fit(scaled, own, flux, offset, noise / flux)


def _contested(fitted: _Fit) -> NDArray[np.bool_]:
    """Tell the pixels of the wings where a star is brighter than the others are: there is another source."""
    usual = np.nanmedian(fitted.light, axis=0)
    allowed = np.hypot(fitted.noise[:, None, None], _MISMATCH * np.clip(usual, 0, None))
    foreign = (fitted.light - usual > _CONTEST * allowed) & (usual < 0.1 * usual.max())
    for axis in (1, 2):
        foreign |= np.roll(foreign, 1, axis) | np.roll(foreign, -1, axis)
    return np.asarray(foreign)


def _alike(fitted: _Fit) -> NDArray[np.bool_]:
    """Tell the stars whose core is as the others' is: not galaxies, pairs or saturated ones."""
    good = np.isfinite(fitted.flux)
    if not good.any():
        return good
    usual = np.median(fitted.light[good], axis=0)
    core = usual > 0.1 * usual.max()
    scale = np.sqrt((usual[core] ** 2).sum())
    misfit = np.sqrt(((fitted.light - usual)[:, core] ** 2).sum(axis=1)) / scale
    noise = fitted.noise * np.sqrt(core.sum()) / scale
    typical = np.median(misfit[good])
    with np.errstate(invalid="ignore"):
        return np.asarray(good & (misfit < 3 * np.hypot(typical, noise) + _UNLIKE) & (noise < 0.5))


def _mean(fitted: _Fit, own: NDArray[np.bool_], model: Floats, fwhm_px: float) -> tuple[Floats, Floats]:
    """Return the mean star of unit flux and the standard error of its pixels, ring by ring."""
    relative = fitted.noise
    # No star speaks for all, however bright: the PSF is not the same everywhere.
    weight = 1 / (relative**2 + np.median(relative) ** 2)
    weights = weight[:, None, None] * own
    total = weights.sum(axis=0)
    some = total > 0
    mean = np.where(some, (weights * fitted.light).sum(axis=0) / np.where(some, total, 1), model)
    scatter = (weights**2 * (fitted.light - mean) ** 2).sum(axis=0) / np.where(some, total, np.inf) ** 2
    scatter *= len(weight) / (len(weight) - 1)
    # Where there is no star there is the model, which must not be taken for a measurement of itself.
    return mean, np.where(some, np.sqrt(_by_ring(scatter, _radius(len(model)), fwhm_px / 2)), np.inf)


def _by_ring(values: Floats, radius: Floats, width: float) -> Floats:
    """Return the mean of the ring that each pixel lies in."""
    ring = (radius / width).astype(int)
    count = np.bincount(ring.ravel())
    return np.asarray((np.bincount(ring.ravel(), values.ravel()) / np.maximum(count, 1))[ring])


def _profile(mean: Floats, error: Floats, fwhm_px: float) -> tuple[Floats, float]:
    """Fit an elliptical Moffat profile to the mean star; return it, of unit flux, and the sky that was left.

    Without a sky of its own the fit would keep the wings of the last round's model, which the stars' skies follow.
    """
    side = mean.shape[0]
    trust = 1 / np.hypot(error, 0.02 * np.abs(mean) + 1e-4 * mean.max())

    def profile(p: Floats) -> Floats:
        return Moffat(p[1], p[2], p[3], p[4], p[5], p[6]).drawn(side, 3)

    fitted = optimize.least_squares(
        lambda p: ((p[0] * profile(p) + p[7] - mean) * trust).ravel(),
        [1.0, fwhm_px, 3.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        bounds=([0.5, 0.5 * fwhm_px, 1.8, -0.6, -0.6, -1, -1, -1], [2.0, 2 * fwhm_px, 10.0, 0.6, 0.6, 1, 1, 1]),
        x_scale=[0.1, 0.1, 1, 0.1, 0.1, 0.1, 0.1, 1e-4],
        method="dogbox",  # without the decomposition of 1,000 pixels that the usual one makes at every step
        ftol=1e-6,
        xtol=1e-6,
    )
    return profile(fitted.x), float(fitted.x[7])


def _with_rest(smooth: Floats, mean: Floats, error: Floats, fwhm_px: float) -> Floats:
    """Add to a profile what the mean star has beyond it, where that stands above the noise."""
    side = len(mean)
    rest = mean - smooth
    rest = rest * _gain(rest**2, error**2, _radius(side), fwhm_px / 2)
    # Nothing real is finer than the PSF: rings of the transform are weighed like those of the image.
    k = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side))
    spectrum = fft.rfft2(rest)
    noise = np.full(k.shape, (error[_radius(side) <= fwhm_px] ** 2).sum())
    spectrum *= _gain(np.abs(spectrum) ** 2, noise, k, 0.05)
    return np.asarray(smooth + fft.irfft2(spectrum, s=(side, side)))


def _gain(power: Floats, noise: Floats, radius: Floats, width: float) -> Floats:
    """Return Wiener's gain; a ring's own power scatters, and must stand clearly above the noise."""
    return np.asarray(np.clip(1 - _CLEARLY * noise / np.maximum(_by_ring(power, radius, width), 1e-30), 0, 1))


def _tapered(psf: Floats) -> Floats:
    side = psf.shape[0]
    reach = (side // 2 + 1) * 1.0
    ramp = np.clip((_radius(side) / reach - _TAPER) / (1 - _TAPER), 0, 1)
    psf = psf * (0.5 + 0.5 * np.cos(np.pi * ramp))
    return np.asarray(psf / psf.sum())


def _centred(psf: Floats, fwhm_px: float) -> Floats:
    """Move a PSF so that its centroid under a Gaussian window of its own width is in the middle."""
    at = np.arange(psf.shape[0]) - psf.shape[0] // 2
    window = np.exp(-0.5 * (_radius(psf.shape[0]) / (0.6 * fwhm_px)) ** 2)
    for _ in range(4):
        seen = psf * window
        # A window as wide as the star halves the offset it sees.
        offset = 2 * np.array([[(seen * at).sum(), (seen * at[:, None]).sum()]]) / seen.sum()
        psf = _shifted(psf[None], offset)[0]
    return psf


def finished(psf: Floats) -> Plane:
    """Return a PSF that fades to nothing at its rim, with unit sum."""
    return np.asarray(_tapered(psf), dtype=np.float32)
