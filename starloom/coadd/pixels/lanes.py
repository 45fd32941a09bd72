"""Blocks of sixteen RICE streams at once: what one stream's decoder waits for, sixteen share.

A pixel's place in its stream depends on all pixels before it: ten cycles a pixel, most of them spent waiting. The
tiles of an image are streams of their own. Here sixteen of them go in step, one word of state each, and every loop
over them is plain arithmetic without a branch, which the compiler turns into vectors of the width that the machine
has: three cycles a pixel with AVX-512, five with AVX2.

What does not fit that step (a block that is stored raw or whose pixels are equal, zeros beyond the 57 bits of one
load) is noticed after the block, and that stream's block is decoded again by `starloom.coadd.pixels.stream`,
which tests every bit. A block is kept only if it ended inside its stream, and whatever it holds, reads on the way
stay inside the file: a lane moves on by 64 bits a pair of pixels at most.
"""

from __future__ import annotations

import numpy as np

from starloom.coadd.pixels.bits import U64, exact, leading_zeros, load_be64
from starloom.coadd.pixels.stream import decode, raw_code, unfold

LANES = 16
N = U64(LANES)

# All state in one array, field by field: the compiler sees that fields do not overlap.
BIT, LAST, END, ACTIVE, PLACE, COUNT = U64(0), N, U64(2) * N, U64(3) * N, U64(4) * N, U64(5) * N
"""Fields of the state, each of a word a lane: bit offset of the next block in the file; last pixel; bit offset of
the stream's end; 1 for a lane that has a stream; where in ``values`` its next block goes; the block's pixels."""
_BEFORE, _PIXEL, _LOW, _WORD, _HELD, _ODD, _EQUAL = (U64(k) * N for k in range(6, 13))
STATE_SIZE = 13 * LANES

_ONE, _TWO, _SEVEN, _SIX_BITS = U64(1), U64(2), U64(7), U64(63)
_LOADED = U64(57)  # bits of a word that are good wherever in a byte it begins
_MOST_LOW, _LOW_OF_TWO_PAIRS, _LOW_OF_FOUR_PAIRS = U64(22), U64(10), U64(3)
"""Low bits of a pixel up to which one pair, two and four of them fit a word, with room for what stands above."""
_FEW = 3
"""So many streams are decoded one by one at the price of sixteen at once."""


@exact
def _begin(data, state, code_bits, raw, length, furthest):  # type: ignore[no-untyped-def]
    """Take every lane's number of low bits; returns how many lanes have an ordinary block, and their most bits."""
    ordinary, most = U64(0), U64(0)
    for lane in range(N):
        bit = state[BIT + lane]
        state[_BEFORE + lane] = bit
        state[_PIXEL + lane] = state[LAST + lane]
        # Lanes that are near the end of the file read at its beginning instead; so do those without a stream.
        fits = (bit < furthest) & (state[ACTIVE + lane] != U64(0)) & (state[COUNT + lane] == length)
        bit = bit if fits else U64(0)
        code = (load_be64(data, bit >> U64(3)) << (bit & _SEVEN)) >> (U64(64) - code_bits)
        low = code - _ONE  # of code 0, equal pixels, far too many
        usual = fits & (low < raw - _ONE) & (low <= _MOST_LOW)
        low = low if usual else U64(0)
        state[_EQUAL + lane] = U64(fits & (code == U64(0)))
        state[_LOW + lane] = low
        state[_ODD + lane] = U64(0) if usual else _ONE << _SIX_BITS
        state[BIT + lane] = bit + code_bits
        ordinary += U64(usual)
        most = max(most, low)
    return ordinary, most


