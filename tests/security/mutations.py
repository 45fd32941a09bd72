"""FITS files as an enemy, a bad line or a careless program would make them: strategies over real frames."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from hypothesis import strategies as st

from starloom.frames import Bounds, read_frame
from starloom.frames.opening import opened
from starloom.frames.structure import CARD, scan
from starloom.sky.samples import tres1_frames

BLOCK = 2880
#: What has brought parsers, shells, queries and file systems down.
NASTY_TEXTS = (
    *("../../../../etc/passwd", "/etc/shadow", "..\\..\\x", "a/../b", "$(touch /tmp/x)", "`id`", "; rm -rf ~ ;"),
    *("' OR '1'='1", "'); DROP TABLE frame;--", "%s%n%x", "{0.__class__}", "{{7*7}}", "-rf", "--help", "|cat"),
    *("NaN", "Infinity", "x" * 68, "<script>alert(1)</script>", "\x00\x01\x1b[2J", "\xff\xfe\u00e9"[:3], "", " "),
)
NASTY_NUMBERS = (
    *("-1", "0", "1", "2", "7", "999", "1000", "65535", "65536", "2147483647", "2147483648", "-2147483648"),
    *("4294967296", "9223372036854775807", "9223372036854775808", "1" * 60, "1E400", "-1E-400", "NaN", "INF"),
    *("0.0", "1.5", "1D300", "0x10", "T", "F", "''", "'1'", "1 2", "+", ".", "1_000"),
)
STRUCTURE = (
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS999", "PCOUNT", "GCOUNT"),
    *("GROUPS", "EXTEND", "TFIELDS", "THEAP", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2", "BSCALE", "BZERO", "BLANK"),
    *("ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2", "ZNAME1", "ZVAL1"),
    *("ZNAME2", "ZVAL2", "ZQUANTIZ", "ZDITHER0", "ZBLANK", "ZSCALE", "ZZERO", "ZMASKCMP", "CHECKSUM", "DATASUM"),
)
FORMS = (
    "1PB(100)",
    "1QB(100)",
    "PB",
    "1PI",
    "1PJ(0)",
    "1PE",
    "1PD",
    "1PX",
    "0PB",
    "2PB",
    "9999999999B",
    "1A",
    "D",
)
COMPRESSIONS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS", "../x", "")
TOLD = (
    *("OBJECT", "FILTER", "TELESCOP", "INSTRUME", "OBSERVER", "IMAGETYP", "DATE-OBS", "TIME-OBS", "EXPTIME"),
    *("RA", "DEC", "OBJCTRA", "SITELAT", "SITELONG", "XBINNING", "XPIXSZ", "FOCALLEN", "EGAIN", "BAYERPAT"),
    *("SWCREATE", "CALSTAT", "CCD-TEMP", "AIRMASS", "HISTORY", "COMMENT", "ROWORDER", "SATURATE"),
)
SKY = (
    *("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CD1_1", "CD1_2", "CD2_1", "CD2_2", "CDELT1", "CUNIT1"),
    *("PC1_1", "PV1_0", "PV2_99", "A_ORDER", "A_0_2", "B_ORDER", "AP_ORDER", "LONPOLE", "LATPOLE", "EQUINOX"),
    *("RADESYS", "WCSAXES", "NAXIS1", "LTV1", "CROTA2"),
)
PROJECTIONS = ("RA---TAN", "DEC--TAN", "RA---TPV", "DEC--TAN-SIP", "RA---HPX", "GLON-CAR", "DEC--QSC", "RA---XXX")


@dataclass(frozen=True)
class Seed:
    """A good file in parts: each HDU's cards without END, and its data with padding; gzip taken off."""

    name: str
    hdus: tuple[tuple[tuple[str, ...], bytes], ...]

    def bytes(self) -> bytes:
        return b"".join(header_bytes(cards) + data for cards, data in self.hdus)

    def with_hdu(self, index: int, cards: list[str], data: bytes | None = None) -> Seed:
        hdus = list(self.hdus)
        hdus[index] = (tuple(cards), hdus[index][1] if data is None else data)
        return Seed(self.name, tuple(hdus))


