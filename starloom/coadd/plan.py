"""The plan of one co-add: everything that decides its pixels, as JSON, before a pixel is combined."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from starloom.coadd.inputs import InputFrame

COADD_VERSION = 4
"""Raised by hand whenever the same plan would give other pixels."""

OUTPUT_ZERO_POINT_MAG = 25.0
"""Magnitude of a star of 1 unit in every tied product; fixed, so that revisions compare directly."""

Reason = Literal[
    "off-target",
    "too-few-stars",
    "no-zero-point",
    "no-overlap",
    "bad-noise",
    "poor-seeing",
    "low-transparency",
    "misregistered",
    "no-time",
    "unreadable",
    "no-image",
    "not-2d",
    "colour-mosaic",
    "no-wcs",
    "wcs-too-curved",
]

Kernel = Literal["bilinear", "lanczos3", "area", "nearest", "drizzle"]

Terms = tuple[float, ...]
"""Coefficients of a low-order surface: 1, u, v, u², uv, v², with u and v in [-1, 1] across an image."""


class StackOptions(BaseModel):
    """What the caller may choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: Kernel = "lanczos3"
    combine: Literal["clipped", "median", "mean", "proper"] = "clipped"
    weights: Literal["surface", "point"] = Field(
        default="surface", description="1/σ² for surfaces, 1/(σ² FWHM²) for point sources; σ is the sky's."
    )
    pixfrac: float = Field(default=0.8, gt=0, le=1, description="Side of a drizzled drop over a frame pixel.")
    register_frames: bool = Field(default=True, description="Refine all WCS together on common stars.")
    match_sky: bool = Field(default=True, description="Match skies on the differences between frames.")
    streaks: bool = Field(default=True, description="Look for satellites and aircraft, and mask them.")
    scale_arcsec: float | None = Field(default=None, gt=0, description="Output pixel; None: from the seeing.")
    target: Path | None = Field(default=None, description="FITS or text header whose grid is used as it is.")
    tile_size: int | None = Field(default=None, ge=32, description="Side of a tile, px; None: from the memory.")
    max_pixels: int = Field(default=400_000_000, gt=0, description="Largest output grid that is accepted.")
    clip_sigma: float = Field(default=5.0, gt=0, description="Seed threshold of the rejection.")
    threads: int = Field(default=1, ge=1)
    memory_bytes: int | None = Field(default=None, gt=0, description="Budget; None: half of what is free.")
    min_common_stars: int = Field(default=3, ge=1, description="Fewest stars that tie a frame's flux scale.")

    @property
    def weighs_seeing(self) -> bool:
        """Whether a frame's seeing enters its weight; proper co-addition weighs it frequency by frequency."""
        return self.weights == "point" and self.combine != "proper"


class Streak(BaseModel):
    """A straight trail across a frame, on the output grid: ends (0-based pixels) and half width (pixels)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x0: float
    y0: float
    x1: float
    y1: float
    half_width: float


class PlanFrame(BaseModel):
    """One frame of a plan, with the truth about how it enters the stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: InputFrame
    shape: tuple[int, int] = Field(description="(ny, nx) of the frame, pixels.")
    wcs_cards: dict[str, Any] = Field(description="The frame's WCS as FITS cards.")
    start: str | None = None
    scale: float = Field(default=1.0, description="Output units per ADU.")
    area: float = Field(default=1.0, description="Frame pixels per output pixel at the frame's centre.")
    sky: tuple[float, ...] = Field(
        default=(0.0,) * 6,
        description="Terms 1, u, v, u², uv, v², output units, over u, v in [-1, 1] of the grid; subtracted.",
    )
    sigma: float = Field(default=0.0, description="Sky noise of one resampled pixel, output units.")
    weight: float = Field(
        default=0.0, description="1 / sky variance of one output pixel's area; for point sources over FWHM² (px)."
    )
    relative_weight: tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="Weight within the frame over its weight, by cells of a mesh (rows, columns) over its pixels; "
        "None: the same everywhere.",
    )
    kernel: Kernel = Field(default="lanczos3", description="The options' own, or area where it would alias.")
    fwhm_px: float = Field(default=2.5, gt=0, description="Seeing, output pixels.")
    node_px: int = Field(
        default=32, description="Spacing of WCS nodes, output pixels, that keeps the error below 0.01 px."
    )
    node_error_px: float = Field(default=0.0, description="Largest error measured between nodes, frame pixels.")
    registration: tuple[Terms, Terms] | None = Field(
        default=None,
        description="Terms of dx and dy, frame pixels, over the frame; added to where the WCS puts a star.",
    )
    registration_rms_px: float | None = Field(default=None, description="Of common stars about their mean.")
    shift_px: tuple[float, float] = Field(
        default=(0.0, 0.0), description="Output pixel (x, y) shows the sky of grid position (x + dx, y + dy)."
    )
    streaks: tuple[Streak, ...] = ()
    psf: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="PSF on the output grid, unit sum, odd sides; only for `combine` = proper."
    )
    n_common_stars: int = 0
    reason: Reason | None = Field(default=None, description="Why the weight is 0.")


