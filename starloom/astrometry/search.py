"""The search: rung after rung, until a WCS is believed or nothing is left to try."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from starloom.astrometry.blind import ANY_SCALE, blind_solvers, scale_ranges, worth_it
from starloom.astrometry.detect import StarList, detect_stars
from starloom.astrometry.hints import apart_deg, wider_hints
from starloom.astrometry.refine import WcsFit, refine_wcs
from starloom.astrometry.seams import (
    BlindSolver,
    Candidate,
    CatalogProvider,
    Detector,
    Hint,
    Refiner,
    Solver,
    Unsolved,
    Verifier,
)
from starloom.astrometry.solve import SeizaSolver
from starloom.astrometry.verify import Verdict, judge

if TYPE_CHECKING:
    from starloom.astrometry.instrument import InstrumentModel

# With at least this many catalogue stars on the frame practically every frame solves; below, it is the field's
# luck.
DENSE_STARS = 20
# CPU seconds of one blind attempt, within a scale that somebody named and otherwise. One that succeeds takes 0.15
# CPU-s (median of 90 simulated frames; 95 % within 1.4).
BLIND_NAMED_S, BLIND_S = 3.0, 2.0
# Wall-clock seconds per CPU second: waiting for the disk or for others is no fault of a program.
PATIENCE = 4.0
# A look at a place where the frame would hold fewer than this is a waste.
HOPELESS_STARS = 4
ATTEMPT_S = 4.0
# A solved frame this much further off than its hint allowed was led astray.
ASTRAY_DEG = 0.5
# A frame of so many stars that match nothing anywhere is a good frame with a wrong hint, rather than a bad one.
GOOD_STARS = 30
# Fewer, some of which are none, make no pattern that could be told from chance.
FEW_STARS = 16


@dataclass(frozen=True)
class Parts:
    """The exchangeable parts of plate solving."""

    detector: Detector = detect_stars
    solver: Solver = field(default_factory=SeizaSolver)
    refiner: Refiner = refine_wcs
    verifier: Verifier = judge
    blind: Sequence[BlindSolver] = field(default_factory=blind_solvers)


@dataclass(frozen=True)
class Task:
    """What is to be solved and with what.

    Parameters
    ----------
    stars
        The frame's stars.
    catalog
        Reference catalogue.
    own
        The network's own stars of the field, tried where the catalogue is too sparse; None: there are none.
    epoch
        Julian year of the frame; None: unknown.
    instrument
        What earlier frames taught of the instrument.
    given
        Hints that somebody gave, the most trusted first.
    scan
        Makes the hints of a scan over plate scales.
    blind
        Whether the whole sky may be searched.
    """

    stars: StarList
    catalog: CatalogProvider
    own: CatalogProvider | None = None
    epoch: float | None = None
    instrument: InstrumentModel | None = None
    given: Sequence[Hint] = ()
    scan: Callable[[], Iterable[Hint]] = tuple
    blind: bool = True


class Search:
    """Goes up the ladder until a WCS is believed.

    The rungs, from cheap to dear: near the hints, on few stars and on many (20 and 100 ms an attempt); the
    network's own stars, where the catalogue is too sparse; wider circles; a scan over plate scales where nobody
    named one; the whole sky, within the named scales and beyond (seconds); the scan although a scale was named.
    """

    def __init__(self, parts: Parts, task: Task, deadline: float) -> None:
        self.parts, self.task, self.deadline = parts, task, deadline
        self.fit: WcsFit | None = None
        self.verdict: Verdict | None = None
        self.solver = self.source = ""
        self.flags: tuple[str, ...] = ()
        self.tried: list[str] = []
        self._trials = 0
        self._out_of_time = False
        self._density: dict[tuple[float, float], float] = {}

    def run(self) -> None:
        """Search; ``fit`` is the believed WCS, if any, and ``tried`` what was tried."""
        given, named = list(self.task.given), any(not hint.guessed_scale for hint in self.task.given)
        blind = self.task.blind
        rungs: list[Callable[[], bool]] = [
            lambda: self._near(given, deep=False),
            lambda: self._near(given, deep=True),
            lambda: self._own(given),
            lambda: self._near(wider_hints(given), deep=False),
            lambda: not named and self._scan(self.task.catalog, deep=True),
            lambda: not named and self.task.own is not None and self._scan(self.task.own, deep=True),
            lambda: blind and self._blind(),
            lambda: named and self._scan(self.task.catalog, deep=False),
        ]
        for rung in rungs:
            if rung() or self._late():
                return

    def _near(self, hints: Iterable[Hint], *, deep: bool) -> bool:
        return any(self._hinted(hint, self.task.catalog, deep=deep) for hint in hints)

    def _own(self, given: list[Hint]) -> bool:
        own = self.task.own
        if own is None or not given or max(map(self._on_frame, given)) >= DENSE_STARS:
            return False
        return any(self._hinted(hint, own, deep=deep) for deep in (False, True) for hint in given)

    def _scan(self, catalog: CatalogProvider, *, deep: bool) -> bool:
        hints = list(self.task.scan())
        looks = (False, True) if deep else (False,)
        return any(self._hinted(hint, catalog, deep=look) for look in looks for hint in hints)

    def _hinted(self, hint: Hint, catalog: CatalogProvider, *, deep: bool) -> bool:
        if self._late() or (catalog is self.task.catalog and self._on_frame(hint) < HOPELESS_STARS):
            return False
        own = " (own stars)" if catalog is self.task.own else ""
        self._note(hint.source + own)
        try:
            candidate = self.parts.solver.solve(
                self.task.stars,
                hint,
                catalog,
                budget_s=max(min(ATTEMPT_S, self.deadline - time.monotonic()), 0.05),
                epoch=self.task.epoch,
                deep=deep,
            )
        except Unsolved:
            return False
        return self._believed(candidate, catalog, hint.source, candidate.solver + own)

    def _blind(self) -> bool:
        stars, named = self.task.stars, bool(self.task.given)
        for scales in scale_ranges(self.task.given):
            if not worth_it(stars.shape, scales):
                continue
            cpu_s = BLIND_NAMED_S if named and scales is not ANY_SCALE else BLIND_S
            for solver in self.parts.blind:
                if self._late():
                    return False
                absent = solver.absent(stars, scales)
                self._note(f"blind: {absent or solver.name}")
                if absent:
                    continue
                try:
                    left = max(self.deadline - time.monotonic(), 0.1)
                    candidate = solver.solve(stars, scales, cpu_s=cpu_s, wall_s=min(PATIENCE * cpu_s, left))
                except Unsolved as unsolved:
                    # What a program died of is worth knowing; that it found nothing goes without saying.
                    if not unsolved.message.endswith("found nothing"):
                        self._note(f"blind: {unsolved.message}")
                    continue
                if self._believed(candidate, self.task.catalog, "whole sky", candidate.solver):
                    self._astray()
                    return True
        return False

    def _believed(self, candidate: Candidate, catalog: CatalogProvider, source: str, solver: str) -> bool:
        self._trials += 1
        try:
            fit = self.parts.refiner(
                candidate, self.task.stars, catalog, epoch=self.task.epoch, instrument=self.task.instrument
            )
        except Unsolved:
            return False
        verdict = self.parts.verifier(fit, self.task.stars, trials=self._trials)
        if verdict.accepted:
            self.fit, self.solver, self.source = fit, solver, source
            self.verdict = verdict
        elif self.verdict is None or verdict.log10_false_alarm < self.verdict.log10_false_alarm:
            self.verdict = verdict  # the nearest to being believed is the one worth telling of
        return verdict.accepted

    def _astray(self) -> None:
        assert self.fit is not None
        found = self.fit.map
        if self.task.given and not any(
            apart_deg(found.ra0_deg, found.dec0_deg, hint.ra_deg, hint.dec_deg) < hint.radius_deg + ASTRAY_DEG
            for hint in self.task.given
        ):
            self.flags = ("wrong-hint",)

    def _late(self) -> bool:
        self._out_of_time = self._out_of_time or time.monotonic() > self.deadline
        return self._out_of_time

    def _note(self, what: str) -> None:
        if what not in self.tried:
            self.tried.append(what)

    def failure(self) -> tuple[str, str]:
        """Return the most telling reason, and it in words."""
        stars, given = self.task.stars, list(self.task.given)
        if stars.trailed:
            return "trailed", f"stars are drawn out (ellipticity {stars.frame_ellipticity:.2f})"
        if stars.defocused:
            return "defocused", f"stars are discs of {stars.frame_fwhm_px:.0f} px"
        places = given or list(self.task.scan())
        if not places:
            return "no-position-hint", "neither header nor mission says where the frame points"
        # A scan reaches scales at which any frame would hold stars enough, so only what was said counts.
        most = max(map(self._on_frame, given), default=None)
        late = ", time ran out" if self._out_of_time else ""
        if most is not None and most < DENSE_STARS:
            return "catalogue-too-sparse", f"the catalogue has about {most:.0f} stars on the frame{late}"
        if self.verdict is not None and self.verdict.doubtful:
            return "not-verified", "; ".join(self.verdict.faults) + late
        if len(stars) < FEW_STARS:
            return "too-few-stars", f"{len(stars)} stars, which match the catalogue nowhere near the hints{late}"
        if given and len(stars) >= GOOD_STARS:
            return "wrong-hint", f"{len(stars)} stars, and none of the places named holds their pattern{late}"
        return "no-match", f"{len(stars)} stars match the catalogue nowhere near the hints{late}"

    def _on_frame(self, hint: Hint) -> float:
        """Estimate how many catalogue stars the frame holds if the hint is right."""
        if hint.scale_arcsec is None:
            return float("inf")
        ny, nx = self.task.stars.shape
        area = nx * ny * (hint.scale_arcsec / 3600) ** 2
        place = round(hint.ra_deg, 4), round(hint.dec_deg, 4)
        if place not in self._density:
            # A degree of sky, or what the frame covers: enough stars to count, and where the frame may lie.
            radius = float(np.clip(np.sqrt(area / np.pi), 1.0, 20.0))
            self._density[place] = len(self.task.catalog.cone(*place, radius)) / (np.pi * radius**2)
        return self._density[place] * area
