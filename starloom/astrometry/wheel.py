"""Blind solving with the GPL wheel ``astrometry`` (extra ``blind-gpl``), in a process of its own.

The wheel holds the same engine as `starloom.astrometry.astrometry_net`, for machines without Debian's package. It
has no time-out of its own, and its licence is not ours: both are reasons for the separate process.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from starloom.astrometry.astrometry_net import INDEX_FOLDERS, STARS
from starloom.astrometry.child import run_limited
from starloom.astrometry.detect import StarList
from starloom.astrometry.hints import header_wcs_cards
from starloom.astrometry.seams import Candidate, ScaleRange, Unsolved

CHILD = Path(__file__).with_name("wheel_child.py")
# Opening 300 MB of index files takes the wheel a second before it begins.
START_S = 2.0


@dataclass(frozen=True)
class AstrometryWheel:
    """The wheel's solver.

    Parameters
    ----------
    folders
        Where index files are looked for.
    """

    folders: tuple[Path, ...] = INDEX_FOLDERS

    name = "astrometry (wheel)"

    def absent(self, stars: StarList, scales: ScaleRange) -> str:
        """Return why it cannot try, empty where it can."""
        try:
            # By its metadata: a module of this name may be anybody's.
            importlib.metadata.version("astrometry")
        except importlib.metadata.PackageNotFoundError:
            return "the wheel astrometry is not installed"
        return "" if self._indexes() else "the wheel astrometry has no index files"

    def solve(self, stars: StarList, scales: ScaleRange, *, cpu_s: float, wall_s: float) -> Candidate:
        """Find a linear WCS anywhere on the sky; see `AstrometryNet.solve`."""
        few = stars.brightest(STARS)
        job = {
            "x": (few.x + 1.0).tolist(),
            "y": (few.y + 1.0).tolist(),
            "low": scales.low_arcsec,
            "high": scales.high_arcsec,
            "indexes": self._indexes(),
        }
        with tempfile.TemporaryDirectory(prefix="starloom-blind-") as name:
            folder = Path(name)
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            ended = run_limited(
                # -P: our own modules must not stand in for those that the wheel imports.
                [sys.executable, "-P", CHILD, folder / "job.json", folder / "answer.json"],
                folder=folder,
                cpu_s=cpu_s + START_S,
                wall_s=wall_s + START_S,
            )
            try:
                answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
                cards = header_wcs_cards(answer)
            except (OSError, ValueError, TypeError):
                raise Unsolved(f"{self.name} {ended.fault or 'found nothing'}", code="no-match") from None
        if cards is None:
            raise Unsolved(f"{self.name} found nothing", code="no-match")
        return Candidate(cards, 0, self.name)

    def _indexes(self) -> list[str]:
        return [str(path) for folder in self.folders for path in sorted(folder.glob("index-*.fits"))]
