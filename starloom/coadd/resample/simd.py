"""The one place with explicit SIMD: the taps of Lanczos-3, written as LLVM vectors, so that it compiles anywhere.

Two forms, for LLVM finds neither by itself:

`tap6`, `tap8`: one output pixel, a vector along its taps, weights from a table. Any map will do. The same loops in
plain numba (`plain_tap`, which the tests hold it to) take 16.7 ns per pixel where this takes 4.0.

`lanes6`: `WIDTH` neighbouring output pixels, a vector along them, weights from polynomials. Rows of the output
have to run nearly along rows of the frame, as they do in most stacks: then the pixels under a tap are neighbours
too, and are loaded as they lie. It takes 2.0 ns (AVX-512 machine, window in cache; a vector of 16 is one register
there, and two elsewhere). Gathers would allow for any map, and cost more than `tap6`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from starloom.coadd.jit import compiled
from starloom.coadd.resample.kernels import DEGREE, LANES

WIDTH = 16
"""Output pixels that `lanes6` makes at once."""

MOST_ROWS = 8
"""Frame rows, beyond the first, that `WIDTH` pixels may descend."""

_TAPS = 6
_REAL, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FRACTION_BITS = 16


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


class _Vectors:
    """Writes vector instructions of one width."""

    def __init__(self, builder: Any, width: int) -> None:
        self._builder, self.width = builder, width
        self.real, self.int, self.long = (ir.VectorType(kind, width) for kind in (_REAL, _INT, _LONG))
        # Fused where the processor can, the same way wherever this is inlined: bits do not depend on the caller.
        self._multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.real, [self.real] * 3), f"llvm.fmuladd.v{width}f32"
        )

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self._builder.call(self._multiply_add, [a, b, c])

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(value.type, self.width), ir.Undefined)
        one = self._builder.insert_element(undefined, value, ir.Constant(_INT, 0))
        return self._builder.shuffle_vector(one, undefined, ir.Constant(self.int, [0] * self.width))

    def all(self, kind: Any, value: float) -> Any:
        return ir.Constant(ir.VectorType(kind, self.width), [value] * self.width)

    def load(self, base: Any, at: Any) -> Any:
        """Load from the float ``base[at]`` on, wherever it lies."""
        pointer = self._builder.bitcast(self._builder.gep(base, [at]), self.real.as_pointer())
        loaded = self._builder.load(pointer)
        loaded.align = 4
        return loaded

    def store_some(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes that a mask of bits has."""
        kinds = [self.real, self.real.as_pointer(), _INT, mask.type]
        store = cgutils.get_or_insert_function(
            self._builder.module, ir.FunctionType(ir.VoidType(), kinds), f"llvm.masked.store.v{self.width}f32.p0"
        )
        target = self._builder.bitcast(pointer, self.real.as_pointer())
        self._builder.call(store, [value, target, ir.Constant(_INT, 4), mask])

    def load_splat(self, base: Any, at: Any) -> Any:
        return self.splat(self._builder.load(self._builder.gep(base, [at])))


