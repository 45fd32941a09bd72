"""Commands that need no service at all: explain-header, solve, stack."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows


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
    """Say what a header truly tells: value, keyword it came from, confidence."""
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
    json: JsonOption = False,
) -> None:
    """Plate-solve files. Exit code 1 when any of them did not solve."""
    from starloom.astrometry.frame import solve_files

    if (ra is None) != (dec is None):
        raise typer.BadParameter("give both --ra and --dec, or neither")
    target = None if ra is None or dec is None else (ra, dec)
    rows = solve_files(files, out, target=target, scale_arcsec=scale)
    emit_rows(
        rows,
        [
            "file",
            "solved",
            "reason",
            "ra_deg",
            "dec_deg",
            "scale_arcsec",
            "rms_arcsec",
            "matches",
            "elapsed_s",
        ],
        as_json=json,
        title="Plate solutions",
    )
    if not all(row["solved"] for row in rows):
        raise typer.Exit(1)


def stack(
    files: Annotated[list[Path], typer.Argument(help="FITS files with a WCS.")],
    out: Annotated[Path, typer.Option(help="Output FITS; several bands or pointings add _BAND_pN.")],
    target: Annotated[Path | None, typer.Option(help="FITS or text header whose grid to use.")] = None,
    kernel: Annotated[Kernel, typer.Option(help="Resampling kernel.")] = Kernel.bilinear,
    combine: Annotated[Combine, typer.Option(help="How to combine.")] = Combine.clipped,
    threads: Annotated[int, typer.Option(min=1, help="Threads; the result does not depend on it.")] = 1,
    json: JsonOption = False,
) -> None:
    """Co-add files that have a WCS; needs no service and no Prefect."""
    from rich.progress import Progress

    from starloom.coadd.plan import StackOptions
    from starloom.coadd.stack import stack_files

    options = StackOptions(kernel=kernel.value, combine=combine.value, target=target, threads=threads)
    with Progress(console=console, transient=True, disable=json or not console.is_terminal) as bar:
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
        console.print(f"[bold]{product.path}[/bold]  band {product.band}, pointing {product.pointing}")
        emit_rows(
            [frame.model_dump() for frame in product.frames],
            ["id", "scale", "weight", "rejected_fraction", "reason"],
            as_json=False,
            title="Frames",
        )
