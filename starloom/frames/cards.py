"""Header cards as capture programs write them, good or bad, into an astropy header."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

_LOOSE = re.compile(r"\s*(?P<key>[^=\s]{1,30})\s*=\s*(?P<rest>.*)$", re.DOTALL)
_COMMENTARY = ("COMMENT", "HISTORY", "")
_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")


def header_of(cards: Iterable[str]) -> fits.Header:
    """Build a header from 80-character cards; what astropy cannot parse is kept as text.

    Blank cards are padding and left out. Characters outside printable ASCII become ``?``, as FITS allows no other.
    """
    header = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        for image in _joined(cards):
            if image.strip():
                header.append(_card(image), end=True)
    return header


def _joined(cards: Iterable[str]) -> list[str]:
    """Put CONTINUE cards behind the card they continue, as astropy expects them."""
    out: list[str] = []
    for card in cards:
        image = _printable(card).ljust(80)
        if image.startswith("CONTINUE  ") and out and "=" in out[-1][:80]:
            out[-1] += image
        else:
            out.append(image)
    return out


def _printable(text: str) -> str:
    return "".join(c if 32 <= ord(c) < 127 else (" " if c in "\0\t\r\n" else "?") for c in text)


def _card(image: str) -> fits.Card:
    if not image[:8].strip():
        return fits.Card("COMMENT", image.strip()[:72])
    try:
        card = fits.Card.fromstring(image)
        # "fix" rewrites what it can (a missing quote, a lower-case keyword) and raises on what it cannot.
        card.verify("silentfix+exception")
        _ = (card.keyword, card.value, card.comment, str(card))
    except (fits.VerifyError, ValueError, TypeError, IndexError, AttributeError, OverflowError):
        return loose_card(image)
    text = image[9:].lstrip()
    if isinstance(card.value, str) and card.value.startswith("'") and text[:2] != "''":
        return loose_card(image)  # a string that never closes: astropy keeps the quote as part of it
    return card


def loose_card(line: str) -> fits.Card:
    """Read ``KEY = value / comment`` however it is spelt; never fails, at worst it is a COMMENT."""
    line = _printable(line)
    match = _LOOSE.match(line)
    keyword = match["key"].upper() if match else ""
    if match is None or not _KEYWORD.fullmatch(keyword) or keyword in _COMMENTARY:
        return fits.Card("COMMENT", line.strip()[:72])
    value, comment = _split(match["rest"].strip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # a comment that has to be cut
            return fits.Card.fromstring(str(fits.Card(keyword, value, comment))[:80])
    except (ValueError, fits.VerifyError):
        return fits.Card("COMMENT", line.strip()[:72])


def _split(rest: str) -> tuple[str | int | float | bool, str]:
    if rest.startswith("'"):
        end = re.search(r"(?<!')'(?!')|$", rest[1:])
        stop = end.start() + 1 if end else len(rest)
        value, tail = rest[1:stop].replace("''", "'").rstrip(), rest[stop + 1 :]
        return value[: 68 - value.count("'")], tail.strip().lstrip("/").strip()
    text, _, comment = rest.partition("/")
    text = text.strip()
    if text in ("T", "F"):
        return text == "T", comment.strip()
    for kind in (int, float):
        try:
            number = kind(text.replace("D", "E") if kind is float else text)
        except ValueError:
            continue
        if number == number and abs(number) != float("inf"):
            return number, comment.strip()
    return text[: 68 - text.count("'")], comment.strip()
