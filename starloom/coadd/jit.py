"""How the co-add's inner loops are compiled: without the GIL, cached, the same bits for any number of threads."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np

from starloom.disk import whole_or_absent

ABSENT = np.float32(3e38)
"""What a resampled pixel holds where its frame has nothing: finite, so that no loop needs to test for NaN."""

Function = TypeVar("Function", bound=Callable[..., Any])

_ROOM = Path(__file__).parent
_FLAGS = {"nnan", "ninf", "nsz", "contract"}


def _forget_stale_code() -> None:
    """Remove compiled code that is older than any module of this room.

    numba looks only at the file in which a function stands: a loop that calls one of another module, or takes a
    constant from it, would go on with what those were when it was compiled.
    """
    sources = sorted(_ROOM.rglob("*.py"))
    text = "\n".join(f"{p.relative_to(_ROOM)} {(found := p.stat()).st_mtime_ns} {found.st_size}" for p in sources)
    stamp = hashlib.sha256(text.encode()).hexdigest()
    note = _ROOM / "__pycache__" / "compiled.stamp"
    with contextlib.suppress(OSError):  # nothing can be written here: nothing is cached here either
        if note.exists() and note.read_text() == stamp:
            return
        for index in _ROOM.rglob("__pycache__/*.nbi"):
            index.unlink(missing_ok=True)
        note.parent.mkdir(exist_ok=True)
        with whole_or_absent(note) as partial:
            partial.write_text(stamp)


_forget_stale_code()


def compiled(function: Function) -> Function:
    """Compile a loop over arrays.

    Sums keep the order in which they are written (no reassociation), so that the result does not depend on how
    the work was cut; products and sums may fuse, and NaN is not expected: absent pixels hold `ABSENT`. Compiled
    code is cached beside the module, or in the user's cache folder where that cannot be written.

    Quotients stay quotients: by a reciprocal, one in twelve differed in its last bit between a vector's lanes and
    the rest of a row.
    """
    return _cached(function, fastmath=_FLAGS)


def summed(function: Function) -> Function:
    """Compile a loop like `compiled`, but let its sums be taken in any order.

    For planning alone, where the same work is always done whole: lanes of a vector each sum their share, which
    made the sky of cells five times faster. The order depends on the processor.
    """
    return _cached(function, fastmath=_FLAGS | {"reassoc"})


def exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that reads frames, with IEEE arithmetic.

    NaN is written and tested there, and products and sums must not fuse: dequantised pixels have to be the same
    bits as in any other FITS reader.
    """
    return _cached(function, fastmath=False)


def _cached(function: Function, **options: Any) -> Function:
    # The Python error model tests every division, which keeps loops from being vectorised.
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError as error:
        # A container whose user can write neither here nor at home: it compiles at every start, and works.
        if "no locator" not in str(error):
            raise
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
