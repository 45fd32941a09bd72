"""A share of the fuzzing that docs/security.md reports, in every run of the tests."""

from __future__ import annotations

from pathlib import Path

from tests.security.fuzz import Trial, attempts, real_seeds
from tests.security.mutations import small_seeds


def test_no_file_breaks_a_promise(tmp_path: Path) -> None:
    seeds = [*small_seeds(tmp_path), *real_seeds()]
    trial = Trial(tmp_path)
    try:
        attempts(trial, seeds, 150, 1)
    finally:
        trial.examiner.close()
    assert trial.tally.broken == []
    assert trial.tally.files >= 140
    assert trial.tally.accepted_fraction >= 0.3
    assert len(trial.tally.refused) >= 5
    assert 0 < trial.tally.peak_bytes <= 512 * 2**20