@exact
def _ordinary(data, state, codes, pairs, often):  # type: ignore[no-untyped-def]
    """Decode a block of every lane to ``codes``, lanes side by side.

    Words are loaded where ``pair & often`` is 0: for every pair, every other one, or one in four.
    """
    for pair in range(pairs):
        if pair & often == U64(0):
            for lane in range(N):
                bit = state[BIT + lane]
                state[_WORD + lane] = load_be64(data, bit >> U64(3)) << (bit & _SEVEN)
                state[_HELD + lane] = _LOADED
        at = pair * _TWO * N
        for lane in range(N):
            word, low = state[_WORD + lane], state[_LOW + lane]
            length, rest = low + _ONE, _SIX_BITS - low
            zeros = leading_zeros(word)
            word <<= zeros & _SIX_BITS
            # The one that ends the zeros stands above the low bits: taking it from the zeros saves a mask.
            first = state[LAST + lane] + unfold(((zeros - _ONE) << low) + (word >> rest))
            word <<= length
            more = leading_zeros(word)
            word <<= more & _SIX_BITS
            second = first + unfold(((more - _ONE) << low) + (word >> rest))
            state[_WORD + lane] = word << length
            used = _TWO * length + zeros + more
            # Its highest bit is set, and stays so, from where the word did not suffice.
            held = state[_HELD + lane] - used
            state[_HELD + lane] = held
            state[_ODD + lane] |= held
            # What is not believed stays near all the same: 64 bits a pair at most.
            state[BIT + lane] += used & _SIX_BITS
            state[LAST + lane] = second
            codes[at + lane] = np.int32(first)
            codes[at + N + lane] = np.int32(second)


@exact
def _beyond(state):  # type: ignore[no-untyped-def]
    """Return whether any lane's block is odd, or reached beyond its stream's end."""
    odd = U64(0)
    for lane in range(N):
        found = state[_ODD + lane] >> _SIX_BITS
        found |= U64(state[BIT + lane] > state[END + lane])
        found &= state[ACTIVE + lane]
        state[_ODD + lane] = found
        odd |= found
    return odd != U64(0)


@exact
def run_blocks(data, state, codes, values, blocks, bytepix, block_px, keep):  # type: ignore[no-untyped-def]
    """Decode the next blocks of all lanes that have a stream.

    Parameters
    ----------
    data
        The file's bytes, uint8, 2880 or more, as every FITS file has.
    state
        Fields of ``LANES`` words, uint64, shape ``(STATE_SIZE,)``; moved on by the blocks.
    codes
        Scratch, int32, shape ``(LANES * block_px,)``.
    values
        Int32: each lane's pixels go there from its ``PLACE`` on, modulo 2^32.
    blocks
        How many; each is of ``block_px`` pixels, or of what a lane's ``COUNT`` says.
    keep
        False: only the state is wanted, and ``values`` may be left as they are.

    Returns
    -------
    int
        -1, or the first lane whose stream is damaged.
    """
    code_bits = U64(3) if bytepix == 1 else U64(4) if bytepix == 2 else U64(5)
    # Blocks of other lengths than an even one up to 64 are in no standard: they go one by one.
    raw = raw_code(bytepix) if block_px % 2 == 0 and block_px <= 64 else _ONE
    length = U64(block_px)
    # A block's pairs move on by 64 bits each at most, and a word is loaded at the last.
    furthest = U64(max(0, data.size - 16 - 4 * block_px)) * U64(8)
    often = U64(1)
    for _ in range(blocks):
        ordinary, most = _begin(data, state, code_bits, raw, length, furthest)
        if ordinary > U64(_FEW):
            often = U64(3) if most <= _LOW_OF_FOUR_PAIRS else _ONE if most <= _LOW_OF_TWO_PAIRS else U64(0)
            _ordinary(data, state, codes, length >> _ONE, often)
            if keep:
                for lane in range(N):
                    place = state[PLACE + lane]
                    for k in range(length):
                        values[place + k] = codes[k * N + lane]
        else:
            for lane in range(N):
                state[_ODD + lane] = _ONE << _SIX_BITS
        if _beyond(state):
            for lane in range(N):
                if state[_ODD + lane] == U64(0):
                    continue
                bit, last = state[_BEFORE + lane], state[_PIXEL + lane]
                if state[_EQUAL + lane] != U64(0):
                    bit += code_bits
                    place = state[PLACE + lane]
                    for k in range(length):
                        values[place + k] = np.int32(last)
                else:
                    start, count = np.int64(state[PLACE + lane]), np.int64(state[COUNT + lane])
                    bit, last = decode(data, bit, state[END + lane], last, bytepix, values, start, count)
                if bit == U64(0) or bit > state[END + lane]:
                    return np.int64(lane)
                state[BIT + lane], state[LAST + lane] = bit, last
        for lane in range(N):
            state[PLACE + lane] += length * state[ACTIVE + lane]
    return np.int64(-1)
