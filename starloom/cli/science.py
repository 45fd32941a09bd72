"""Commands that need no service at all: explain-header, solve, stack."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows, named, progress, say, say_error


class Kernel(StrEnum):
    """Resampling kernels."""

    bilinear = "bilinear"
    lanczos3 = "lanczos3"


class Combine(StrEnum):
    """Ways to combine resampled frames."""

    clipped = "clipped"
    median = "median"
    mean = "mean"


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


def stack(
    files: Annotated[list[Path], typer.Argument(help="FITS files with a WCS.")],
    out: Annotated[Path, typer.Option(help="Output FITS; several bands or pointings add _BAND_pN.")],
    target: Annotated[Path | None, typer.Option(help="FITS or text header whose grid to use.")] = None,
    kernel: Annotated[Kernel, typer.Option(help="Resampling kernel.")] = Kernel.bilinear,
    combine: Annotated[Combine, typer.Option(help="How to combine.")] = Combine.clipped,
    scale: Annotated[
        float | None, typer.Option(min=1e-3, help="Output pixel, arcsec; by default from the seeing.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads; the result does not depend on it.")] = 1,
    json: JsonOption = False,
) -> None:
    """Co-add files that have a WCS; needs no service and no Prefect.

    Example: starloom stack solved/*.fits --out M31.fits --kernel lanczos3
    """
    from rich.progress import Progress

    from starloom.coadd.plan import StackOptions
    from starloom.coadd.stack import stack_files
    from starloom.frames import read_header

    for path in files:
        read_header(path)  # what is no frame is refused in the words of `submit`, before any pixel is read
    options = StackOptions(
        kernel=kernel.value, combine=combine.value, scale_arcsec=scale, target=target, threads=threads
    )
    with Progress(console=progress, transient=True, disable=not progress.is_terminal) as bar:
        jobs = {name: bar.add_task(name, total=None) for name in ("read", "tiles", "write")}
        report = stack_files(
            files,
            out,
            options,
            progress=lambda stage, done, total: bar.update(jobs[stage], completed=done, total=total),
        )
    if json:
        emit_json(report)
        return
    for product in report.products:
        say(f"{product.path}  band {product.band}, pointing {product.pointing}")
        emit_rows(
            [frame.model_dump() for frame in product.frames],
            ["id", "scale", "weight", "rejected_fraction", "reason"],
            as_json=False,
            title="Frames",
        )
