"""Is the disk full? Asked of an `OSError`, which does not always say so."""

from __future__ import annotations

import errno

#: No space, quota reached, file size limit reached.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: OSError) -> bool:
    """Tell whether an error means that nothing more can be written.

    numpy's ``tofile``, which astropy writes pixels with, drops the system's error number and says
    ``1000 requested and 88 written``.
    """
    return error.errno in FULL or (error.errno is None and "requested and" in str(error))
