"""Commands that need no service at all: explain-header, solve, blind-index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows, named, say, say_error


def explain_header(file: Annotated[Path, typer.Argument(help="FITS file.")], json: JsonOption = False) -> None:
    """Say what a header truly tells: value, keyword it came from, confidence.

    Example: starloom explain-header M31.fits --json
    """
    from starloom.frames import describe_file, header_table

    header = describe_file(file)
    if json:
        emit_json(header.as_json())
    else:
        console.print(header_table(header))


def solve(
    files: Annotated[list[Path], typer.Argument(help="FITS files.")],
    out: Annotated[Path | None, typer.Option(help="Folder for solved copies; pixels stay bit-identical.")] = None,
    ra: Annotated[float | None, typer.Option(help="Expected centre, deg ICRS, where headers are silent.")] = None,
    dec: Annotated[float | None, typer.Option(help="Expected centre, deg ICRS.")] = None,
    scale: Annotated[float | None, typer.Option(help="Expected plate scale, arcsec/px.")] = None,
    blind: Annotated[bool, typer.Option(help="Search the whole sky where hints lead nowhere (seconds).")] = True,
    json: JsonOption = False,
) -> None:
    """Plate-solve files. Exit code 1 when any of them did not solve.

    Example: starloom solve *.fits --out solved
    """
    from starloom.astrometry.files import solve_files
    from starloom.cli.opening import open_settings
    from starloom.refcat import Refcats

    if (ra is None) != (dec is None):
        raise typer.BadParameter("give both --ra and --dec, or neither")
    target = None if ra is None or dec is None else (ra, dec)
    refcats = Refcats.from_settings(open_settings())
    rows = solve_files(files, out, target=target, scale_arcsec=scale, refcats=refcats, blind=blind)
    columns = [
        "file",
        "solved",
        "reason",
        "solver",
        "ra_deg",
        "dec_deg",
        "scale_arcsec",
        "rms_arcsec",
        "matches",
        "elapsed_s",
    ]
    if json:
        emit_json(rows)
    else:
        shown = [{**row, "file": Path(row["file"]).name} for row in rows]
        emit_rows(shown, columns, as_json=False, title="Plate solutions", whole=["file"])
    for row in rows:
        if not row["solved"] and not json:
            say_error({"code": row["reason"], "message": named(row["file"], row["message"]), "hint": row["hint"]})
    if any(row["reason"] == "disk-full" for row in rows):
        raise typer.Exit(3)
    if not all(row["solved"] for row in rows):
        raise typer.Exit(1)


def blind_index(
    json: JsonOption = False,
) -> None:
    """Build the pattern database with which tetra3rs solves wide fields blind (80 MB, a quarter of a minute).

    Example: pip install 'starloom[blind]' && starloom blind-index
    """
    from starloom.astrometry.tetra import build_database, default_database
    from starloom.refcat import default_refcat

    path = default_database()
    with console.status("building …"):
        patterns = build_database(default_refcat(), path)
    if json:
        emit_json({"path": str(path), "patterns": patterns})
    else:
        say(f"{patterns} patterns in {path}")
