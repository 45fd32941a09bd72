"""What a solver made of a frame, held against the truth, and tables of it."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
from optics import grid
from skyframes import ENOUGH_STARS, SkyFrame

from starloom.astrometry import SolveOutcome, solve_pixels

# A solution further off than this is another field's.
FALSE_CENTRE_PX = 10.0
FALSE_SCALE = 0.01
# Below, an accuracy says more about luck than about the fit.
ENOUGH_MATCHES = 25

Row = dict[str, Any]


def cpu_s() -> float:
    """CPU seconds of this process and of its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def solve_and_score(frame: SkyFrame, **options: Any) -> tuple[Row, SolveOutcome]:
    """Solve a frame through the public door and score it."""
    options.setdefault("blind", frame.blind)
    before = cpu_s()
    outcome = solve_pixels(frame.data, frame.header, **options)
    cost = cpu_s() - before
    row: Row = {
        "kind": frame.kind,
        "seed": frame.seed,
        "catalogued": frame.catalogued,
        "detected": 0 if outcome.stars is None else len(outcome.stars),
        "reason": outcome.reason,
        "message": outcome.message[:160],
        "right_reason": outcome.reason in frame.right_reasons,
        "matches": outcome.matches,
        "order": outcome.order,
        "solver": outcome.solver,
        "cpu_s": round(cost, 4),
        "fwhm_px": round(frame.fwhm_px, 2),
        "about": frame.about,
        "must_solve": frame.catalogued >= ENOUGH_STARS and not frame.misled,
        "outcome": "refused",
    }
    if outcome.solved:
        row |= _accuracy(frame, outcome)
    return row, outcome


def _accuracy(frame: SkyFrame, outcome: SolveOutcome) -> Row:
    if frame.optics is None:
        return {"outcome": "FALSE", "centre_px": None}
    ny, nx = frame.optics.shape
    middle = np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])
    centre = float(np.hypot(*frame.optics.errors_px(outcome.wcs_cards, *middle))[0])
    scale = abs(outcome.scale_arcsec / frame.optics.scale_arcsec - 1)
    if not (centre <= FALSE_CENTRE_PX and scale <= FALSE_SCALE):
        return {"outcome": "FALSE", "centre_px": None if np.isinf(centre) else centre}
    dx, dy = frame.optics.errors_px(outcome.wcs_cards, *grid(frame.optics.shape))
    found: Row = {"outcome": "solved", "centre_px": centre, "rms_px": float(np.sqrt(np.mean(dx**2 + dy**2)))}
    assert outcome.fit is not None
    # A mosaic is fitted on its cells, whose pixels are not the frame's.
    if "BAYERPAT" not in frame.header:
        corners = np.array([0, nx - 1, nx - 1, 0.0]), np.array([0, 0, ny - 1, ny - 1.0])
        for name, at in (("centre", middle), ("corners", corners)):
            dx, dy = frame.optics.errors_px(outcome.wcs_cards, *at)
            stated = np.asarray(outcome.fit.error_px(*at), float)
            # One sigma per axis: the mean square over both axes.
            found[f"{name}_ratio2"] = float(np.mean((dx**2 + dy**2) / 2 / stated**2))
    return found


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row a kind."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return [_summary(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds]


def _summary(kind: str, rows: Sequence[Row]) -> Row:
    solved = [r for r in rows if r["outcome"] == "solved"]
    refused = [r for r in rows if r["outcome"] == "refused"]
    rich = [r for r in rows if r["must_solve"]]
    rms = [r["rms_px"] for r in solved if r["matches"] >= ENOUGH_MATCHES]
    return {
        "": kind,
        "frames": len(rows),
        "solved": len(solved),
        "false": sum(r["outcome"] == "FALSE" for r in rows),
        f"with ≥ {ENOUGH_STARS} stars": _of([r["outcome"] == "solved" for r in rich]),
        "reason right": _of([r["right_reason"] for r in refused]),
        "rms px median": _number(np.median(rms)) if rms else "",
        "p90": _number(np.percentile(rms, 90)) if rms else "",
        "error/stated centre": _ratio(solved, "centre_ratio2"),
        "corners": _ratio(solved, "corners_ratio2"),
        "CPU-s median": _number(np.median([r["cpu_s"] for r in rows])),
    }


def _of(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} of {len(flags)}" if flags else ""


def _number(value: float) -> str:
    return f"{value:.3f}"


def _ratio(rows: Sequence[Row], name: str) -> str:
    found = [r[name] for r in rows if name in r]
    return _number(float(np.sqrt(np.mean(found)))) if found else ""


def failures(rows: Sequence[Row]) -> list[Row]:
    """False acceptances, frames that should have been solved, refusals for a wrong reason."""
    return [r for r in rows if r["outcome"] == "FALSE" or (r["outcome"] == "refused" and not r["right_reason"])]


def print_failures(rows: Sequence[Row]) -> None:
    bad = failures(rows)
    if bad:
        print(f"\n{len(bad)} failures: kind seed · catalogue stars · detected · outcome · about")
    for r in bad:
        print(
            f"  {r['kind']} {r['seed']} · {r['catalogued']} · {r['detected']} · "
            f"{r['outcome'] if r['outcome'] == 'FALSE' else r['reason']} · FWHM {r['fwhm_px']} px, {r['about']}"
            f"{' · ' + r['message'] if r['message'] else ''}"
        )