@dataclass(frozen=True)
class Case:
    """A file to try; ``good`` says that it must be accepted."""

    kind: str
    data: bytes
    good: bool = False


def header_bytes(cards: tuple[str, ...]) -> bytes:
    text = "".join(card[:CARD].ljust(CARD) for card in cards) + "END".ljust(CARD)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("latin-1", "replace")


def card(keyword: str, value: str) -> str:
    return f"{keyword[:8]:<8}= {value:>20}"[:CARD].ljust(CARD)


def text_card(keyword: str, text: str) -> str:
    if keyword in ("HISTORY", "COMMENT"):
        return f"{keyword:<8}{text}"[:CARD].ljust(CARD)
    quoted = text.replace("'", "''")
    return f"{keyword[:8]:<8}= '{quoted}'"[:CARD].ljust(CARD)


def seed_of(path: Path) -> Seed:
    """Take a file apart. Its checksums are blanked, or all damage would end there."""
    with opened(path, Bounds()) as (stream, size):
        parts = []
        for segment in scan(path, stream, size, Bounds()):
            stream.seek(segment.data_start)
            data = stream.read(-(-segment.data_bytes // BLOCK) * BLOCK)
            cards = tuple(each for each in segment.cards if each[:8].rstrip() not in ("CHECKSUM", "DATASUM"))
            parts.append((cards, data))
    return Seed(path.name, tuple(parts))


def small_seeds(folder: Path) -> list[Seed]:
    """Cut a piece out of a real frame and write it in every form that cameras and programs write."""
    pixels, header = read_frame(tres1_frames()[0])
    piece = pixels[300:364, 500:596]
    base = piece.astype(np.float64)

    def packed(data: np.ndarray, algorithm: str, **options: object) -> fits.HDUList:
        image = fits.CompImageHDU(data, header.copy(), compression_type=algorithm, **options)
        return fits.HDUList([fits.PrimaryHDU(), image])

    made: dict[str, fits.HDUList] = {
        **{
            f"plain-{kind}": fits.HDUList([fits.PrimaryHDU(base.astype(kind), header.copy())])
            for kind in ("u2", "i2", "i4", "i8", "f4", "f8")
        },
        "plain-u1": fits.HDUList([fits.PrimaryHDU((base / 16).clip(0, 255).astype("u1"), header.copy())]),
        "rice": packed(piece, "RICE_1"),
        "rice-tiles": packed(piece, "RICE_1", tile_shape=(16, 32)),
        "rice-i4": packed(base.astype("i4"), "RICE_1"),
        "gzip1": packed(piece, "GZIP_1"),
        "gzip2-f4": packed(base.astype("f4"), "GZIP_2", quantize_level=0),
        "gzip2-f8": packed(base, "GZIP_2", quantize_level=0, tile_shape=(64, 96)),
        "quantised": packed(base.astype("f4"), "RICE_1", quantize_level=16),
        "dithered": packed(base.astype("f4"), "RICE_1", quantize_level=4, quantize_method=2),
        "extension": fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(piece, header.copy())]),
        "with-table": fits.HDUList(
            [
                fits.PrimaryHDU(piece, header.copy()),
                fits.BinTableHDU.from_columns([fits.Column("x", "PJ()", array=np.array([[1], [2, 3]], object))]),
            ]
        ),
    }
    seeds = []
    for name, hdus in made.items():
        path = folder / f"{name}.fits"
        hdus.writeto(path, output_verify="silentfix")
        seeds.append(seed_of(path))
    return seeds


def comments(draw: st.DrawFn, seed: Seed) -> Case:
    """Other words behind the slash, and in COMMENT and HISTORY: nothing that a frame is read by."""
    index = draw(st.integers(0, len(seed.hdus) - 1))
    cards = list(seed.hdus[index][0])
    word = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70))
    for at in draw(st.lists(st.integers(0, len(cards) - 1), min_size=1, max_size=4)):
        if cards[at].startswith(("COMMENT ", "HISTORY ")):
            cards[at] = cards[at][:8] + word
        elif cards[at][8:10] == "= " and "'" not in cards[at] and "/" in cards[at]:
            cards[at] = cards[at].split("/")[0] + "/ " + word
    return Case(
        "comments", seed.with_hdu(index, [*cards, f"COMMENT {word}", f"HISTORY {word}"]).bytes(), good=True
    )


