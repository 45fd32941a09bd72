"""How much deeper a stack is than its frames: the scatter of empty apertures of one size on the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from starloom.coadd.celestial import Vectors, sky_pixels, sky_vectors
from starloom.coadd.inputs import frame_wcs_cards, open_frame, pixel_scale_arcsec, wcs_from_cards
from starloom.errors import BadInput

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

_MESH_ARCSEC = 120.0
_MIN_APERTURES = 50
_EDGE_PX = 8


@dataclass(frozen=True)
class DepthFrame:
    """A frame of a stack: file, WCS cards, and output units per ADU."""

    path: Path
    wcs_cards: dict[str, Any]
    scale: float


@dataclass(frozen=True)
class Depth:
    """Robust scatter of empty apertures in a stack and in its frames, all in output units."""

    radius_arcsec: float
    n_apertures: int
    stack: float
    frames: tuple[float, ...]

    @property
    def gain_mag(self) -> float:
        """How much deeper the stack is than its median frame, magnitudes."""
        return float(2.5 * np.log10(np.median(self.frames) / self.stack))


def depth_mag(scatter: float, *, unit_flux: float = 1.0, n_sigma: float = 5.0) -> float:
    """Return the limiting magnitude for an aperture scatter, ``unit_flux`` being the flux of magnitude 0."""
    return float(-2.5 * np.log10(n_sigma * scatter / unit_flux))


def object_mask(data: Plane, mesh_px: int, *, n_sigma: float = 2.0, grow_px: int = 2) -> Mask:
    """Return what is not empty sky: objects above ``n_sigma``, grown, and pixels without a value."""
    bad = ~np.isfinite(data)
    clean = _sky_free(data, bad, mesh_px)
    noise = 1.4826 * float(np.median(np.abs(clean[~bad])))
    _, segments = sep.extract(clean, n_sigma, err=noise, mask=bad, minarea=5, segmentation_map=True)
    return np.asarray(ndimage.binary_dilation(segments > 0, iterations=grow_px) | bad)


def _sky_free(data: Plane, mask: Mask, mesh_px: int) -> Plane:
    clean = np.ascontiguousarray(np.where(np.isfinite(data), data, 0), dtype=np.float32)
    sky: Plane = sep.Background(clean, mask=mask, bw=mesh_px, bh=mesh_px).back()
    return clean - sky


def aperture_scatter(data: Plane, x: Floats, y: Floats, radius_px: float, *, mask: Mask, mesh_px: int) -> float:
    """Return the robust scatter (image units) of apertures at given places.

    Parameters
    ----------
    data
        Image, shape ``(ny, nx)``.
    x, y
        0-based centres of apertures on empty sky, pixels, shape ``(n,)``.
    radius_px, mesh_px
        Radius and the cell of the background mesh; of one size on the sky for images that are to be compared.
    mask
        Objects that the background must not see, same shape as `data`.
    """
    sums, _, _ = sep.sum_circle(_sky_free(data, mask, mesh_px), x, y, radius_px, subpix=7)
    return float(1.4826 * np.median(np.abs(sums - np.median(sums))))


def stack_depth(
    product: Path,
    frames: Sequence[DepthFrame],
    radius_arcsec: float,
    *,
    n: int = 6000,
    seed: int = 1,
) -> Depth:
    """Measure stack and frames in the same empty apertures: same places, same size on the sky, same flux scale.

    Parameters
    ----------
    product
        Product of a co-add.
    frames
        The frames it was made of.
    radius_arcsec
        Radius of the apertures. Interpolation smooths on the scale of a pixel, so apertures of a pixel or two
        flatter the stack: take the seeing's FWHM, three pixels or so.
    n
        Apertures tried.

    Raises
    ------
    BadInput
        ``no-empty-sky`` when fewer than 50 apertures lie on empty sky that every frame covers.

    Notes
    -----
    Objects are those of the stack, for the frames too: a star that only the stack shows would widen the
    scatter of a frame no less than the stack's.
    """
    with fits.open(product) as hdus:
        data = np.asarray(hdus["SCI"].data, np.float32)
        wcs = wcs_from_cards(frame_wcs_cards(product, hdus["SCI"].header))
    scale = pixel_scale_arcsec(wcs, data.shape)
    mesh = round(_MESH_ARCSEC / scale)
    objects = object_mask(data, mesh)
    x, y = np.random.default_rng(seed).uniform(0, 1, (2, n)) * np.array(data.shape[::-1])[:, None]
    touched, _, flag = sep.sum_circle(objects.astype(np.float32), x, y, radius_arcsec / scale, subpix=5)
    x, y = x[(touched == 0) & (flag == 0)], y[(touched == 0) & (flag == 0)]
    places = sky_vectors(wcs, x, y)
    views = [_view(frame, places, radius_arcsec) for frame in frames]
    inside = np.logical_and.reduce([view.inside for view in views])
    if inside.sum() < _MIN_APERTURES:
        raise BadInput(
            f"only {inside.sum()} of {n} apertures lie on empty sky that all frames of {product} cover",
            code="no-empty-sky",
            hint="Take smaller apertures or fewer frames.",
        )
    scatters = []
    for frame, view in zip(frames, views, strict=True):
        mask = _seen_by(wcs_from_cards(frame.wcs_cards), view.data.shape, wcs, objects)
        radius, cell = radius_arcsec / view.scale_arcsec, round(_MESH_ARCSEC / view.scale_arcsec)
        scatter = aperture_scatter(
            view.data, view.x[inside], view.y[inside], radius, mask=mask | ~np.isfinite(view.data), mesh_px=cell
        )
        scatters.append(scatter * frame.scale)
    stack = aperture_scatter(data, x[inside], y[inside], radius_arcsec / scale, mask=objects, mesh_px=mesh)
    return Depth(radius_arcsec, int(inside.sum()), stack, tuple(scatters))


@dataclass(frozen=True)
class _View:
    data: Plane
    scale_arcsec: float
    x: Floats
    y: Floats
    inside: Mask


def _view(frame: DepthFrame, places: Vectors, radius_arcsec: float) -> _View:
    with open_frame(frame.path) as opened:
        ny, nx = opened.shape
        data = opened.section(0, ny, 0, nx)
    wcs = wcs_from_cards(frame.wcs_cards)
    scale = pixel_scale_arcsec(wcs, (ny, nx))
    x, y = sky_pixels(wcs, places)
    rim = _EDGE_PX + radius_arcsec / scale
    inside = (x > rim) & (y > rim) & (x < nx - 1 - rim) & (y < ny - 1 - rim)
    return _View(data, scale, x, y, inside)


def _seen_by(frame_wcs: Any, shape: tuple[int, int], wcs: Any, objects: Mask) -> Mask:
    """Return the stack's object mask on a frame's pixels; what the stack does not cover counts as object."""
    rows, columns = np.indices(shape)
    places = sky_pixels(wcs, sky_vectors(frame_wcs, columns.ravel(), rows.ravel()))
    x, y = (np.rint(p).astype(np.intp).reshape(shape) for p in places)
    inside = (x >= 0) & (y >= 0) & (x < objects.shape[1]) & (y < objects.shape[0])
    mask = np.ones(shape, bool)
    mask[inside] = objects[y[inside], x[inside]]
    return mask
