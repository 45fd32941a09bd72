"""What the parts of plate solving promise each other, so that any one of them can be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starloom.errors import BadInput
from starloom.refcat import Refcat as CatalogProvider

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from starloom.astrometry.detect import StarList
    from starloom.astrometry.instrument import InstrumentModel
    from starloom.astrometry.refine import WcsFit
    from starloom.astrometry.verify import Verdict

__all__ = [
    "BlindSolver",
    "Candidate",
    "CatalogProvider",
    "Detector",
    "Hint",
    "Refiner",
    "ScaleRange",
    "Solver",
    "Unsolved",
    "Verifier",
    "WcsCards",
]

WcsCards = dict[str, Any]


class Unsolved(BadInput):
    """A frame without a plate solution; ``code`` is the reason.

    One of `starloom.astrometry.outcome.REMEDIES`.
    """

    code = "no-match"
    hint = "Look at the frame: focus, clouds, guiding, and whether the header's pointing is right."


@dataclass(frozen=True)
class Hint:
    """Where a frame may point and how large its pixels may be.

    Parameters
    ----------
    ra_deg, dec_deg
        Expected centre, degrees ICRS.
    radius_deg
        How far the true centre may be from it.
    scale_arcsec
        Expected plate scale, arcsec per pixel; ``None`` where nothing is known.
    scale_tolerance
        Relative uncertainty of the scale: 0.1 means ±10 %.
    source
        Where the hint comes from, for people to read.
    guessed_scale
        Whether the scale is one of a scan's, not something anybody said.
    """

    ra_deg: float
    dec_deg: float
    radius_deg: float
    scale_arcsec: float | None
    scale_tolerance: float
    source: str = ""
    guessed_scale: bool = False


@dataclass(frozen=True)
class ScaleRange:
    """Plate scales between which a blind solver looks, arcsec per pixel."""

    low_arcsec: float
    high_arcsec: float


@dataclass(frozen=True)
class Candidate:
    """A linear WCS that a solver proposes and nobody believes yet.

    Parameters
    ----------
    cards
        FITS WCS cards of a TAN projection (1-based ``CRPIX``).
    matches
        Number of stars the solver matched.
    solver
        Name of the solver.
    """

    cards: WcsCards
    matches: int
    solver: str


class Detector(Protocol):
    """Finds stars in pixels."""

    def __call__(
        self,
        data: NDArray[Any],
        *,
        max_stars: int = ...,
        saturation_adu: float | None = ...,
        mask: NDArray[np.bool_] | None = ...,
    ) -> StarList:
        """Return the frame's stars, brightest first; pixels where ``mask`` is True are not used."""
        ...


class Solver(Protocol):
    """Proposes a WCS for a star list, near a hint."""

    def solve(
        self,
        stars: StarList,
        hint: Hint,
        catalog: CatalogProvider,
        *,
        budget_s: float = ...,
        epoch: float | None = ...,
        deep: bool = ...,
    ) -> Candidate:
        """Return a candidate, or raise `Unsolved`."""
        ...


class BlindSolver(Protocol):
    """Proposes a WCS for a star list from nothing but the stars."""

    @property
    def name(self) -> str:
        """Its name, for people to read."""
        ...

    def absent(self, stars: StarList, scales: ScaleRange) -> str:
        """Return why it cannot try such a frame on this machine, empty where it can."""
        ...

    def solve(self, stars: StarList, scales: ScaleRange, *, cpu_s: float, wall_s: float) -> Candidate:
        """Return a candidate within so many seconds of CPU and of the clock, or raise `Unsolved`."""
        ...


class Refiner(Protocol):
    """Improves a candidate with all stars and the optics' distortion."""

    def __call__(
        self,
        candidate: Candidate,
        stars: StarList,
        catalog: CatalogProvider,
        *,
        epoch: float | None = ...,
        instrument: InstrumentModel | None = ...,
    ) -> WcsFit:
        """Return the best WCS, or raise `Unsolved`."""
        ...


class Verifier(Protocol):
    """Decides whether a WCS may be believed: one rule for every solver."""

    def __call__(self, fit: WcsFit, stars: StarList, *, trials: int = ...) -> Verdict:
        """Return the verdict with its grounds; ``trials`` candidates of this frame have been judged by now."""
        ...
