"""RICE_1: a frame's wanted pixels straight out of the mapped file, from the nearest known place on.

A Rice stream can only be parsed from its beginning: every pixel's place depends on all before it. So whenever
a tile is parsed, the decoder's state (bit offset and last pixel) is kept at every ``segment_px`` pixels, and
a later request starts at the last state known before it. One state is one 64-bit word that every thread would
write alike, so that threads share the index without a lock.

The decoder's cost is the chain of dependent instructions from one pixel's length to the next one's place. It is
kept to four cycles a pixel by working on 64 bits in a register, topping them up once per four pixels whatever
is left (no branch to mispredict), and testing once per four pixels whether they sufficed; what does not (a long
run of zeros, the tile's last bytes) goes bit by bit.

References
----------
FITS Standard 4.0, section 10.4.1; Rice, Yeh & Miller 1993, JPL 93-15; Giesen 2018, "Reading bits in far too many
ways", part 2 (the refill).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.bits import U64, exact, leading_zeros, load_be64
from starloom.coadd.pixels.scaling import dithered, linear, of_tile

_ONE, _SEVEN, _SIX_BITS = U64(1), U64(7), U64(63)
_TOP_UP = U64(56)  # bits that are in the register at least after a refill


class RiceTiles(NamedTuple):
    """Where the tiles of an image lie, checked against the file's size, and how they are coded."""

    starts: NDArray[np.int64]
    """Byte offset of every tile in the file."""
    lengths: NDArray[np.int64]
    """Bytes of every tile; 0: it is stored in another way."""
    nx: int
    ny: int
    tile_nx: int
    tile_ny: int
    bytepix: int
    block_px: int
    segment_px: int
    """Pixels between two states of the index; a multiple of ``block_px``."""


@exact
def _bits(data, bit, count):  # type: ignore[no-untyped-def]
    """Return ``count`` <= 32 bits at bit offset ``bit``, byte by byte: touches no byte beyond them."""
    word = U64(0)
    last = (bit + U64(count) - _ONE) >> U64(3)
    for byte in range(bit >> U64(3), last + _ONE):
        word = (word << U64(8)) | U64(data[U64(byte)])
    return (word >> (_SEVEN - ((bit + U64(count) - _ONE) & _SEVEN))) & ((_ONE << U64(count)) - _ONE)


@exact
def _run_of_zeros(data, bit, end):  # type: ignore[no-untyped-def]
    """Return the number of zero bits from ``bit`` to the next one bit; ``end - bit`` or more: there is none."""
    at = bit
    while at < end:
        byte = U64(data[at >> U64(3)]) << (_TOP_UP + (at & _SEVEN))
        if byte != U64(0):
            return at + leading_zeros(byte) - bit
        at = (at | _SEVEN) + _ONE
    return end - bit


@exact
def _unfold(code):  # type: ignore[no-untyped-def]
    """Return the signed difference that a code 0, 1, 2, 3, … means: 0, -1, 1, -2, … (modulo 2^64)."""
    return (code >> _ONE) ^ (U64(0) - (code & _ONE))


@exact
def _next(word, fs):  # type: ignore[no-untyped-def]
    """Take one pixel off the top of ``word``: its length in bits less ``fs + 1``, its code, and what remains."""
    zeros = leading_zeros(word)
    shift = zeros & _SIX_BITS
    # The one that ends the zeros stands above the low bits here: taking it from the high ones saves a mask.
    code = ((zeros - _ONE) << fs) + ((word << shift) >> (_SIX_BITS - fs))
    # Shifted by the constant first: that does not wait for the count of zeros.
    return zeros, code, (word << (fs + _ONE)) << shift


