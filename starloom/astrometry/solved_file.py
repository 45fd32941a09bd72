"""Writing a solution into a copy of the frame: the header changes, the pixels' bytes do not."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
from astropy.io import fits

from starloom.astrometry.seams import WcsCards
from starloom.astrometry.stars_table import as_bytes
from starloom.astrometry.wcs import WCS_KEYWORD
from starloom.disk import whole_or_absent
from starloom.errors import BadInput
from starloom.frames.opening import Bounds, opened
from starloom.frames.structure import BLOCK, CARD, Segment, image_of, scan

_COMMENTS = {
    "WCSAXES": "number of WCS axes",
    "CTYPE1": "gnomonic projection",
    "CTYPE2": "gnomonic projection",
    "CRVAL1": "[deg] RA at the reference pixel",
    "CRVAL2": "[deg] Dec at the reference pixel",
    "CRPIX1": "[pix] reference pixel",
    "CRPIX2": "[pix] reference pixel",
    "RADESYS": "reference frame",
}


def write_solved(
    source: Path | str, out: Path | str, cards: WcsCards, *, tables: Sequence[fits.BinTableHDU] = ()
) -> None:
    """Copy a frame, put a WCS into the header of its image and tables behind it.

    Parameters
    ----------
    source
        The frame: plain, tile-compressed or gzipped FITS.
    out
        The copy; written beside itself and renamed, so it is complete or absent. A name that ends in ``.gz`` is
        gzipped, any other is not.
    cards
        WCS cards, and any others that are to stand in the header.
    tables
        Extensions to be added at the end; those of the same name that the source holds are left out.

    Raises
    ------
    BadInput
        ``same-file``: the copy would replace the source; else the codes of `starloom.frames.read_frame`.
    StarloomError
        ``disk-full``, retryable.

    Notes
    -----
    The data unit is copied byte for byte, compressed or not, so the pixels cannot change. Cards of an earlier
    primary WCS are removed from the image's header and from a primary header without pixels, all others stay as
    they were written. ``CHECKSUM`` is brought up to date where the HDU has one; ``DATASUM`` stays true.
    """
    source, out = Path(source), Path(out)
    if out.exists() and out.samefile(source):
        raise BadInput(
            f"{out} is the frame itself", code="same-file", hint="Write the solved copy to another folder."
        )
    bounds = Bounds()
    with whole_or_absent(out) as partial, opened(source, bounds) as (stream, size), partial.open("wb") as raw:
        segments = scan(source, stream, size, bounds)
        image = image_of(source, segments)
        added = {table.name for table in tables}
        segments = [s for s in segments if s is image or s.values.get("EXTNAME", "") not in added]
        behind = b"".join(as_bytes(table) for table in tables)
        if out.suffix == ".gz":
            # No time and no name in the gzip header: the same frame gives the same bytes.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                _copy(stream, cast(IO[bytes], packed), segments, image, cards)
                packed.write(behind)
        else:
            _copy(stream, raw, segments, image, cards)
            raw.write(behind)
        raw.flush()
        os.fsync(raw.fileno())


def _copy(stream: IO[bytes], to: IO[bytes], segments: list[Segment], image: Segment, cards: WcsCards) -> None:
    for segment in segments:
        if segment is image:
            to.write(_header_bytes(segment, cards))
        elif segment.index == 0 and not segment.axes:
            # Where it says the same as the image's header, it must not go on saying the old value.
            told = {k: v for k, v in cards.items() if k in segment.values and not WCS_KEYWORD.fullmatch(k)}
            to.write(_header_bytes(segment, told))
        else:
            stream.seek(segment.start)
            to.write(stream.read(segment.data_start - segment.start))
        stream.seek(segment.data_start)
        remaining = segment.data_bytes
        while remaining:
            block = stream.read(min(remaining, 1 << 22))
            if not block:
                raise OSError("the frame became shorter while it was read")
            to.write(block)
            remaining -= len(block)
        to.write(bytes(-segment.data_bytes % BLOCK))


def _header_bytes(segment: Segment, cards: WcsCards) -> bytes:
    """Return a segment's header with another WCS; cards that are not replaced keep their very characters."""
    drop = set(cards) | {"ZHECKSUM"}
    kept: list[str] = []
    dropping = False
    for card in segment.cards:
        keyword = card[:8].rstrip()
        if keyword != "CONTINUE":
            dropping = card[8:9] == "=" and (keyword in drop or WCS_KEYWORD.fullmatch(keyword) is not None)
        if not dropping:
            kept.append(card.ljust(CARD))
    while kept and not kept[-1].strip():
        kept.pop()
    kept += [str(fits.Card(key, value, _COMMENTS.get(key, ""))) for key, value in cards.items()]
    place = next((n for n, card in enumerate(kept) if card.startswith("CHECKSUM=")), None)
    total = _datasum(segment) if place is not None else None
    if place is None or total is None:
        # A checksum that cannot be brought up to date would only cry wolf.
        return _bytes(card for n, card in enumerate(kept) if n != place)
    kept[place] = str(fits.Card("CHECKSUM", "0" * 16, "HDU checksum"))
    kept[place] = str(fits.Card("CHECKSUM", encode_checksum(_add(total, _bytes(kept))), "HDU checksum"))
    return _bytes(kept)


def _bytes(cards: Iterable[str]) -> bytes:
    text = "".join(cards) + "END".ljust(CARD)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("latin-1")


def _datasum(segment: Segment) -> int | None:
    value = segment.values.get("DATASUM", "")
    return int(value) if value.isdigit() else None


def _add(total: int, block: bytes) -> int:
    """Add big-endian 32-bit words in ones' complement (FITS 4.0, appendix J)."""
    total += int(np.frombuffer(block, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode_checksum(total: int) -> str:
    """Return the 16 characters that make an HDU with this ones'-complement sum add up to all ones.

    References
    ----------
    FITS standard 4.0, appendix J (Seaman, Pence & Rots).
    """
    complement = 0xFFFFFFFF - total
    characters = [""] * 16
    for byte_index in range(4):
        byte = complement >> (24 - 8 * byte_index) & 0xFF
        parts = [byte // 4 + ord("0")] * 4
        parts[0] += byte % 4
        # Keep out of the punctuation between digits and letters by moving one up and its partner down.
        while any(0x3A <= p <= 0x40 or 0x5B <= p <= 0x60 for p in parts):
            for first, second in ((0, 1), (2, 3)):
                if any(0x3A <= p <= 0x40 or 0x5B <= p <= 0x60 for p in (parts[first], parts[second])):
                    parts[first] += 1
                    parts[second] -= 1
        for n, part in enumerate(parts):
            characters[4 * n + byte_index] = chr(part)
    text = "".join(characters)
    return text[-1] + text[:-1]
