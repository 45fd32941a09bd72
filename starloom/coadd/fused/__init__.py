"""The combination's inner loops, compiled: medians, signal, rejection, sums. All over cubes (frame, row, column).

No loop lets a tile's place decide a bit: per output pixel the operations and their order are always the same,
whatever block, strip or vector lane the pixel falls into.

How the innermost loops are written is measured. They take whole arrays and unsigned offsets: a signed index may
be negative, which numba tests and so gathers element by element (5 times slower), and a slice is counted as a
reference, with atomic additions. They run to a variable length: a constant one is unrolled, not vectorised.
"""

import numpy as np

BLOCK = 64
"""Pixels handled at a time: with 100 frames, all values of a block (25 KiB) stay in the first-level cache."""

offset = np.uintp
"""Type of an index that cannot be negative."""

CENTRE, BASE, LEVEL, CONTRAST, ALIKE, SHARPER, WIDER, MIXED = (offset(row) for row in range(8))
"""Planes of what values are compared with, each of npix: what a pixel is and how far stars may be from it."""
