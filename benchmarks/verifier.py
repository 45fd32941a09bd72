"""The verifier alone, against candidates that nobody solved for: how often does it believe a wrong WCS?

    python benchmarks/verifier.py [--random N] [--aligned N] [--refined N] [--seed S] [--json FILE]

Star lists of eleven kinds are offered wrong maps of three kinds:

``random``
    A random place on the sky, rotation, parity and plate scale (0.3 to 8 arcsec/px), as it stands.
``aligned``
    Two bright stars laid upon two catalogue stars, at the frame's true scale to 2 %: what a pattern matcher
    stumbles on. Half of them within a degree of the truth, where its own catalogue stars are.
``refined``
    The same, the best of twenty by the number of stars that hit, and refined: bent until it fits as well as it
    can.

Each candidate is matched within the tolerance that refinement allows at most, and judged. A candidate within 30 px
of the truth is no wrong one and is drawn again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from peers import show  # noqa: E402
from scoring import Row, cpu_s  # noqa: E402

from starloom.astrometry import (  # noqa: E402
    Candidate,
    StarList,
    Unsolved,
    WcsFit,
    detect_stars,
    judge,
    refine_wcs,
)
from starloom.astrometry.refine import MAX_TOLERANCE_PX, match  # noqa: E402
from starloom.astrometry.tangent import project  # noqa: E402
from starloom.astrometry.wcs import PlaneMap, map_from_cards  # noqa: E402
from starloom.frames import read_frame  # noqa: E402
from starloom.refcat import CatalogStars, default_refcat  # noqa: E402
from starloom.sky import tres1_frames  # noqa: E402

Floats = np.ndarray
TRES1 = (286.0408, 36.6326)
SAME_FIELD_PX = 30.0


@dataclass(frozen=True)
class Field:
    """A star list, and where it truly lies if anywhere."""

    name: str
    stars: StarList
    scale_arcsec: float
    truth: PlaneMap | None


def star_list(x: Floats, y: Floats, shape: tuple[int, int], rng: np.random.Generator) -> StarList:
    flux = np.sort(rng.pareto(1.2, len(x)) + 1)[::-1] * 1000
    one = np.ones(len(x))
    base = detect_stars(read_frame(tres1_frames()[0])[0]).brightest(0)
    columns = {name: value for name, value in vars(base).items() if isinstance(value, np.ndarray)}
    made = dict.fromkeys(columns, 0.1 * one) | {
        "x": x, "y": y, "flux": flux, "peak": flux / 10, "fwhm_px": 2.5 * one, "saturated": np.zeros(len(x), bool),
    }  # fmt: skip
    return replace(base, shape=shape, **made)


def fields(rng: np.random.Generator) -> Iterator[Field]:
    """Star lists: a real frame, simulated ones, and everything that is no sky but looks like one."""
    from sets import cluster, realistic, synth

    real = detect_stars(read_frame(tres1_frames()[0])[0])
    yield Field("real (TrES-1)", real, 2.375, None)
    for name, maker, seed in (
        ("sparse", synth, 1036), ("dense", synth, 1017), ("realistic", realistic, 13), ("globular", cluster, 3)
    ):  # fmt: skip
        frame = maker(seed)
        assert frame.optics is not None
        yield Field(name, detect_stars(frame.data), frame.optics.scale_arcsec, _true_map(frame.optics))
    shape = (1365, 2048)
    ny, nx = shape
    for n in (40, 400, 2000):
        yield Field(
            f"{n} at random", star_list(rng.uniform(0, nx, n), rng.uniform(0, ny, n), shape, rng), 2.0, None
        )
    at = rng.normal(0, 90, (2, 1200)) + np.array([[nx / 2], [ny / 2]])
    yield Field("a clump", star_list(*np.clip(at, 0, [[nx - 1], [ny - 1]]), shape, rng), 2.0, None)
    step = np.arange(16, nx - 16, 64)
    grid = np.stack([a.ravel() for a in np.meshgrid(step, step[step < ny - 16])])
    yield Field("a grid", star_list(*(grid + rng.normal(0, 0.2, grid.shape)), shape, rng), 2.0, None)
    x = np.concatenate([np.repeat(rng.uniform(0, nx, 4), 120), rng.uniform(0, nx, 60)])
    yield Field("columns", star_list(x, rng.uniform(0, ny, len(x)), shape, rng), 2.0, None)


def _true_map(optics) -> PlaneMap:
    t, step = np.radians(optics.rotation_deg), optics.scale_arcsec / 3600
    flip = 1.0 if optics.mirrored else -1.0
    cd = step * np.array([[flip * np.cos(t), -np.sin(t)], [flip * np.sin(t), np.cos(t)]])
    return linear_map(optics.ra_deg, optics.dec_deg, cd, optics.shape)


def linear_map(ra: float, dec: float, cd: Floats, shape: tuple[int, int], at: complex | None = None) -> PlaneMap:
    """A linear map about the frame's centre; ``at`` is the pixel of the given sky position, else the centre."""
    ny, nx = shape
    x, y = ((nx - 1) / 2, (ny - 1) / 2) if at is None else (at.real, at.imag)
    cards = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec, "CRPIX1": x + 1, "CRPIX2": y + 1,
        **{f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in (0, 1) for j in (0, 1)},
    }  # fmt: skip
    if at is not None:
        return map_from_cards(cards, shape)
    unit = float(np.hypot(nx, ny) / 2)
    terms = np.concatenate([[[0.0, 0.0]], unit * cd.T])
    return PlaneMap(ra % 360.0, dec, x, y, unit, ((0, 0), (1, 0), (0, 1)), terms)


