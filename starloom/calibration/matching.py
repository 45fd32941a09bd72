"""Which masters fit a frame, by size, binning, gain, offset, temperature, exposure, filter and date, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from starloom.calibration.mosaic import calibration_state

Kind = Literal["bias", "dark", "flat", "defects"]


@dataclass(frozen=True)
class MatchOptions:
    """How far a master may be from a frame.

    Attributes
    ----------
    temperature_c
        Dark current doubles every 6 °C: 2 °C are 25 % of it.
    exposure
        Relative difference up to which a dark is taken as it is; beyond, it is scaled, which needs a bias.
    dark_scale
        Smallest and greatest factor by which a dark is scaled.
    bias_days, dark_days, flat_days, defects_days
        A flat is soonest out of date: dust moves and cameras are turned.
    """

    temperature_c: float = 2.0
    exposure: float = 0.02
    dark_scale: tuple[float, float] = (0.05, 5.0)
    bias_days: float = 365.0
    dark_days: float = 180.0
    flat_days: float = 45.0
    defects_days: float = 365.0

    def days(self, kind: Kind) -> float:
        """Return the window of a kind, days."""
        return float(getattr(self, f"{kind}_days"))


@dataclass(frozen=True)
class FrameFacts:
    """What decides whether a frame and a master belong together; None: the header does not say."""

    kind: str
    width: int
    height: int
    binning: int = 1
    gain: float | None = None
    offset_adu: float | None = None
    temperature_c: float | None = None
    exposure_s: float | None = None
    filter: str | None = None
    start: datetime | None = None
    calstat: str | None = None


@dataclass(frozen=True)
class MasterFacts:
    """A master as the matching sees it; ``valid_from`` and ``valid_to`` are the first and last frame's times."""

    id: int
    facts: FrameFacts
    valid_from: datetime
    valid_to: datetime
    n_frames: int = 0


@dataclass(frozen=True)
class Match:
    """The masters of a frame.

    Attributes
    ----------
    bias, dark, flat, defects
        Ids of masters, None where none fits or none is needed.
    dark_scale
        Factor of the dark current; 1 takes the dark as it is, bias included.
    flags
        ``uncalibrated``, ``no-dark``, ``no-flat``: what remains undone.
    reasons
        Per kind, why there is none, or what makes the match doubtful.
    """

    bias: int | None = None
    dark: int | None = None
    flat: int | None = None
    defects: int | None = None
    dark_scale: float | None = None
    flags: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.bias is self.dark is self.flat is self.defects is None


def facts_of(normalised: Mapping[str, Any], shape: tuple[int, ...], kind: str) -> FrameFacts:
    """Describe a frame.

    Parameters
    ----------
    normalised
        Values by name, from `starloom.frames.normalise`.
    shape
        ``(ny, nx)`` of the file's pixels: frames of one camera are trimmed alike.
    """
    setting = normalised.get("gain_setting")
    gain = setting if setting is not None else normalised.get("gain_e_per_adu")
    return FrameFacts(
        kind=kind,
        width=shape[1],
        height=shape[0],
        binning=int(normalised.get("binning") or 1),
        gain=_number(gain),
        offset_adu=_number(normalised.get("offset_setting")),
        temperature_c=_number(normalised.get("sensor_temp_c")),
        exposure_s=_number(normalised.get("exposure_s")),
        filter=normalised.get("filter"),
        start=_moment(normalised.get("start_utc")),
        calstat=normalised.get("calstat"),
    )


def match(light: FrameFacts, masters: Sequence[MasterFacts], options: MatchOptions | None = None) -> Match:
    """Choose the masters of a frame; what has no match is flagged, never refused.

    What ``CALSTAT`` says was done is not done again. A frame that was flat-fielded gets no dark any more: it would
    have to be divided by the same flat.
    """
    options = options or MatchOptions()
    done = {letter for letter in (light.calstat or "").upper() if letter in "BDF"}
    chosen: dict[str, int | None] = dict.fromkeys(("bias", "dark", "flat", "defects"))
    reasons: dict[str, str] = {}
    scale: float | None = None
    if "F" in done:
        reasons |= dict.fromkeys(("bias", "dark", "flat"), f"CALSTAT {light.calstat}: done before it was sent")
    else:
        found, reasons["flat"] = _nearest("flat", light, masters, options)
        chosen["flat"] = found.id if found else None
        if "D" in done:
            reasons |= dict.fromkeys(("bias", "dark"), f"CALSTAT {light.calstat}: done before it was sent")
        else:
            bias, why_no_bias = _nearest("bias", light, masters, options)
            dark, scale, why_no_dark = _dark(light, masters, bias, "B" in done, options)
            chosen["dark"] = dark.id if dark else None
            reasons["dark"] = why_no_dark
            # A dark of the same exposure holds the bias already; using both would only add noise.
            needed = "B" not in done if dark is None else (scale != 1.0 or "B" in done)
            if bias is not None and needed:
                chosen["bias"] = bias.id
            reasons["bias"] = why_no_bias
    known_bad, reasons["defects"] = _nearest("defects", light, masters, options)
    chosen["defects"] = known_bad.id if known_bad else None
    letters = done | ({"B"} if chosen["bias"] else set()) | ({"D"} if chosen["dark"] else set())
    letters |= {"F"} if chosen["flat"] else set()
    _, flags = calibration_state("".join(sorted(letters)))
    return Match(
        **chosen,
        dark_scale=scale,
        flags=tuple(flags),
        reasons={kind: why for kind, why in reasons.items() if why},
    )