def _pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def _tap_generator(rows: int) -> Any:
    """Return what writes the sum of ``rows`` vectors of pixels times separable weights."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pixels = _pointer(context, builder, signature.args[0], args[0])
        weights = _pointer(context, builder, signature.args[3], args[3])
        vectors = _Vectors(builder, LANES)
        along_x = vectors.load(weights, builder.mul(args[4], _long(LANES)))
        row_weights = builder.mul(args[5], _long(LANES))
        total = vectors.all(_REAL, 0.0)
        for row in range(rows):
            at = builder.add(args[1], builder.mul(args[2], _long(row)))
            weight = vectors.load_splat(weights, builder.add(row_weights, _long(row)))
            total = vectors.multiply_add(vectors.load(pixels, at), weight, total)
        total = builder.fmul(total, along_x)
        width = LANES
        while width > 1:
            half = width // 2
            rest = ir.Constant(ir.VectorType(_REAL, width), ir.Undefined)
            picks = ir.VectorType(_INT, half)
            low = builder.shuffle_vector(total, rest, ir.Constant(picks, list(range(half))))
            high = builder.shuffle_vector(total, rest, ir.Constant(picks, list(range(half, width))))
            total, width = builder.fadd(low, high), half
        return builder.extract_element(total, ir.Constant(_INT, 0))

    return generate


def _tap_signature(window: Any, table: Any) -> Any:
    integer = types.int64
    return types.float32(window, integer, integer, table, integer, integer)


@intrinsic  # type: ignore[untyped-decorator]
def tap6(typing_context: Any, window: Any, offset: Any, stride: Any, table: Any, x: Any, y: Any) -> Any:
    """Return the sum of 6 x 6 pixels times separable weights, float32.

    Parameters
    ----------
    window
        Pixels, flat float32; 8 are loaded from each row, all finite.
    offset, stride
        Index of the first tap, and pixels from row to row.
    table
        `lanczos_table`, flat float32.
    x, y
        Rows of the table for either axis.
    """
    return _tap_signature(window, table), _tap_generator(6)


@intrinsic  # type: ignore[untyped-decorator]
def tap8(typing_context: Any, window: Any, offset: Any, stride: Any, table: Any, x: Any, y: Any) -> Any:
    """Return the sum of 8 x 8 pixels times separable weights; see `tap6`."""
    return _tap_signature(window, table), _tap_generator(8)


def _axis(builder: Any, vectors: _Vectors, position: Any, step: Any, *, along: bool) -> tuple[Any, Any, Any]:
    """Return the first pixel of a vector's positions, how far each lies beyond its own, and their fractions.

    A lane's own pixel is the first, or (``along``) as many further as it is lanes.
    """
    last = _long(vectors.width - 1)
    start = builder.add(position, _long(1 << (31 - _FRACTION_BITS)))
    first = builder.ashr(start, _long(32))
    end = builder.ashr(builder.add(start, builder.mul(last, step)), _long(32))
    if along:
        end = builder.sub(end, last)
    low = builder.select(builder.icmp_signed("<", first, end), first, end)
    ramp = ir.Constant(vectors.long, list(range(vectors.width)))
    places = builder.add(vectors.splat(start), builder.mul(vectors.splat(step), ramp))
    # 16 bits of whole pixels are enough for differences, and 16 of fraction are exact in float32.
    short = builder.trunc(builder.lshr(places, vectors.all(_LONG, 32 - _FRACTION_BITS)), vectors.int)
    mask = vectors.all(_INT, (1 << _FRACTION_BITS) - 1)
    fraction = builder.fmul(
        builder.uitofp(builder.and_(short, mask), vectors.real), vectors.all(_REAL, 2.0**-_FRACTION_BITS)
    )
    own = vectors.splat(builder.trunc(low, _INT))
    if along:
        own = builder.add(own, ir.Constant(vectors.int, list(range(vectors.width))))
    whole = builder.lshr(short, vectors.all(_INT, _FRACTION_BITS))
    return low, builder.and_(builder.sub(whole, own), mask), fraction


def _weights(builder: Any, vectors: _Vectors, coefficients: Any, fraction: Any) -> list[Any]:
    """Return the weights of the six taps, from `lanczos_polynomials`; exactly 1 and 0 at a whole pixel."""

    def polynomial(which: int) -> Any:
        first = which * (DEGREE + 1)
        total = vectors.load_splat(coefficients, _long(first + DEGREE))
        for power in range(DEGREE - 1, -1, -1):
            next_one = vectors.load_splat(coefficients, _long(first + power))
            total = vectors.multiply_add(total, h, next_one)
        return total

    g = builder.fadd(fraction, vectors.all(_REAL, -0.5))
    h = builder.fmul(fraction, builder.fsub(vectors.all(_REAL, 1.0), fraction))
    g_h = builder.fmul(g, h)
    taps = [None] * _TAPS
    for pair in range(3):
        even, odd = polynomial(2 * pair), polynomial(2 * pair + 1)
        if pair < 2:
            even, factor = builder.fmul(h, even), g_h
        else:
            even = vectors.multiply_add(h, even, vectors.all(_REAL, 0.5))
            odd, factor = vectors.multiply_add(h, odd, vectors.all(_REAL, 1.0)), g
        taps[pair] = vectors.multiply_add(builder.fneg(factor), odd, even)
        taps[_TAPS - 1 - pair] = vectors.multiply_add(factor, odd, even)
    return taps


def _chain(vectors: _Vectors, builder: Any, base: Any, weights: Sequence[Any]) -> Any:
    """Return the sum of vectors, each one float further on, times their weights."""
    total = builder.fmul(vectors.load(base, _long(0)), weights[0])
    for tap in range(1, len(weights)):
        total = vectors.multiply_add(vectors.load(base, _long(tap)), weights[tap], total)
    return total


def _lanes_generator(width: int) -> Any:
    """Return what writes ``width`` output pixels at once; a pixel's sums have the same order in any lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        coefficients = _pointer(context, builder, signature.args[6], args[6])
        pixels, out = (builder.inttoptr(args[i], _REAL.as_pointer()) for i in (0, 7))
        stride, x, y, dx, dy = args[1:6]
        keep, backward, descent, slips = args[8:]
        vectors = _Vectors(builder, width)
        column, slip, fraction_x = _axis(builder, vectors, x, dx, along=True)
        row, rows_down, fraction_y = _axis(builder, vectors, y, dy, along=False)
        along_x = _weights(builder, vectors, coefficients, fraction_x)
        along_y = _weights(builder, vectors, coefficients, fraction_y)
        before = _long(2)
        corner = builder.add(builder.mul(builder.sub(row, before), stride), builder.sub(column, before))
        first = builder.gep(pixels, [corner])
        zero = vectors.all(_REAL, 0.0)
        sums = cgutils.alloca_once(builder, vectors.real, size=_TAPS + MOST_ROWS)

        def sum_rows(weights: Sequence[Any]) -> None:
            with cgutils.for_range(builder, builder.add(descent, _long(_TAPS))) as loop:
                line = builder.gep(first, [builder.mul(loop.index, stride)])
                builder.store(_chain(vectors, builder, line, weights), builder.gep(sums, [loop.index]))

        with builder.if_else(builder.icmp_signed("!=", slips, _long(0)), likely=False) as (some, none):
            with some:
                # A pixel more is loaded, and where a lane lies one further its weights do too: a weight of 0 more
                # or less changes no bit of a sum.
                further = builder.icmp_unsigned(">", slip, vectors.all(_INT, 0))
                padded = [zero, *along_x, zero]
                sum_rows([builder.select(further, padded[k], padded[k + 1]) for k in range(_TAPS + 1)])
            with none:
                sum_rows(along_x)
        total = cgutils.alloca_once(builder, vectors.real)
        builder.store(zero, total)
        with cgutils.for_range(builder, builder.add(descent, _long(1))) as loop:
            level = builder.gep(sums, [loop.index])
            lines = builder.fmul(builder.load(level), along_y[0])
            for tap in range(1, _TAPS):
                lines = vectors.multiply_add(builder.load(builder.gep(level, [_long(tap)])), along_y[tap], lines)
            here = builder.icmp_unsigned("==", rows_down, vectors.splat(builder.trunc(loop.index, _INT)))
            builder.store(builder.select(here, lines, builder.load(total)), total)
        forward = builder.load(total)
        mirrored = builder.shuffle_vector(forward, forward, ir.Constant(vectors.int, list(range(width))[::-1]))
        turned = builder.icmp_signed("!=", backward, _long(0))
        result = builder.select(turned, mirrored, forward)
        whole = builder.icmp_signed("==", keep, _long(width))
        with builder.if_else(whole, likely=True) as (all_of_them, some_of_them):
            with all_of_them:
                builder.store(result, builder.bitcast(out, vectors.real.as_pointer())).align = 4
            with some_of_them:
                skipped = builder.select(turned, builder.sub(_long(width), keep), _long(0))
                lanes = ir.Constant(vectors.int, list(range(width)))
                place = builder.sub(lanes, vectors.splat(builder.trunc(skipped, _INT)))
                kept = builder.icmp_unsigned("<", place, vectors.splat(builder.trunc(keep, _INT)))
                vectors.store_some(result, out, kept)
        return context.get_dummy_value()

    return generate