def turned(scale_arcsec: float, rng: np.random.Generator) -> Floats:
    t, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    return scale_arcsec / 3600 * np.array([[flip * np.cos(t), -np.sin(t)], [flip * np.sin(t), np.cos(t)]])


def as_fit(found: PlaneMap, stars: StarList, nearby: CatalogStars, shape: tuple[int, int]) -> WcsFit:
    """What a refiner would hand over that believed the candidate as it stands."""
    star, known = match(found, stars, nearby, MAX_TOLERANCE_PX, 1.0)
    xi, eta = project(nearby.ra_deg[known], nearby.dec_deg[known], found.ra0_deg, found.dec0_deg)
    px, py = found.plane(stars.x[star], stars.y[star])
    rms = (
        float(np.sqrt(np.mean((px - xi) ** 2 + (py - eta) ** 2))) / (found.scale_arcsec / 3600) if len(star) else 0
    )
    return WcsFit(
        cards={}, map=found, model="linear", order=1, star_index=star, catalog_index=known, within=known,
        catalog=nearby, rms_px=rms, rms_arcsec=rms * found.scale_arcsec, held_out_arcsec=rms,
        tolerance_px=MAX_TOLERANCE_PX, corner_error_px=0.0,
    )  # fmt: skip


def is_true(found: PlaneMap, field: Field) -> bool:
    """Whether a candidate lies in the true field after all (TrES-1's is taken as a whole)."""
    ra, dec = (field.truth.ra0_deg, field.truth.dec0_deg) if field.truth is not None else TRES1
    xi, eta = project(ra, dec, found.ra0_deg, found.dec0_deg)
    if field.truth is None:
        return field.name.startswith("real") and bool(np.hypot(xi, eta) < 1.0)
    if not np.isfinite(xi + eta) or np.hypot(xi, eta) > 1.0:
        return False
    ny, nx = field.stars.shape
    corners = np.array([0, nx - 1, nx / 2]), np.array([0, 0, ny - 1])
    xi, eta = project(*field.truth.sky(*corners), found.ra0_deg, found.dec0_deg)
    px, py = found.plane(*corners)
    return bool((np.hypot(px - xi, py - eta) * 3600 < SAME_FIELD_PX * field.scale_arcsec).all())


class Places:
    """Catalogue stars around random places: a cone costs more than a verdict, so each serves many candidates."""

    def __init__(self, field: Field, rng: np.random.Generator, uses: int = 50) -> None:
        self.field, self.rng, self.uses, self.left = field, rng, uses, 0
        self.reach = float(np.hypot(*field.stars.shape)) / 2 * field.scale_arcsec / 3600

    def __call__(self, near: bool = False) -> tuple[float, float, CatalogStars]:
        if self.left <= 0:
            self.left = self.uses
            if near and self.field.truth is not None:
                self.at = self.field.truth.ra0_deg, self.field.truth.dec0_deg
            else:
                self.at = self.rng.uniform(0, 360), float(np.degrees(np.arcsin(self.rng.uniform(-1, 1))))
            self.stars = default_refcat().cone(*self.at, min(3 * self.reach + 0.5, 30.0))
        self.left -= 1
        return *self.at, self.stars


def random_candidates(field: Field, rng: np.random.Generator) -> Iterator[tuple[PlaneMap, CatalogStars]]:
    place = Places(field, rng)
    while True:
        ra, dec, known = place()
        scale = float(np.exp(rng.uniform(*np.log((0.3, 8.0)))))
        inside = 0.5 * place.reach
        offset = rng.uniform(-inside, inside, 2)
        yield linear_map(
            ra + offset[0] / max(np.cos(np.radians(dec)), 0.05), float(np.clip(dec + offset[1], -90, 90)),
            turned(min(scale, 3 * field.scale_arcsec), rng), field.stars.shape,
        ), known  # fmt: skip