def _dark(
    light: FrameFacts,
    masters: Sequence[MasterFacts],
    bias: MasterFacts | None,
    bias_done: bool,
    options: MatchOptions,
) -> tuple[MasterFacts | None, float | None, str]:
    """Return the dark, its factor and the reason against one."""
    if light.exposure_s is None:
        return None, None, "the frame does not say its exposure"
    fitting, why = _fitting("dark", light, masters, options)
    same = [m for m in fitting if exposures_agree(m.facts.exposure_s, light.exposure_s, options.exposure)]
    if same and not (bias_done and bias is None):
        return _closest(light, same), 1.0, ""
    if bias is None:
        if same:
            return None, None, "CALSTAT B, and no bias to take out of the dark"
        return None, None, why or "no dark of this exposure, and no bias to scale another with"
    low, high = options.dark_scale
    scalable = [m for m in fitting if m.facts.exposure_s and low <= light.exposure_s / m.facts.exposure_s <= high]
    if not scalable:
        return None, None, why or "every dark is too short or too long to be scaled"
    # The nearest exposure first: scaling down a long dark adds less noise than scaling up a short one.
    best = min(scalable, key=lambda m: (light.exposure_s > m.facts.exposure_s, _days(light, m)))  # type: ignore[operator]
    assert best.facts.exposure_s is not None
    return best, light.exposure_s / best.facts.exposure_s, ""


def _nearest(
    kind: Kind, light: FrameFacts, masters: Sequence[MasterFacts], options: MatchOptions
) -> tuple[MasterFacts | None, str]:
    fitting, why = _fitting(kind, light, masters, options)
    return (_closest(light, fitting), "") if fitting else (None, why)


def _closest(light: FrameFacts, masters: Sequence[MasterFacts]) -> MasterFacts:
    return min(masters, key=lambda m: (round(_days(light, m)), _away(light, m), -m.n_frames, -m.id))


def _fitting(
    kind: Kind, light: FrameFacts, masters: Sequence[MasterFacts], options: MatchOptions
) -> tuple[list[MasterFacts], str]:
    """Return the masters of a kind that fit, or the reason against the last one left."""
    left = [m for m in masters if m.facts.kind == kind]
    if not left:
        return [], f"no {kind} of this instrument"
    for what, fits_ in (
        ("size", lambda m: (m.facts.width, m.facts.height) == (light.width, light.height)),
        ("binning", lambda m: m.facts.binning == light.binning),
        ("gain", lambda m: kind == "defects" or _close(m.facts.gain, light.gain, 0.01)),
        ("offset", lambda m: kind in ("flat", "defects") or _close(m.facts.offset_adu, light.offset_adu, 0.0)),
        (
            "temperature",
            lambda m: kind != "dark" or _within(m.facts.temperature_c, light.temperature_c, options.temperature_c),
        ),
        ("filter", lambda m: kind != "flat" or filter_name(m.facts.filter) == filter_name(light.filter)),
        ("date", lambda m: _days(light, m) <= options.days(kind)),
    ):
        left = [m for m in left if fits_(m)]
        if not left:
            return [], f"no {kind} of this {what}"
    return left, ""


def _days(light: FrameFacts, master: MasterFacts) -> float:
    """Return the days between a frame and the nearest end of what a master was made of, 0 within."""
    if light.start is None:
        return 0.0
    before = (master.valid_from - light.start).total_seconds()
    after = (light.start - master.valid_to).total_seconds()
    return max(0.0, before, after) / 86400.0


def _away(light: FrameFacts, master: MasterFacts) -> float:
    mine, theirs = light.temperature_c, master.facts.temperature_c
    return abs(mine - theirs) if mine is not None and theirs is not None else 0.0


def _close(a: float | None, b: float | None, relative: float) -> bool:
    return a is None or b is None or abs(a - b) <= relative * max(abs(a), abs(b)) + 1e-9


def _within(a: float | None, b: float | None, tolerance: float) -> bool:
    return a is None or b is None or abs(a - b) <= tolerance


def exposures_agree(a: float | None, b: float | None, relative: float) -> bool:
    """Tell whether two exposures (s) are known and differ by less than ``relative`` of the longer, or 1 ms."""
    return a is not None and b is not None and abs(a - b) <= relative * max(a, b) + 1e-3


def filter_name(text: str | None) -> str:
    """Return a filter's name as it is compared: case and blanks do not count."""
    return " ".join((text or "").split()).lower()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None
