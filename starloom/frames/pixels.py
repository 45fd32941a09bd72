"""Decoded physical pixels, their header, and the digest that identifies them.

Uncompressed images are decoded here; tile-compressed ones by astropy, which is handed a skeleton of ours with the
compression cards alone, so that no malformed card of a capture program can stop it.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from numpy.typing import NDArray

from starloom.errors import BadInput
from starloom.frames.cards import header_of
from starloom.frames.opening import Bounds, opened, refuse
from starloom.frames.structure import BLOCK, Segment, image_of, scan

#: What astropy raises on damaged tiles.
_DECODING = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OverflowError,
    ZeroDivisionError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    fits.VerifyError,
    CfitsioException,
)
_STORED = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
#: Cards that describe how the pixels are stored, and no longer hold once they are decoded. Plain images carry
#: stale ones of compression too (DATASUMs of a copy that was once packed).
_STORAGE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|CHECKSUM|DATASUM|NEXTEND|INHERIT"
)
_TABLE = re.compile(
    r"TFIELDS|T(TYPE|FORM|UNIT|NULL|SCAL|ZERO|DISP|DIM|BCOL)\d+|THEAP|Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d+"
    r"|NAME\d+|VAL\d+|MASKCMP|QUANTIZ|DITHER0|BLANK|SCALE|ZERO|SIMPLE|EXTEND|TENSION|PCOUNT|GCOUNT|HECKSUM|DATASUM"
    r")|BLOCKED"
)
_NOT_KEPT = re.compile(f"{_STORAGE.pattern}|{_TABLE.pattern}")
_NEEDED = re.compile(_TABLE.pattern + r"|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|BSCALE|BZERO|BLANK")


def read_frame(path: Path | str, bounds: Bounds | None = None) -> tuple[NDArray[Any], fits.Header]:
    """Read the first 2-D image of a file, plain, tile-compressed or gzipped.

    Parameters
    ----------
    path
        ``.fits``, ``.fits.fz`` or ``.fits.gz``; told apart by content, not by name.
    bounds
        What is refused before any pixel is read.

    Returns
    -------
    data
        Physical pixels, shape ``(ny, nx)``, native byte order. Integers stay integers (16 bit with
        BZERO = 32768 is uint16), floats keep their width; integers with any other scaling become floats,
        with BLANK as NaN.
    header
        The primary header overlaid by the image's own. Cards about storage (scaling, compression, checksums)
        are left out, because they are no longer true of ``data``; unparsable cards are kept as text.

    Raises
    ------
    BadInput
        With the codes of ``inspect_file``, except those about the pixels' values.
    """
    path = Path(path)
    bounds = bounds or Bounds()
    with opened(path, bounds) as (stream, size):
        segments = scan(path, stream, size, bounds)
        image = image_of(path, segments)
        return decode(path, stream, image), merged_header(segments, image)


def read_header(path: Path | str, bounds: Bounds | None = None) -> fits.Header:
    """Read the header that ``read_frame`` returns, without the pixels; cubes are allowed."""
    path = Path(path)
    bounds = bounds or Bounds()
    with opened(path, bounds) as (stream, size):
        segments = scan(path, stream, size, bounds)
        image = next((each for each in segments if len(each.axes) > 1), segments[0])
        return merged_header(segments, image)


def merged_header(segments: list[Segment], image: Segment) -> fits.Header:
    """Return the primary header overlaid by the image's, without the cards about storage."""
    own = list(image.cards)
    primary = [] if image.index == 0 else [card for card in segments[0].cards if card[:8].strip()]
    said = {_key(card) for card in own if card[8:9] == "="}
    cards = [card for card in primary if card[8:9] != "=" or _key(card) not in said]
    kept = [card for card in [*cards, *own] if not (_NOT_KEPT.fullmatch(_key(card)) or _names_compression(card))]
    header = header_of(kept)
    if _is_float(image):
        header.remove("BLANK", ignore_missing=True)  # NaN says it
    _put_structure(header, image)
    return header


def _is_float(image: Segment) -> bool:
    """Whether the physical pixels are floats: stored as such, or integers with a scaling of their own."""
    scale, zero, bits = image.number("BSCALE", 1.0), image.number("BZERO", 0.0), image.bitpix
    return bits < 0 or scale != 1.0 or zero not in (0.0, -128.0 if bits == 8 else 2.0 ** (bits - 1))


