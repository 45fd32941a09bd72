"""What the parts of plate solving promise each other, so that any one of them can be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starloom.errors import BadInput
from starloom.refcat import Refcat as CatalogProvider

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from starloom.astrometry.detect import StarList
    from starloom.astrometry.refine import WcsFit
    from starloom.astrometry.verify import Verdict

__all__ = [
    "Candidate",
    "CatalogProvider",
    "Detector",
    "Hint",
    "Refiner",
    "Solver",
    "Unsolved",
    "Verifier",
    "WcsCards",
]

WcsCards = dict[str, Any]


class Unsolved(BadInput):
    """A frame without a plate solution; ``code`` is the reason.

    ``no-sky``, ``too-few-stars``, ``trailed``, ``no-position-hint``, ``catalogue-too-sparse``, ``no-match`` or
    ``not-verified``.
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
        self, data: NDArray[Any], *, max_stars: int = ..., saturation_adu: float | None = ...
    ) -> StarList:
        """Return the frame's stars, brightest first."""
        ...


class Solver(Protocol):
    """Proposes a WCS for a star list."""

    def solve(self, stars: StarList, hint: Hint, catalog: CatalogProvider, *, budget_s: float = ...) -> Candidate:
        """Return a candidate, or raise `Unsolved`."""
        ...


class Refiner(Protocol):
    """Improves a candidate with all stars and the optics' distortion."""

    def __call__(self, candidate: Candidate, stars: StarList, catalog: CatalogProvider) -> WcsFit:
        """Return the best WCS, or raise `Unsolved`."""
        ...


class Verifier(Protocol):
    """Decides whether a WCS may be believed: one rule for every solver."""

    def __call__(self, fit: WcsFit, stars: StarList) -> Verdict:
        """Return the verdict with its grounds."""
        ...
