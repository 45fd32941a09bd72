"""Read a table file in chunks, whatever its format, without ever holding it whole."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.errors import BadInput

ROWS_PER_CHUNK = 250_000
# What catalogues write where they have no number.
_NULLS = ["", "NULL", "null", "NaN", "nan", "NA", "N/A", "--", "-", "None"]
# What astropy passes on from the decompressors, which it picks by a file's first bytes whatever its name.
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)

Chunk = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class TableFile:
    """An open table: its columns, the units it states, and its rows in chunks of float64 columns."""

    path: Path
    names: tuple[str, ...]
    units: Mapping[str, str]
    chunks: Callable[[Sequence[str]], Iterator[Chunk]]


def open_table(path: Path) -> TableFile:
    """Open a FITS, Parquet, ECSV or CSV table.

    Raises
    ------
    BadInput
        ``refcat-file``: no such file, a format that is not read, or a file that is none of what its name says;
        ``refcat-column`` while reading: a value that is no number.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist or is no file", code="refcat-file", hint="Check the path.")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".fits", ".fit", ".fits.fz")):
        return _fits(path)
    if name.endswith((".parquet", ".parq", ".pq")):
        return _parquet(path)
    if name.endswith((".csv", ".ecsv", ".tsv", ".txt", ".dat")):
        return _text(path)
    raise BadInput(
        f"{path}: catalogues are read from FITS tables, Parquet, ECSV and CSV",
        code="refcat-file",
        hint="Convert it; the file's ending tells the format (.fits, .parquet, .ecsv, .csv).",
    )


def _fits(path: Path) -> TableFile:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as hdus:
            number = next(
                (i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None
            )
            if number is None:
                raise _unreadable(path, "holds no table", "A table extension is needed.")
            columns = hdus[number].columns
            names = tuple(columns.names)
            units = {column.name: str(column.unit) for column in columns if column.unit}
    except _UNREADABLE as error:
        raise _unreadable(path, f"is no FITS file ({error})") from error

    def chunks(wanted: Sequence[str]) -> Iterator[Chunk]:
        with fits.open(path, memmap=True) as hdus:
            table = hdus[number]
            try:
                for start in range(0, len(table.data), ROWS_PER_CHUNK):
                    rows = table.data[start : start + ROWS_PER_CHUNK]
                    yield {name: _number(path, name, rows[name], table.columns[name].null) for name in wanted}
            except (*_UNREADABLE, TypeError) as error:
                raise _unreadable(path, f"is damaged ({error})") from error

    return TableFile(path, names, units, chunks)


def _number(path: Path, name: str, values: NDArray[Any], null: int | None = None) -> NDArray[np.float64]:
    if values.dtype.kind not in "iufb" or values.ndim != 1:
        raise _not_numbers(path, name, f"it holds {values.dtype} of shape {values.shape[1:] or 'scalar'}")
    found = values.astype(np.float64)
    if null is not None and values.dtype.kind in "iu":
        found[values == null] = np.nan
    return found


def _parquet(path: Path) -> TableFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, f"is no Parquet file ({_short(error)})") from error
    units = {
        field.name: field.metadata[b"unit"].decode()
        for field in schema
        if field.metadata and b"unit" in field.metadata
    }

    def chunks(wanted: Sequence[str]) -> Iterator[Chunk]:
        for name in wanted:
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise _not_numbers(path, name, f"it holds {kind}")
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS_PER_CHUNK, columns=list(wanted)):
                    yield _from_arrow(batch, wanted)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, f"is damaged ({_short(error)})") from error

    return TableFile(path, tuple(schema.names), units, chunks)


def _text(path: Path) -> TableFile:
    import pyarrow as pa
    from pyarrow import csv

    skip, delimiter, units = _text_head(path)
    read = csv.ReadOptions(skip_rows=skip, block_size=8 << 20)
    parse = csv.ParseOptions(delimiter=delimiter)

    def open_(options: Any) -> Any:
        # The decompressor, if one is needed, follows the file's ending.
        return csv.open_csv(pa.input_stream(str(path), compression="detect"), read, parse, convert_options=options)

    try:
        with open_(csv.ConvertOptions()) as reader:
            names = tuple(str(name) for name in reader.schema.names)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, f"is no table of separated values ({_short(error)})") from error
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{path} has the column {twice!r} twice", code="refcat-column", hint="Rename one of them.")

    def chunks(wanted: Sequence[str]) -> Iterator[Chunk]:
        options = csv.ConvertOptions(
            include_columns=list(wanted),
            column_types={name: pa.float64() for name in wanted},
            null_values=_NULLS,
            strings_can_be_null=True,
        )
        try:
            with open_(options) as reader:
                for batch in reader:
                    yield _from_arrow(batch, wanted)
        except pa.ArrowInvalid as error:
            text = _short(error)
            name = next((n for i, n in enumerate(names) if f"column #{i}:" in text), "?")
            raise _not_numbers(path, name, text) from error

    return TableFile(path, names, units, chunks)


def _text_head(path: Path) -> tuple[int, str, dict[str, str]]:
    """Return how many lines of comment precede the names, the delimiter, and an ECSV header's units."""
    import gzip

    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    comments: list[str] = []
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for line in file:
                if not line.startswith("#"):
                    break
                comments.append(line[1:].rstrip("\n").removeprefix(" "))
            else:
                raise _unreadable(path, "holds nothing but comments")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise _unreadable(path, f"is no text in UTF-8 ({error})") from error
    if comments and comments[0].startswith("%ECSV"):
        delimiter, units = _ecsv_head(path, comments)
        return len(comments), delimiter, units
    candidates = {sign: line.count(sign) for sign in (",", "\t", ";", "|")}
    return len(comments), max(candidates, key=lambda sign: candidates[sign]), {}


def _ecsv_head(path: Path, comments: list[str]) -> tuple[str, dict[str, str]]:
    from astropy.table import meta

    try:
        head = meta.get_header_from_yaml([line for line in comments if not line.startswith("%")])
        units = {column["name"]: str(column["unit"]) for column in head["datatype"] if column.get("unit")}
        return str(head.get("delimiter", " ")), units
    except (meta.YamlParseError, KeyError, TypeError) as error:
        raise _unreadable(path, f"has a damaged ECSV header ({error})") from error


def _from_arrow(batch: Any, names: Sequence[str]) -> Chunk:
    import pyarrow as pa

    return {
        name: batch.column(name).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for name in names
    }


def _unreadable(
    path: Path, what: str, hint: str = "Check that the file is whole and of the kind its name says."
) -> BadInput:
    return BadInput(f"{path} {what}", code="refcat-file", hint=hint)


def _not_numbers(path: Path, name: str, what: str) -> BadInput:
    return BadInput(
        f"{path}: column {name!r} is not made of plain numbers: {what}",
        code="refcat-column",
        hint="Positions are read in degrees, not as hours, minutes and seconds; name another: --column ROLE=NAME.",
    )


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
