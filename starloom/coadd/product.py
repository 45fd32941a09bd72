"""The product: one FITS file a co-add, written band of rows by band of rows."""

from __future__ import annotations

import math
import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from pydantic import BaseModel, ConfigDict, Field

from starloom.coadd.plan import StackPlan, Tile
from starloom.coadd.tiles import tile_path
from starloom.coadd.warp import noise_factor
from starloom.errors import BadInput

_PLANES = (
    ("SCI", "sci", -32),
    ("WEIGHT", "weight", -32),
    ("COVERAGE", "coverage", 16),
    ("REJECTED", "rejected", -32),
)
_DTYPE = {-32: ">f4", 16: ">i2"}
_BLOCK = 2880


class FrameReport(BaseModel):
    """How one frame entered a product."""

    model_config = ConfigDict(frozen=True)

    id: str
    node: str
    start: str | None
    exposure_s: float
    scale: float | None = Field(description="Output units per ADU; None for a frame without a weight.")
    weight: float
    relative_weight: float = Field(description="Share of the product's summed weight.")
    rejected_fraction: float
    n_common_stars: int
    reason: str | None


class ProductInfo(BaseModel):
    """What one product is, and the truth about each of its frames."""

    model_config = ConfigDict(frozen=True)

    path: Path
    band: str
    pointing: int
    digest: str
    shape: tuple[int, int]
    n_frames: int
    n_used: int
    exposure_s: float
    zero_point_mag: float | None
    zero_point_err: float | None
    noise_factor: float
    frames: tuple[FrameReport, ...]


