"""Which calibration frames become one master: alike in size, settings and temperature, and taken together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from starloom.calibration.masters import MIN_FRAMES
from starloom.calibration.matching import FrameFacts, exposures_agree, filter_name

#: Order in which masters are built: a dark's current needs a bias, a flat one of the two.
BUILD_ORDER = ("bias", "dark", "flat")


@dataclass(frozen=True)
class GroupOptions:
    """How alike calibration frames must be to make one master.

    Attributes
    ----------
    temperature_c
        Greatest range of sensor temperatures, °C.
    exposure
        Greatest relative difference of exposures of darks.
    gap_days
        By kind: a longer pause begins another master. A flat's dust is that of its night.
    span_days
        By kind: what one master covers at most.
    most
        Frames of one master, the newest; with more, its noise is far below that of a light in any case.
    """

    temperature_c: float = 1.0
    exposure: float = 0.02
    gap_days: dict[str, float] = field(default_factory=lambda: {"bias": 14.0, "dark": 14.0, "flat": 1.5})
    span_days: dict[str, float] = field(default_factory=lambda: {"bias": 60.0, "dark": 60.0, "flat": 4.0})
    most: int = 60


@dataclass(frozen=True)
class CalFrame:
    """A calibration frame as grouping sees it; `received` is when it came."""

    id: str
    facts: FrameFacts
    received: datetime | None = None


@dataclass(frozen=True)
class Group:
    """Calibration frames that make one master, oldest first."""

    kind: str
    frames: tuple[CalFrame, ...]

    @property
    def ids(self) -> list[str]:
        """Their ids, sorted: what identifies the group."""
        return sorted(frame.id for frame in self.frames)

    @property
    def complete(self) -> bool:
        """Whether there are enough frames to outvote a cosmic ray."""
        return len(self.frames) >= MIN_FRAMES

    @property
    def facts(self) -> FrameFacts:
        """What the frames have in common; temperature and exposure are those of the middle one."""
        by_temperature = sorted(self.frames, key=lambda f: f.facts.temperature_c or 0.0)
        return by_temperature[len(by_temperature) // 2].facts


def groups(
    frames: Iterable[CalFrame],
    options: GroupOptions | None = None,
    finished: Mapping[str, datetime] | None = None,
) -> list[Group]:
    """Sort calibration frames of one instrument into masters, in the order in which they are to be built.

    Parameters
    ----------
    frames
        Biases, darks and flats; others, and those without a start, are passed over.
    options
        See `GroupOptions`.
    finished
        When the master of a frame was made that stays as it is. What follows such a master is grouped as if all
        frames before it were still given.

    Notes
    -----
    A frame whose header does not say its temperature or gain is alike to others of its kind that do not say it.
    """
    options = options or GroupOptions()
    found: list[Group] = []
    usable = [f for f in frames if f.facts.kind in BUILD_ORDER and f.facts.start is not None]
    for kind in BUILD_ORDER:
        members = sorted((f for f in usable if f.facts.kind == kind), key=_settings)
        for _, alike in itertools.groupby(members, key=_settings):
            for same in _by_exposure(list(alike), kind, options):
                for cool in _by_temperature(same, options):
                    parts = _by_date(_unfinished(cool, finished or {}), kind, options)
                    found += [Group(kind, tuple(part[-options.most :])) for part in parts]
    return found


def _settings(frame: CalFrame) -> tuple[object, ...]:
    facts = frame.facts
    numbers = (facts.width, facts.height, facts.binning, _sortable(facts.gain), _sortable(facts.offset_adu))
    return (*numbers, filter_name(facts.filter) if facts.kind == "flat" else "", (facts.calstat or "").upper())


def _sortable(value: float | None) -> float:
    return -1.0 if value is None else value


def _by_exposure(frames: list[CalFrame], kind: str, options: GroupOptions) -> list[list[CalFrame]]:
    if kind != "dark":
        return [frames]
    ordered = sorted(frames, key=lambda f: _sortable(f.facts.exposure_s))
    return _cut(ordered, lambda first, f: _same(first.facts.exposure_s, f.facts.exposure_s, options.exposure))


def _same(a: float | None, b: float | None, tolerance: float) -> bool:
    return a is b is None or exposures_agree(a, b, tolerance)


def _by_temperature(frames: list[CalFrame], options: GroupOptions) -> list[list[CalFrame]]:
    ordered = sorted(frames, key=lambda f: (f.facts.temperature_c is not None, f.facts.temperature_c or 0.0))

    def alike(first: CalFrame, other: CalFrame) -> bool:
        a, b = first.facts.temperature_c, other.facts.temperature_c
        return a is b is None or (a is not None and b is not None and b - a <= options.temperature_c + 1e-9)

    return _cut(ordered, alike)


def _unfinished(frames: list[CalFrame], finished: Mapping[str, datetime]) -> list[CalFrame]:
    """Return frames by date, without those that were there when a master of them or of later ones was finished."""
    kept: list[CalFrame] = []
    made: datetime | None = None
    for frame in sorted(frames, key=lambda f: (f.facts.start, f.id), reverse=True):
        made = max((at for at in (made, finished.get(frame.id)) if at is not None), default=None)
        if made is None or frame.received is None or frame.received > made:
            kept.append(frame)
    return kept[::-1]


def _by_date(ordered: list[CalFrame], kind: str, options: GroupOptions) -> list[list[CalFrame]]:
    gap, span = options.gap_days[kind] * 86400, options.span_days[kind] * 86400
    parts: list[list[CalFrame]] = []
    for frame in ordered:
        last = parts[-1] if parts else None
        if last is not None and _seconds(last[-1], frame) <= gap and _seconds(last[0], frame) <= span:
            last.append(frame)
        else:
            parts.append([frame])
    return parts


def _seconds(first: CalFrame, second: CalFrame) -> float:
    assert first.facts.start is not None
    assert second.facts.start is not None
    return (second.facts.start - first.facts.start).total_seconds()


def _cut(ordered: Sequence[CalFrame], alike: Callable[[CalFrame, CalFrame], bool]) -> list[list[CalFrame]]:
    """Cut an ordered run of frames wherever one is no longer like the first of its part."""
    parts: list[list[CalFrame]] = []
    for frame in ordered:
        if parts and alike(parts[-1][0], frame):
            parts[-1].append(frame)
        else:
            parts.append([frame])
    return parts