def aligned_candidates(field: Field, rng: np.random.Generator) -> Iterator[tuple[PlaneMap, CatalogStars]]:
    near, far = Places(field, rng, 200), Places(field, rng, 200)
    at = field.stars.x + 1j * field.stars.y
    while True:
        choice = rng.random() < 0.5
        ra, dec, known = (near if choice else far)(choice)
        if len(known) < 8 or len(at) < 8:
            continue
        xi, eta = project(known.ra_deg, known.dec_deg, ra, dec)
        mirror = float(rng.choice([-1, 1]))
        sky = (mirror * xi + 1j * eta) * 3600 / field.scale_arcsec
        a, b = rng.integers(0, min(len(sky), 60), (2, 400))
        i, j = rng.integers(0, min(len(at), 40), (2, 400))
        apart = np.abs(sky[b] - sky[a])
        on = np.abs(at[j] - at[i])
        # Of 400 pairs on either side those whose lengths agree to 2 %: one or a few.
        good = np.flatnonzero((a != b) & (i != j) & (apart > 60) & (np.abs(on - apart) < 0.02 * apart))
        for k in good:
            turn = (sky[b[k]] - sky[a[k]]) / (at[j[k]] - at[i[k]])
            cd = field.scale_arcsec / 3600 * np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
            cd[0] *= mirror
            yield (
                linear_map(
                    float(known.ra_deg[a[k]]), float(known.dec_deg[a[k]]), cd, field.stars.shape, complex(at[i[k]])
                ),
                known,
            )


def attack(field: Field, n: int, rng: np.random.Generator, make: Callable, refine_best_of: int = 0) -> Row:
    """Offer ``n`` wrong candidates; with ``refine_best_of`` every so many-th, the best of them, refined."""
    began, accepted, judged, true, closest, examples = cpu_s(), 0, 0, 0, 0.0, []
    source = make(field, rng)
    best: tuple[int, PlaneMap | None] = (-1, None)
    while judged < n:
        found, known = next(source)
        if is_true(found, field):
            true += 1
            continue
        fit = as_fit(found, field.stars, known, field.stars.shape)
        judged += 1
        verdict = judge(fit, field.stars)
        if refine_best_of:
            best = max(best, (fit.matches, found), key=lambda pair: pair[0])
            if judged % refine_best_of:
                continue
            found, best = best[1], (-1, None)
            try:
                fit = refine_wcs(
                    Candidate(found.cards(field.stars.shape), 0, "adversary"), field.stars, default_refcat()
                )
            except Unsolved:
                continue
            if is_true(fit.map, field):
                continue
            verdict = judge(fit, field.stars)
        closest = min(closest, verdict.log10_false_alarm)
        if verdict.accepted:
            accepted += 1
            examples.append([fit.map.ra0_deg, fit.map.dec0_deg, fit.matches, verdict.log10_false_alarm])
    return {
        "": field.name,
        "stars": len(field.stars),
        "candidates": judged,
        "true ones left out": true,
        "believed": accepted,
        "least log10 P": round(closest, 1),
        "CPU ms each": round(1e3 * (cpu_s() - began) / max(judged, 1), 2),
        "examples": examples[:5],
    }


def control(field: Field) -> Row:
    """The true map of a field that has one must be believed, or refusing proves nothing."""
    assert field.truth is not None
    fit = refine_wcs(Candidate(field.truth.cards(field.stars.shape), 0, "truth"), field.stars, default_refcat())
    verdict = judge(fit, field.stars)
    return {
        "": field.name,
        "matches": fit.matches,
        "believed": verdict.accepted,
        "log10 P": round(verdict.log10_false_alarm, 1),
        "faults": "; ".join(verdict.faults),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=1_000_000)
    parser.add_argument("--aligned", type=int, default=200_000)
    parser.add_argument("--refined", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("verifier.json"))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    known = list(fields(rng))
    controls = [control(field) for field in known if field.truth is not None]
    show("control: the true maps", controls)
    rows: list[Row] = [{"kind": "control", **row} for row in controls]
    for kind, total, make, best_of in (
        ("random", options.random, random_candidates, 0),
        ("aligned", options.aligned, aligned_candidates, 0),
        ("refined", options.refined, aligned_candidates, 20),
    ):
        began = time.monotonic()
        found = [attack(field, total // len(known), rng, make, best_of) for field in known if total]
        rows += [{"kind": kind, **row} for row in found]
        if found:
            show(
                f"{kind}: {sum(r['believed'] for r in found)} of {sum(r['candidates'] for r in found)} believed"
                f" ({time.monotonic() - began:.0f} s)",
                [{k: v for k, v in row.items() if k != "examples"} for row in found],
            )
    options.json.write_text(json.dumps(rows, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
