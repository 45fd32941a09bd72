"""Thousands of broken and hostile files through the examiner: none crashes it, hangs it or fills its memory.

``python -m tests.security.fuzz --count 10000 --seed 1`` prints what became of them (`docs/security.md`); cases
that broke a promise are kept in ``--keep``. Real frames of your own join in with ``--frames FOLDER``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from starloom.errors import BadInput, StarloomError
from starloom.frames import Examined, Examiner, Limits
from starloom.sky.samples import tres1_darks, tres1_frames
from tests.security.mutations import KINDS, Case, Seed, cases, seed_of, small_seeds

#: 10 s of CPU and 512 MB for every file, whatever it claims.
STRICT = Limits(bytes_per_pixel=0, pixels_per_cpu_s=1e15, wall_s=120.0)
#: Files of all kinds that are tried before progress is told.
TURN = 500
TEXTS = ("software", "filter", "calstat", "object", "camera", "telescope")


@dataclass
class Tally:
    """What became of the files."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    distinct: set[bytes] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_bytes: int = 0

    @property
    def files(self) -> int:
        return sum(self.kinds.values())

    @property
    def accepted_fraction(self) -> float:
        return sum(self.accepted.values()) / max(self.files, 1)

    def lines(self) -> list[str]:
        by_kind = ", ".join(f"{kind} {self.accepted[kind]}/{n}" for kind, n in sorted(self.kinds.items()))
        codes = ", ".join(f"{code} {n}" for code, n in self.refused.most_common())
        return [
            f"{self.files} files, {len(self.distinct)} of them distinct; accepted {self.accepted_fraction:.1%}",
            f"accepted of each kind: {by_kind}",
            f"refused: {codes}",
            f"slowest {self.slowest_s:.2f} s, most memory {self.peak_bytes / 2**20:.0f} MB",
            f"promises broken: {len(self.broken)}",
        ]


class Trial:
    """One examiner, and what it did with the files it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.examiner = Examiner(STRICT)
        self.examiner.examine(tres1_frames()[0])  # so that its start is not counted to the first file
        self.tally = Tally()

    def __call__(self, case: Case) -> str | None:
        """Try a file; returns the promise that it broke, if any."""
        path = self.folder / "case.fits"
        path.write_bytes(case.data)
        self.tally.kinds[case.kind] += 1
        self.tally.distinct.add(hashlib.sha256(case.data).digest())
        begun = time.monotonic()
        try:
            problem = self._promises(self.examiner.examine(path))
            self.tally.accepted[case.kind] += 1
        except BadInput as refused:
            self.tally.refused[refused.code] += 1
            problem = self._rightly(case, refused)
        except StarloomError as error:
            problem = f"no refusal but {error.code}: {error.message}"
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - begun)
        self._weigh()
        if problem is not None:
            self.tally.broken.append(f"{case.kind}: {problem}")
        return problem

    def _promises(self, found: Examined) -> str | None:
        """Look whether what the archive gets is plain: short, printable, finite."""
        text = json.dumps(found.header.as_json(), allow_nan=False)
        if len(text) > 40_000:
            return f"a header of {len(text)} characters for the archive"
        values = [str(found.header.value(name) or "") for name in TEXTS]
        bad = [value for value in values if len(value) > 64 or not (value.isascii() and value.isprintable())]
        return f"text {bad[0]!r}" if bad else None

    def _rightly(self, case: Case, refused: BadInput) -> str | None:
        if case.good:
            return f"a good file was refused: {refused.code}: {refused.message}"
        if refused.code == "hostile-file" and "memory" not in refused.message:
            return refused.message
        return None if refused.code and refused.hint else f"no code or hint: {refused.message}"

    def _weigh(self) -> None:
        child = self.examiner._child
        status = Path(f"/proc/{child.pid}/status") if child is not None else None
        if status is not None and status.exists():
            peak = next((line for line in status.read_text().splitlines() if line.startswith("VmPeak")), "0 0")
            self.tally.peak_bytes = max(self.tally.peak_bytes, int(peak.split()[1]) * 1024)


def real_seeds() -> list[Seed]:
    """Take the shipped frames apart: a light frame and a dark of a real telescope."""
    return [seed_of(path) for path in (tres1_frames()[0], tres1_darks()[0])]


def attempts(trial: Trial, seeds: list[Seed], files: int, first_seed: int) -> list[Case]:
    """Try every seed as it is, then as many of each kind of mutation; returns the cases that broke a promise."""
    broken = [case for case in (Case("untouched", each.bytes(), good=True) for each in seeds) if trial(case)]
    for number, kind in enumerate(KINDS):

        @seed(first_seed + number)
        @settings(
            max_examples=max(1, (files - len(seeds)) // len(KINDS)),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases(kind, seeds))
        def go(case: Case) -> None:
            if trial(case) is not None:
                broken.append(case)

        go()
    return broken


def main() -> None:
    """Run as a program; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="distinct files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=Path, default=None)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "starloom-fuzz")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="starloom-fuzz-") as name:
        folder = Path(name)
        seeds = [*small_seeds(folder), *real_seeds()]
        if options.frames is not None:
            seeds += [seed_of(path) for path in sorted(options.frames.rglob("*.fits*"))]
        trial = Trial(folder)
        try:
            for turn in count():
                for case in attempts(trial, seeds, TURN, options.seed + turn * len(KINDS)):
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{len(trial.tally.broken):04d}-{case.kind}.fits").write_bytes(case.data)
                sys.stderr.write(f"{len(trial.tally.distinct)} of {options.count}\n")
                if len(trial.tally.distinct) >= options.count:
                    break
        except KeyboardInterrupt:
            sys.stderr.write("stopped; this is what was done\n")
        trial.examiner.close()
    said = [
        f"{len(seeds)} seeds, {time.monotonic() - begun:.0f} s",
        *trial.tally.lines(),
        *trial.tally.broken[:20],
    ]
    sys.stdout.write("\n".join(said) + "\n")
    sys.exit(1 if trial.tally.broken or trial.tally.accepted_fraction < 0.3 else 0)


if __name__ == "__main__":
    main()
