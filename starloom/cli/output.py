"""Output: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, SecretStr
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

#: Column headings that say more, or are shorter, than the field's name without its underscores.
HEADINGS = {
    "ra_deg": "RA °",
    "dec_deg": "Dec °",
    "scale_arcsec": "″/px",
    "rms_arcsec": "rms ″",
    "elapsed_s": "time s",
    "exposure_s": "exp s",
    "zero_point_err": "zero point ±",
    "saving_fraction": "saving",
    "rejected_fraction": "rejected",
    "site_lat_deg": "lat °",
    "site_lon_deg": "lon °",
    "mission_id": "mission",
    "status_changed_at": "since",
    "failure_code": "failure",
    "publish_attempts": "attempts",
    "n_used": "used",
    "n_frames": "frames",
}


def _width() -> int | None:
    """Return None for a terminal (rich asks it); a pipe gets a line a row, whatever its length."""
    return None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 1000


console = Console(width=_width())
#: What moves while something is under way; standard output stays free for the result.
progress = Console(stderr=True)


def plain(value: Any) -> Any:
    """Make a value JSON-safe: times as ISO 8601, paths and models as text and mappings, secrets masked.

    JSON knows no NaN and no infinity: they become ``null``.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path | SecretStr):
        return str(value)
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value


def emit_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(plain(value), allow_nan=False) + "\n")


def emit_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    as_json: bool,
    title: str,
    whole: Sequence[str] = (),
    empty: str = "",
) -> None:
    """Print rows as a table with the given columns, or all their fields as JSON.

    Parameters
    ----------
    rows
        What to show; a column that is empty in all of them is left out of the table.
    columns
        Fields shown, in order.
    as_json
        Print all fields of all rows as one JSON list.
    title
        Heading.
    whole
        Columns that a reader copies: never broken into lines.
    empty
        Said instead of an empty table; without it an empty table says nothing at all.
    """
    if as_json:
        emit_json(list(rows))
        return
    if not rows:
        if empty:
            say(empty)
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    shown = [c for i, c in enumerate(columns) if i == 0 or any(_is_told(row.get(c)) for row in rows)]
    for column in shown:
        # Folded rather than cut with an ellipsis: what is printed can be read to its end.
        table.add_column(heading(column), no_wrap=column in whole, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(column, row.get(column))) for column in shown))
    console.print(table)


def emit_record(record: Mapping[str, Any], *, title: str) -> None:
    """Print one record as a list of fields; what is not told is left out."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        if _is_told(value):
            table.add_row(Text(name.replace("_", " ")), Text(cell(name, value)))
    console.print(table)


def say(text: str) -> None:
    """Print a sentence as it is: nothing in it is markup, and no line is broken inside a path."""
    console.print(Text(text), soft_wrap=True)


def say_error(error: Mapping[str, Any], *, to: Console | None = None) -> None:
    """Print what was refused or failed, and the remedy: ``{code, message, hint}``."""
    to = to or console
    line = Text.assemble(("error", "red"), f" [{error['code']}] {error.get('message') or ''}")
    to.print(line, soft_wrap=True)
    if error.get("hint"):
        to.print(Text(f"→ {error['hint']}", style="dim"), soft_wrap=True)


def named(file: str | Path, message: str) -> str:
    """Return a message that begins with the file as its user wrote it, whatever way it named it before."""
    if str(file) in message:
        return message
    return f"{file}: {message.removeprefix(f'{Path(file).name}: ')}"


def heading(column: str) -> str:
    """Return the heading of a column."""
    return HEADINGS.get(column, column.replace("_", " "))


def _is_told(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def cell(column: str, value: Any) -> str:
    """Return a value as a person reads it, in the precision its column deserves."""
    if not _is_told(value):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _number(column, value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {cell(str(key), item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set):
        return ", ".join(cell(column, item) for item in value)
    return str(value)


def _number(column: str, value: float) -> str:
    if column.endswith("_fraction"):
        return f"{value:.1%}"
    if column.endswith("_deg"):
        return f"{value:.5f}"
    if column == "epoch":
        return f"{value:.2f}"
    if column.endswith("_s"):
        return f"{value:.1f}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.1f}"