def _put_structure(header: fits.Header, image: Segment) -> None:
    """Lead with the cards a primary HDU has, so that the header can be written as it is."""
    for keyword in {key for key in header if _STORAGE.fullmatch(key)}:
        header.remove(keyword, remove_all=True)  # repaired spellings, e.g. lower case
    axes = [axis for n, axis in enumerate(image.axes) if n < 2 or axis > 1]
    bitpix = image.bitpix if image.bitpix < 0 or not _is_float(image) else (-32 if image.bitpix <= 16 else -64)
    structure = [("SIMPLE", True), ("BITPIX", bitpix), ("NAXIS", len(axes))]
    structure += [(f"NAXIS{n}", axis) for n, axis in enumerate(axes, 1)]
    for place, (keyword, value) in enumerate(structure):
        header.insert(place, (keyword, value))


def _key(card: str) -> str:
    return card[:8].rstrip()


def _names_compression(card: str) -> bool:
    return card.startswith("EXTNAME") and "COMPRESSED_IMAGE" in card


def decode(path: Path, stream: IO[bytes], image: Segment) -> NDArray[Any]:
    """Return the physical pixels of a scanned image, shape ``(ny, nx)``, native byte order.

    Raises
    ------
    BadInput
        ``corrupt-data``, ``decompression-bomb``.
    """
    stream.seek(image.data_start)
    raw = stream.read(image.data_bytes)
    shape = (image.axes[1], image.axes[0])
    if image.compressed:
        data = _unpack(path, raw, image)
        if data.size != math.prod(shape):
            raise _corrupt(path, f"decodes to {data.shape}, {shape} was declared")
    else:
        stored = np.frombuffer(raw, dtype=_STORED[image.bitpix])
        data = _physical(stored, image)
    return np.ascontiguousarray(data.reshape(shape), dtype=data.dtype.newbyteorder("="))


def _physical(stored: NDArray[Any], image: Segment) -> NDArray[Any]:
    scale, zero = image.number("BSCALE", 1.0), image.number("BZERO", 0.0)
    native: NDArray[Any] = stored.astype(stored.dtype.newbyteorder("="))
    bits = image.bitpix
    if scale == 1.0 and zero == 0.0:
        return native
    if not _is_float(image):
        if bits == 8:
            return np.asarray((native ^ np.uint8(0x80)).view(np.int8))
        unsigned = native.view(f"u{bits // 8}")
        return np.asarray(unsigned ^ unsigned.dtype.type(1 << (bits - 1)))
    # Computed as doubles: single precision would lose the last bits of a large BZERO.
    with np.errstate(all="ignore"):
        scaled = (native.astype(np.float64) * scale + zero).astype("f4" if bits in (8, 16, -32) else "f8")
    if bits > 0 and image.values.get("BLANK"):
        scaled[native == image.number("BLANK", math.nan)] = math.nan
    return scaled


