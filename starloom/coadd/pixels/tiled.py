"""Tile-compressed images: RICE_1 by its own decoder, GZIP tile by tile, what is left through astropy."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from starloom.coadd.pixels.kept import KeptTiles
from starloom.coadd.pixels.layout import Bytes, Hdu, damaged
from starloom.coadd.pixels.rice import RiceTiles, read_rice
from starloom.coadd.pixels.scaling import NO_BLANK, Scaling, dither_noise, dithered, linear, of_tile
from starloom.coadd.pixels.table import Extents, TileTable

_GZIP_WINDOW = 31
_MAX_BLOCK_PX = 1024
_DITHERS = {"SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}


def _scaling(table: TileTable, bytepix: int) -> Scaling:
    hdu = table.hdu
    scale, zero = np.array([hdu.number("BSCALE", 1.0)]), np.array([hdu.number("BZERO", 0.0)])
    exact_zero = float(zero[0])
    tile_scale, tile_zero = table.column("ZSCALE"), table.column("ZZERO")
    dither = 0
    if tile_scale is not None and tile_zero is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            zero = tile_zero * scale + zero
            scale = tile_scale * scale
        dither = _DITHERS.get(str(hdu.cards.get("ZQUANTIZ", "")).strip(), 0)
    blank = table.column("ZBLANK")
    if blank is None:
        blank = np.array([hdu.number("BLANK", np.inf) if table.bitpix > 0 and "BLANK" in hdu.cards else np.inf])
    whole = np.full(blank.shape, NO_BLANK, np.int64)  # not through a double, which it is not
    known = np.abs(blank) <= 2**31
    whole[known] = blank[known].astype(np.int64)
    return Scaling(
        scale,
        zero,
        whole,
        bytepix,
        dither,
        hdu.integer("ZDITHER0", 1, most=2**31 - 1) if dither else 0,
        exact_zero,
        dither_noise() if dither else np.zeros(1, np.float32),
    )


class TilesOneByOne:
    """Tiles that are inflated whole: GZIP_1, GZIP_2, NOCOMPRESS, and what another algorithm could not code."""

    def __init__(self, data: Bytes, table: TileTable) -> None:
        self._data, self._table = data, table
        self._kept = KeptTiles()
        self._scaling = _scaling(table, 4)
        self._quantised = table.column("ZSCALE") is not None
        self._columns: list[tuple[Extents, str, bool]] = []
        if table.algorithm in ("GZIP_1", "GZIP_2", "NOCOMPRESS"):
            self._columns.append((table.extents("COMPRESSED_DATA"), table.algorithm, self._quantised))
        for name, algorithm in (("GZIP_COMPRESSED_DATA", "GZIP_1"), ("UNCOMPRESSED_DATA", "NOCOMPRESS")):
            if name in table:
                self._columns.append((table.extents(name), algorithm, False))

    def read(
        self,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
        stride: int,
        only: NDArray[np.bool_] | None = None,
    ) -> bool:
        """See `starloom.coadd.pixels.source.Plane`; ``only`` says which tiles to read."""
        table = self._table
        bad = False
        first, past = y0 // table.tile_ny, (y0 + lo.size - 1) // table.tile_ny + 1
        self._kept.leave(first * table.across, past * table.across)
        for down in range(first, past):
            bottom = down * table.tile_ny
            rows = range(max(y0, bottom), min(y0 + lo.size, bottom + table.tile_ny))
            for column in range(table.across):
                tile = down * table.across + column
                if only is not None and not only[tile]:
                    continue
                left = column * table.tile_nx
                height, width = min(table.tile_ny, table.ny - bottom), min(table.tile_nx, table.nx - left)
                spans = [(y, max(int(lo[y - y0]), left), min(int(hi[y - y0]), left + width)) for y in rows]
                spans = [span for span in spans if span[1] < span[2]]
                if not spans:
                    continue
                stored, quantised = self._tile(tile, height * width, sum(b - a for _, a, b in spans))
                for y, begin, end in spans:
                    at = (y - bottom) * width - left
                    bad |= self._write(
                        stored, at + begin, at + end, quantised, tile, out, (y - y0) * stride - x0 + begin
                    )
        return bad

    def _tile(self, tile: int, count: int, wanted: int) -> tuple[NDArray[Any], bool]:
        """Return a tile's values and whether they are quantised."""
        for extents, algorithm, quantised in self._columns:
            if not extents.lengths[tile]:
                continue
            stored = self._kept.get(tile)
            if stored is None:
                stored = self._stored(extents, algorithm, quantised, tile, count)
                if wanted < count:
                    self._kept.add(tile, stored)
            return stored, quantised
        raise damaged(self._table.hdu.path, f"tile {tile} is empty")

    def _stored(self, extents: Extents, algorithm: str, quantised: bool, tile: int, count: int) -> NDArray[Any]:
        start = int(extents.starts[tile])
        content = self._data[start : start + int(extents.lengths[tile])].tobytes()
        if algorithm != "NOCOMPRESS":
            try:
                content = zlib.decompressobj(_GZIP_WINDOW).decompress(content, 8 * count + 1)
            except zlib.error as error:
                raise damaged(self._table.hdu.path, f"tile {tile}: {error}") from error
        width = len(content) // count
        if width * count != len(content) or width not in (1, 2, 4, 8):
            raise damaged(self._table.hdu.path, f"tile {tile} has {len(content)} bytes for {count} pixels")
        if algorithm == "GZIP_2":
            content = np.frombuffer(content, np.uint8).reshape(width, count).T.tobytes()
        # The tile itself says how wide its values are: nothing in the header does.
        is_float = self._table.bitpix < 0 and not quantised and width >= 4
        return np.frombuffer(content, "u1" if width == 1 else f">{'f' if is_float else 'i'}{width}")

    def _write(
        self,
        stored: NDArray[Any],
        begin: int,
        end: int,
        quantised: bool,
        tile: int,
        out: NDArray[np.float32],
        place: int,
    ) -> bool:
        """Write a tile's values ``begin:end`` as ADU to ``out[place:]``; returns whether any may not be finite."""
        hdu, scaling = self._table.hdu, self._scaling
        part, count = stored[begin:end], end - begin
        adu = out[place : place + count]
        if quantised:
            scale, zero, blank = of_tile(scaling, tile)
            values = part.astype(np.int32)
            if scaling.dither:
                dithered(values, 0, count, scale, zero, blank, scaling, tile, begin, out, place)
            else:
                linear(values, 0, count, scale, zero, blank, 4, out, place)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                adu[:] = part.astype(np.float64) * hdu.number("BSCALE", 1.0) + hdu.number("BZERO", 0.0)
            if stored.dtype.kind != "f":
                adu[part == scaling.blank[tile if scaling.blank.size > 1 else 0]] = np.nan
        return not bool(np.isfinite(adu).all())


