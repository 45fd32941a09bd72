"""Robust combination of many frames in bounded memory: decoded once to a scratch file, combined by rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from starloom.calibration.noise import sampled, spread
from starloom.calibration.sensor import SensorPixels

#: Pixels of all frames together that are held as floats at one time: 64 MB, about four times that at the peak.
BLOCK_PIXELS = 16_000_000
CLIP_SIGMA = 4.0


@dataclass(frozen=True)
class Combination:
    """A clipped mean and how well it is known, each of shape ``(ny, nx)``, float32.

    Attributes
    ----------
    mean
        Clipped mean.
    variance
        Of the mean.
    scatter
        Standard deviation of one frame.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    scatter: NDArray[np.float32]


class FrameStack:
    """Frames of one size in a scratch folder, in the type they came in: 50 frames of 60 Mpix need 6 GB of disk.

    Use it as a context manager; the scratch files are removed at its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._open: list[NDArray[Any]] = []
        self.levels: list[NDArray[np.float32]] = []
        self.zeroed = True
        """Whether every frame came with its camera's offset measured (overscan) or known (pedestal)."""
        self.shape: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._paths)

    def add(self, pixels: SensorPixels) -> None:
        """Append a frame; all must have the same shape."""
        shape = (pixels.data.shape[0], pixels.data.shape[1])
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"a frame of shape {shape} among frames of {self.shape}")
        self.shape = shape
        path = self._folder / f"frame{len(self._paths):04d}.npy"
        np.save(path, pixels.data)
        self._paths.append(path)
        self._open.append(np.load(path, mmap_mode="r"))
        self.levels.append(pixels.level)
        self.zeroed &= pixels.changed

    def rows(self, index: int, y0: int, y1: int) -> NDArray[np.float32]:
        """Return rows of one frame less its own level, float32."""
        return self._open[index][y0:y1].astype(np.float32) - self.levels[index][y0:y1, None]

    def stored(self, index: int) -> NDArray[Any]:
        """Return the pixels of one frame as they were stored, in their own type, read from disk as needed."""
        return self._open[index]

    def whole(self, index: int) -> NDArray[np.float32]:
        """Return one frame."""
        assert self.shape is not None
        return self.rows(index, 0, self.shape[0])

    def median_level(self, index: int) -> float:
        """Return a frame's median, ADU."""
        data = self._open[index]
        step = max(1, data.shape[0] // 400)
        return float(np.median(sampled(data[::step] - self.levels[index][::step, None])))

    def combine(
        self,
        *,
        keep: Iterable[int] | None = None,
        subtract: NDArray[np.float32] | None = None,
        norms: Iterable[NDArray[np.float32] | float] | None = None,
    ) -> Combination:
        """Combine the frames by a clipped mean, row block by row block.

        Parameters
        ----------
        keep
            Indices of the frames to take; None: all.
        subtract
            Taken off every frame, shape ``(ny, nx)``.
        norms
            Per kept frame, what it is divided by after that: a number, or a cell of numbers that repeats over the
            frame (the colours of a mosaic, shape ``(2, 2)``).

        Notes
        -----
        Clipped are pixels beyond `CLIP_SIGMA` times the larger of their own spread (median absolute deviation
        over the frames) and the block's typical one: of five values the own spread alone is often far too small.
        """
        assert self.shape is not None
        ny, nx = self.shape
        chosen = list(range(len(self))) if keep is None else list(keep)
        divisors = [np.float32(1)] * len(chosen) if norms is None else list(norms)
        out = Combination(*(np.empty(self.shape, np.float32) for _ in range(3)))
        # An even number of rows, so that a mosaic's cells stay whole.
        step = max(2, BLOCK_PIXELS // max(1, len(chosen) * nx) // 2 * 2)
        for y0 in range(0, ny, step):
            y1 = min(ny, y0 + step)
            cube = np.empty((len(chosen), y1 - y0, nx), np.float32)
            for place, (index, norm) in enumerate(zip(chosen, divisors, strict=True)):
                cube[place] = self.rows(index, y0, y1)
                if subtract is not None:
                    cube[place] -= subtract[y0:y1]
                if norms is not None:
                    cube[place] /= tiled(norm, (y1 - y0, nx))
            out.mean[y0:y1], out.variance[y0:y1], out.scatter[y0:y1] = clipped_mean(cube)
        return out


def tiled(
    cell: NDArray[np.float32] | np.float32 | float, shape: tuple[int, int]
) -> NDArray[np.float32] | np.float32:
    """Return a cell of numbers repeated over ``shape``; a single number as it is."""
    values = np.asarray(cell, np.float32)
    if values.ndim == 0:
        return np.float32(values)
    reps = (-(-shape[0] // values.shape[0]), -(-shape[1] // values.shape[1]))
    return np.asarray(np.tile(values, reps)[: shape[0], : shape[1]])


def _typical_scatter(cube: NDArray[np.float32]) -> float:
    """Return the standard deviation of one frame, from differences of frames that follow each other.

    The spread about the median of three frames is half the true one; a difference of two knows no such bias.
    """
    if cube.shape[0] < 2:
        return 0.0
    every = max(1, cube[0].size // 50_000)
    some = cube.reshape(cube.shape[0], -1)[:, ::every]
    differences = np.diff(some, axis=0)
    return spread(differences[np.isfinite(differences)]) / float(np.sqrt(2.0))


def clipped_mean(
    cube: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return mean, variance of the mean and scatter over the first axis, outliers and NaN left out."""
    n = cube.shape[0]
    finite = np.isfinite(cube)
    if finite.all():
        centre, median = np.median(cube, axis=0), np.median
    else:
        # Where no frame has a value any number will do, for the count of 0 says so in the end.
        cube = np.where(finite.any(axis=0), np.where(finite, cube, np.nan), np.float32(0))
        centre, median = np.nanmedian(cube, axis=0), np.nanmedian
    deviation = np.abs(cube - centre)
    own = np.float32(1.4826) * median(deviation, axis=0)
    usual = np.float32(_typical_scatter(cube))
    with np.errstate(invalid="ignore"):
        bad = ~(deviation <= CLIP_SIGMA * np.maximum(own, usual) + np.float32(1e-6)) | ~finite
    count = (n - bad.sum(axis=0)).astype(np.float32)
    values = np.where(bad, np.float32(0), cube - centre)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = values.sum(axis=0) / count
        mean = (centre + shift).astype(np.float32)
        squares = np.where(bad, np.float32(0), (values - shift) ** 2).sum(axis=0)
        # Few frames say little of their own scatter: the block's typical one counts as three more.
        scatter2 = (squares + 3 * usual**2) / np.maximum(count + 2, 1)
        variance = (scatter2 / count).astype(np.float32)
    mean[count == 0] = np.nan
    return mean, variance, np.sqrt(scatter2).astype(np.float32)
