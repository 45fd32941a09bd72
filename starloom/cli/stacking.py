"""Co-adds of files, on this machine or cut into work units for others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from starloom.cli.output import JsonOption, console, emit_json, emit_rows, progress, say

if TYPE_CHECKING:
    from starloom.coadd import ProductInfo, StackOptions


class Kernel(StrEnum):
    """Resampling kernels."""

    bilinear = "bilinear"
    lanczos3 = "lanczos3"
    area = "area"
    nearest = "nearest"
    drizzle = "drizzle"


class Combine(StrEnum):
    """Ways to combine resampled frames."""

    clipped = "clipped"
    median = "median"
    mean = "mean"
    proper = "proper"


class Weights(StrEnum):
    """What the weights are best for."""

    surface = "surface"
    point = "point"


_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def parse_bytes(text: str) -> int:
    """Read ``1.5GB``, ``800M`` or ``4e9``; powers of ten."""
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    try:
        return int(float(found[1]) * _UNITS[found[2].upper()]) if found else _refuse(text)
    except ValueError:
        return _refuse(text)


def _refuse(text: str) -> int:
    raise typer.BadParameter(f"{text!r} is no amount of memory; say for example 1.5GB")


Files = Annotated[list[Path], typer.Argument(help="FITS files with a WCS.")]
TargetOption = Annotated[Path | None, typer.Option(help="FITS or text header whose grid to use.")]
KernelOption = Annotated[Kernel, typer.Option(help="Resampling kernel.")]
CombineOption = Annotated[Combine, typer.Option(help="How to combine.")]
WeightsOption = Annotated[Weights, typer.Option(help="Weights for surfaces, or for point sources (FWHM counts).")]
ScaleOption = Annotated[float | None, typer.Option(min=1e-3, help="Output pixel, arcsec; else from the seeing.")]
PixfracOption = Annotated[float, typer.Option(min=0.01, max=1, help="Drizzle: side of a drop over a pixel's.")]
StreaksOption = Annotated[bool, typer.Option(help="Look for trails of satellites and aircraft, and mask them.")]
RegisterOption = Annotated[bool, typer.Option(help="Refine all WCS together on common stars.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads; the result does not depend on it.")]
MemoryOption = Annotated[
    str | None, typer.Option(help="Memory to stay within, e.g. 1.5GB; by default half of what is free.")
]


def stack(
    files: Files,
    out: Annotated[Path, typer.Option(help="Output FITS; several bands or pointings add _BAND_pN.")],
    target: TargetOption = None,
    kernel: KernelOption = Kernel.lanczos3,
    combine: CombineOption = Combine.clipped,
    weights: WeightsOption = Weights.surface,
    scale: ScaleOption = None,
    pixfrac: PixfracOption = 0.8,
    streaks: StreaksOption = True,
    register: RegisterOption = True,
    threads: ThreadsOption = 1,
    memory: MemoryOption = None,
    json: JsonOption = False,
) -> None:
    """Co-add files that have a WCS; needs no service and no Prefect.

    Example: starloom stack solved/*.fits --out M31.fits --threads 4 --memory 4GB
    """
    from starloom.coadd.stack import stack_files

    options = _options(target, kernel, combine, weights, scale, pixfrac, streaks, register, threads, memory)
    _check(files)
    with _stages() as show:
        report = stack_files(files, out, options, progress=show)
    if json:
        emit_json(report)
        return
    for product in report.products:
        _say_product(product)


def stack_plan(
    files: Files,
    out: Annotated[Path, typer.Option(help="Folder for the plans and their work units.")],
    per_unit: Annotated[int, typer.Option(min=1, help="Tiles in a work unit.")] = 16,
    target: TargetOption = None,
    kernel: KernelOption = Kernel.lanczos3,
    combine: CombineOption = Combine.clipped,
    weights: WeightsOption = Weights.surface,
    scale: ScaleOption = None,
    pixfrac: PixfracOption = 0.8,
    streaks: StreaksOption = True,
    register: RegisterOption = True,
    threads: ThreadsOption = 1,
    memory: MemoryOption = None,
    json: JsonOption = False,
) -> None:
    """Plan a co-add and cut it into work units, for other machines to carry out with `stack-tile`.

    Threads and memory are those of one unit.

    Example: starloom stack-plan solved/*.fits --out work --memory 2GB
    """
    from starloom.coadd.stack import plan_files
    from starloom.coadd.units import with_layout, write_units

    options = _options(target, kernel, combine, weights, scale, pixfrac, streaks, register, threads, memory)
    _check(files)
    with _stages() as show:
        plans = plan_files(files, options, progress=show)
        rows = []
        for plan in plans:
            folder = out / f"{''.join(c if c.isalnum() else '-' for c in plan.band)}_p{plan.pointing}"
            units = write_units(with_layout(plan), folder, per_unit, threads=threads)
            rows.append({"folder": str(folder), "units": len(units), "frames": len(plan.used)})
    if json:
        emit_json(rows)
        return
    emit_rows(rows, ["folder", "units", "frames"], as_json=False, title="Work units")
    say(
        "Next, anywhere: `starloom stack-tile FOLDER/unit-*.json`,"
        " and when all are done: `starloom stack-assemble FOLDER --out FILE`"
    )


def stack_tile(
    units: Annotated[list[Path], typer.Argument(help="Work units, written by `stack-plan`.")],
    frames: Annotated[Path | None, typer.Option(help="Folder of the frames here, where it is another.")] = None,
    memory: MemoryOption = None,
    json: JsonOption = False,
) -> None:
    """Carry out work units: make their tiles beside the plan. What is there already is not made again.

    Example: starloom stack-tile work/V_p1/unit-0003.json
    """
    from starloom.coadd.units import WorkUnit, run_unit

    budget = None if memory is None else parse_bytes(memory)
    total = sum(len(WorkUnit.read(path).tiles) for path in units)
    made: list[Path] = []
    with _stages() as show:
        done = 0

        def tile_done(_: object) -> None:
            nonlocal done
            done += 1
            show("tiles", done, total)

        for path in units:
            made += run_unit(path, frames=frames, memory_bytes=budget, progress=tile_done)
    if json:
        emit_json([str(path) for path in made])
    else:
        say(f"{len(made)} tiles")


def stack_assemble(
    folder: Annotated[Path, typer.Argument(help="Folder of a plan whose units have been carried out.")],
    out: Annotated[Path, typer.Option(help="Output FITS.")],
    json: JsonOption = False,
) -> None:
    """Write the product of a plan from its tiles.

    Example: starloom stack-assemble work/V_p1 --out M31.fits
    """
    from starloom.coadd.units import assemble_units

    product = assemble_units(folder, out)
    if json:
        emit_json(product)
    else:
        _say_product(product)


def _options(
    target: Path | None,
    kernel: Kernel,
    combine: Combine,
    weights: Weights,
    scale: float | None,
    pixfrac: float,
    streaks: bool,
    register: bool,
    threads: int,
    memory: str | None,
) -> StackOptions:
    from starloom.coadd.plan import StackOptions

    return StackOptions(
        kernel=kernel.value,
        combine=combine.value,
        weights=weights.value,
        scale_arcsec=scale,
        pixfrac=pixfrac,
        streaks=streaks,
        register_frames=register,
        target=target,
        threads=threads,
        memory_bytes=None if memory is None else parse_bytes(memory),
    )


def _check(files: list[Path]) -> None:
    """Refuse, in the words of `submit`, what holds no frame at all; one bad file among others gets a reason."""
    from starloom.errors import BadInput
    from starloom.frames import read_header

    first: BadInput | None = None
    for path in files:
        try:
            read_header(path)
        except BadInput as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show each stage as a bar with an estimate of the time it still takes."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bar:
        jobs: dict[str, int] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in jobs:
                jobs[stage] = bar.add_task(stage, total=total)
            bar.update(jobs[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield show


def _say_product(product: ProductInfo) -> None:
    say(f"{product.path}  band {product.band}, pointing {product.pointing}")
    emit_rows(
        [frame.model_dump() for frame in product.frames],
        ["id", "scale", "weight", "rejected_fraction", "reason"],
        as_json=False,
        title="Frames",
    )
    console.print(f"{product.n_used} of {product.n_frames} frames, {product.exposure_s:.0f} s")