def _unpack(path: Path, raw: bytes, image: Segment) -> NDArray[Any]:
    _tiles_honest(path, raw, image)
    # Only the first card of a keyword: it is the one that the scan has checked.
    needed: dict[str, str] = {}
    for card in image.cards:
        if _NEEDED.fullmatch(_key(card)):
            needed.setdefault(_key(card), card)
    empty = fits.PrimaryHDU().header.tostring()
    skeleton = f"{empty}{header_of(needed.values()).tostring()}".encode("ascii", "replace")
    skeleton += raw + b"\0" * (-len(raw) % BLOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of quirks, and of overflows in damaged pixels
            with fits.open(io.BytesIO(skeleton), memmap=False) as opened_fits:
                return np.asarray(opened_fits[1].data)
    except _DECODING as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error


def _tiles_honest(path: Path, raw: bytes, image: Segment) -> None:
    """Refuse gzip tiles that unpack to more than a tile: astropy would unpack them whole before looking."""
    rows, width = _whole(path, image, "NAXIS2", 0), _whole(path, image, "NAXIS1", 0)
    heap = _whole(path, image, "THEAP", rows * width)
    tile = [_whole(path, image, f"ZTILE{n}", image.axes[0] if n == 1 else 1) for n in (1, 2)]
    fields = _whole(path, image, "TFIELDS", 0)
    if fields > 999 or heap < rows * width:
        raise _corrupt(path, "its table is no FITS table")
    # Quantised floats travel as 32-bit integers, so a tile never needs more than 8 bytes a pixel.
    limit = tile[0] * tile[1] * 8
    offset = 0
    for n in range(1, fields + 1):
        form = re.fullmatch(r"1?([PQ])\w*(?:\(\d*\))?|(\d*)([LXBIJKAEDCM])", image.values.get(f"TFORM{n}", ""))
        if form is None:
            raise _corrupt(path, f"column {n} of the compressed image has no known format")
        if not form[1]:
            count, code = int(form[2] or 1), form[3]
            sizes = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "M": 16}
            offset += -(-count // 8) if code == "X" else count * sizes[code]
            continue
        pair = np.dtype(">i4" if form[1] == "P" else ">i8")
        if width < offset + 2 * pair.itemsize:
            raise _corrupt(path, "its table is narrower than its columns")
        table = np.frombuffer(raw[: rows * width], np.uint8).reshape(rows, width)
        places = np.ascontiguousarray(table[:, offset : offset + 2 * pair.itemsize]).view(pair).astype(np.int64)
        offset += 2 * pair.itemsize
        unit = {"B": 1, "I": 2, "J": 4, "E": 4, "D": 8}.get(image.values[f"TFORM{n}"].lstrip("1")[1:2], 1)
        if (places < 0).any() or (places[:, 1] + places[:, 0] * unit + heap > len(raw)).any():
            raise _corrupt(path, "tiles lie outside the file")
        gzipped = "GZIP" in image.values.get(f"TTYPE{n}", "") or "GZIP" in image.values.get("ZCMPTYPE", "")
        if gzipped and unit == 1:
            _gzip_tiles_bounded(path, raw, heap, places, limit)


def _whole(path: Path, image: Segment, keyword: str, default: int) -> int:
    text = image.values.get(keyword, "")
    if text and not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise _corrupt(path, f"{keyword} is {text!r}")
    return int(text) if text else default


def _gzip_tiles_bounded(path: Path, raw: bytes, heap: int, places: NDArray[np.int64], limit: int) -> None:
    for length, start in places.tolist():
        packed = memoryview(raw)[heap + start : heap + start + length]
        if bytes(packed[:2]) != b"\x1f\x8b":
            continue
        inflate = zlib.decompressobj(31)
        try:
            out = len(inflate.decompress(packed, limit + 1))
        except zlib.error as error:
            raise _corrupt(path, f"damaged gzip tile ({error})") from error
        if out > limit or inflate.unused_data[:2] == b"\x1f\x8b":
            raise refuse(
                path,
                "a compressed tile unpacks to more than its pixels",
                "decompression-bomb",
                "Send the frame as the capture program wrote it.",
            )


def _corrupt(path: Path, what: str) -> BadInput:
    return refuse(
        path,
        f"its pixels cannot be decoded: {what}",
        "corrupt-data",
        "The file is damaged; copy or send it again.",
    )


def pixel_digest(data: NDArray[Any]) -> str:
    """Return the identity of decoded pixels: SHA-256 in hex.

    The digest runs over ``"{kind}{bytes per pixel} {ny} {nx}\\n"``, with numpy's letter for the kind (``u``,
    ``i``, ``f``), and the pixels row by row as little-endian bytes. It depends on nothing else: not on the header,
    the byte order, BZERO or the compression, so 16-bit integers with BZERO and their RICE-compressed copy agree.
    """
    digest = hashlib.sha256()
    shape = " ".join(str(axis) for axis in data.shape)
    digest.update(f"{data.dtype.kind}{data.dtype.itemsize} {shape}\n".encode())
    little = data.dtype.newbyteorder("<")
    for rows in _bands(data):
        digest.update(np.ascontiguousarray(rows, dtype=little).data)
    return digest.hexdigest()


def _bands(data: NDArray[Any]) -> Iterable[NDArray[Any]]:
    step = max(1, (1 << 22) // max(1, data[:1].nbytes))
    return (data[row : row + step] for row in range(0, len(data), step))
