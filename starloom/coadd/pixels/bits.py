"""The three machine instructions that Python cannot say: the only intrinsics of the reader.

Bit streams and FITS pixels are big-endian and not aligned. Written as shifts of single bytes, one load becomes
eight loads and seven shifts; written with `numpy.ndarray.view`, it allocates. LLVM has a word for each of them.
None of these functions checks bounds: the caller must know that all bytes lie inside the array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from starloom.coadd.jit import exact as exact


def _load(bits: int) -> Callable[..., Any]:
    def load(typing_context: Any, array: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(bits).as_pointer())
            word = builder.load(address)
            word.align = 1
            return builder.bswap(word)

        return getattr(types, f"uint{bits}")(array, types.uint64), generate

    return load


load_be16 = intrinsic(_load(16))
"""``load_be16(bytes, offset)``: the big-endian word at a byte offset, uint16."""
load_be32 = intrinsic(_load(32))
"""``load_be32(bytes, offset)``: the big-endian word at a byte offset, uint32."""
load_be64 = intrinsic(_load(64))
"""``load_be64(bytes, offset)``: the big-endian word at a byte offset, uint64."""


def _leading_zeros(typing_context: Any, word: Any) -> Any:

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


leading_zeros = intrinsic(_leading_zeros)
"""``leading_zeros(word)``: how many zero bits stand above the highest set bit of a uint64; 64 for zero."""


def _reinterpret(bits: int) -> Callable[..., Any]:
    def reinterpret(typing_context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], ir.FloatType() if bits == 32 else ir.DoubleType())

        return getattr(types, f"float{bits}")(getattr(types, f"uint{bits}")), generate

    return reinterpret


as_float32 = intrinsic(_reinterpret(32))
"""``as_float32(word)``: the float whose bits a uint32 holds."""
as_float64 = intrinsic(_reinterpret(64))
"""``as_float64(word)``: the double whose bits a uint64 holds."""

U64 = np.uint64
"""Numba turns a sum of int64 and uint64 into a float: constants of bit arithmetic are unsigned."""
