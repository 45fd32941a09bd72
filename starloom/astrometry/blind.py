"""Blind solving: who can be asked on this machine, and between which plate scales."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np

from starloom.astrometry.astrometry_net import AstrometryNet
from starloom.astrometry.seams import BlindSolver, Hint, ScaleRange
from starloom.astrometry.tetra import TetraSolver
from starloom.astrometry.wheel import AstrometryWheel

#: Between all plausible plate scales, arcsec per pixel; and to either side of one that somebody named.
ANY_SCALE = ScaleRange(0.25, 60.0)
# One by one, common ones first: a frame on which the engine wades through 15 CPU-s of patterns of all sizes takes
# it 0.2 within its own octave.
OCTAVES = tuple(ScaleRange(low, 2 * low) for low in (0.8, 1.6, 3.2, 0.4, 6.4, 12.8, 25.6))
NAMED_TOLERANCE = 0.25
# Tycho-2 has 45 stars per square degree, more than three times as many in the Milky Way. A frame on which even
# that makes fewer than this is not worth seconds of search.
STARS_PER_SQUARE_DEG, MILKY_WAY, FEWEST = 45.0, 3.5, 8.0


def blind_solvers() -> tuple[BlindSolver, ...]:
    """Return the blind solvers in the order in which to ask them, whether or not they are installed."""
    engine = AstrometryNet()
    if shutil.which(engine.program) is None:
        # The wheel is the same engine: where the program is, asking both would be asking twice.
        return TetraSolver(), engine, AstrometryWheel()
    return TetraSolver(), engine


def scale_ranges(hints: Sequence[Hint]) -> list[ScaleRange]:
    """Return the plate scales to search between: about each that somebody named, then all at once.

    Where nobody named any, all octaves follow one by one.
    """
    found: list[ScaleRange] = []
    for hint in hints:
        scale = hint.scale_arcsec
        if scale is None or hint.guessed_scale:
            continue
        if not any(known.low_arcsec < scale < known.high_arcsec for known in found):
            found.append(ScaleRange(scale / (1 + NAMED_TOLERANCE), scale * (1 + NAMED_TOLERANCE)))
    return [*found, ANY_SCALE] if found else [ANY_SCALE, *OCTAVES]


def worth_it(shape: tuple[int, int], scales: ScaleRange) -> bool:
    """Whether a frame of such pixels can hold catalogue stars enough, wherever it points."""
    area = float(np.prod(shape)) * (scales.high_arcsec / 3600) ** 2
    return area * STARS_PER_SQUARE_DEG * MILKY_WAY >= FEWEST
