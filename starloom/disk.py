"""Files that are whole or absent, and whether a disk is full, which an `OSError` does not always say."""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path

from starloom.errors import StarloomError

#: No space, quota reached, file size limit reached.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Tell whether an error means that nothing more can be written.

    numpy's ``tofile``, which astropy writes pixels with, drops the system's error number and says
    ``1000 requested and 88 written``.
    """
    return error.errno in FULL or (error.errno is None and "requested and" in str(error))


@contextlib.contextmanager
def whole_or_absent(target: Path) -> Iterator[Path]:
    """Give a place beside the target to write to, which becomes the target when the block ends well.

    Raises
    ------
    StarloomError
        ``disk-full``, retryable; nothing is left behind then, nor after any other error.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        if not is_full(error):
            raise
        raise StarloomError(
            f"{target.name}: no space left in {target.parent}",
            code="disk-full",
            hint="Free some space, then try again.",
            retryable=True,
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
