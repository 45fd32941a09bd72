"""RICE_1: a frame's wanted pixels straight out of the mapped file, from the nearest known place on.

A Rice stream can only be parsed from its beginning: every pixel's place depends on all before it. So whenever
a tile is parsed, the decoder's state (bit offset and last pixel) is kept at every ``segment_px`` pixels, and
a later request starts at the last state known before it. One state is one 64-bit word that every thread would
write alike, so that threads share the index without a lock.

Tiles are handed to the lanes of `starloom.coadd.pixels.lanes` as these come free. A lane is looked after once in a
few blocks: its pixels are brought to ADU while they are in the processor's first cache, its state is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.pixels.bits import U64, exact
from starloom.coadd.pixels.lanes import ACTIVE, BIT, COUNT, END, LANES, LAST, PLACE, STATE_SIZE, run_blocks
from starloom.coadd.pixels.scaling import dithered, linear
from starloom.coadd.pixels.stream import take_bits

_MOST_BLOCKS = 8
"""Blocks after which a lane is looked after, a power of two: sixteen times 256 pixels are 16 kB."""
_NEVER = 1 << 62

# Of each lane: its tile (-1: none), the tile's box and its wanted pixels, first and past the last; the pixel it
# stands at, where its chunk began, the chunk's blocks that are left, whether any of its pixels is wanted.
_TILE, _LEFT, _BOTTOM, _WIDTH, _HEIGHT, _FIRST, _PAST, _AT, _BASE, _TODO, _KEEP = range(0, 11 * LANES, LANES)
_FIELDS = 11


class RiceTiles(NamedTuple):
    """Where the tiles of an image lie, checked against the file's size, and how they are coded."""

    starts: NDArray[np.int64]
    """Byte offset of every tile in the file."""
    lengths: NDArray[np.int64]
    """Bytes of every tile; 0: it is stored in another way."""
    nx: int
    ny: int
    tile_nx: int
    tile_ny: int
    bytepix: int
    block_px: int
    segment_px: int
    """Pixels between two states of the index; a multiple of ``block_px``."""


