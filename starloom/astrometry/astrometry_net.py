"""Blind solving with astrometry.net's engine, a separate program (Debian: ``astrometry.net`` and index files)."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from starloom.astrometry.child import Ended, run_limited
from starloom.astrometry.detect import StarList
from starloom.astrometry.hints import header_wcs_cards
from starloom.astrometry.seams import Candidate, ScaleRange, Unsolved

#: Where Debian's packages ``astrometry-data-*`` put their index files.
INDEX_FOLDERS = (Path("/usr/share/astrometry"), Path("/usr/local/share/astrometry"))
# Sixty stars solved as many simulated frames as a hundred.
STARS = 60


@dataclass(frozen=True)
class AstrometryNet:
    """The engine behind ``solve-field``, without the Python programs around it.

    Parameters
    ----------
    program
        Name or path of ``astrometry-engine``.
    folders
        Where index files are looked for.

    References
    ----------
    Lang et al. 2010, AJ 139, 1782.
    """

    program: str = "astrometry-engine"
    folders: tuple[Path, ...] = INDEX_FOLDERS

    name = "astrometry.net"

    def absent(self, stars: StarList, scales: ScaleRange) -> str:
        """Return why it cannot try, empty where it can."""
        if shutil.which(self.program) is None:
            return "astrometry.net is not installed"
        return "" if self._index_folders() else "astrometry.net has no index files"

    def solve(self, stars: StarList, scales: ScaleRange, *, cpu_s: float, wall_s: float) -> Candidate:
        """Find a linear WCS anywhere on the sky, without believing it yet.

        Parameters
        ----------
        stars
            Detected stars, brightest first.
        scales
            Plate scales to look between.
        cpu_s, wall_s
            Seconds of CPU and of the clock after which the program is killed.

        Raises
        ------
        Unsolved
            ``no-match``: it found nothing, or it hung, crashed or answered nonsense, which its message says.
        """
        with tempfile.TemporaryDirectory(prefix="starloom-blind-") as name:
            folder = Path(name)
            self._write_job(folder, stars, scales, cpu_s)
            program = shutil.which(self.program) or self.program
            ended = run_limited(
                [program, "-c", folder / "engine.cfg", folder / "stars.axy"],
                folder=folder,
                # Its own limit comes first: then it ends in order.
                cpu_s=cpu_s + 1.0,
                wall_s=wall_s,
            )
            return self._answer(folder, ended)

    def _index_folders(self) -> list[Path]:
        return [folder for folder in self.folders if any(folder.glob("index-*.fits"))]

    def _write_job(self, folder: Path, stars: StarList, scales: ScaleRange, cpu_s: float) -> None:
        """Write its configuration and what it calls an augmented x,y list (what ``solve-field`` hands to it)."""
        paths = "".join(f"add_path {path}\n" for path in self._index_folders())
        # In parallel: all indexes are open at once, and a pattern is looked up in each; six times as fast.
        (folder / "engine.cfg").write_text(f"inparallel\n{paths}autoindex\n", encoding="utf-8")
        few = stars.brightest(STARS)
        ny, nx = stars.shape
        head = fits.Header()
        head["IMAGEW"], head["IMAGEH"] = nx, ny
        head["ANRUN"], head["ANTWEAK"] = True, False
        head["ANCLIM"] = max(int(np.ceil(cpu_s)), 1)
        head["ANXCOL"], head["ANYCOL"] = "X", "Y"
        head["ANVERUNI"], head["ANVERDUP"] = True, False
        head["ANAPPL1"], head["ANAPPU1"] = scales.low_arcsec, scales.high_arcsec
        head["ANWCS"] = "found.wcs"
        head["ANSOLVED"] = "found.ok"
        # Its pixels count from one.
        columns = [
            fits.Column(key, "E", array=values)
            for key, values in (("X", few.x + 1.0), ("Y", few.y + 1.0), ("FLUX", few.flux))
        ]
        table = fits.BinTableHDU.from_columns(columns)
        fits.HDUList([fits.PrimaryHDU(header=head), table]).writeto(folder / "stars.axy")

    def _answer(self, folder: Path, ended: Ended) -> Candidate:
        answer = folder / "found.wcs"
        if not answer.is_file():
            raise Unsolved(f"{self.name} {ended.fault or 'found nothing'}", code="no-match")
        try:
            cards = header_wcs_cards(fits.getheader(answer))
        except (OSError, ValueError, fits.VerifyError):
            cards = None
        if cards is None:
            raise Unsolved(f"{self.name} answered with what is no WCS", code="no-match")
        # How many stars it matched stands in another file; the refiner counts for itself.
        return Candidate(cards, 0, self.name)