@exact
def _split(data, bit, end, last, fs, values, at, stop):  # type: ignore[no-untyped-def]
    """Decode pixels ``at:stop`` of a block of ``fs`` low bits; returns bit offset (0: damaged), last pixel."""
    limit = (end >> U64(3)) - U64(8)  # a 64-bit load at this byte still lies inside the tile
    narrow = fs <= U64(10)
    group = 4 if narrow else 2
    fixed = (fs + _ONE) * U64(group)
    while at < stop:
        position = bit >> U64(3)
        if position <= limit:
            word = load_be64(data, position) << (bit & _SEVEN)
            position += _SEVEN
            held = _TOP_UP - (bit & _SEVEN)
            while at + group <= stop and position <= limit:
                # The word may hold more good bits than are counted; the refill writes the same bits again.
                word |= load_be64(data, position) >> held
                position += (_SIX_BITS - held) >> U64(3)
                held |= _TOP_UP
                z0, code, rest = _next(word, fs)
                v0 = last + _unfold(code)
                z1, code, rest = _next(rest, fs)
                v1 = v0 + _unfold(code)
                used = fixed + z0 + z1
                if narrow:
                    z2, code, rest = _next(rest, fs)
                    v2 = v1 + _unfold(code)
                    z3, code, rest = _next(rest, fs)
                    v3 = v2 + _unfold(code)
                    used += z2 + z3
                    if used > held:
                        break
                    values[U64(at + 2)] = np.int32(v2)
                    values[U64(at + 3)] = np.int32(v3)
                    last = v3
                else:
                    if used > held:
                        break
                    last = v1
                values[U64(at)] = np.int32(v0)
                values[U64(at + 1)] = np.int32(v1)
                held -= used
                word = rest
                at += group
            bit = position * U64(8) - held
        for _ in range(min(group, stop - at)):
            zeros = _run_of_zeros(data, bit, end)
            bit += zeros + _ONE
            if bit + fs > end:
                return U64(0), last
            code = zeros << fs
            if fs > U64(0):
                code |= _bits(data, bit, fs)
            bit += fs
            last += _unfold(code)
            values[U64(at)] = np.int32(last)
            at += 1
    return bit, last


@exact
def _decode(data, bit, end, last, bytepix, block_px, values, count):  # type: ignore[no-untyped-def]
    """Decode ``count`` pixels that begin with a block; returns bit offset (0: damaged), last pixel.

    ``values`` gets the pixels modulo 2^32; those of one or two bytes are still to be wrapped.
    """
    fs_bits = U64(3) if bytepix == 1 else U64(4) if bytepix == 2 else U64(5)
    fs_raw = U64(7) if bytepix == 1 else U64(15) if bytepix == 2 else U64(26)
    raw_bits = U64(8 * bytepix)
    at = 0
    while at < count:
        stop = min(at + block_px, count)
        if bit + fs_bits > end:
            return U64(0), last
        if (bit >> U64(3)) + U64(8) <= end >> U64(3):
            code = (load_be64(data, bit >> U64(3)) << (bit & _SEVEN)) >> (U64(64) - fs_bits)
        else:
            code = _bits(data, bit, fs_bits)
        bit += fs_bits
        if code == U64(0):
            for k in range(at, stop):
                values[U64(k)] = np.int32(last)
        elif code < fs_raw:
            bit, last = _split(data, bit, end, last, code - _ONE, values, at, stop)
            if bit == U64(0):
                return bit, last
        elif code == fs_raw:
            if bit + raw_bits * U64(stop - at) > end:
                return U64(0), last
            for k in range(at, stop):
                last += _unfold(_bits(data, bit, raw_bits))
                bit += raw_bits
                values[U64(k)] = np.int32(last)
        else:
            return U64(0), last
        at = stop
    return bit, last


@exact
def _segment(data, start, end, states, segment, count, bytepix, block_px, segment_px, values):  # type: ignore[no-untyped-def]
    """Decode the first ``count`` pixels of a tile's segment, and index all before it; False: damaged."""
    near = segment
    while near > 0 and states[near] == U64(0):
        near -= 1
    if near == 0:
        bit = start + U64(8 * bytepix)
        last = _bits(data, start, 8 * bytepix)
    else:
        bit, last = start + (states[near] >> U64(32)), states[near] & U64(0xFFFFFFFF)
    while True:
        pixels = segment_px if near < segment else count
        bit, last = _decode(data, bit, end, last, bytepix, block_px, values, pixels)
        if bit == U64(0):
            return False
        near += 1
        if pixels == segment_px and near < states.size:
            states[near] = ((bit - start) << U64(32)) | (last & U64(0xFFFFFFFF))
        if near > segment:
            return True