def _placed(draw: st.DrawFn, seed: Seed, made: list[str]) -> Seed:
    """Put cards in the place of those of their keyword, before them, or at the end of a header."""
    index = draw(st.integers(0, len(seed.hdus) - 1))
    cards = list(seed.hdus[index][0])
    for new in made:
        same = [at for at, old in enumerate(cards) if old[:8] == new[:8]]
        how = draw(st.sampled_from(["replace", "replace", "before", "end"]))
        if same and how == "replace":
            cards[same[0]] = new
        else:
            cards.insert(same[0] if same and how == "before" else len(cards), new)
    return seed.with_hdu(index, cards)


def structure(draw: st.DrawFn, seed: Seed) -> Case:
    """Lies about sizes, types, tiles and tables."""
    made = []
    for keyword in draw(st.lists(st.sampled_from(STRUCTURE), min_size=1, max_size=4)):
        if keyword.startswith("TFORM"):
            made.append(text_card(keyword, draw(st.sampled_from(FORMS))))
        elif keyword == "ZCMPTYPE":
            made.append(text_card(keyword, draw(st.sampled_from(COMPRESSIONS))))
        else:
            made.append(card(keyword, draw(st.sampled_from(NASTY_NUMBERS) | st.integers(-9, 200_000).map(str))))
    return Case("structure", _placed(draw, seed, made).bytes())


def words(draw: st.DrawFn, seed: Seed) -> Case:
    """Text and numbers of every kind where a capture program writes its own."""
    made = [
        draw(
            st.sampled_from(NASTY_TEXTS).map(lambda text, key=keyword: text_card(key, text))
            | st.sampled_from(NASTY_NUMBERS).map(lambda text, key=keyword: card(key, text))
        )
        for keyword in draw(st.lists(st.sampled_from(TOLD), min_size=1, max_size=6))
    ]
    return Case("words", _placed(draw, seed, made).bytes())


def coordinates(draw: st.DrawFn, seed: Seed) -> Case:
    made = [
        text_card(keyword, draw(st.sampled_from(PROJECTIONS)))
        if keyword.startswith("CTYPE")
        else card(keyword, draw(st.sampled_from(NASTY_NUMBERS)))
        for keyword in draw(st.lists(st.sampled_from(SKY), min_size=2, max_size=10))
    ]
    made += [text_card("CTYPE1", "RA---TAN-SIP"), text_card("CTYPE2", "DEC--TAN-SIP")] * draw(st.integers(0, 1))
    return Case("coordinates", _placed(draw, seed, made).bytes())


def flood(draw: st.DrawFn, seed: Seed) -> Case:
    """Headers that hardly end: CONTINUE, HISTORY, HIERARCH, one keyword a thousand times."""
    count = draw(st.integers(1, draw(st.sampled_from([*[200] * 9, 5000]))))
    line = draw(
        st.sampled_from(
            [
                "CONTINUE  'and so on and on&'",
                "HISTORY " + "x" * 72,
                "HIERARCH ESO TEL FOCU = 1.5",
                card("EXPTIME", "30"),
                card("NAXIS", "2"),
                text_card("FILTER", "V&"),
                "garbage without any sense",
            ]
        )
    )
    index = draw(st.integers(0, len(seed.hdus) - 1))
    cards = [*seed.hdus[index][0], text_card("OBJECT", "begun&"), *[line] * count]
    return Case("flood", seed.with_hdu(index, cards).bytes())


def flips(draw: st.DrawFn, seed: Seed) -> Case:
    """Bytes of the file overwritten, wherever they lie."""
    data = bytearray(seed.bytes())
    where = st.floats(0, 1, exclude_max=True) | st.floats(0, min(1.0, 12 * BLOCK / len(data)), exclude_max=True)
    for place, value in draw(
        st.lists(st.tuples(where, st.binary(min_size=1, max_size=6)), min_size=1, max_size=9)
    ):
        at = int(place * len(data))
        data[at : at + len(value)] = value
    return Case("flips", bytes(data))


