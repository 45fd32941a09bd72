"""The skeleton of a FITS file, read block by block with bounded reads, before anything believes it.

No number from the file is used to allocate or to seek before it was compared with the real length of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from starloom.errors import BadInput
from starloom.frames.opening import Bounds, refuse

BLOCK = 2880
CARD = 80
_FIXED = re.compile(r"([+-]?\d{1,40})$", re.ASCII)
_COMPRESSIONS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
_LOOKS_LIKE = (
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\x00", "a TIFF or camera raw file"),
    (b"MM\x00*", "a TIFF or camera raw file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"XISF0100", "a PixInsight XISF file"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file"),
    (b"LUCAM-RECORDER", "a SER video"),
    (b"RIFF", "an AVI video"),
    (b"<", "a web page or XML"),
    (b"{", "JSON text"),
)


@dataclass(frozen=True)
class Segment:
    """One HDU: where it lies, how long it is, and its cards as they stand.

    Attributes
    ----------
    index
        Place in the file, 0 for the primary.
    start, data_start, data_bytes
        Offsets and the declared length of the data, bytes, without padding.
    cards, values
        The header's 80-character cards up to END, latin-1, and the bare text of their values.
    axes
        ``(NAXIS1, …)`` of the image, of the unpacked one where it is compressed; empty for tables.
    bitpix
        Of the image, of the unpacked one where it is compressed.
    compressed
        Whether it is a tile-compressed image.
    """

    index: int
    start: int
    data_start: int
    data_bytes: int
    cards: tuple[str, ...]
    values: dict[str, str] = field(repr=False)
    axes: tuple[int, ...]
    bitpix: int
    compressed: bool

    def number(self, keyword: str, default: float) -> float:
        """Return a card's value as a number, ``default`` where it is absent or none."""
        try:
            return float(self.values.get(keyword, "").upper().replace("D", "E"))
        except ValueError:
            return default


def bare_values(cards: Iterable[str]) -> dict[str, str]:
    """Return each keyword's first value as bare text, quotes and comment removed."""
    found: dict[str, str] = {}
    for card in cards:
        if card[8:9] != "=":
            continue
        value = card[9:].strip()
        quoted = value.startswith("'")
        value = value[1:].split("'", 1)[0] if quoted else value.split("/", 1)[0]
        found.setdefault(card[:8].rstrip(), value.strip())
    return found


