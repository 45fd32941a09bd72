"""One vocabulary for all capture programs' headers: value, the keyword it came from, and how far to trust it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

from astropy.io import fits

from starloom.frames.answers import Entry, NormalisedHeader
from starloom.frames.profiling import Confidence, Profile, Rule, generic, profile_of, rules_for
from starloom.frames.reading import (
    UNITS,
    HeaderView,
    angle,
    from_days,
    instant,
    right_ascension,
    to_utc,
)
from starloom.frames.solution import Solution, solution_of

#: Beyond these a number is a default, a sentinel or another quantity: exclusive where 0 means "not set".
_RANGES: dict[str, tuple[float, float]] = {
    "exposure_s": (0.0, 1e6),
    "focal_length_mm": (1.0, 1e5),
    "aperture_mm": (5.0, 5e4),
    "pixel_size_um": (0.3, 200.0),
    "scale_arcsec": (0.01, 3600.0),
    "rotation_deg": (-360.0, 360.0),
    "gain_e_per_adu": (1e-4, 1e3),
    "gain_setting": (0.0, 1e6),
    "offset_setting": (0.0, 1e6),
    "pedestal_adu": (-1e5, 1e5),
    "sensor_temp_c": (-150.0, 80.0),
    "saturation_adu": (100.0, 1e10),
    "site_elev_m": (-500.0, 9000.0),
    "airmass": (1.0, 40.0),
    "focus_position": (-1e9, 1e9),
    "ambient_temp_c": (-90.0, 60.0),
    "dewpoint_c": (-100.0, 50.0),
    "humidity_pct": (0.0, 100.0),
    "pressure_hpa": (300.0, 1100.0),
    "wind_speed_m_s": (0.0, 150.0),
    "wind_gust_m_s": (0.0, 150.0),
    "wind_dir_deg": (0.0, 360.0),
    "cloud_cover_pct": (0.0, 100.0),
    "sky_minus_ambient_c": (-90.0, 40.0),
    "sky_brightness_mag_arcsec2": (5.0, 25.0),
}
#: Differences have a unit's size and not its zero.
_DIFFERENCES = ("sky_minus_ambient_c",)
#: Of a filter, a camera, an object: what a column of the archive holds.
_MAX_NAME = 64
_TEXTS = ("software", "filter", "calstat", "object", "camera", "telescope")
_RANK: dict[Confidence, int] = {"high": 0, "medium": 1, "low": 2}
#: DATE-OBS and MJD-OBS may differ by rounding; a forgotten time zone differs by at least half an hour.
_SAME_TIME = timedelta(minutes=20)


def normalise(header: fits.Header) -> NormalisedHeader:
    """Say what a header truly tells, whoever wrote it. Never raises on a header, however odd.

    Returns
    -------
    NormalisedHeader
        Notable meanings: ``ra_deg``/``dec_deg`` are the image's centre where ``solved``, else the noted pointing;
        ``pixel_size_um`` is the effective pixel, after binning; ``gain_setting`` is the camera's dial (or ISO),
        ``offset_setting`` its other one, ``gain_e_per_adu`` electrons; ``pedestal_adu`` is what was added to the
        pixels (-PEDESTAL); ``exposure_s`` of a stack is the sum; longitudes count east; ``bayer_pattern`` has
        XBAYROFF and YBAYROFF applied, not ROWORDER.
    """
    view = HeaderView(header)
    return _Reader(view, profile_of(view)).read()


def electrons_per_adu(header: fits.Header) -> float | None:
    """Return a header's ``gain_e_per_adu`` alone, in a tenth of the time that `normalise` takes."""
    view = HeaderView(header)
    gain = _Reader(view, profile_of(view)).number("gain_e_per_adu").value
    return None if gain is None else float(gain)


def _worst(*confidences: Confidence | None) -> Confidence:
    return max((c for c in confidences if c), key=lambda c: _RANK[c])


