"""One RICE_1 stream, block after block, every bit of it tested: damaged bytes end in a word that says so.

`starloom.coadd.pixels.lanes` decodes most blocks; here come those that it cannot take.

References
----------
FITS Standard 4.0, section 10.4.1; Rice, Yeh & Miller 1993, JPL 93-15.
"""

from __future__ import annotations

import numpy as np

from starloom.coadd.pixels.bits import U64, exact, leading_zeros, load_be64

_ONE, _SEVEN, _SIX_BITS = U64(1), U64(7), U64(63)
_TOP_BYTE = U64(56)
_LOADED = U64(57)  # bits of a word that are good wherever in a byte it begins


@exact
def take_bits(data, bit, count):  # type: ignore[no-untyped-def]
    """Return ``count`` <= 32 bits at bit offset ``bit``, byte by byte: touches no byte beyond them."""
    word = U64(0)
    last = (bit + U64(count) - _ONE) >> U64(3)
    for byte in range(bit >> U64(3), last + _ONE):
        word = (word << U64(8)) | U64(data[U64(byte)])
    return (word >> (_SEVEN - ((bit + U64(count) - _ONE) & _SEVEN))) & ((_ONE << U64(count)) - _ONE)


@exact
def unfold(code):  # type: ignore[no-untyped-def]
    """Return the signed difference that a code 0, 1, 2, 3, … means: 0, -1, 1, -2, … (modulo 2^64)."""
    return (code >> _ONE) ^ (U64(0) - (code & _ONE))


@exact
def raw_code(bytepix):  # type: ignore[no-untyped-def]
    """Return the code of a block whose differences are stored as they are; none is greater."""
    return U64(7) if bytepix == 1 else U64(15) if bytepix == 2 else U64(26)


@exact
def _run_of_zeros(data, bit, end):  # type: ignore[no-untyped-def]
    """Return the number of zero bits from ``bit`` to the next one bit; ``end - bit`` or more: there is none."""
    at = bit
    while at < end:
        byte = U64(data[at >> U64(3)]) << (_TOP_BYTE + (at & _SEVEN))
        if byte != U64(0):
            return at + leading_zeros(byte) - bit
        at = (at | _SEVEN) + _ONE
    return end - bit


@exact
def _split(data, bit, end, last, low, values, at, stop):  # type: ignore[no-untyped-def]
    """Decode pixels of ``low`` low bits to ``values[at:stop]``; returns bit offset (0: damaged), last pixel."""
    safe = (end >> U64(3)) - U64(8)  # a 64-bit load at this byte still lies inside the stream
    length, rest = low + _ONE, _SIX_BITS - low
    for k in range(at, stop):
        fits = False
        if bit >> U64(3) <= safe:
            word = load_be64(data, bit >> U64(3)) << (bit & _SEVEN)
            zeros = leading_zeros(word)
            fits = zeros + length <= _LOADED
        if fits:
            code = ((zeros - _ONE) << low) + ((word << zeros) >> rest)
        else:
            zeros = _run_of_zeros(data, bit, end)
            if bit + zeros + length > end:
                return U64(0), last
            code = zeros << low
            if low > U64(0):
                code |= take_bits(data, bit + zeros + _ONE, low)
        bit += zeros + length
        last += unfold(code)
        values[U64(k)] = np.int32(last)
    return bit, last


@exact
def decode(data, bit, end, last, bytepix, values, place, count):  # type: ignore[no-untyped-def]
    """Decode a block of ``count`` pixels.

    Parameters
    ----------
    data
        The file's bytes, uint8.
    bit, end
        Bit offsets in the file where the block begins and its stream ends, uint64, beyond its header.
    last
        The pixel before, uint64.
    values
        Int32: the pixels go to ``values[place:]``, modulo 2^32; those of one or two bytes are still to be wrapped.

    Returns
    -------
    tuple[uint64, uint64]
        Bit offset behind it (0: the stream is damaged) and last pixel.
    """
    code_bits = U64(3) if bytepix == 1 else U64(4) if bytepix == 2 else U64(5)
    raw, raw_bits = raw_code(bytepix), U64(8 * bytepix)
    if bit + code_bits > end:
        return U64(0), last
    code = take_bits(data, bit, code_bits)
    bit += code_bits
    if code == U64(0):
        for k in range(place, place + count):
            values[U64(k)] = np.int32(last)
    elif code < raw:
        bit, last = _split(data, bit, end, last, code - _ONE, values, place, place + count)
    elif code == raw and bit + raw_bits * U64(count) <= end:
        for k in range(place, place + count):
            last += unfold(take_bits(data, bit, raw_bits))
            bit += raw_bits
            values[U64(k)] = np.int32(last)
    else:
        bit = U64(0)
    return bit, last