def scan(path: Path, stream: IO[bytes], size: int, bounds: Bounds) -> list[Segment]:
    """Walk all HDUs and compare what they declare with what is there.

    Parameters
    ----------
    path
        Names the file in refusals.
    stream, size
        As ``opened`` yields them.

    Raises
    ------
    BadInput
        ``not-fits``, ``truncated``, ``too-many-hdus``, ``too-many-pixels``, ``decompression-bomb``,
        ``unsupported-compression``, ``bad-structure``, ``header-too-long``.
    """
    found: list[Segment] = []
    offset = 0
    while offset < size:
        stream.seek(offset)
        block = stream.read(BLOCK)
        if not found:
            _must_be_fits(path, block)
        elif not block.startswith(b"XTENSION="):
            break  # special records or padding behind the last HDU carry nothing we read
        if len(found) >= bounds.max_hdus:
            raise refuse(
                path,
                f"more than {bounds.max_hdus} HDUs",
                "too-many-hdus",
                "Send one exposure per file.",
            )
        segment = _segment(path, stream, block, offset, len(found), bounds)
        end = segment.data_start + segment.data_bytes
        if end > size:
            raise refuse(
                path,
                f"HDU {segment.index} declares {segment.data_bytes} bytes of data, only "
                f"{max(0, size - segment.data_start)} are there",
                "truncated",
                "Copy or send the file again; the transfer or the disk ended early.",
            )
        found.append(segment)
        offset = segment.data_start + -(-segment.data_bytes // BLOCK) * BLOCK
    return found


def _must_be_fits(path: Path, block: bytes) -> None:
    if re.match(rb"SIMPLE  = {0,30}T", block):
        return
    if block.startswith(b"SIMPLE  =") and len(block) < BLOCK:
        raise refuse(path, "ends within its first header", "truncated", "Copy or send the file again.")
    kind = next((name for magic, name in _LOOKS_LIKE if block.startswith(magic)), None)
    if kind is None:
        if not block.strip(b"\x00"):
            kind = "nothing but zero bytes"
        else:
            kind = "text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in block[:512]) else "unknown data"
    raise refuse(
        path,
        f"not a FITS file; it looks like {kind}",
        "not-fits",
        "Send the FITS file that the capture program wrote, not an export of it.",
    )


def _segment(path: Path, stream: IO[bytes], block: bytes, start: int, index: int, bounds: Bounds) -> Segment:
    cards: list[str] = []
    length = 0
    while True:
        if len(block) < BLOCK and b"END" + b" " * 5 not in block:
            raise refuse(path, f"ends within header {index}", "truncated", "Copy or send the file again.")
        length += BLOCK
        text = block.decode("latin-1")
        lines = [text[i : i + CARD] for i in range(0, len(text), CARD)]
        # Some programs write END without blanks behind it, or NUL bytes.
        end = next((n for n, line in enumerate(lines) if line[:8].rstrip(" \x00") == "END"), None)
        cards += lines[:end]
        if end is not None:
            break
        if length >= bounds.max_header_bytes:
            raise refuse(
                path,
                f"header {index} is longer than {bounds.max_header_bytes} bytes",
                "header-too-long",
                "The file is damaged or its HISTORY has grown without end; export it anew.",
            )
        block = stream.read(BLOCK)
    return _measure(path, tuple(cards), start, start + length, index, bounds)


def _measure(
    path: Path, cards: tuple[str, ...], start: int, data_start: int, index: int, bounds: Bounds
) -> Segment:
    values = bare_values(cards)
    bitpix, axes = _layout(path, values, index, "")
    pcount, gcount = (_integer(path, values, key, default) for key, default in (("PCOUNT", 0), ("GCOUNT", 1)))
    if pcount < 0 or gcount < 0:
        raise _broken(path, index, "negative PCOUNT or GCOUNT")
    groups = index == 0 and bool(axes) and axes[0] == 0 and values.get("GROUPS") == "T"
    elements = math.prod(axes[1:] if groups else axes) if axes else 0
    if index == 0 and not groups:
        pcount, gcount = 0, 1
    length = abs(bitpix) // 8 * gcount * (pcount + elements)
    kind = "IMAGE" if index == 0 else values.get("XTENSION")
    if kind == "IMAGE" and axes and not groups and (pcount, gcount) != (0, 1):
        raise _broken(path, index, f"an image with PCOUNT {pcount} and GCOUNT {gcount}")
    compressed = kind == "BINTABLE" and values.get("ZIMAGE") == "T"
    if compressed:
        bitpix, axes = _layout(path, values, index, "Z")
    elif kind != "IMAGE" or groups:
        axes = ()
    if axes:
        _bounded(path, index, axes, bounds)
    if compressed:
        _tiles_bounded(path, values, index, abs(bitpix) // 8 * math.prod(axes), length, axes, bounds)
    return Segment(index, start, data_start, length, cards, values, axes, bitpix, compressed)


def _layout(path: Path, values: dict[str, str], index: int, prefix: str) -> tuple[int, tuple[int, ...]]:
    bitpix = _integer(path, values, f"{prefix}BITPIX", None)
    naxis = _integer(path, values, f"{prefix}NAXIS", None)
    if bitpix not in (8, 16, 32, 64, -32, -64) or not 0 <= naxis <= 999:
        raise _broken(path, index, f"BITPIX {bitpix} with {naxis} axes")
    axes = tuple(_integer(path, values, f"{prefix}NAXIS{n}", None) for n in range(1, naxis + 1))
    if any(axis < 0 for axis in axes):
        raise _broken(path, index, "an axis of negative length")
    return bitpix, axes


def _integer(path: Path, values: dict[str, str], keyword: str, default: int | None) -> int:
    text = values.get(keyword, "")
    if not text and default is not None:
        return default
    match = _FIXED.match(text)
    if match is None:
        raise _broken(
            path, None, f"{keyword} is {text!r}, not a whole number" if text else f"{keyword} is missing"
        )
    return int(match[1])


def _broken(path: Path, index: int | None, what: str) -> BadInput:
    where = "" if index is None else f"HDU {index}: "
    return refuse(path, f"{where}{what}", "bad-structure", "The file is damaged; save or send it again.")


def _bounded(path: Path, index: int, axes: tuple[int, ...], bounds: Bounds) -> None:
    pixels = math.prod(axes)
    if pixels > bounds.max_pixels or max(axes) > bounds.max_axis:
        size = " x ".join(str(axis) for axis in axes)
        raise refuse(
            path,
            f"HDU {index} claims {size} = {pixels:.3g} pixels; at most {bounds.max_pixels:.3g} and "
            f"{bounds.max_axis} along an axis are taken",
            "too-many-pixels",
            "Send single exposures; a mosaic has to be cut into tiles.",
        )


def _tiles_bounded(
    path: Path,
    values: dict[str, str],
    index: int,
    unpacked: int,
    size: int,
    axes: tuple[int, ...],
    bounds: Bounds,
) -> None:
    if values.get("ZCMPTYPE") not in _COMPRESSIONS:
        raise refuse(
            path,
            f"compressed with {values.get('ZCMPTYPE') or 'an unnamed algorithm'}",
            "unsupported-compression",
            "Unpack it with funpack and pack it with `fpack -r`.",
        )
    tiles = [_integer(path, values, f"ZTILE{n + 1}", axes[0] if n == 0 else 1) for n in range(len(axes))]
    if any(not 1 <= tile <= max(1, axis) for tile, axis in zip(tiles, axes, strict=True)):
        raise _broken(path, index, f"tiles of {tiles} in an image of {list(axes)} pixels")
    if unpacked > bounds.max_ratio * max(size, 1):
        raise refuse(
            path,
            f"HDU {index} claims {unpacked} bytes out of {size}",
            "decompression-bomb",
            "Send the frame as the capture program wrote it.",
        )
    rows = math.prod(-(-axis // tile) for axis, tile in zip(axes, tiles, strict=True))
    if _integer(path, values, "NAXIS2", None) != rows:
        raise _broken(path, index, f"{values.get('NAXIS2')} tiles, {rows} are needed")


def image_of(path: Path, segments: list[Segment]) -> Segment:
    """Return the first image HDU of two dimensions (further axes may have length 1).

    Raises
    ------
    BadInput
        ``no-image`` or ``too-many-axes``.
    """
    for segment in segments:
        if len(segment.axes) < 2 or 0 in segment.axes:
            continue
        if max(segment.axes[2:], default=1) > 1:
            size: Any = " x ".join(str(axis) for axis in segment.axes)
            raise refuse(
                path,
                f"HDU {segment.index} is a cube of {size}",
                "too-many-axes",
                "Split it into one file per channel, or send the raw exposures.",
            )
        return segment
    raise refuse(path, "holds no image of two dimensions", "no-image", "Send the file with the exposure.")
