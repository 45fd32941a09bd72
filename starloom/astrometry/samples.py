"""Samples: what one frame says of its instrument, and how that is kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.astrometry.distortion import SIMILARITY, size
from starloom.errors import BadInput

Floats = NDArray[np.float64]

VERSION = 1
ORDERS = (3, 5)


class BadInstrument(BadInput):
    """A stored instrument model or sample that cannot be read."""

    code = "bad-instrument-model"
    hint = "Learn the instrument anew from its frames (its stored model is damaged or of another version)."


@dataclass(frozen=True)
class Sample:
    """What one frame's stars say of their camera's distortion, free of pointing, rotation, scale and parity.

    Parameters
    ----------
    shape
        ``(ny, nx)`` of the frame.
    order
        Highest power of the distortion.
    information
        Normal matrix of the distortion's numbers with the similarity integrated out, per square pixel, shape
        ``(k, k)`` with ``k = size(order)``: singular where the frame's stars leave something open.
    score
        Right side of the same normal equations, shape ``(k,)``.
    matches
        Stars it rests on.
    scale_arcsec
        Plate scale, arcsec per pixel.
    epoch
        Julian year of the frame; None: unknown, the order of the samples is taken as that of time.
    offset_deg
        True centre less the pointing in the header (dRA cos Dec, dDec); None where the header had none.

    Notes
    -----
    Normal equations instead of a solution: a frame of five stars has no solution of its own, but its equations add
    to those of others and lose nothing.
    """

    shape: tuple[int, int]
    order: int
    information: Floats
    score: Floats
    matches: int
    scale_arcsec: float
    epoch: float | None = None
    offset_deg: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the sample as a dict fit for JSON: about 2 kB for the third order, 10 kB for the fifth."""
        return {
            "version": VERSION,
            "nx": self.shape[1],
            "ny": self.shape[0],
            "order": self.order,
            "matches": self.matches,
            "scale_arcsec": self.scale_arcsec,
            "epoch": self.epoch,
            "offset_deg": None if self.offset_deg is None else list(self.offset_deg),
            "information": packed(self.information),
            "score": rounded(self.score),
        }

    @classmethod
    def from_json(cls, value: Any) -> Sample:
        """Read what `to_json` wrote.

        Raises
        ------
        BadInstrument
            ``bad-instrument-model``: it is something else.
        """
        known = Reader(value, "sample")
        order = known.order()
        offset = None if known.get("offset_deg", None) is None else known.numbers("offset_deg", 2)
        return cls(
            shape=known.shape(),
            order=order,
            information=known.matrix("information", size(order)),
            score=known.numbers("score", size(order)),
            matches=int(known.number("matches", at_least=1)),
            scale_arcsec=known.number("scale_arcsec", at_least=1e-6),
            epoch=None if known.get("epoch", None) is None else known.number("epoch"),
            offset_deg=None if offset is None else (float(offset[0]), float(offset[1])),
        )


def sample_of(
    information: Floats,
    score: Floats,
    *,
    shape: tuple[int, int],
    order: int,
    matches: int,
    scale_arcsec: float,
    epoch: float | None = None,
) -> Sample:
    """Return the sample of a fit.

    Parameters
    ----------
    information, score
        Normal equations of similarity and distortion, see `starloom.astrometry.fitting.Fit`.
    shape, order, matches, scale_arcsec, epoch
        See `Sample`.
    """
    own, cross = information[:SIMILARITY, :SIMILARITY], information[:SIMILARITY, SIMILARITY:]
    pulled = np.linalg.solve(own, np.column_stack([cross, score[:SIMILARITY]]))
    reduced = information[SIMILARITY:, SIMILARITY:] - cross.T @ pulled[:, :-1]
    k = size(order)
    return Sample(
        shape=shape,
        order=order,
        information=((reduced + reduced.T) / 2)[:k, :k],
        score=(score[SIMILARITY:] - cross.T @ pulled[:, -1])[:k],
        matches=matches,
        scale_arcsec=scale_arcsec,
        epoch=epoch,
    )


class Reader:
    """Takes values out of a dict of unknown origin."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, Mapping):
            raise BadInstrument(f"an {what} is a JSON object, not {type(value).__name__}")
        self._value, self._what = value, what
        if value.get("version") != VERSION:
            raise BadInstrument(f"{what} of version {value.get('version')!r}; this code reads {VERSION}")

    def get(self, name: str, *default: Any) -> Any:
        """Return a value, or the default where there is none."""
        if name not in self._value and not default:
            raise BadInstrument(f"the {self._what} has no {name}")
        return self._value.get(name, *default)

    def number(self, name: str, *, at_least: float = float("-inf")) -> float:
        """Return a finite number."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BadInstrument(f"{name} of the {self._what} is no finite number: {value!r:.60}")
        if value < at_least:
            raise BadInstrument(f"{name} of the {self._what} is {value}, less than {at_least:g}")
        return float(value)

    def order(self) -> int:
        """Return the order of a distortion."""
        order = self.number("order")
        if order not in ORDERS:
            raise BadInstrument(f"{self._what} of order {order:g}; possible are {ORDERS}")
        return int(order)

    def shape(self) -> tuple[int, int]:
        """Return ``(ny, nx)``."""
        nx, ny = (int(self.number(name, at_least=1)) for name in ("nx", "ny"))
        return ny, nx

    def numbers(self, name: str, count: int) -> Floats:
        """Return a list of finite numbers, shape ``(count,)``."""
        value = self.get(name)
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise BadInstrument(f"{name} of the {self._what} is no list of numbers") from None
        if found.shape != (count,) or not np.isfinite(found).all():
            raise BadInstrument(f"{name} of the {self._what} is no list of {count} finite numbers")
        return found

    def matrix(self, name: str, n: int) -> Floats:
        """Return a symmetric matrix of which the upper triangle is written down, shape ``(n, n)``."""
        packed = self.numbers(name, n * (n + 1) // 2)
        found = np.zeros((n, n))
        found[np.triu_indices(n)] = packed
        return found + np.triu(found, 1).T


def packed(matrix: Floats) -> list[float]:
    """Return the upper triangle, row by row."""
    return rounded(matrix[np.triu_indices(len(matrix))])


def rounded(values: Floats) -> list[float]:
    """Nine significant digits: a sum of normal matrices needs them, and JSON grows with more."""
    return [float(f"{v:.9g}") for v in values]
