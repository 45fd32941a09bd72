"""What a header answered: the same names for every frame, silent ones included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from starloom.frames.profiling import Confidence

#: Everything a frame can be asked, in the order it is shown.
NAMES = (
    *("software", "frame_type", "start_utc", "exposure_s", "ra_deg", "dec_deg", "solved"),
    *("focal_length_mm", "aperture_mm", "pixel_size_um", "binning", "scale_arcsec", "rotation_deg"),
    *("gain_e_per_adu", "gain_setting", "offset_setting", "pedestal_adu", "sensor_temp_c", "filter"),
    *("bayer_pattern", "row_order", "calstat", "saturation_adu", "object", "camera", "telescope"),
    *("site_lat_deg", "site_lon_deg", "site_elev_m", "airmass", "focus_position"),
    *("ambient_temp_c", "dewpoint_c", "humidity_pct", "pressure_hpa", "wind_speed_m_s", "wind_gust_m_s"),
    *("wind_dir_deg", "cloud_cover_pct", "sky_minus_ambient_c", "sky_brightness_mag_arcsec2"),
)


@dataclass(frozen=True)
class Entry:
    """One answer: ``value`` None where the header is silent, and then ``note`` may say why."""

    value: Any = None
    keyword: str | None = None
    confidence: Confidence | None = None
    note: str = ""


class NormalisedHeader:
    """The answers to all of ``NAMES``.

    Parameters
    ----------
    entries
        Answers by name; missing ones are silent.
    profile
        The profile that was used, ``name@version``.
    """

    def __init__(self, entries: Mapping[str, Entry], profile: str) -> None:
        self._entries = {name: entries.get(name, Entry()) for name in NAMES}
        self.profile = profile

    def entry(self, name: str) -> Entry:
        """Return an answer with its origin.

        Raises
        ------
        KeyError
            There is no such quantity.
        """
        return self._entries[name]

    def value(self, name: str) -> Any:
        """Return a value, None where the header does not truly say; times are aware UTC.

        Raises
        ------
        KeyError
            There is no such quantity.
        """
        return self._entries[name].value

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return all answers as ``{name: {value, keyword, confidence, note}}``, safe for JSON."""
        return {
            name: {
                "value": entry.value.isoformat() if isinstance(entry.value, datetime) else entry.value,
                "keyword": entry.keyword,
                "confidence": entry.confidence,
                "note": entry.note,
            }
            for name, entry in self._entries.items()
        }

    @classmethod
    def from_json(cls, answers: Mapping[str, Mapping[str, Any]], profile: str) -> NormalisedHeader:
        """Return the answers that `as_json` has written.

        Raises
        ------
        TypeError, ValueError
            It has not written them.
        """
        entries = {name: Entry(**answer) for name, answer in answers.items()}
        start = entries.get("start_utc", Entry())
        if start.value is not None:
            entries["start_utc"] = replace(start, value=datetime.fromisoformat(start.value))
        return cls(entries, profile)
