"""Bringing a coarse image to mean 0 and unit noise everywhere."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

_MESH_CELLS = 16
_CLIP = 3.0
"""A cell counts no more than this, so that a few bright ones are no line."""


_MUCH = 10.0
"""Structure, in the noise, that tells of the flux scale."""

_DOUBT = 0.01
"""Share of the structure by which frames may differ still: filters are not alike, and nebulae have lines."""


def _cut(image: Plane) -> Plane:
    """Return the cells of each square of the mesh, NaN beyond the image, shape ``(rows, columns, cells)``."""
    ny, nx = image.shape
    my, mx = math.ceil(ny / _MESH_CELLS), math.ceil(nx / _MESH_CELLS)
    padded = np.full((my * _MESH_CELLS, mx * _MESH_CELLS), np.nan, np.float32)
    padded[:ny, :nx] = image
    return padded.reshape(my, _MESH_CELLS, mx, _MESH_CELLS).swapaxes(1, 2).reshape(my, mx, -1)


def _medians(cells: Plane) -> Plane:
    """Return the median of each square; where it knows too few cells, that of all squares."""
    count = np.isfinite(cells).sum(axis=2)
    few = count < _MESH_CELLS * _MESH_CELLS // 8
    # NaN is sorted to the end.
    ordered = np.sort(cells, axis=2)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[..., None] // 2, axis=2)[..., 0]
    usual = float(np.median(middle[~few])) if not few.all() else 0.0
    return np.where(few, np.float32(usual), middle).astype(np.float32)


def _spread(mesh: Plane, shape: tuple[int, int]) -> Plane:
    """Return the values of a mesh at all cells, linear between the centres of its squares."""
    for axis, size in enumerate(shape):
        places = (np.arange(size) + 0.5) / _MESH_CELLS - 0.5
        top = mesh.shape[axis] - 1
        low = np.clip(np.floor(places).astype(int), 0, max(top - 1, 0))
        share = np.clip(places - low, 0, 1).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        mesh = mesh.take(low, axis) * (1 - share) + mesh.take(np.minimum(low + 1, top), axis) * share
    return mesh


def unlevelled(image: Plane) -> Plane:
    """Return by how much an image departs from its level about there; NaN where it does."""
    return image - _spread(_medians(_cut(image)), image.shape)


def levelled(z: Plane, structure: Plane) -> tuple[Plane, NDArray[np.bool_]]:
    """Bring a coarse image to mean 0 and unit noise everywhere, and bound it.

    What is left of sky gradients goes with the medians of a mesh, errors of the noise model with the spread in it.
    An error of the frame's flux scale shows as a share of all structure, which is taken out.

    Parameters
    ----------
    z
        Significance per cell, NaN where nothing is known, shape ``(ny, nx)``.
    structure
        What all frames have in common and their level has not (a nebula), in units of the noise, same shape; NaN
        where unknown.

    Returns
    -------
    values, known : ndarray
        Both of the same shape; ``values`` is 0 where not ``known``.
    """
    known = np.isfinite(z)
    values = unlevelled(z)
    structure = np.where(known & np.isfinite(structure), structure, np.float32(0))
    much = np.abs(structure) > _MUCH
    if much.sum() > _MESH_CELLS**2:
        values = values - structure * np.float32(np.median(values[much] / structure[much]))
    spread = 1.4826 * _medians(np.abs(_cut(values)))
    # A square that happens to be quiet must not be made louder than its frame.
    spread = np.maximum(spread, max(0.8 * float(np.median(spread)), 0.1))
    # The doubt comes last: the spread would undo it.
    values = values / (_spread(spread, z.shape) * np.sqrt(1 + (_DOUBT * structure) ** 2))
    return np.where(known, np.clip(values, -_CLIP, _CLIP), 0).astype(np.float32), known