class RicePlane:
    """An image in RICE_1 tiles, read from the mapped file by a lazily built index."""

    def __init__(self, data: Bytes, table: TileTable, checkpoint_px: int) -> None:
        extents = table.extents("COMPRESSED_DATA")
        bytepix, block = table.setting("BYTEPIX", 4), table.setting("BLOCKSIZE", 32)
        if bytepix not in (1, 2, 4) or not 1 <= block <= _MAX_BLOCK_PX:
            raise damaged(table.hdu.path, f"RICE_1 with BYTEPIX {bytepix} and BLOCKSIZE {block}")
        _check_lengths(table, extents.lengths, bytepix, block)
        self._data, self._table = data, table
        self._tiles = RiceTiles(
            extents.starts, extents.lengths, table.nx, table.ny, table.tile_nx, table.tile_ny,
            bytepix, block, max(1, checkpoint_px // block) * block,
        )  # fmt: skip
        self._scaling = _scaling(table, bytepix)
        self._index: NDArray[np.uint64] | None = None
        self._elsewhere = extents.lengths == 0
        self._rest = TilesOneByOne(data, table) if self._elsewhere.any() else None
        with np.errstate(over="ignore", invalid="ignore"):
            reach = np.abs(self._scaling.scale) * 2.0**32 + np.abs(self._scaling.zero)
        self._may_overflow = not bool((reach < np.finfo(np.float32).max).all())

    def read(
        self,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
        stride: int,
    ) -> bool:
        """See `starloom.coadd.pixels.source.Plane`."""
        tiles = self._tiles
        index = self._index
        if index is None:
            # Zeroed pages come from the operating system only when they are written.
            segments = -(-tiles.tile_nx * tiles.tile_ny // tiles.segment_px)
            index = self._index = np.zeros((tiles.lengths.size, segments), np.uint64)
        bad = int(read_rice(self._data, tiles, index, self._scaling, y0, lo, hi, x0, out, stride))
        if bad < 0:
            raise damaged(self._table.hdu.path, f"tile {-1 - bad} is no RICE_1 stream")
        found = bad > 0 or self._may_overflow
        if self._rest is not None:
            found = self._rest.read(y0, lo, hi, x0, out, stride, only=self._elsewhere) or found
        return found


def _check_lengths(table: TileTable, lengths: NDArray[np.int64], bytepix: int, block: int) -> None:
    """Refuse tiles too short for their pixels: nothing that a header declares outgrows its file."""
    across = np.minimum(table.tile_nx, table.nx - np.arange(0, table.nx, table.tile_nx))
    down = np.minimum(table.tile_ny, table.ny - np.arange(0, table.ny, table.tile_ny))
    blocks = -(-(down[:, None] * across[None, :]).ravel() // block)
    least = bytepix + (blocks * {1: 3, 2: 4, 4: 5}[bytepix] + 7) // 8
    # Bit offsets within a tile are kept in 32 bits.
    if ((lengths < least) & (lengths > 0)).any() or (lengths >= 2**29).any():
        raise damaged(table.hdu.path, "a tile's length does not fit its pixels")


class SectionPlane:
    """An image in a compression that only astropy reads here: HCOMPRESS_1, PLIO_1. Correct, and slow."""

    def __init__(self, hdu: Hdu) -> None:
        self._hdu = hdu

    def read(
        self,
        y0: int,
        lo: NDArray[np.int32],
        hi: NDArray[np.int32],
        x0: int,
        out: NDArray[np.float32],
        stride: int,
    ) -> bool:
        """See `starloom.coadd.pixels.source.Plane`."""
        wanted = lo < hi
        left, right = int(lo[wanted].min()), int(hi[wanted].max())
        path = self._hdu.path
        try:
            # Opened for every call: a thousand frames may be open at once, file descriptors are fewer.
            with fits.open(path, memmap=False) as hdus:
                box = np.asarray(hdus[self._hdu.index].section[y0 : y0 + lo.size, left:right], np.float32)
        except (OSError, ValueError, TypeError, LookupError, RuntimeError, OverflowError) as error:
            raise damaged(path, str(error)) from error
        for i in np.flatnonzero(wanted):
            at = int(i) * stride - x0
            out[at + lo[i] : at + hi[i]] = box[i, lo[i] - left : hi[i] - left]
        return not bool(np.isfinite(box).all())
