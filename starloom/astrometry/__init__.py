"""Astrometry: find a frame's stars, solve, refine and judge its WCS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starloom.loading import on_first_use

if TYPE_CHECKING:
    from starloom.astrometry.detect import StarList, detect_stars
    from starloom.astrometry.files import solve_files
    from starloom.astrometry.frame import solve_pixels
    from starloom.astrometry.outcome import SolveOutcome
    from starloom.astrometry.refine import WcsFit, held_out_residual, refine_wcs
    from starloom.astrometry.seams import (
        Candidate,
        CatalogProvider,
        Detector,
        Hint,
        Refiner,
        Solver,
        Unsolved,
        Verifier,
    )
    from starloom.astrometry.search import Parts
    from starloom.astrometry.solve import SeizaSolver
    from starloom.astrometry.solved_file import write_solved
    from starloom.astrometry.verify import Limits, Verdict, judge
    from starloom.astrometry.wcs import PlaneMap

__all__ = [
    "Candidate",
    "CatalogProvider",
    "Detector",
    "Hint",
    "Limits",
    "Parts",
    "PlaneMap",
    "Refiner",
    "SeizaSolver",
    "SolveOutcome",
    "Solver",
    "StarList",
    "Unsolved",
    "Verdict",
    "Verifier",
    "WcsFit",
    "detect_stars",
    "held_out_residual",
    "judge",
    "refine_wcs",
    "solve_files",
    "solve_pixels",
    "write_solved",
]

_HOME = {
    "Candidate": "seams",
    "CatalogProvider": "seams",
    "Detector": "seams",
    "Hint": "seams",
    "Limits": "verify",
    "Parts": "search",
    "PlaneMap": "wcs",
    "Refiner": "seams",
    "SeizaSolver": "solve",
    "SolveOutcome": "outcome",
    "Solver": "seams",
    "StarList": "detect",
    "Unsolved": "seams",
    "Verdict": "verify",
    "Verifier": "seams",
    "WcsFit": "refine",
    "detect_stars": "detect",
    "held_out_residual": "refine",
    "judge": "verify",
    "refine_wcs": "refine",
    "solve_files": "files",
    "solve_pixels": "frame",
    "write_solved": "solved_file",
}

__getattr__ = on_first_use(__name__, _HOME)