class _Reader:
    """One header under one profile."""

    def __init__(self, header: HeaderView, profile: Profile) -> None:
        self.header = header
        self.profile = profile
        self.found: dict[str, Entry] = {}
        self.stacked = any(test.holds(header) for test in (*generic().stack, *profile.stack)) or self._summed()

    @cached_property
    def solution(self) -> Solution | None:
        return solution_of(self.header, mount_writes_wcs=self.profile.wcs == "mount")

    def number(self, name: str) -> Entry:
        """Return one of the plain numbers."""
        return self._first(name, partial(self._number, name))

    def _summed(self) -> bool:
        total, single = self.header.number("TOTALEXP"), self.header.number("EXPTIME")
        return total is not None and single is not None and total > 1.5 * single > 0

    def read(self) -> NormalisedHeader:
        for name in _TEXTS:
            self.found[name] = self._first(name, self._text)
        self.found["calstat"] = self._calibration()
        self.found["frame_type"] = self._frame_type()
        self.found["binning"] = self._first("binning", self._binning)
        for name in _RANGES:
            if name not in ("pixel_size_um", "scale_arcsec", "rotation_deg"):
                self.found[name] = self.number(name)
        self.found["pixel_size_um"] = self._first("pixel_size_um", self._pixel_size)
        self.found["bayer_pattern"] = self._first("bayer_pattern", self._bayer)
        self.found["row_order"] = self._first("row_order", self._row_order)
        self.found["start_utc"] = self._start()
        self._place("pointing", "ra_deg", "dec_deg", lambda x, rule: right_ascension(x, self._unit(rule)))
        self._place("site", "site_lon_deg", "site_lat_deg", lambda x, rule: angle(x, 360.0))
        self._astrometry()
        return NormalisedHeader(self.found, f"{self.profile.profile}@{self.profile.version}")

    def _first(self, name: str, read: Callable[[Rule], Entry]) -> Entry:
        """Try the quantity's rules in order; a card that says nothing leaves a note."""
        notes: list[str] = []
        for rule in rules_for(self.profile, name):
            if not rule.applies(self.header, self.stacked):
                continue
            entry = read(rule)
            if entry.value is not None:
                return entry
            note = entry.note or f"{rule.keyword} = {self.header.text(rule.keyword) or 'blank'}: not set"
            if note not in notes:
                notes.append(note)
        return Entry(note="; ".join(notes[:3]))

    def _said(self, rule: Rule, value: Any, *notes: str, confidence: Confidence | None = None) -> Entry:
        note = "; ".join(note for note in (rule.note, *notes) if note)
        return Entry(value, rule.keyword, _worst(rule.confidence, confidence), note)

    def _text(self, rule: Rule) -> Entry:
        text = self.header.text(rule.keyword)[:_MAX_NAME].strip()
        return self._said(rule, text) if text and re.search(r"\w", text) else Entry()

    def _unit(self, rule: Rule) -> str:
        bracket = re.match(r"\s*\[([^\]]+)\]", self.header.comment(rule.keyword))
        return bracket[1] if bracket and bracket[1] in UNITS else rule.unit

    def _number(self, name: str, rule: Rule) -> Entry:
        number = self.header.number(rule.keyword)
        if number is None:
            return Entry()
        if rule.parse == "divide":
            divisor = self.header.number(rule.partner)
            if not divisor or divisor <= 0:
                return Entry(note=f"no {rule.partner}")
            number /= divisor
        factor, offset = UNITS.get(self._unit(rule), (1.0, 0.0))
        if name in _DIFFERENCES:
            offset = 0.0
        value = round(number * factor * rule.scale + offset, 9) + 0.0
        low, high = _RANGES[name]
        if not low <= value <= high:
            what = "not set" if number == 0 else "no possible value"
            return Entry(note=f"{rule.keyword} = {self.header.text(rule.keyword)}: {what}")
        return self._said(rule, value)

    def _frame_type(self) -> Entry:
        entry = self._first("frame_type", self._frame_type_of)
        if self.stacked:
            what = f"combined from frames of type {entry.value}" if entry.value else "combined from several frames"
            mark = next((test.keyword for test in generic().stack if test.holds(self.header)), "TOTALEXP")
            return Entry("stack", mark, "medium" if mark == "NAXIS3" else "high", what)
        return entry

    def _frame_type_of(self, rule: Rule) -> Entry:
        text = self.header.text(rule.keyword)
        for kind, pattern in generic().frame_types.items():
            if re.search(pattern, text, re.IGNORECASE):
                return self._said(rule, kind)
        return Entry(note=f"{rule.keyword} = {text!r}: not a type we know" if text else "")

    def _calibration(self) -> Entry:
        """Let HISTORY speak where CALSTAT is missing: calibrating twice ruins a frame."""
        entry = self.found["calstat"]
        if entry.value is not None:
            return entry
        marks = (("B", r"bias subtraction"), ("D", r"dark subtraction"), ("F", r"flat[ -]field"))
        letters = "".join(c for c, pattern in marks if re.search(pattern, self.header.remarks, re.IGNORECASE))
        if letters:
            return Entry(letters, "HISTORY", "medium", "from the steps named in HISTORY")
        if re.search(r"^\s*process calibrate", self.header.remarks, re.IGNORECASE | re.MULTILINE):
            return replace(entry, note="HISTORY says calibrated, not with what")
        return entry

    def _binning(self, rule: Rule) -> Entry:
        text = self.header.text(rule.keyword)
        factors = [int(digits) for digits in re.findall(r"\d+", text.split(".")[0])]
        if rule.partner and self.header.number(rule.partner) is not None:
            factors.append(int(self.header.number(rule.partner) or 0))
        if not factors or not all(1 <= factor <= 32 for factor in factors):
            return Entry()
        if len(set(factors)) > 1:
            return Entry(note=f"unequal binning {'x'.join(map(str, factors))}")
        return self._said(rule, factors[0])

    def _pixel_size(self, rule: Rule) -> Entry:
        size = self.header.number(rule.keyword)
        if size is None or size <= 0:
            return Entry()
        comment = self.header.comment(rule.keyword)
        says = re.search(r"(after|with) binning|\bbinned", comment, re.IGNORECASE) is not None
        binned = True if rule.binned is None and says else rule.binned
        factor = self.found["binning"].value
        note, value = "effective pixel, after binning", size
        doubt: Confidence | None = None
        if binned is False:
            if factor is None:
                return Entry(note=f"{rule.keyword} is the unbinned size, and the binning is not known")
            value = size * factor
        elif binned is None and factor != 1:
            doubt = "low"
            note += "; assumed, the header does not say whether the size includes binning"
        value = round(value, 6)
        low, high = _RANGES["pixel_size_um"]
        return self._said(rule, value, note, confidence=doubt) if low <= value <= high else Entry()

    def _bayer(self, rule: Rule) -> Entry:
        pattern = self.header.text(rule.keyword).upper()
        if not re.fullmatch(r"[RGB]{4}", pattern):
            return Entry()
        dx, dy = (int(self.header.number(key) or 0) % 2 for key in ("XBAYROFF", "YBAYROFF"))
        if not dx and not dy:
            return self._said(rule, pattern)
        shifted = "".join(pattern[2 * ((row + dy) % 2) + (column + dx) % 2] for row in (0, 1) for column in (0, 1))
        return self._said(rule, shifted, f"{pattern} shifted by XBAYROFF, YBAYROFF", confidence="medium")

    def _row_order(self, rule: Rule) -> Entry:
        text = self.header.text(rule.keyword).upper().replace("_", "-").replace(" ", "-")
        return self._said(rule, text) if text in ("TOP-DOWN", "BOTTOM-UP") else Entry()

    def _start(self) -> Entry:
        entry = self._first("start_utc", self._instant)
        if entry.keyword == "DATE-OBS" and self.header.text("DATE-LOC") == self.header.text("DATE-OBS"):
            note = "equals DATE-LOC: the site keeps UTC, or this is local time"
            entry = replace(
                entry, confidence=_worst("medium", entry.confidence), note=f"{entry.note} {note}".strip()
            )
        mjd = self.header.number("MJD-OBS")
        said = from_days(mjd, "mjd") if mjd is not None and mjd % 1 else None
        if entry.value is None or said is None or entry.keyword in ("MJD-OBS", "MJD-BEG"):
            return entry
        apart = abs(entry.value - said)
        exposure = self.found["exposure_s"].value or 0.0
        if apart <= _SAME_TIME + timedelta(seconds=exposure):
            return entry
        note = f"{entry.keyword} is {apart.total_seconds() / 3600:.2f} h from MJD-OBS: it may be local time"
        return Entry(said, "MJD-OBS", "low", note)

    def _instant(self, rule: Rule) -> Entry:
        if rule.parse in ("mjd", "jd"):
            days = self.header.number(rule.keyword)
            # A whole MJD is a date without a time of day; a whole JD is noon, and as unlikely.
            moment = from_days(days, rule.parse) if days is not None and days % 1 else None
        else:
            text, rest = self.header.text(rule.keyword), self.header.text(rule.partner)
            if rule.partner and not rest:
                return Entry(note=f"{rule.keyword} without {rule.partner}")
            moment = instant(text, rest)
            if moment is not None and not re.search(r"T.*[+-]\d\d:?\d\d$", text):
                moment = to_utc(moment, self.header.text("TIMESYS"))
        if moment is None:
            return Entry()
        if rule.ref == "start":
            return self._said(rule, moment)
        exposure = self.found["exposure_s"].value
        if exposure is None:
            return Entry(note=f"{rule.keyword} is the {rule.ref} of an exposure of unknown length")
        return self._said(rule, moment - timedelta(seconds=exposure * (0.5 if rule.ref == "mid" else 1.0)))

    def _place(self, quantity: str, lon: str, lat: str, read: Callable[[Any, Rule], float | None]) -> None:
        """Read a pair of angles; 0, 0 is what programs write when they know nothing."""

        def pair(rule: Rule) -> Entry:
            first, second = self.header.raw(rule.keyword), self.header.raw(rule.partner)
            if first is None or second is None:
                return Entry(note=f"{rule.keyword} without {rule.partner}")
            x, y = read(first, rule), angle(second, 90.0)
            if x is None or y is None or (x == 0 and y == 0):
                return Entry()
            return self._said(rule, (x * rule.scale, y), "" if lon != "ra_deg" else self._equinox(rule))

        entry = self._first(quantity, pair)
        if entry.value is None:
            self.found[lon] = self.found[lat] = entry
            return
        x, y = entry.value
        if lon == "site_lon_deg":
            x = (x + 180) % 360 - 180
        rule = next(r for r in rules_for(self.profile, quantity) if r.keyword == entry.keyword)
        self.found[lon] = replace(entry, value=round(x, 9))
        self.found[lat] = replace(entry, value=round(y, 9), keyword=rule.partner)

    def _equinox(self, rule: Rule) -> str:
        """Warn of coordinates of date: mounts report them, and by 2026 they are 0.36 deg from J2000."""
        stated = any(key in self.header for key in ("EQUINOX", "RADESYS", "RADECSYS", "EPOCH"))
        return "" if stated or "2000" in self.header.comment(rule.keyword) else "equinox not stated"

    def _astrometry(self) -> None:
        """Let a solution overrule what was noted, and derive the plate scale where nothing states it."""
        self.found["solved"] = Entry(self.solution is not None, "CTYPE1" if self.solution else None, "high")
        if self.solution is not None:
            note = "from the solution in the header"
            for name in ("ra_deg", "dec_deg", "scale_arcsec", "rotation_deg"):
                where = {"ra_deg": "CRVAL1", "dec_deg": "CRVAL2"}.get(name, "CD1_1")
                what = {"scale_arcsec": note, "rotation_deg": f"{note}: +y axis, from north through east"}
                value = round(getattr(self.solution, name), 7)
                self.found[name] = Entry(value, where, "high", what.get(name, f"image centre, {note}"))
            return
        self.found["rotation_deg"] = self._first("rotation_deg", partial(self._number, "rotation_deg"))
        scale = self._first("scale_arcsec", partial(self._number, "scale_arcsec"))
        pixel, focal = self.found["pixel_size_um"], self.found["focal_length_mm"]
        if scale.value is None and pixel.value and focal.value:
            scale = Entry(
                round(206.264806 * pixel.value / focal.value, 6),
                f"{pixel.keyword}/{focal.keyword}",
                _worst("medium", pixel.confidence, focal.confidence),
                "from pixel size and focal length",
            )
        self.found["scale_arcsec"] = scale
