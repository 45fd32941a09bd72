"""Blind solving of wide fields with tetra3rs (extra ``blind``): milliseconds, once its database was built."""

from __future__ import annotations

import importlib.util
import struct
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from starloom.astrometry.detect import StarList
from starloom.astrometry.seams import Candidate, CatalogProvider, ScaleRange, Unsolved
from starloom.errors import BadInput
from starloom.settings import default_home

# Narrower fields would need patterns of fainter stars: 1 GB of them for 0.8 degrees.
NARROWEST_DEG, WIDEST_DEG = 1.5, 20.0
# 80 MB, built in 16 CPU-s; solved 52 of 52 simulated frames of 1.5 to 15 degrees in 7 ms each (median).
FAINTEST_MAG = 10.0
PATTERNS_PER_FIELD, FIELD_OVERSAMPLING, STARS_PER_FIELD = 8, 12, 50
STARS = 60
# Steps of the sweep over field widths, and how far the solver looks to either side of each.
SWEEP_STEP, SWEEP_TOLERANCE = 1.32, 0.15
# Distance of a match as a fraction of the field: distortion moves stars by up to 20 px near the corners.
MATCH_RADIUS = 0.005
STEP_MS = 400

_HEADER = struct.Struct("<4sIQ")
_STAR = np.dtype(
    [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("mag", "<f4"), ("pm_ra", "<f4"), ("pm_dec", "<f4")]
)


def default_database() -> Path:
    """Return where the pattern database is kept."""
    return default_home() / "blind" / "tetra3rs.bin"


@dataclass(frozen=True)
class TetraSolver:
    """Patterns of four stars, looked up in a database.

    Parameters
    ----------
    database
        File that `build_database` wrote.

    References
    ----------
    Brown, Stubis & Cahoy 2017, "TETRA: star identification with hash tables"; the crate ``tetra3``.
    """

    database: Path = field(default_factory=default_database)

    name = "tetra3rs"

    def absent(self, stars: StarList, scales: ScaleRange) -> str:
        """Return why it cannot try, empty where it can."""
        if stars.shape[1] * scales.high_arcsec / 3600 < NARROWEST_DEG:
            return "tetra3rs knows fields from 1.5 deg on"
        if importlib.util.find_spec("tetra3rs") is None:
            return "tetra3rs is not installed"
        return "" if self.database.is_file() else "tetra3rs has no pattern database (starloom blind-index)"

    def solve(self, stars: StarList, scales: ScaleRange, *, cpu_s: float, wall_s: float) -> Candidate:
        """Find a linear WCS anywhere on the sky, without believing it yet.

        Parameters
        ----------
        stars
            Detected stars, brightest first.
        scales
            Plate scales to look between; what is outside the database's field widths is left out.
        cpu_s, wall_s
            Seconds of CPU and of the clock there are; one thread, so the less of the two counts.

        Raises
        ------
        Unsolved
            ``no-match``: it found nothing.
        """
        database = _opened(self.database, self.database.stat().st_mtime_ns)
        few = stars.brightest(STARS)
        ny, nx = stars.shape
        # Its pixels count from the middle of the frame.
        rows = np.stack([few.x - (nx - 1) / 2, few.y - (ny - 1) / 2, few.flux], axis=1)
        widths = sweep(nx, scales)
        for width in widths:
            found = database.solve_from_centroids(
                rows,
                fov_estimate_deg=width,
                fov_max_error_deg=SWEEP_TOLERANCE * width,
                image_shape=stars.shape,
                match_radius=MATCH_RADIUS,
                solve_timeout_ms=int(min(STEP_MS, 1000 * min(cpu_s, wall_s) / len(widths))) + 1,
            )
            if found:
                return Candidate(_cards(found, stars.shape), int(found.num_matches), self.name)
        raise Unsolved("tetra3rs found nothing", code="no-match")


def sweep(nx: int, scales: ScaleRange) -> list[float]:
    """Return the field widths (deg) to try, so that with the tolerance of each no scale is left out."""
    low = max(nx * scales.low_arcsec / 3600, NARROWEST_DEG)
    high = min(nx * scales.high_arcsec / 3600, WIDEST_DEG)
    if high < low:
        return []
    steps = max(int(np.ceil(np.log(high / low) / np.log(SWEEP_STEP))), 1)
    ratio = (high / low) ** (1 / steps)
    return [float(low * ratio ** (k + 0.5)) for k in range(steps)]


def build_database(catalog: CatalogProvider, path: Path, *, faintest_mag: float = FAINTEST_MAG) -> int:
    """Build the pattern database of a catalogue; replaces the file in one go.

    Parameters
    ----------
    catalog
        Reference catalogue.
    path
        File to write.
    faintest_mag
        Faintest star to use.

    Returns
    -------
    int
        Number of patterns.

    Raises
    ------
    BadInput
        ``not-installed``: the extra ``blind`` is missing.
    """
    try:
        import tetra3rs
    except ImportError:
        raise BadInput(
            "tetra3rs is not installed", code="not-installed", hint="pip install 'starloom[blind]'"
        ) from None
    sky = catalog.cone(0.0, 90.0, 180.0)
    bright = sky.mag < faintest_mag
    stars = np.zeros(int(bright.sum()), _STAR)
    stars["id"] = np.arange(1, len(stars) + 1)
    stars["ra"], stars["dec"], stars["mag"] = sky.ra_deg[bright], sky.dec_deg[bright], sky.mag[bright]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as folder:
        # Its only way in is a file of its own format: Tycho-2 in Gaia's clothes, at rest.
        source, target = Path(folder) / "stars.bin", Path(folder) / "patterns.bin"
        source.write_bytes(_HEADER.pack(b"GDR3", 1, len(stars)) + stars.tobytes())
        database = tetra3rs.SolverDatabase.generate_from_gaia(
            str(source),
            max_fov_deg=WIDEST_DEG,
            min_fov_deg=NARROWEST_DEG,
            star_max_magnitude=faintest_mag,
            lattice_field_oversampling=FIELD_OVERSAMPLING,
            patterns_per_lattice_field=PATTERNS_PER_FIELD,
            verification_stars_per_fov=STARS_PER_FIELD,
            epoch_proper_motion_year=None,
        )
        database.save_to_file(str(target))
        target.replace(path)
    return int(database.num_patterns)


@cache
def _opened(path: Path, version: int) -> Any:
    """Open a database once per process; ``version`` makes a rebuilt one another."""
    import tetra3rs

    try:
        return tetra3rs.SolverDatabase.load_from_file(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise Unsolved(
            f"the pattern database {path} cannot be read: {error}",
            code="no-match",
            hint="Build it again: starloom blind-index.",
        ) from error


def _cards(found: Any, shape: tuple[int, int]) -> dict[str, Any]:
    ny, nx = shape
    cd = np.degrees(np.asarray(found.cd_matrix, np.float64))
    x, y = (float(v) for v in found.crpix)
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": float(found.crval_ra_deg),
        "CRVAL2": float(found.crval_dec_deg),
        "CRPIX1": (nx + 1) / 2 + x,
        "CRPIX2": (ny + 1) / 2 + y,
        **{f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in (0, 1) for j in (0, 1)},
    }
