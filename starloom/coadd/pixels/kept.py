"""Inflated tiles that are kept for the next span: those of one band of rows, of all frames within one bound."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 64 << 20
"""Of all frames of the process together: nine bands of 550 rows of a frame of 26 Mpix and 16 bits."""

Stored = NDArray[np.generic]


class _Room:
    """Bytes that are taken, counted by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.taken = 0

    def take(self, size: int) -> bool:
        with self._lock:
            if self.taken + size > MOST_BYTES:
                return False
            self.taken += size
            return True

    def give_back(self, size: int) -> None:
        with self._lock:
            self.taken -= size


ROOM = _Room()


def _empty(tiles: dict[int, Stored]) -> None:
    ROOM.give_back(sum(pixels.nbytes for pixels in tiles.values()))
    tiles.clear()


class KeptTiles:
    """Tiles of one image as they were inflated, kept while requests stay in their rows.

    What comes first is kept: frames are read in turn, tile after tile of the output, and what was used longest ago
    would be thrown away just before it is wanted. Threads may share it.
    """

    def __init__(self) -> None:
        self._tiles: dict[int, Stored] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _empty, self._tiles)

    def leave(self, first: int, past: int) -> None:
        """Forget all tiles but those from ``first`` to before ``past``."""
        with self._lock:
            for tile in [tile for tile in self._tiles if not first <= tile < past]:
                ROOM.give_back(self._tiles.pop(tile).nbytes)

    def get(self, tile: int) -> NDArray[Any] | None:
        """Return a tile's values; None: they are not kept."""
        return self._tiles.get(tile)

    def add(self, tile: int, stored: NDArray[Any]) -> None:
        """Keep a tile's values if there is room."""
        with self._lock:
            if tile not in self._tiles and ROOM.take(stored.nbytes):
                self._tiles[tile] = stored
