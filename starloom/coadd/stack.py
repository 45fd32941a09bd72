"""`starloom stack FILE… --out OUT.fits`: files in, one FITS per band and pointing out, nothing else needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from starloom.coadd.inputs import InputFrame, read_input
from starloom.coadd.plan import StackOptions, StackPlan
from starloom.coadd.planning import make_plan
from starloom.coadd.product import ProductInfo, assemble
from starloom.coadd.tiles import run_tiles
from starloom.disk import is_full
from starloom.errors import BadInput, StarloomError

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; stages are ``read``, ``tiles`` and ``write``."""

# SCI, WEIGHT and REJECTED as float32 and COVERAGE as int16, once as tiles and once as the product.
_BYTES_PER_PIXEL = 2 * 14


class StackReport(BaseModel):
    """What came out of one call: a product per band and pointing."""

    model_config = ConfigDict(frozen=True)

    products: tuple[ProductInfo, ...]


def product_path(out: Path, plan: StackPlan, plans: Sequence[StackPlan]) -> Path:
    """Return ``out`` for a single product, else ``OUT_{band}_p{n}.fits`` beside it."""
    if len(plans) == 1:
        return out
    band = "".join(c if c.isalnum() or c in "-+" else "-" for c in plan.band)
    suffix = out.suffix or ".fits"
    return out.with_name(f"{out.stem}_{band}_p{plan.pointing}{suffix}")


def stack_files(
    paths: Sequence[Path | str],
    out: Path | str,
    options: StackOptions | None = None,
    *,
    target_radec: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> StackReport:
    """Stack solved frames into one product per band and pointing.

    Parameters
    ----------
    paths
        FITS files with a WCS, any mixture of telescopes and bands.
    out
        Output file; with several products its stem, see `product_path`.
    options
        See `StackOptions`.
    target_radec
        The mission's target (deg, ICRS); frames that point elsewhere get weight 0.
    progress
        See `Progress`.

    Raises
    ------
    BadInput
        ``no-input``, ``nothing-to-stack``, ``grid-too-large``, or what `read_input` raises.
    StarloomError
        ``disk-full``, retryable once there is space.
    """
    options = options or StackOptions()
    out = Path(out)
    if not paths:
        raise BadInput("no files to stack", code="no-input", hint="Name at least one solved FITS file.")
    if not out.parent.is_dir():
        raise BadInput(f"{out.parent} is not a folder", code="no-such-folder", hint="Create it first.")
    inputs: list[InputFrame] = []
    for n, path in enumerate(paths, 1):
        inputs.append(read_input(path))
        if progress:
            progress("read", n, len(paths))
    plans = make_plan(_unique_ids(inputs), options, target_radec=target_radec)
    try:
        return StackReport(
            products=tuple(_produce(plan, product_path(out, plan, plans), progress) for plan in plans)
        )
    except OSError as error:
        if is_full(error):
            raise _disk_full(out, str(error)) from error
        raise


def _unique_ids(inputs: Sequence[InputFrame]) -> list[InputFrame]:
    names = [frame.id for frame in inputs]
    if len(set(names)) == len(names):
        return list(inputs)
    return [frame.model_copy(update={"id": f"{n:04d}:{frame.id}"}) for n, frame in enumerate(inputs, 1)]


def _disk_full(out: Path, detail: str) -> StarloomError:
    return StarloomError(
        f"no space for {out}: {detail}",
        code="disk-full",
        hint="Free some space, or choose a coarser --scale or another folder for --out.",
        retryable=True,
    )


def _produce(plan: StackPlan, out: Path, progress: Progress | None) -> ProductInfo:
    ny, nx = plan.shape
    need, free = ny * nx * _BYTES_PER_PIXEL, shutil.disk_usage(out.parent).free
    if need > free:
        raise _disk_full(out, f"{need / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")
    # Beside the product, not in /tmp: the tiles of a large mosaic do not fit into a memory file system.
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as folder:
        workdir = Path(folder)

        def tiles_done(done: int, total: int) -> None:
            if progress:
                progress("tiles", done, total)

        run_tiles(plan, workdir, threads=plan.options.threads, progress=tiles_done)
        info = assemble(plan, workdir, out)
        if progress:
            progress("write", 1, 1)
        return info