def _lanes_signature(coefficients: Any) -> Any:
    integer = types.int64
    return types.void(*[integer] * 6, coefficients, *[integer] * 5)


@intrinsic  # type: ignore[untyped-decorator]
def lanes6(
    typing_context: Any, window: Any, stride: Any, x: Any, y: Any, dx: Any, dy: Any, coefficients: Any,
    out: Any, keep: Any, backward: Any, descent: Any, slips: Any,
) -> Any:  # fmt: skip
    """Write the sums of 6 x 6 pixels times separable weights for `WIDTH` neighbours.

    Addresses stand for arrays: a small function that is given arrays counts their references at every call, which
    takes longer than all this.

    Parameters
    ----------
    window, stride
        Address of the window, float32, and pixels from row to row. All that is loaded is finite: rows from 2 above
        the first pixel's to ``3 + descent`` below.
    x, y, dx, dy
        Place of the first pixel in the window, and the step to the next, 32.32 fixed-point; ``dx`` is 1 to 1/16.
    coefficients
        `lanczos_polynomials`.
    out, keep
        Address, float32, where the first of `WIDTH` values goes, and how many there are place for.
    backward
        Nonzero: the pixels are written last to first, and the last ``keep`` of those are kept.
    descent
        At least the rows that the pixels descend or ascend, at most `MOST_ROWS`.
    slips
        Whether a pixel may lie a column further or less than its step of 1 says.
    """
    return _lanes_signature(coefficients), _lanes_generator(WIDTH)


@intrinsic  # type: ignore[untyped-decorator]
def lane6(
    typing_context: Any, window: Any, stride: Any, x: Any, y: Any, dx: Any, dy: Any, coefficients: Any,
    out: Any, keep: Any, backward: Any, descent: Any, slips: Any,
) -> Any:  # fmt: skip
    """Write what `lanes6` does, bit by bit, for one pixel."""
    return _lanes_signature(coefficients), _lanes_generator(1)


@intrinsic  # type: ignore[untyped-decorator]
def fetch(typing_context: Any, address: Any) -> Any:
    """Ask for the memory at an address, which need not exist, before it is needed."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT]), "llvm.prefetch.p0"
        )
        # To be read, and kept, as data.
        how = [ir.Constant(_INT, value) for value in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(args[0], byte), *how])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@compiled
def plain_tap(
    window: NDArray[np.float32], offset: int, stride: int, table: NDArray[np.float32], x: int, y: int
) -> Any:
    """Return what `tap8` returns (`tap6` too: its last weights are 0), to rounding, from plain loops."""
    total = np.float32(0)
    for row in range(LANES):
        along = np.float32(0)
        for column in range(LANES):
            along += table[x * LANES + column] * window[offset + row * stride + column]
        total += table[y * LANES + row] * along
    return total
