"""``starloom quicklook``: a page that shows a frame and whether to believe its solution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.output import JsonOption, emit_json, named, say, say_error

#: What is left off the file's name: the picture of ``f.fits.fz`` is ``f.png``.
_SUFFIXES = {".fz", ".gz", ".fits", ".fit", ".fts"}


def quicklook(
    file: Annotated[Path, typer.Argument(help="FITS file: raw, calibrated or solved.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG to write, or a folder for it; beside the file by default.")
    ] = None,
    ra: Annotated[
        float | None, typer.Option(help="Expected centre, deg ICRS, where the header is silent.")
    ] = None,
    dec: Annotated[float | None, typer.Option(help="Expected centre, deg ICRS.")] = None,
    scale: Annotated[float | None, typer.Option(min=1e-3, help="Expected plate scale, arcsec/px.")] = None,
    no_solve: Annotated[bool, typer.Option("--no-solve", help="Take the WCS that is in the file.")] = False,
    json: JsonOption = False,
) -> None:
    """Draw a frame with its stars, their partners in the catalogue, the residuals and a summary.

    A frame that does not solve gets its page as well, with the reason; the exit code is 1 then.

    Example: starloom quicklook M31.fits --out M31.png
    """
    from starloom.cli.opening import open_settings
    from starloom.quicklook.files import quicklook_file
    from starloom.refcat import Refcats

    if (ra is None) != (dec is None):
        raise typer.BadParameter("give both --ra and --dec, or neither")
    if no_solve and (ra is not None or scale is not None):
        raise typer.BadParameter("--no-solve takes the WCS in the file; it needs no --ra, --dec or --scale")
    target = None if ra is None or dec is None else (ra, dec)
    refcats = Refcats.from_settings(open_settings())
    row = quicklook_file(
        file, picture_of(file, out), target=target, scale_arcsec=scale, solve=not no_solve, refcats=refcats
    )
    if json:
        emit_json(row)
    elif row["solved"]:
        say(f"{row['picture']}  {row['matches']} stars matched, rms {row['rms_arcsec']:.3f}″")
    else:
        say(f"{row['picture']}  not solved")
        say_error({"code": row["reason"], "message": named(file, row["message"]), "hint": row["remedy"]})
    if not row["solved"]:
        raise typer.Exit(1)


def picture_of(file: Path, out: Path | None) -> Path:
    """Return the PNG to write for a file: ``out``, in the folder ``out``, or beside the file."""
    if out is not None and not out.is_dir():
        return out
    stem = file
    while stem.suffix.lower() in _SUFFIXES:
        stem = stem.with_suffix("")
    return (out or file.parent) / f"{stem.name}.png"
