"""The product: one FITS file a co-add, filled tile by tile."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from astropy.io import fits
from astropy.time import Time
from pydantic import BaseModel, ConfigDict, Field

from starloom.coadd.engine import SATURATED, TilePlanes
from starloom.coadd.moving import mid_exposure
from starloom.coadd.plan import StackPlan, Tile
from starloom.coadd.product_psf import psf_hdu
from starloom.coadd.tiles import read_tile, tile_path
from starloom.coadd.warp import noise_factor
from starloom.coadd.writer import Plane, PlanesFile
from starloom.disk import whole_or_absent

_PLANES = (
    ("SCI", "sci", -32),
    ("WEIGHT", "weight", -32),
    ("COVERAGE", "coverage", 16),
    ("REJECTED", "rejected", -32),
    ("FLAGS", "flags", 8),
)
_ABOUT = {
    "WEIGHT": "inverse variance of SCI",
    "COVERAGE": "frames in the pixel",
    "REJECTED": "share of the frames rejected there",
    "FLAGS": "1 saturated, 2 limit, 4 trail left out",
}


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
    kernel: str
    registration_rms_px: float | None = Field(description="Of its common stars about their joint places.")
    n_streaks: int = Field(description="Trails that were masked.")
    reason: str | None


class ProductInfo(BaseModel):
    """What one product is, and the truth about each of its frames."""

    model_config = ConfigDict(frozen=True)

    path: Path
    band: str
    pointing: int
    track: Literal["sidereal", "moving"] = "sidereal"
    digest: str
    shape: tuple[int, int]
    n_frames: int
    n_used: int
    exposure_s: float
    zero_point_mag: float | None
    zero_point_err: float | None
    noise_factor: float
    frames: tuple[FrameReport, ...]


class ProductFile:
    """A product in the making: tiles go in from any thread, in any order; the file appears when it is whole.

    Extensions: ``SCI``, ``WEIGHT`` (inverse variance), ``COVERAGE`` (frames), ``REJECTED`` (fraction), ``FLAGS``,
    ``PSF`` and the table ``PROVENANCE``, one row a frame.

    Raises
    ------
    StarloomError
        ``disk-full``, retryable.
    """

    def __init__(self, plan: StackPlan, out: Path) -> None:
        self.plan, self.out = plan, Path(out)
        self._offered = np.zeros(len(plan.used), np.int64)
        self._clipped = np.zeros(len(plan.used), np.int64)
        self._lock = threading.Lock()
        self._whole = whole_or_absent(self.out)

    def __enter__(self) -> Self:
        self._partial = self._whole.__enter__()
        try:
            primary, planes = _headers(self.plan)
            self._file = PlanesFile(self._partial, primary, planes)
        except BaseException as error:
            if not self._whole.__exit__(type(error), error, error.__traceback__):
                raise
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__()
        self._whole.__exit__(kind, error, trace)

    def add(self, tile: Tile, planes: TilePlanes) -> None:
        """Put a tile in its place."""
        rows, columns = slice(tile.y0, tile.y0 + tile.ny), slice(tile.x0, tile.x0 + tile.nx)
        for name, key, _ in _PLANES:
            self._file.planes[name][rows, columns] = getattr(planes, key)
        with self._lock:
            self._offered += planes.offered
            self._clipped += planes.clipped

    def finish(self) -> ProductInfo:
        """Add PSF, provenance and checksums."""
        info = _info(self.plan, self.out, self._offered, self._clipped)
        self._file.finish([psf_hdu(self.plan, self._unsaturated), _provenance(self.plan, info)])
        self._partial.chmod(0o644)
        return info

    def _unsaturated(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray[Any, Any]:
        place = np.s_[y0:y1, x0:x1]
        sci = self._file.planes["SCI"][place].astype(np.float32)
        sci[self._file.planes["FLAGS"][place] & SATURATED != 0] = np.nan
        return sci


def assemble(plan: StackPlan, workdir: Path, out: Path) -> ProductInfo:
    """Write the product of a plan whose tiles lie in ``workdir``; atomically, never half.

    Raises
    ------
    BadInput
        ``missing-tile``.
    StarloomError
        ``disk-full``, retryable.
    """
    digest = plan.digest()
    with ProductFile(plan, out) as product:
        for tile in plan.tiles:
            product.add(tile, read_tile(tile_path(workdir, tile), digest, tile, len(plan.used)))
        return product.finish()


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
            kernel=f.kernel,
            registration_rms_px=f.registration_rms_px,
            n_streaks=len(f.streaks),
            reason=f.reason,
        )
        for f in plan.frames
    )
    return ProductInfo(
        path=out,
        band=plan.band,
        pointing=plan.pointing,
        track="sidereal" if plan.track is None else "moving",
        digest=plan.digest(),
        shape=plan.shape,
        n_frames=len(plan.frames),
        n_used=len(used),
        exposure_s=exposure_s(plan),
        zero_point_mag=plan.zero_point_mag,
        zero_point_err=plan.zero_point_err,
        noise_factor=correlation(plan),
        frames=frames,
    )


def exposure_s(plan: StackPlan) -> float:
    """Return the summed exposure of the frames with a weight, seconds."""
    return sum(frame.input.exposure_s for frame in plan.used)


def correlation(plan: StackPlan) -> float:
    """Return a pixel's standard deviation over ``1 / sqrt(WEIGHT)``: what resampling moved into correlations.

    Notes
    -----
    A weighted mean of frames, each of whose pixels scatters by ``f_i`` times what its variance says. The noise of
    proper co-addition is white.
    """
    if not plan.used or plan.options.combine == "proper":
        return 1.0
    spent = [frame.weight**2 / plan.inverse_variance(frame) for frame in plan.used]
    factors = [noise_factor(frame.kernel, frame.area, plan.options.pixfrac) for frame in plan.used]
    return math.sqrt(sum(s * f**2 for s, f in zip(spent, factors, strict=True)) / sum(spent))


def _span(plan: StackPlan) -> tuple[str, str] | None:
    middles = [(mid_exposure(frame), timedelta(seconds=frame.input.exposure_s / 2)) for frame in plan.used]
    known = [(middle.replace(tzinfo=None), half) for middle, half in middles if middle is not None]
    if not known:
        return None
    first, last = min(m - h for m, h in known), max(m + h for m, h in known)
    return first.isoformat(timespec="milliseconds"), last.isoformat(timespec="milliseconds")


def _keywords(plan: StackPlan) -> fits.Header:
    header = fits.Header()
    header["BAND"] = (plan.band[:60], "band of all frames")
    header["FILTER"] = plan.band[:60]
    header["POINTING"] = (plan.pointing, "number of the pointing group")
    header["NCOMBINE"] = (len(plan.used), "frames with a weight")
    header["EXPTIME"] = (exposure_s(plan), "[s] summed over the frames")
    span = _span(plan)
    if span:
        header["DATE-BEG"], header["DATE-END"] = span
        header["TIMESYS"] = "UTC"
        # Written out, for astropy derives them with a warning in every reader otherwise.
        header["MJD-BEG"], header["MJD-END"] = (float(Time(t, scale="utc").mjd) for t in span)
    if plan.zero_point_mag is not None:
        header["MAGZPT"] = (plan.zero_point_mag, "[mag] magnitude of 1 unit of flux")
        header["MAGZERR"] = (plan.zero_point_err, "[mag] error of MAGZPT")
    if plan.track is not None:
        header["TRACK"] = ("moving", "the frames follow the target, not the stars")
        header["TRK-UTC"] = (plan.track.utc, "[UTC] when grid and sky agree")
        header["TRK-RA"] = (plan.track.ra_deg, "[deg] of the target then")
        header["TRK-DEC"] = (plan.track.dec_deg, "[deg] of the target then")
    header["KERNEL"] = plan.options.kernel
    header["COMBINE"] = plan.options.combine
    header["WEIGHTS"] = (plan.options.weights, "what the weights are best for")
    header["NOISECOR"] = (round(correlation(plan), 5), "pixel sd over 1/sqrt(WEIGHT)")
    header["COADDVER"] = plan.version
    header["PLANHASH"] = plan.digest()[:60]
    return header


def _headers(plan: StackPlan) -> tuple[fits.Header, list[Plane]]:
    ny, nx = plan.shape
    keywords = _keywords(plan)
    primary = fits.PrimaryHDU(header=keywords).header
    primary["EXTEND"] = True
    planes = []
    for extname, _, bitpix in _PLANES:
        header = fits.Header()
        header["XTENSION"], header["BITPIX"], header["NAXIS"] = "IMAGE", bitpix, 2
        header["NAXIS1"], header["NAXIS2"], header["PCOUNT"], header["GCOUNT"] = nx, ny, 0, 1
        header["EXTNAME"] = (extname, _ABOUT.get(extname, ""))
        for card, value in plan.grid.items():
            if not card.startswith("NAXIS"):
                header["RADESYS" if card == "RADECSYS" else card] = value
        if extname == "SCI":
            header.extend(keywords.cards, unique=True)
            header["BUNIT"] = ("adu", "flux scaled to MAGZPT" if plan.zero_point_mag is not None else "relative")
        planes.append(Plane(extname, header))
    return primary, planes


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
        ("REGRMS", [math.nan if r.registration_rms_px is None else r.registration_rms_px for r in rows], "pixel"),
    ):
        columns.append(fits.Column(name, "D", unit=unit, array=np.array(numbers)))
    columns.append(fits.Column("NSTARS", "J", array=np.array([r.n_common_stars for r in rows])))
    columns.append(fits.Column("NSTREAKS", "J", array=np.array([r.n_streaks for r in rows])))
    return fits.BinTableHDU.from_columns(columns, name="PROVENANCE")
