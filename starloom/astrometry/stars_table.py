"""The star list of a solved frame as a FITS table beside its pixels: nobody has to find the stars twice."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from starloom.astrometry.star_list import StarList
from starloom.frames.opening import Bounds, opened
from starloom.frames.structure import scan

EXTENSION = "STARS"
#: What holds for the whole frame, as JSON in one card.
FACTS = "STARLIST"
#: A list this long is of no frame: what is larger is not ours, and not read.
MAX_BYTES = 64 << 20

_TYPES = {"f": "D", "b": "L", "i": "K"}


def stars_hdu(stars: StarList) -> fits.BinTableHDU:
    """Return a star list as a binary table: a column for what each star has, one card for the rest.

    The table's bytes follow from the list alone.
    """
    columns, facts = [], {}
    for field in dataclasses.fields(stars):
        value = getattr(stars, field.name)
        if isinstance(value, np.ndarray):
            columns.append(fits.Column(field.name, _TYPES[value.dtype.kind], array=value))
        else:
            # NaN is no JSON: null stands for it.
            facts[field.name] = None if isinstance(value, float) and not np.isfinite(value) else value
    table = fits.BinTableHDU.from_columns(columns, name=EXTENSION)
    table.header[FACTS] = json.dumps(facts)
    return table


def as_bytes(table: fits.BinTableHDU) -> bytes:
    """Return one extension as it stands in a file."""
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
    return buffer.getvalue()[2880:]


def read_stars(path: Path) -> StarList | None:
    """Return the star list of a solved frame; None where the file holds none, or one of another version.

    Parameters
    ----------
    path
        Solved frame: plain, tile-compressed or gzipped FITS.
    """
    bounds = Bounds()
    with opened(path, bounds) as (stream, size):
        for segment in scan(path, stream, size, bounds):
            if segment.values.get("EXTNAME", "") != EXTENSION or segment.data_bytes > MAX_BYTES:
                continue
            stream.seek(segment.start)
            length = segment.data_start - segment.start + segment.data_bytes
            return _as_list(fits.BinTableHDU.fromstring(stream.read(length)))
    return None


def _as_list(table: fits.BinTableHDU) -> StarList | None:
    if FACTS not in table.header:
        return None
    facts: dict[str, Any] = json.loads(table.header[FACTS])
    wanted = {field.name for field in dataclasses.fields(StarList)}
    names = {column.name for column in table.columns}
    if names | facts.keys() != wanted:
        return None
    facts["shape"] = tuple(facts["shape"])
    for name in names:
        column = np.asarray(table.data[name])
        facts[name] = column.astype(column.dtype.newbyteorder("="))
    whole: dict[str, Any] = {name: float("nan") if value is None else value for name, value in facts.items()}
    return StarList(**whole)