def assemble(plan: StackPlan, workdir: Path, out: Path) -> ProductInfo:
    """Write the product of a plan whose tiles lie in ``workdir``; atomically, never half.

    Memory is bounded by one row of tiles. Extensions: ``SCI``, ``WEIGHT`` (inverse variance), ``COVERAGE``
    (frames), ``REJECTED`` (fraction) and the table ``PROVENANCE``, one row a frame.

    Raises
    ------
    BadInput
        ``missing-tile``.
    """
    out = Path(out)
    offered, clipped = _counts(plan, workdir)
    info = _info(plan, out, offered, clipped)
    handle, name = tempfile.mkstemp(prefix=f".{out.stem}-", suffix=".fits", dir=out.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _write_images(plan, info, workdir, temporary)
        with fits.open(temporary, mode="append") as hdus:
            hdus.append(_provenance(plan, info))
        with fits.open(temporary, mode="update", memmap=True) as hdus:
            for hdu in hdus:
                hdu.add_checksum()
        temporary.chmod(0o644)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return info


def _load(plan: StackPlan, tile: Tile, workdir: Path) -> dict[str, Any]:
    path = tile_path(workdir, tile)
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {key: saved[key] for key in saved.files}
    except FileNotFoundError as error:
        raise BadInput(
            f"tile {tile.name} is missing", code="missing-tile", hint="Run the tiles of this plan first."
        ) from error


def _counts(plan: StackPlan, workdir: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    offered, clipped = np.zeros(len(plan.used), np.int64), np.zeros(len(plan.used), np.int64)
    for tile in plan.tiles:
        try:
            with np.load(tile_path(workdir, tile), allow_pickle=False) as saved:
                if str(saved["digest"]) != plan.digest():
                    raise BadInput(
                        f"tile {tile.name} belongs to another plan",
                        code="missing-tile",
                        hint="Run the tiles again.",
                    )
                offered += saved["used"]
                clipped += saved["clipped"]
        except FileNotFoundError as error:
            raise BadInput(
                f"tile {tile.name} is missing", code="missing-tile", hint="Run the tiles of this plan first."
            ) from error
    return offered, clipped


def _info(plan: StackPlan, out: Path, offered: np.ndarray[Any, Any], clipped: np.ndarray[Any, Any]) -> ProductInfo:
    used = plan.used
    fraction = {f.input.id: float(c / max(o, 1)) for f, o, c in zip(used, offered, clipped, strict=True)}
    total = sum(f.weight for f in used)
    frames = tuple(
        FrameReport(
            id=f.input.id,
            node=f.input.node,
            start=f.start,
            exposure_s=f.input.exposure_s,
            scale=f.scale if f.reason is None else None,
            weight=f.weight,
            relative_weight=f.weight / total if total else 0.0,
            rejected_fraction=fraction.get(f.input.id, 0.0),
            n_common_stars=f.n_common_stars,
            reason=f.reason,
        )
        for f in plan.frames
    )
    factor = sum(f.weight * noise_factor(plan.options.kernel, f.area) for f in used) / total if total else 1.0
    return ProductInfo(
        path=out,
        band=plan.band,
        pointing=plan.pointing,
        digest=plan.digest(),
        shape=plan.shape,
        n_frames=len(plan.frames),
        n_used=len(used),
        exposure_s=sum(f.input.exposure_s for f in used),
        zero_point_mag=plan.zero_point_mag,
        zero_point_err=plan.zero_point_err,
        noise_factor=factor,
        frames=frames,
    )


def _span(plan: StackPlan) -> tuple[str, str] | None:
    starts = []
    for frame in plan.used:
        try:
            start = datetime.fromisoformat((frame.start or "").replace("Z", "+00:00")).replace(tzinfo=None)
        except ValueError:
            continue
        starts.append((start, start + timedelta(seconds=frame.input.exposure_s)))
    if not starts:
        return None
    first, last = min(s for s, _ in starts), max(e for _, e in starts)
    return first.isoformat(timespec="milliseconds"), last.isoformat(timespec="milliseconds")


def _keywords(plan: StackPlan, info: ProductInfo) -> fits.Header:
    header = fits.Header()
    header["BAND"] = (plan.band[:60], "band of all frames")
    header["FILTER"] = plan.band[:60]
    header["POINTING"] = (plan.pointing, "number of the pointing group")
    header["NCOMBINE"] = (info.n_used, "frames with a weight")
    header["EXPTIME"] = (info.exposure_s, "[s] summed over the frames")
    span = _span(plan)
    if span:
        header["DATE-BEG"], header["DATE-END"] = span
        header["TIMESYS"] = "UTC"
        # Written out, for astropy derives them with a warning in every reader otherwise.
        header["MJD-BEG"], header["MJD-END"] = (float(Time(t, scale="utc").mjd) for t in span)
    if info.zero_point_mag is not None:
        header["MAGZPT"] = (info.zero_point_mag, "[mag] magnitude of 1 unit of flux")
        header["MAGZERR"] = (info.zero_point_err, "[mag] error of MAGZPT")
    header["KERNEL"] = plan.options.kernel
    header["COMBINE"] = plan.options.combine
    header["NOISECOR"] = (round(info.noise_factor, 5), "pixel sd over 1/sqrt(WEIGHT): correlated noise")
    header["COADDVER"] = plan.version
    header["PLANHASH"] = info.digest[:60]
    return header


def _headers(plan: StackPlan, info: ProductInfo) -> list[tuple[str | None, int, fits.Header]]:
    ny, nx = plan.shape
    keywords = _keywords(plan, info)
    primary = fits.PrimaryHDU(header=keywords).header
    primary["EXTEND"] = True
    result: list[tuple[str | None, int, fits.Header]] = [(None, 0, primary)]
    for extname, key, bitpix in _PLANES:
        header = fits.Header()
        header["XTENSION"], header["BITPIX"], header["NAXIS"] = "IMAGE", bitpix, 2
        header["NAXIS1"], header["NAXIS2"], header["PCOUNT"], header["GCOUNT"] = nx, ny, 0, 1
        header["EXTNAME"] = extname
        for card, value in plan.grid.items():
            if not card.startswith("NAXIS"):
                header["RADESYS" if card == "RADECSYS" else card] = value
        if extname == "SCI":
            header.extend(keywords.cards, unique=True)
            header["BUNIT"] = ("adu", "flux scaled to MAGZPT" if info.zero_point_mag is not None else "relative")
        result.append((key, bitpix, header))
    for _, _, header in result:
        # Room for the sums, so that adding them later does not move the data.
        header["CHECKSUM"], header["DATASUM"] = "0" * 16, "0"
    return result


def _write_images(plan: StackPlan, info: ProductInfo, workdir: Path, path: Path) -> None:
    ny, nx = plan.shape
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    headers = _headers(plan, info)
    for key, bitpix, header in headers:
        length = len(header.tostring())
        if key is not None:
            offsets[key] = (position + length, bitpix)
        data = ny * nx * abs(bitpix) // 8 if key is not None else 0
        position += length + -(-data // _BLOCK) * _BLOCK
    with path.open("r+b") as stream:
        stream.truncate(position)
        position = 0
        for key, bitpix, header in headers:
            stream.seek(position)
            text = header.tostring().encode("ascii")
            stream.write(text)
            data = ny * nx * abs(bitpix) // 8 if key is not None else 0
            position += len(text) + -(-data // _BLOCK) * _BLOCK
        for y0 in sorted({tile.y0 for tile in plan.tiles}):
            row = [tile for tile in plan.tiles if tile.y0 == y0]
            loaded = [_load(plan, tile, workdir) for tile in row]
            for key, (offset, bitpix) in offsets.items():
                band = np.empty((row[0].ny, nx), _DTYPE[bitpix])
                for tile, saved in zip(row, loaded, strict=True):
                    band[:, tile.x0 : tile.x0 + tile.nx] = saved[key]
                stream.seek(offset + y0 * nx * abs(bitpix) // 8)
                stream.write(band.tobytes())


def _text(values: list[str]) -> tuple[str, np.ndarray[Any, Any]]:
    ascii_values = [v.encode("ascii", "replace") for v in values]
    return f"{max(1, *(len(v) for v in ascii_values))}A", np.array(ascii_values)


def _provenance(plan: StackPlan, info: ProductInfo) -> fits.BinTableHDU:
    rows = info.frames
    raw = [frame.input.provenance for frame in plan.frames]
    columns = []
    for name, values in (
        ("ID", [r.id for r in rows]),
        ("NODE", [r.node for r in rows]),
        ("START", [r.start or "" for r in rows]),
        ("REASON", [r.reason or "" for r in rows]),
        ("RAW_KEY", [str(p.get("raw_key") or "") for p in raw]),
        ("RAW_VERSION", [str(p.get("raw_version") or "") for p in raw]),
    ):
        form, array = _text(values)
        columns.append(fits.Column(name, form, array=array))
    for name, numbers, unit in (
        ("EXPOSURE", [r.exposure_s for r in rows], "s"),
        ("SCALE", [math.nan if r.scale is None else r.scale for r in rows], None),
        ("WEIGHT", [r.weight for r in rows], None),
        ("REJECTED", [r.rejected_fraction for r in rows], None),
    ):
        columns.append(fits.Column(name, "D", unit=unit, array=np.array(numbers)))
    columns.append(fits.Column("NSTARS", "J", array=np.array([r.n_common_stars for r in rows])))
    return fits.BinTableHDU.from_columns(columns, name="PROVENANCE")
