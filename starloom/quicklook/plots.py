"""Small scatter plots on a canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.quicklook.canvas import Canvas

Floats = NDArray[np.float64]

_RULE, _DIM, _PANEL = "#30363d", "#8b949e", "#161b22"
#: More dots only blacken the plot.
MAX_DOTS = 3000


def nice(value: float, steps: tuple[float, ...] = (1, 2, 5)) -> float:
    """Return the largest of ``steps`` times a power of ten that is not above a positive value."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    # 9.9999 of a ten is a ten that lost a bit on the way.
    return max((s * power for s in (*steps, 10) if s * power <= value * (1 + 1e-9)), default=power)


def span(values: Floats) -> tuple[float, float]:
    """Return a range that holds nearly all of the values, with a margin; (0, 1) without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(finite, [1, 99]))
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


@dataclass(frozen=True)
class Plot:
    """A box of the page with two axes.

    Parameters
    ----------
    left, top, width, height
        Of the box without its labels, pixels of the page.
    x_label, y_label
        What the axes are, with units.
    x_range, y_range
        Values at left and right, bottom and top.
    """

    left: float
    top: float
    width: float
    height: float
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def axes(self, canvas: Canvas, *, cross: bool = False) -> None:
        """Draw box, grid and labels; a ``cross`` marks 0, 0."""
        right, bottom = self.left + self.width, self.top + self.height
        canvas.box(self.left, self.top, right, bottom, fill=_PANEL, outline=_RULE)
        for tick in _ticks(self.x_range):
            at, _ = self._place(tick, self.y_range[0])
            canvas.line([(at, self.top), (at, bottom)], _RULE, 0.5)
            canvas.text(at, bottom + 5, f"{tick:g}", size=13, colour=_DIM, anchor="ma")
        for tick in _ticks(self.y_range):
            _, at = self._place(self.x_range[0], tick)
            canvas.line([(self.left, at), (right, at)], _RULE, 0.5)
            canvas.text(self.left - 6, at, f"{tick:g}", size=13, colour=_DIM, anchor="rm")
        if cross:
            across, along = self._place(0.0, 0.0)
            canvas.line([(across, self.top), (across, bottom)], _DIM, 0.8)
            canvas.line([(self.left, along), (right, along)], _DIM, 0.8)
        canvas.text(self.left + self.width / 2, bottom + 21, self.x_label, size=14, colour=_DIM, anchor="ma")
        canvas.text(self.left + 8, self.top + 6, self.y_label, size=14, colour=_DIM)

    def dots(self, canvas: Canvas, x: Floats, y: Floats, colour: str) -> None:
        """Draw values; those beyond the ranges stand on the border, so that none is hidden."""
        for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y))[:MAX_DOTS]:
            within = float(np.clip(x[i], *self.x_range)), float(np.clip(y[i], *self.y_range))
            canvas.dot(*self._place(*within), 2.0, colour)

    def ring(self, canvas: Canvas, radius: float, colour: str) -> None:
        """Draw a circle about 0, 0, its radius in units of x."""
        per_unit = self.width / (self.x_range[1] - self.x_range[0])
        canvas.circle(*self._place(0.0, 0.0), radius * per_unit, colour, 1.2)

    def _place(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        return (
            self.left + self.width * (x - x0) / (x1 - x0),
            self.top + self.height * (1 - (y - y0) / (y1 - y0)),
        )


def _ticks(limits: tuple[float, float]) -> list[float]:
    low, high = limits
    step = nice((high - low) / 3)
    first = math.ceil(low / step + 1e-9)
    return [n * step for n in range(first, math.floor(high / step - 1e-9) + 1)]
