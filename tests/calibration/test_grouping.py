"""Which calibration frames make one master."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from starloom.calibration.grouping import CalFrame, GroupOptions, groups
from starloom.calibration.matching import FrameFacts

NIGHT = datetime(2026, 3, 1, 22, tzinfo=UTC)
FACTS = FrameFacts("dark", 400, 300, gain=100.0, temperature_c=-10.0, exposure_s=60.0, filter="V", start=NIGHT)


def series(prefix: str, n: int, *, days: float = 0.0, **changes: Any) -> list[CalFrame]:
    start = NIGHT + timedelta(days=days)
    return [
        CalFrame(f"{prefix}{k}", replace(FACTS, **{"start": start + timedelta(minutes=k), **changes}))
        for k in range(n)
    ]


def found(frames: list[CalFrame], **options: Any) -> list[list[str]]:
    random.Random(1).shuffle(frames)
    return [group.ids for group in groups(frames, GroupOptions(**options))]


def names(prefix: str, n: int) -> list[str]:
    return sorted(f"{prefix}{k}" for k in range(n))


def test_settings_keep_series_apart_and_biases_come_first() -> None:
    frames = [
        *series("f", 4, kind="flat"), *series("d", 5), *series("e", 3, exposure_s=120.0),
        *series("b", 6, kind="bias", exposure_s=0.0), *series("g", 3, gain=0.0), *series("o", 3, offset_adu=20.0),
        *series("w", 3, width=200), *series("n", 3, binning=2), *series("r", 3, kind="flat", filter="R"),
        *series("u", 3, gain=None), *series("x", 3, kind="light"),
    ]  # fmt: skip
    made = found(frames)
    assert made[0] == names("b", 6)
    assert {tuple(ids) for ids in made} == {
        tuple(names(p, n)) for p, n in zip("bdegownfru", (6, 5, 3, 3, 3, 3, 3, 4, 3, 3), strict=True)
    }
    assert [ids[0][0] in "fr" for ids in made] == [False] * 8 + [True] * 2


def test_darks_within_a_degree_belong_together() -> None:
    frames = []
    for k, temperature in enumerate((-10.0, -9.8, -9.4, -9.0, -8.9, -8.0, None)):
        frames += series(f"t{k}", 1, temperature_c=temperature, days=k / 100)
    assert found(frames) == [["t60"], ["t00", "t10", "t20", "t30"], ["t40", "t50"]]


def test_exposures_agree_to_two_per_cent() -> None:
    frames = [*series("a", 2), *series("b", 2, exposure_s=60.5), *series("c", 2, exposure_s=62.0)]
    assert found(frames) == [[*names("a", 2), *names("b", 2)], names("c", 2)]


def test_a_pause_begins_another_master() -> None:
    frames = [*series("a", 3), *series("b", 3, days=10), *series("c", 3, days=40), *series("d", 3, days=50)]
    assert found(frames) == [sorted(names("a", 3) + names("b", 3)), sorted(names("c", 3) + names("d", 3))]
    flats = [
        *series("a", 3, kind="flat"),
        *series("b", 3, kind="flat", days=1),
        *series("c", 3, kind="flat", days=3),
    ]
    assert found(flats) == [sorted(names("a", 3) + names("b", 3)), names("c", 3)]


def test_a_master_covers_a_limited_time_and_number() -> None:
    frames = [frame for week in range(12) for frame in series(f"w{week:02d}-", 1, days=7 * week)]
    made = found(frames)
    assert [len(ids) for ids in made] == [9, 3]  # 60 days at most
    (many,) = found(series("m", 9), most=5)
    assert many == [f"m{k}" for k in range(4, 9)]  # the newest


def test_three_are_enough_and_frames_without_a_time_do_not_count() -> None:
    (group,) = groups(series("a", 3))
    assert group.complete
    (group,) = groups([*series("a", 2), *series("b", 1, start=None)])
    assert not group.complete
    assert group.ids == names("a", 2)


def test_what_a_group_has_in_common_is_its_middle() -> None:
    frames = [*series("a", 1), *series("b", 1, temperature_c=-9.6), *series("c", 1, temperature_c=-9.1)]
    (group,) = groups(frames)
    assert group.facts.temperature_c == -9.6


def test_what_follows_a_finished_master_is_grouped_as_if_all_were_given() -> None:
    """The frames of months ago are not read; those that are still to come into masters are grouped alike."""
    frames = [frame for week in range(30) for frame in series(f"w{week:02d}-", 1, days=7 * week)]
    frames = [replace(frame, received=frame.facts.start) for frame in frames]
    first, second, *others = found([*frames])
    made = NIGHT + timedelta(days=400)
    finished = dict.fromkeys((*first, *second), made)
    assert [group.ids for group in groups(frames[12:], finished=finished)] == others  # begins in the second
    # One of the second's time that came after it was made is no part of it; of those that were there none is left.
    late = replace(series("late", 1, days=70)[0], received=made + timedelta(days=1))
    there = replace(series("there", 1, days=70)[0], received=made - timedelta(days=1))
    assert [group.ids for group in groups([*frames, late, there], finished=finished)] == [["late0"], *others]
