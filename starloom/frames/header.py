"""Headers for people: of a frame or of a text dump, told in our words."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from astropy.io import fits
from rich.table import Table
from rich.text import Text

from starloom.frames.answers import NAMES, NormalisedHeader
from starloom.frames.cards import header_of, loose_card
from starloom.frames.normalising import normalise
from starloom.frames.opening import Bounds, refuse
from starloom.frames.pixels import read_header


def describe_file(path: Path | str, bounds: Bounds | None = None) -> NormalisedHeader:
    """Say what a file's header truly tells; the pixels are not read.

    Parameters
    ----------
    path
        A FITS file (plain, tile-compressed or gzipped, cubes too), or the text dump of a header: 80-character
        cards or ``KEY = value / comment`` one to a line, lines with ``#`` skipped.
    bounds
        What is refused.

    Raises
    ------
    BadInput
        With the codes of ``read_frame``.
    """
    path = Path(path)
    bounds = bounds or Bounds()
    text = _dump(path, bounds)
    return normalise(read_header(path, bounds) if text is None else header_of_text(text))


def _dump(path: Path, bounds: Bounds) -> str | None:
    """Return the text of a header dump, None for anything else."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        start = stream.read(bounds.max_header_bytes + 1)
    # No line break can stand in a FITS header, and a dump has one after every card.
    head = start[:2880]
    if b"\n" not in head or b"\0" in head or not any(b"=" in line[:40] for line in head.splitlines()):
        return None
    if len(start) > bounds.max_header_bytes:
        raise refuse(
            path,
            f"a header dump of more than {bounds.max_header_bytes} bytes",
            "header-too-long",
            "Give the dump of one header.",
        )
    text = start.decode("utf-8", "replace")
    return text if text.lstrip("\ufeff").lstrip()[:1] not in ("<", "{") else None


def header_of_text(text: str) -> fits.Header:
    """Build a header from a text dump."""
    header = fits.Header()
    for line in text.splitlines():
        card = line.rstrip()
        if not card or card.startswith("#") or card == "END":
            continue
        strict = len(card) <= 80 and (card[8:10] == "= " or card.startswith(("COMMENT", "HISTORY", "HIERARCH")))
        if strict:
            header.extend(header_of([card]), bottom=True)
        else:
            header.append(loose_card(card), end=True)
    return header


def header_table(header: NormalisedHeader) -> Table:
    """Return a table of name, value, keyword, confidence and note; what is silent stands at the end."""
    table = Table(title=f"read with profile {header.profile}", title_justify="left")
    for column in ("quantity", "value", "from", "confidence", "note"):
        table.add_column(column, overflow="fold")
    colour = {"high": "green", "medium": "yellow", "low": "red", None: "dim"}
    for name in sorted(NAMES, key=lambda name: header.value(name) is None):
        entry = header.entry(name)
        value = "—" if entry.value is None else entry.value
        shown = value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
        # Text, not markup: what a header says must not be read as instructions to the terminal.
        sure = Text(entry.confidence or "", style=colour[entry.confidence])
        table.add_row(name, Text(shown), entry.keyword or "", sure, Text(entry.note))
    return table
