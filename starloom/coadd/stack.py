"""`starloom stack FILE… --out OUT.fits`: files in, one FITS per band and pointing out, nothing else needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from starloom.coadd.engine import Engine
from starloom.coadd.inputs import InputFrame, read_input
from starloom.coadd.moving import Ephemeris, following
from starloom.coadd.parallel import in_threads
from starloom.coadd.plan import StackOptions, StackPlan, Tile
from starloom.coadd.planning import make_plan
from starloom.coadd.product import ProductFile, ProductInfo
from starloom.coadd.refused import undescribed
from starloom.coadd.stages import Progress, prepared
from starloom.errors import BadInput


class StackReport(BaseModel):
    """What came out of one call: a product per band and pointing."""

    model_config = ConfigDict(frozen=True)

    products: tuple[ProductInfo, ...]


def product_path(out: Path, plan: StackPlan, plans: Sequence[StackPlan]) -> Path:
    """Return ``out`` for a single product, else ``OUT_{band}_p{n}.fits`` beside it; ``_moving`` is added."""
    still = [other for other in plans if other.track is None]
    band = "".join(c if c.isalnum() or c in "-+" else "-" for c in plan.band)
    which = f"_{band}_p{plan.pointing}" if len(still) > 1 else ""
    if plan.track is not None:
        which += "_moving"
    return out.with_name(f"{out.stem}{which}{out.suffix or '.fits'}") if which else out


def stack_files(
    paths: Sequence[Path | str],
    out: Path | str,
    options: StackOptions | None = None,
    *,
    target_radec: tuple[float, float] | None = None,
    ephemeris: Ephemeris | None = None,
    progress: Progress | None = None,
) -> StackReport:
    """Stack solved frames into one product per band and pointing.

    Parameters
    ----------
    paths
        FITS files with a WCS, any mixture of telescopes and bands. What cannot be stacked is reported in a
        product, with its reason, and stops nothing as long as one frame is left.
    out
        Output file; with several products its stem, see `product_path`.
    options
        See `StackOptions`.
    target_radec
        The mission's target (deg, ICRS); frames that point elsewhere get weight 0.
    ephemeris
        Of a target that moves: each product is made a second time, with the frames laid on the target.
    progress
        See `Progress`.

    Raises
    ------
    BadInput
        ``no-input``, ``nothing-to-stack`` or what all frames are refused for, ``grid-too-large``,
        ``memory-too-small``.
    StarloomError
        ``disk-full``, retryable once there is space.
    """
    out = Path(out)
    if paths and not out.parent.is_dir():
        raise BadInput(f"{out.parent} is not a folder", code="no-such-folder", hint="Create it first.")
    plans = plan_files(paths, options, target_radec=target_radec, ephemeris=ephemeris, progress=progress)
    return StackReport(products=tuple(_produce(plan, product_path(out, plan, plans), progress) for plan in plans))


def plan_files(
    paths: Sequence[Path | str],
    options: StackOptions | None = None,
    *,
    target_radec: tuple[float, float] | None = None,
    ephemeris: Ephemeris | None = None,
    progress: Progress | None = None,
) -> list[StackPlan]:
    """Plan the co-adds of solved files; arguments and errors as in `stack_files`."""
    if not paths:
        raise BadInput("no files to stack", code="no-input", hint="Name at least one solved FITS file.")
    options = options or StackOptions()
    found: list[InputFrame] = []
    errors: list[BadInput | None] = []
    for item, error in in_threads(_read_or_refused, paths, options.threads):
        found.append(item)
        errors.append(error)
        if progress:
            progress("read", len(found), len(paths))
    told = list(zip(_unique_ids(found), errors, strict=True))
    plans = make_plan(
        [item for item, error in told if error is None],
        options,
        target_radec=target_radec,
        unread=[(item, error) for item, error in told if error is not None],
    )
    plans = [prepared(plan, progress) for plan in plans]
    return plans if ephemeris is None else plans + [following(plan, ephemeris) for plan in plans]


def _read_or_refused(path: Path | str) -> tuple[InputFrame, BadInput | None]:
    """Describe a frame; where that cannot be done, as far as its header goes, and why."""
    try:
        return read_input(path), None
    except BadInput as error:
        return undescribed(Path(path)), error


def _unique_ids(inputs: Sequence[InputFrame]) -> list[InputFrame]:
    names = [frame.id for frame in inputs]
    if len(set(names)) == len(names):
        return list(inputs)
    return [frame.model_copy(update={"id": f"{n:04d}:{frame.id}"}) for n, frame in enumerate(inputs, 1)]


def _produce(plan: StackPlan, out: Path, progress: Progress | None) -> ProductInfo:
    with Engine(plan) as engine, ProductFile(plan, out) as product:
        tiles = engine.tiles
        done = 0

        def tile_done(_: Tile) -> None:
            nonlocal done
            done += 1
            if progress:
                progress("tiles", done, len(tiles))

        engine.run(tiles, product.add, progress=tile_done)
        info = product.finish()
        if progress:
            progress("write", 1, 1)
        return info