def heap(draw: st.DrawFn, seed: Seed) -> Case:
    """Numbers in the table of a compressed image, or in pixels: 32-bit words set to what overflows."""
    index = len(seed.hdus) - 1
    cards, data = seed.hdus[index]
    changed = bytearray(data or bytes(BLOCK))
    word = st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000])
    for at, value in draw(st.lists(st.tuples(st.integers(0, 400), word), min_size=1, max_size=8)):
        at = at * 4 % (len(changed) - 3)
        changed[at : at + 4] = value.to_bytes(4, "big")
    return Case("heap", seed.with_hdu(index, list(cards), bytes(changed)).bytes())


def cuts(draw: st.DrawFn, seed: Seed) -> Case:
    """Blocks lost, doubled, swapped, and a file that ends early."""
    data = seed.bytes()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    first, second = sorted(draw(st.tuples(*[st.integers(0, len(blocks) - 1)] * 2)))
    changed = {
        "lost": blocks[:first] + blocks[second:],
        "doubled": blocks[:second] + blocks[first:],
        "swapped": blocks[:first] + blocks[second:] + blocks[first:second],
        "short": [data[: draw(st.integers(0, len(data)))]],
        "long": [data, draw(st.binary(max_size=200)) * draw(st.integers(1, 200))],
    }
    how = draw(st.sampled_from(sorted(changed)))
    return Case(f"cuts-{how}", b"".join(changed[how]))


def gzipped(draw: st.DrawFn, seed: Seed) -> Case:
    """Gzip around it, whole, twice, damaged, or with a bomb behind it."""
    packed = gzip.compress(seed.bytes(), 1)
    how = draw(st.sampled_from(["whole", "twice", "damaged", "bomb", "cut"]))
    if how == "damaged":
        at = draw(st.integers(0, len(packed) - 1))
        packed = packed[:at] + draw(st.binary(min_size=1, max_size=20)) + packed[at + 1 :]
    changed = {
        "twice": lambda: gzip.compress(packed),
        "bomb": lambda: packed + gzip.compress(bytes(draw(st.integers(1, 30)) << 20), 9),
        "cut": lambda: packed[: draw(st.integers(0, len(packed)))],
    }.get(how, lambda: packed)()
    return Case(f"gzip-{how}", changed, good=how == "whole")


def from_nothing(draw: st.DrawFn, seed: Seed) -> Case:
    """A header put together at random, with some data behind it."""
    out = io.BytesIO()
    for index in range(draw(st.integers(1, 3))):
        axes = draw(st.lists(st.integers(0, 70), max_size=4))
        bitpix = draw(st.sampled_from(["8", "16", "32", "64", "-32", "-64", "17", "0"]))
        lead = card("SIMPLE", "T") if index == 0 else draw(
            st.sampled_from(["IMAGE   ", "BINTABLE", "TABLE   ", "XYZ     "])
            .map(lambda kind: f"XTENSION= '{kind}'".ljust(CARD))
        )  # fmt: skip
        cards = [lead, card("BITPIX", bitpix), card("NAXIS", str(len(axes)))]
        cards += [card(f"NAXIS{n}", str(axis)) for n, axis in enumerate(axes, 1)]
        for keyword in draw(st.lists(st.sampled_from(STRUCTURE), max_size=3)):
            cards.append(card(keyword, draw(st.sampled_from(NASTY_NUMBERS))))
        out.write(header_bytes(tuple(cards)))
        size = int(np.prod(axes)) * max(1, abs(int(bitpix)) // 8) if axes else 0
        noise = np.random.default_rng(draw(st.integers(0, 99))).bytes(min(size, 1 << 21))
        out.write(noise + b"\0" * (-len(noise) % BLOCK))
    return Case("from-nothing", out.getvalue())


KINDS: tuple[Callable[[st.DrawFn, Seed], Case], ...] = (
    *(comments, structure, words, coordinates, flood, flips, heap, cuts, gzipped, from_nothing),
)


@st.composite
def cases(draw: st.DrawFn, kind: Callable[[st.DrawFn, Seed], Case], seeds: list[Seed]) -> Case:
    """Files of one kind."""
    return kind(draw, draw(st.sampled_from(seeds)))
