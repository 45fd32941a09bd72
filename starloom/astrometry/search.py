"""The search: hint after hint, until a WCS is believed or nothing is left to try."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from starloom.astrometry.detect import StarList, detect_stars
from starloom.astrometry.refine import WcsFit, refine_wcs
from starloom.astrometry.seams import CatalogProvider, Detector, Hint, Refiner, Solver, Unsolved, Verifier
from starloom.astrometry.solve import SeizaSolver
from starloom.astrometry.verify import Verdict, judge

# With fewer catalogue stars on the frame hardly any solver succeeds (measured on Tycho-2).
SPARSE_STARS = 10
QUICK_STARS = 60
ATTEMPT_S = 4.0


@dataclass(frozen=True)
class Parts:
    """The exchangeable parts of plate solving."""

    detector: Detector = detect_stars
    solver: Solver = field(default_factory=SeizaSolver)
    refiner: Refiner = refine_wcs
    verifier: Verifier = judge


class Search:
    """Goes down the ladder of hints until a WCS is believed."""

    def __init__(self, parts: Parts, catalog: CatalogProvider, stars: StarList, deadline: float) -> None:
        self.parts, self.catalog, self.stars, self.deadline = parts, catalog, stars, deadline
        self.fit: WcsFit | None = None
        self.verdict: Verdict | None = None
        self.solver = self.source = ""
        self._steps: list[Hint] = []
        self._tried: list[str] = []
        self._out_of_time = False

    def run(self, ladder: Iterable[Hint]) -> list[str]:
        """Return the sources of the hints tried; ``fit`` is the believed WCS, if any."""
        self._steps = list(ladder)
        # Failing on few stars takes a fifth of the time of failing on many, and few suffice nearly always.
        for depth in (QUICK_STARS, len(self.stars)):
            for hint in self._steps:
                if time.monotonic() > self.deadline:
                    self._out_of_time = True
                    return self._tried
                if self._attempt(hint, self.stars.brightest(depth)):
                    return self._tried
            if len(self.stars) <= QUICK_STARS:
                break
        return self._tried

    def _attempt(self, hint: Hint, few: StarList) -> bool:
        if hint.source not in self._tried:
            self._tried.append(hint.source)
        try:
            candidate = self.parts.solver.solve(few, hint, self.catalog, budget_s=ATTEMPT_S)
            fit = self.parts.refiner(candidate, self.stars, self.catalog)
        except Unsolved:
            return False
        self.verdict = self.parts.verifier(fit, self.stars)
        if self.verdict.accepted:
            self.fit, self.solver, self.source = fit, candidate.solver, hint.source
        return self.verdict.accepted

    def failure(self) -> tuple[str, str]:
        """Return the most telling reason, and it in words."""
        if not self._steps:
            return "no-position-hint", "neither header nor mission says where the frame points"
        if self.stars.trailed:
            return "trailed", f"stars are drawn out (ellipticity {self.stars.frame_ellipticity:.2f})"
        if self.verdict is not None:
            return "not-verified", "; ".join(self.verdict.faults)
        # A scan reaches scales at which any frame would hold stars enough, so what was said counts first.
        said = [hint for hint in self._steps if not hint.guessed_scale]
        most = max(self._catalog_stars(hint) for hint in said or self._steps)
        if most < SPARSE_STARS:
            return "catalogue-too-sparse", f"the catalogue has about {most} stars on the frame"
        late = ", time ran out" if self._out_of_time else ""
        return "no-match", f"{len(self.stars)} stars match the catalogue nowhere near the hints{late}"

    def _catalog_stars(self, hint: Hint) -> int:
        """Estimate how many catalogue stars the frame holds if the hint is right."""
        if hint.scale_arcsec is None:
            return 0
        ny, nx = self.stars.shape
        area = nx * ny * (hint.scale_arcsec / 3600) ** 2
        radius = float(np.clip(np.sqrt(area / np.pi), 0.3, 20.0))
        found = len(self.catalog.cone(hint.ra_deg, hint.dec_deg, radius))
        return int(found * area / (np.pi * radius**2))