class Tile(BaseModel):
    """A rectangle of the output grid: 0-based origin and size in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    x0: int
    y0: int
    nx: int
    ny: int

    @property
    def name(self) -> str:
        """File name stem of the tile's result."""
        return f"tile_{self.y0:06d}_{self.x0:06d}"


class Track(BaseModel):
    """A target that moves: where it stands in a product whose frames follow it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    utc: str = Field(description="Time at which grid and sky agree, ISO 8601.")
    ra_deg: float
    dec_deg: float


class PinnedGrid(BaseModel):
    """The grid of a product's first revision, which later revisions keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    band: str
    pointing: int
    grid: dict[str, Any]


class StackPlan(BaseModel):
    """Grid, frames, options and tiles of one product (one band, one pointing)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = COADD_VERSION
    band: str
    pointing: int = Field(description="1-based number of the pointing group within the band.")
    grid: dict[str, Any] = Field(description="Output WCS as FITS cards, with NAXIS1 and NAXIS2.")
    frames: tuple[PlanFrame, ...]
    options: StackOptions
    tiles: tuple[Tile, ...]
    track: Track | None = Field(default=None, description="What the frames follow; None: the stars.")
    sky_level: tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="Sky that the matched frames have in common, output units, on a lattice of (rows, columns) "
        "spread evenly from the grid's first to its last pixel. None: 0.",
    )
    zero_point_mag: float | None = None
    zero_point_err: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the output grid."""
        return int(self.grid["NAXIS2"]), int(self.grid["NAXIS1"])

    @property
    def used(self) -> tuple[PlanFrame, ...]:
        """The frames with a weight, in plan order."""
        return tuple(frame for frame in self.frames if frame.weight > 0)

    def inverse_variance(self, frame: PlanFrame) -> float:
        """Return 1 / variance of a frame's sky in one output pixel's area, output units."""
        return frame.weight * (frame.fwhm_px**2 if self.options.weighs_seeing else 1.0)

    def digest(self) -> str:
        """Return the SHA-256 of all that decides the pixels (not of paths or the number of threads)."""
        return self.sha256

    @cached_property
    def sha256(self) -> str:
        """`digest`, computed once: every tile asks for it, and with many tiles the plan is long."""
        frames = {"__all__": {"input": {"path": True, "provenance": True}}}
        text = self.model_dump_json(
            exclude={
                # Neither the work's partition nor its speed decides a pixel.
                "options": {"threads", "target", "memory_bytes", "tile_size"},
                "tiles": True,
                "frames": frames,
            }
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def __copy__(self) -> Self:
        # `model_copy` would carry the digest of the plan it was made from.
        copy = super().__copy__()
        copy.__dict__.pop("sha256", None)
        return copy


def make_tiles(shape: tuple[int, int], size: int | None = None) -> tuple[Tile, ...]:
    """Cut a grid of ``shape`` (ny, nx) into tiles of at most ``size`` (default 512) pixels a side, row by row."""
    ny, nx = shape
    size = size or 512
    return tuple(
        Tile(x0=x0, y0=y0, nx=min(size, nx - x0), ny=min(size, ny - y0))
        for y0 in range(0, ny, size)
        for x0 in range(0, nx, size)
    )