@exact
def _read_tile(data, tiles, states, scaling, tile, box, y0, lo, hi, x0, out, stride, values):  # type: ignore[no-untyped-def]
    """Read the wanted pixels of one tile; returns how many are not finite, or -1: damaged."""
    left, bottom, width, height = box
    bytepix, block_px, segment_px = tiles.bytepix, tiles.block_px, tiles.segment_px
    start = U64(tiles.starts[tile]) * U64(8)
    end = start + U64(tiles.lengths[tile]) * U64(8)
    scale, zero, blank = of_tile(scaling, tile)
    pixels = width * height
    bad = 0
    held, held_px = -1, 0
    for y in range(max(y0, bottom), min(y0 + lo.size, bottom + height)):
        begin, stop = max(lo[y - y0], left), min(hi[y - y0], left + width)
        if begin >= stop:
            continue
        first = (y - bottom) * width + begin - left
        last = first + stop - begin
        place = (y - y0) * stride + begin - x0 - first
        for segment in range(first // segment_px, (last - 1) // segment_px + 1):
            base = segment * segment_px
            whole = min(segment_px, pixels - base)
            wanted = min(last - base, whole)
            if segment != held or wanted > held_px:
                # A tile of one row is decoded as far as it is wanted; of a taller one, the next row follows.
                held, held_px = segment, wanted if height == 1 else whole
                if not _segment(data, start, end, states, segment, held_px, bytepix, block_px, segment_px, values):
                    return -1
            skip = max(first - base, 0)
            if scaling.dither == 0:
                bad += linear(
                    values,
                    skip,
                    wanted,
                    scale,
                    zero,
                    blank,
                    scaling.wrap_bias,
                    scaling.wrap_mask,
                    out,
                    place + base,
                )
            else:
                bad += dithered(values, skip, wanted, scale, zero, blank, scaling, tile, base, out, place + base)
    return bad


@exact
def read_rice(data, tiles, index, scaling, y0, lo, hi, x0, out, stride):  # type: ignore[no-untyped-def]
    """Read pixels ``lo[i]:hi[i]`` of rows ``y0 + i`` out of a mapped file.

    Parameters
    ----------
    data
        The file's bytes, uint8.
    tiles
        A `RiceTiles`.
    index
        Decoder states, uint64, shape (tiles, segments of a tile), 0 where not yet known; filled here.
    scaling
        A `starloom.coadd.pixels.scaling.Scaling`.
    out
        Float32, flat, ``stride`` pixels a row; its row 0 is frame row ``y0``, its column 0 is frame column ``x0``.

    Returns
    -------
    int
        How many of the pixels are not finite, or -1 - tile where a tile's stream is damaged.
    """
    across = (tiles.nx + tiles.tile_nx - 1) // tiles.tile_nx
    values = np.empty(tiles.segment_px, np.int32)
    bad = 0
    for down in range(y0 // tiles.tile_ny, (y0 + lo.size - 1) // tiles.tile_ny + 1):
        bottom = down * tiles.tile_ny
        height = min(tiles.tile_ny, tiles.ny - bottom)
        left, right = tiles.nx, 0
        for y in range(max(y0, bottom), min(y0 + lo.size, bottom + height)):
            if lo[y - y0] < hi[y - y0]:
                left, right = min(left, lo[y - y0]), max(right, hi[y - y0])
        for column in range(left // tiles.tile_nx, (right + tiles.tile_nx - 1) // tiles.tile_nx):
            tile = down * across + column
            if tiles.lengths[tile] == 0:
                continue
            box = (column * tiles.tile_nx, bottom, min(tiles.tile_nx, tiles.nx - column * tiles.tile_nx), height)
            found = _read_tile(data, tiles, index[tile], scaling, tile, box, y0, lo, hi, x0, out, stride, values)
            if found < 0:
                return -1 - tile
            bad += found
    return bad
