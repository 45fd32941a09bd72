"""Filter names as capture programs write them, and the standard bands they mean."""

from __future__ import annotations

#: Lower-case names without "johnson", "bessell", "cousins", "sdss" and punctuation; case decides between R and r.
_ALIASES = {
    "clear": "Clear",
    "c": "Clear",
    "cv": "Clear",
    "luminance": "Clear",
    "lum": "Clear",
    "l": "Clear",
    "ha": "Ha",
    "halpha": "Ha",
    "oiii": "OIII",
    "o3": "OIII",
    "sii": "SII",
    "s2": "SII",
}
_SYSTEMS = {
    **dict.fromkeys(("johnson", "bessell", "bessel", "harris"), "UBVRI"),
    "cousins": "RI",
    **dict.fromkeys(("sdss", "sloan"), "ugriz"),
}
_PLAIN = frozenset("UBVRIugiz")


def standard_band(filter_name: str | None) -> str | None:
    """Return the standard band a filter name clearly means, or None.

    ``Johnson V``, ``V`` → ``V``; ``SDSS r'`` → ``r``; ``Lum`` → ``Clear``. A lone lower-case ``r`` or a colour
    word such as ``Red`` is left alone: sets of colour filters differ too much to be called a band.
    """
    if not filter_name or not filter_name.strip():
        return None
    words = filter_name.replace("_", " ").replace("-", " ").replace("'", "").split()
    if not words:
        return None
    for system, letters in _SYSTEMS.items():
        if words[0].lower() == system and len(words) == 2 and len(words[1]) == 1:
            letter = words[1].lower() if letters.islower() else words[1].upper()
            return letter if letter in letters else None
    joined = "".join(words)
    if joined in _PLAIN or joined == "rp":
        return joined[0]
    return _ALIASES.get(joined.lower())


def is_unmapped(band: str | None) -> bool:
    """Tell whether a band is only a node's own name of a filter, ``node:name``, or none at all."""
    return band is None or ":" in band