@exact
def _wanted(job, lane, at, y0, lo, hi):  # type: ignore[no-untyped-def]
    """Return the first wanted pixel of a lane's tile from pixel ``at`` on, and the one past the last wanted.

    Where there is none, the first of them is all the tile's pixels.
    """
    left, bottom, width, height = job[_LEFT + lane], job[_BOTTOM + lane], job[_WIDTH + lane], job[_HEIGHT + lane]
    found, past = width * height, 0
    for y in range(max(y0, bottom + at // width), min(y0 + lo.size, bottom + height)):
        row = (y - bottom) * width - left
        first, stop = max(at, row + max(lo[y - y0], left)), row + min(hi[y - y0], left + width)
        if first < stop:
            found, past = min(found, first), stop
    return found, past


@exact
def _hand_over(job, chunk_px, values, y0, lo, hi, x0, out, stride, scaling):  # type: ignore[no-untyped-def]
    """Write the wanted pixels of all chunks that are ready as ADU; returns how many are not finite."""
    bad = 0
    # Taken out here: passing arrays costs 10 ns each, in counts of references.
    scales, zeros, blanks = scaling.scale, scaling.zero, scaling.blank
    for lane in range(LANES):
        if job[_TODO + lane] > 0 or job[_KEEP + lane] == 0:
            continue
        tile, left, bottom, width = job[_TILE + lane], job[_LEFT + lane], job[_BOTTOM + lane], job[_WIDTH + lane]
        base, end = job[_BASE + lane], job[_AT + lane]
        scale, zero = scales[tile if scales.size > 1 else 0], zeros[tile if zeros.size > 1 else 0]
        blank = blanks[tile if blanks.size > 1 else 0]
        shift = lane * chunk_px - base
        for y in range(max(y0, bottom + base // width), min(y0 + lo.size, bottom + (end - 1) // width + 1)):
            row = (y - bottom) * width - left
            begin, stop = max(base, row + max(lo[y - y0], left)), min(end, row + min(hi[y - y0], left + width))
            if begin >= stop:
                continue
            place = (y - y0) * stride - x0 - row - shift
            begin, stop = begin + shift, stop + shift
            if scaling.dither == 0:
                bad += linear(values, begin, stop, scale, zero, blank, scaling.bytepix, out, place)
            else:
                bad += dithered(values, begin, stop, scale, zero, blank, scaling, tile, -shift, out, place)
    return bad


@exact
def _advance(job, state, index, data, tiles, following, past, chunk_px, y0, lo, hi):  # type: ignore[no-untyped-def]
    """Give every lane that is through its chunk another, of its tile or of the tiles from ``following`` on.

    Returns the tile that is next then.
    """
    starts, lengths, tile_nx, tile_ny = tiles.starts, tiles.lengths, tiles.tile_nx, tiles.tile_ny
    bytepix, block_px, segment_px = tiles.bytepix, tiles.block_px, tiles.segment_px
    across = (tiles.nx + tile_nx - 1) // tile_nx
    for lane in range(LANES):
        if job[_TODO + lane] > 0:
            continue
        bit_at, last_at, end_at = BIT + U64(lane), LAST + U64(lane), END + U64(lane)
        tile, at = job[_TILE + lane], job[_AT + lane]
        segment = at // segment_px
        if tile >= 0 and at == segment * segment_px and segment < index.shape[1]:
            parsed = state[bit_at] - U64(starts[tile]) * U64(8)
            index[tile, segment] = (parsed << U64(32)) | (state[last_at] & U64(0xFFFFFFFF))
        pixels = job[_WIDTH + lane] * job[_HEIGHT + lane]
        want = pixels
        if at < job[_PAST + lane]:
            want = max(at, job[_FIRST + lane])
            if job[_HEIGHT + lane] > 1:
                want, _ = _wanted(job, lane, at, y0, lo, hi)
        while want == pixels and following < past:
            tile, at = following, np.int64(0)
            following += 1
            if lengths[tile] == 0:
                continue
            down = tile // across
            job[_LEFT + lane], job[_BOTTOM + lane] = (tile - down * across) * tile_nx, down * tile_ny
            job[_WIDTH + lane] = min(tile_nx, tiles.nx - job[_LEFT + lane])
            job[_HEIGHT + lane] = min(tile_ny, tiles.ny - job[_BOTTOM + lane])
            pixels = job[_WIDTH + lane] * job[_HEIGHT + lane]
            want, job[_PAST + lane] = _wanted(job, lane, at, y0, lo, hi)
            job[_FIRST + lane] = want
            state[bit_at] = U64(0)
        state[PLACE + U64(lane)] = U64(lane * chunk_px)
        if want == pixels:
            job[_TILE + lane], job[_TODO + lane], job[_KEEP + lane] = -1, _NEVER, 0
            state[ACTIVE + U64(lane)] = U64(0)
            continue
        start = U64(starts[tile]) * U64(8)
        state[end_at] = start + U64(lengths[tile]) * U64(8)
        near = want // segment_px
        while near * segment_px > at and index[tile, near] == U64(0):
            near -= 1
        if near * segment_px > at:
            at = near * segment_px
            state[bit_at] = start + (index[tile, near] >> U64(32))
            state[last_at] = index[tile, near] & U64(0xFFFFFFFF)
        elif state[bit_at] == U64(0):
            state[bit_at] = start + U64(8 * bytepix)
            state[last_at] = take_bits(data, start, 8 * bytepix)
        # The tile's last pixels, if they are less than a block, are a chunk of their own.
        count = min(block_px, pixels - at)
        stop = min(at - at % chunk_px + chunk_px, pixels - pixels % count, job[_PAST + lane])
        blocks = (stop - at + count - 1) // count
        state[COUNT + U64(lane)], state[ACTIVE + U64(lane)] = U64(count), U64(1)
        job[_TILE + lane], job[_BASE + lane], job[_AT + lane] = tile, at, at
        job[_TODO + lane], job[_KEEP + lane] = blocks, want < at + blocks * count
    return following


@exact
def read_rice(data, tiles, index, scaling, y0, lo, hi, x0, out, stride):  # type: ignore[no-untyped-def]
    """Read pixels ``lo[i]:hi[i]`` of rows ``y0 + i`` out of a mapped file.

    Parameters
    ----------
    data
        The file's bytes, uint8.
    tiles
        A `RiceTiles`.
    index
        Decoder states, uint64, shape (tiles, segments of a tile), 0 where not yet known; filled here.
    scaling
        A `starloom.coadd.pixels.scaling.Scaling`.
    out
        Float32, flat, ``stride`` pixels a row; its row 0 is frame row ``y0``, its column 0 is frame column ``x0``.

    Returns
    -------
    int
        How many of the pixels are not finite, or -1 - tile where a tile's stream is damaged.
    """
    block_px = tiles.block_px
    chunk_px = _MOST_BLOCKS * block_px
    while tiles.segment_px % chunk_px:
        chunk_px //= 2
    across = (tiles.nx + tiles.tile_nx - 1) // tiles.tile_nx
    following = y0 // tiles.tile_ny * across
    past = ((y0 + lo.size - 1) // tiles.tile_ny + 1) * across
    state = np.empty(STATE_SIZE, np.uint64)
    codes = np.empty(LANES * block_px, np.int32)
    values = np.empty(LANES * chunk_px, np.int32)
    job = np.empty(_FIELDS * LANES, np.int64)
    for k in range(state.size):
        state[k] = U64(0)
    for k in range(job.size):
        job[k] = 0 if k >= LANES else -1
    bad = 0
    while True:
        bad += _hand_over(job, chunk_px, values, y0, lo, hi, x0, out, stride, scaling)
        following = _advance(job, state, index, data, tiles, following, past, chunk_px, y0, lo, hi)
        blocks, keep = np.int64(_NEVER), np.bool_(False)
        for lane in range(LANES):
            blocks = min(blocks, job[_TODO + lane])
            keep |= job[_KEEP + lane] != 0
        if blocks == _NEVER:
            return bad
        failed = run_blocks(data, state, codes, values, blocks, tiles.bytepix, block_px, keep)
        if failed >= 0:
            return -1 - job[_TILE + failed]
        for lane in range(LANES):
            if job[_TILE + lane] >= 0:
                job[_TODO + lane] -= blocks
                job[_AT + lane] += blocks * np.int64(state[COUNT + U64(lane)])
