"""Masters that were decoded lately: the frames of a chunk mostly want the same ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from starloom.calibration.calibrated_file import Planes


class HeldPlanes:
    """The planes used last, up to a number of bytes; safe to share between threads.

    Decoding a master of 24 Mpix takes as long as applying it (0.5 CPU-s), and a night's frames share three.

    Parameters
    ----------
    max_bytes
        What is held at most; planes larger than that are lent, but not held.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, Planes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], Planes]) -> Planes:
        """Return the planes under a key that never means anything else, loaded where they are not held."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
        # Outside the lock: two threads may load the same one, which costs time but holds nobody up.
        loaded = load()
        for plane in (loaded.data, loaded.mask, loaded.variance):
            if plane is not None:
                plane.setflags(write=False)  # shared, so nobody may work in place
        with self._lock:
            self._held[key] = loaded
            self._held.move_to_end(key)
            while self._held and sum(map(_bytes, self._held.values())) > self._max_bytes:
                self._held.popitem(last=False)
        return loaded


def _bytes(planes: Planes) -> int:
    return sum(plane.nbytes for plane in (planes.data, planes.mask, planes.variance) if plane is not None)
