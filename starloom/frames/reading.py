"""Reading single header values: numbers, angles, dates and words as capture programs spell them.

Every function returns None where the text does not truly say a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone

from astropy.io import fits
from astropy.time import Time

from starloom.frames.cards import loose_card

Raw = bool | int | float | str

#: Of a text value and of a comment, characters: a card holds 68, but CONTINUE goes on for as long as a header may.
MAX_TEXT = 256

_SEXAGESIMAL = re.compile(
    r"""^\s*(?P<sign>[+-]?)\s*(?P<d>\d{1,3})\s*[:\s°dh]\s*(?P<m>\d{1,2})\s*(?:[:\s'm′]\s*
    (?P<s>\d{1,2}(?:[.,]\d*)?))?\s*["s″]?\s*(?P<side>[NSEWnsew]?)\s*$""",
    re.VERBOSE,
)
_ISO = re.compile(
    r"^(?P<y>\d{4})[-/](?P<mo>\d{1,2})[-/](?P<d>\d{1,2})(?:[T\s](?P<time>\d{1,2}:.*))?$",
)
_OLD = re.compile(r"^(?P<d>\d{2})/(?P<mo>\d{2})/(?P<y>\d{2})$")
_TIME = re.compile(
    r"^(?P<h>\d{1,2}):(?P<mi>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d*))?)?\s*(?P<zone>Z|UTC?|[+-]\d{2}:?\d{2})?$"
)
#: Multiplier and offset into the unit that the archive uses.
UNITS: dict[str, tuple[float, float]] = {
    "kph": (1 / 3.6, 0.0),
    "km/h": (1 / 3.6, 0.0),
    "m/s": (1.0, 0.0),
    "mph": (0.44704, 0.0),
    "degC": (1.0, 0.0),
    "K": (1.0, -273.15),
    "degF": (5 / 9, -160 / 9),
    "hPa": (1.0, 0.0),
    "mbar": (1.0, 0.0),
    "kPa": (10.0, 0.0),
    "Pa": (0.01, 0.0),
    "mmHg": (1.33322387415, 0.0),
    "inHg": (33.86388640341, 0.0),
    "ms": (0.001, 0.0),
    "h": (15.0, 0.0),
}


class HeaderView:
    """A header as plain values: the first card of a keyword counts, unreadable cards are read loosely.

    Parameters
    ----------
    header
        As astropy gives it, however malformed.
    """

    def __init__(self, header: fits.Header) -> None:
        self._values: dict[str, tuple[Raw, str]] = {}
        remarks: list[str] = []
        for card in header.cards:
            try:
                keyword, value, comment = card.keyword, card.value, card.comment
            except (fits.VerifyError, ValueError, TypeError, IndexError, AttributeError):
                # astropy's own `image` raises on such cards; what it read from the file is kept here.
                loose = loose_card(str(getattr(card, "_image", None) or ""))
                keyword, value, comment = loose.keyword, loose.value, loose.comment
            if keyword in ("COMMENT", "HISTORY", ""):
                remarks.append(str(value))
            elif isinstance(value, bool | int | float | str):
                value = value[:MAX_TEXT] if isinstance(value, str) else value
                self._values.setdefault(keyword.upper(), (value, comment[:MAX_TEXT]))
        self.remarks = "\n".join(remarks)

    def __contains__(self, keyword: str) -> bool:
        return keyword.upper() in self._values

    def raw(self, keyword: str) -> Raw | None:
        """Return a card's value as it stands, None where there is no such card."""
        found = self._values.get(keyword.upper())
        return found[0] if found else None

    def comment(self, keyword: str) -> str:
        """Return a card's comment."""
        found = self._values.get(keyword.upper())
        return found[1] if found else ""

    def text(self, keyword: str) -> str:
        """Return a card's value as text without blanks around it; empty where there is none."""
        value = self.raw(keyword)
        return "" if value is None else str(value).strip()

    def number(self, keyword: str) -> float | None:
        """Return a card's value as a finite number."""
        value = self.raw(keyword)
        return None if value is None else as_number(value)

    def keywords(self) -> Iterable[str]:
        """Return all keywords."""
        return self._values.keys()


def as_number(value: Raw) -> float | None:
    """Return a finite number, also from text with a decimal comma or an exponent ``D``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip().replace(",", ".").upper().replace("D", "E")
        if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(E[+-]?\d+)?", text):
            return None
        value = float(text)
    return float(value) if math.isfinite(value) else None


def sexagesimal(text: str) -> float | None:
    """Return ``dd mm ss.s`` (blanks or colons, sign or N/S/E/W) as a plain number of the leading unit."""
    match = _SEXAGESIMAL.match(text)
    if match is None:
        return None
    minutes, seconds = float(match["m"]), float((match["s"] or "0").replace(",", "."))
    if minutes >= 60 or seconds > 60:
        return None
    value = float(match["d"]) + minutes / 60 + seconds / 3600
    negative = (match["sign"] == "-") != (match["side"].upper() in ("S", "W"))
    return -value if negative else value


def right_ascension(value: Raw, unit: str) -> float | None:
    """Return degrees: text in sexagesimal is hours whatever ``unit`` says, a number is in ``unit``."""
    hours = sexagesimal(value) if isinstance(value, str) else None
    if hours is not None:
        return hours * 15 if 0 <= hours < 24 else None
    number = as_number(value)
    if number is None:
        return None
    degrees = number * 15 if unit == "h" else number
    return degrees % 360 if -180 <= degrees <= 360 else None


def angle(value: Raw, limit: float) -> float | None:
    """Return degrees from a number or sexagesimal degrees, None beyond ``±limit``."""
    degrees = sexagesimal(value) if isinstance(value, str) else None
    if degrees is None:
        degrees = as_number(value)
    return degrees if degrees is not None and abs(degrees) <= limit else None


def instant(date: str, time: str = "") -> datetime | None:
    """Return an aware UTC time; None where only a date is given, or a year no camera has seen.

    Fractions beyond the microsecond are cut. Without an offset the text is taken as UTC, as FITS has it. The
    old form ``dd/mm/yy`` (before 1999) needs ``time``.
    """
    date, time = date.strip(), time.strip()
    match = _ISO.match(date) or _OLD.match(date)
    if match is None:
        return None
    groups = match.groupdict()
    own = (groups.get("time") or "").strip()
    if own and time:
        return None  # a full timestamp is not completed by another card: it is of something else
    clock = _TIME.match(own or time)
    if clock is None:
        # The time of day may be a full date itself (MicroObservatory's UT-OBS).
        return instant(time) if "T" in time and not _OLD.match(date) else None
    year = int(match["y"])
    if len(match["y"]) == 2:
        year += 1900 if year >= 60 else 2000
    second = int(clock["s"] or 0)
    fraction = int((clock["f"] or "").ljust(6, "0")[:6])
    try:
        moment = datetime(
            year,
            int(match["mo"]),
            int(match["d"]),
            int(clock["h"]),
            int(clock["mi"]),
            min(second, 59),
            fraction,
            tzinfo=_zone(clock["zone"]),
        ) + timedelta(seconds=1 if second == 60 else 0)
        return moment.astimezone(UTC) if 1980 <= year <= 2100 else None
    except (ValueError, OverflowError):
        return None


def _zone(text: str | None) -> timezone:
    if not text or text[0] not in "+-":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)


def from_days(days: float, kind: str) -> datetime | None:
    """Return the UTC time of a ``jd`` or ``mjd``."""
    mjd = days - 2_400_000.5 if kind == "jd" else days
    if not 44_239 <= mjd <= 88_069:  # 1980 to 2100
        return None
    return datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=mjd)


def to_utc(moment: datetime, scale: str) -> datetime | None:
    """Return UTC for a time that was written in the scale of ``TIMESYS``; None for scales we do not know."""
    scale = scale.strip().lower().partition(" ")[0]  # "UTC approximate" (NOAO)
    if scale in ("", "utc", "ut", "ut1", "gmt", "z"):
        return moment
    if scale not in ("tai", "tt", "tdb"):
        return None
    shifted = Time(moment.replace(tzinfo=None), scale=scale).utc.to_datetime(timezone=UTC)
    assert isinstance(shifted, datetime)
    return shifted
