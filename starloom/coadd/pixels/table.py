"""The table in which a tile-compressed image is kept: where each tile's bytes are, checked against the file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.layout import Bytes, Hdu, damaged

_FORM = re.compile(r"\s*(\d*)([LXBIJKAEDCMPQ])([LXBIJKAEDCM]?)")
_WIDTH = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_TYPE = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}


@dataclass(frozen=True)
class Extents:
    """Byte offsets in the file and lengths (bytes) of all tiles' values in one column; length 0: none there."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    kind: str
    """FITS letter of the elements."""


class TileTable:
    """Geometry, columns and settings of a tile-compressed image."""

    def __init__(self, data: Bytes, hdu: Hdu) -> None:
        self.hdu = hdu
        self.algorithm = str(hdu.cards.get("ZCMPTYPE", "")).strip().replace("RICE_ONE", "RICE_1")
        self.ny, self.nx = hdu.image_shape
        self.tile_nx = min(hdu.integer("ZTILE1", self.nx, least=1), self.nx)
        self.tile_ny = min(hdu.integer("ZTILE2", 1, least=1), self.ny)
        self.across = -(-self.nx // self.tile_nx)
        self.count = self.across * -(-self.ny // self.tile_ny)
        self.bitpix = hdu.integer("ZBITPIX", least=-64, most=64)
        if self.bitpix not in (8, 16, 32, 64, -32, -64):
            raise damaged(hdu.path, f"ZBITPIX = {self.bitpix}")
        width, rows = hdu.integer("NAXIS1", least=1), hdu.integer("NAXIS2")
        if rows < self.count:
            raise damaged(hdu.path, f"{rows} tiles of {self.count} are there")
        self._heap = hdu.data_at + hdu.integer("THEAP", width * rows, least=width * rows, most=2**62)
        self._end = hdu.data_end
        end = hdu.data_at + width * rows
        if end > hdu.data_end:
            raise damaged(hdu.path, "the table is longer than its data unit")
        self._rows = data[hdu.data_at : end].reshape(rows, width)[: self.count]
        self._columns = dict(self._place_columns(width))

    def _place_columns(self, width: int) -> list[tuple[str, tuple[int, str, str]]]:
        at = 0
        found = []
        for k in range(1, self.hdu.integer("TFIELDS", most=999) + 1):
            match = _FORM.match(str(self.hdu.cards.get(f"TFORM{k}", "")))
            if match is None:
                raise damaged(self.hdu.path, f"TFORM{k} = {self.hdu.cards.get(f'TFORM{k}')!r}")
            repeat, kind, element = int(match[1] or 1), match[2], match[3]
            size = -(-repeat // 8) if kind == "X" else repeat * _WIDTH[kind]
            name = str(self.hdu.cards.get(f"TTYPE{k}", "")).strip().upper()
            if repeat:
                found.append((name, (at, kind, element)))
            at += size
            if at > width:
                raise damaged(self.hdu.path, "the table's columns are wider than its rows")
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def setting(self, name: str, default: int) -> int:
        """Return an integer parameter of the algorithm (``ZNAMEn``, ``ZVALn``)."""
        for k in range(1, 100):
            if str(self.hdu.cards.get(f"ZNAME{k}", "")).strip().upper() == name:
                return self.hdu.integer(f"ZVAL{k}", most=2**31 - 1)
        return default

    def column(self, name: str) -> NDArray[np.float64] | None:
        """Return a column of numbers, one a tile; None: there is none, nor a keyword of its name."""
        if name not in self._columns:
            return np.array([self.hdu.number(name, 0.0)]) if name in self.hdu.cards else None
        at, kind, _ = self._columns[name]
        if kind not in _TYPE:
            raise damaged(self.hdu.path, f"column {name} holds no numbers")
        size = _WIDTH[kind]
        values = np.ascontiguousarray(self._rows[:, at : at + size]).view(_TYPE[kind])
        return values[:, 0].astype(np.float64)

    def extents(self, name: str) -> Extents:
        """Return where the tiles' values of a column of arrays lie; all inside the table's heap.

        Raises
        ------
        BadInput
            ``unreadable``: there is no such column, or it points outside.
        """
        at, kind, element = self._columns.get(name, (0, "", ""))
        if kind not in ("P", "Q") or element not in _TYPE:
            raise damaged(self.hdu.path, f"it has no column {name} of arrays")
        half = 4 if kind == "P" else 8
        pairs = np.ascontiguousarray(self._rows[:, at : at + 2 * half]).view(f">i{half}").astype(np.int64)
        counts, offsets = pairs[:, 0], pairs[:, 1]
        size = self._end - self._heap
        unit = _WIDTH[element]
        # Counted with a division and a difference: neither can overflow.
        inside = (counts >= 0) & (counts <= size // unit) & (offsets >= 0) & (offsets <= size)
        if not (inside & (offsets <= size - counts.clip(0, max(size, 0)) * unit) | (counts == 0)).all():
            raise damaged(self.hdu.path, f"column {name} points beyond the file")
        if int(counts.sum()) * unit > size:
            raise damaged(self.hdu.path, f"the tiles of column {name} overlap")
        return Extents(self._heap + offsets, counts * unit, element)
