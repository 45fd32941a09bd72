"""From frames and options to plans: group, grid, flux scale, sky, weights, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starloom.coadd.grid import choose_scale, read_target, tangent_grid
from starloom.coadd.group import connected, footprint, reaches, unit_vectors
from starloom.coadd.inputs import InputFrame, frame_wcs_cards, open_frame, pixel_scale_arcsec, wcs_from_cards
from starloom.coadd.inside import Mesh, relative_weights
from starloom.coadd.match import flux_scales, sky_terms
from starloom.coadd.measure import StarFluxes, star_fluxes
from starloom.coadd.plan import (
    OUTPUT_ZERO_POINT_MAG,
    PinnedGrid,
    PlanFrame,
    Reason,
    StackOptions,
    StackPlan,
    make_tiles,
)
from starloom.coadd.warp import noise_factor
from starloom.errors import BadInput

APERTURE_FWHM = 1.5
"""Radius of the flux-scale apertures over the group's worst FWHM; what lies outside is added per frame."""


@dataclass(frozen=True)
class _Candidate:
    item: InputFrame
    shape: tuple[int, int]
    cards: dict[str, Any]
    start: str | None
    scale_arcsec: float
    corners: NDArray[np.float64]
    relative_weight: Mesh | None = None


def _candidate(item: InputFrame) -> _Candidate:
    with open_frame(item.path) as frame:
        cards = item.wcs_cards or frame_wcs_cards(item.path, frame.header)
        start = item.provenance.get("start") or frame.header.get("DATE-BEG") or frame.header.get("DATE-OBS")
        shape = frame.shape
        inside = relative_weights(frame.variance())
    scale = pixel_scale_arcsec(wcs_from_cards(cards), shape)
    return _Candidate(item, shape, cards, str(start) if start else None, scale, footprint(cards, shape), inside)


def make_plan(
    inputs: Sequence[InputFrame],
    options: StackOptions | None = None,
    *,
    target_radec: tuple[float, float] | None = None,
    pinned: Sequence[PinnedGrid] = (),
) -> list[StackPlan]:
    """Plan one co-add per band and pointing.

    Parameters
    ----------
    inputs
        Frames in any order; the plans keep it, but for those that make no product of their own: these stand,
        with the reason, at the end of a product of their band, or of the first.
    target_radec
        The mission's target (deg, ICRS). Groups of frames that do not reach it get weight 0, ``off-target``.
    pinned
        Grids of an earlier revision: a group of the same band that touches one of them is stacked onto it.

    Raises
    ------
    BadInput
        ``no-input``, ``nothing-to-stack`` (every frame has a reason for weight 0), ``grid-too-large``.
    """
    options = options or StackOptions()
    if not inputs:
        raise BadInput("no frames to stack", code="no-input", hint="Give at least one solved frame.")
    candidates = [_candidate(item) for item in inputs]
    plans: list[StackPlan] = []
    left_out: list[PlanFrame] = []
    for band in dict.fromkeys(c.item.band for c in candidates):
        members = [c for c in candidates if c.item.band == band]
        groups = [[members[i] for i in group] for group in connected([c.corners for c in members])]
        if target_radec is not None:
            on = [group for group in groups if any(reaches(c.corners, target_radec) for c in group)]
            left_out += [_unused(c, "off-target") for group in groups if group not in on for c in group]
            groups = on
        for number, (group, grid) in enumerate(_numbered(groups, [p for p in pinned if p.band == band]), 1):
            if group:
                plans.append(_plan_group(band, number, group, options, grid))
    left_out += [frame for plan in plans if not plan.used for frame in plan.frames]
    plans = [plan for plan in plans if plan.used]
    if not plans:
        raise BadInput(
            f"no frame can be stacked: {_told(left_out)}",
            code="nothing-to-stack",
            hint="A frame needs to reach the target, and common stars or a zero point (MAGZPT).",
        )
    return _with_left_out(plans, left_out)


def _with_left_out(plans: list[StackPlan], frames: Sequence[PlanFrame]) -> list[StackPlan]:
    """Report the frames that made no product in one that was made: of their band if there is one."""
    for frame in frames:
        home = next((i for i, plan in enumerate(plans) if plan.band == frame.input.band), 0)
        plans[home] = plans[home].model_copy(update={"frames": (*plans[home].frames, frame)})
    return plans


def _told(frames: Sequence[PlanFrame], most: int = 10) -> str:
    said = [f"{frame.input.id} {frame.reason}" for frame in frames[:most]]
    return ", ".join(said) + (f" and {len(frames) - most} more" if len(frames) > most else "")


def _numbered(
    groups: list[list[_Candidate]], pinned: list[PinnedGrid]
) -> list[tuple[list[_Candidate], dict[str, Any] | None]]:
    """Give each group its place: those that touch a pinned grid the grid's number, the others what follows.

    Groups that were apart and touch the same pinned grid become one.
    """
    slots: list[tuple[list[_Candidate], dict[str, Any] | None]] = []
    rest = list(groups)
    for pin in sorted(pinned, key=lambda p: p.pointing):
        outline = footprint(_bare(pin.grid), (int(pin.grid["NAXIS2"]), int(pin.grid["NAXIS1"])))
        mine = [g for g in rest if any(len(connected([outline, c.corners])) == 1 for c in g)]
        rest = [g for g in rest if g not in mine]
        slots.append(([c for g in mine for c in g], pin.grid))
    return slots + [(g, None) for g in rest]


def _plan_group(
    band: str,
    number: int,
    group: list[_Candidate],
    options: StackOptions,
    pinned: dict[str, Any] | None,
) -> StackPlan:
    if pinned is not None:
        grid = pinned
    elif options.target is not None:
        grid = read_target(options.target, max_pixels=options.max_pixels)
    else:
        scale = options.scale_arcsec or choose_scale(
            [c.item.fwhm_arcsec for c in group], [c.scale_arcsec for c in group]
        )
        grid = tangent_grid([(c.cards, c.shape) for c in group], scale, max_pixels=options.max_pixels)
    shape = (int(grid["NAXIS2"]), int(grid["NAXIS1"]))
    radius = APERTURE_FWHM * max(c.item.fwhm_arcsec for c in group)
    stars = [_stars(c, radius) for c in group]
    scales = flux_scales(
        stars,
        [(c.item.zero_point_mag, c.item.zero_point_err) for c in group],
        match_radius_arcsec=0.5 * float(np.median([c.item.fwhm_arcsec for c in group])),
        min_stars=options.min_common_stars,
        output_zero_point=OUTPUT_ZERO_POINT_MAG,
    )
    frames = []
    for c, log_scale, n_stars in zip(group, scales.log_scale, scales.n_stars, strict=True):
        frames.append(_plan_frame(c, float(log_scale), int(n_stars), grid, shape, options))
    frames = _with_sky(frames, stars, grid, shape)
    return StackPlan(
        band=band,
        pointing=number,
        grid=grid,
        frames=tuple(frames),
        options=options,
        tiles=make_tiles(shape, options.tile_size),
        zero_point_mag=scales.zero_point_mag,
        zero_point_err=scales.zero_point_err,
    )


def _stars(c: _Candidate, radius_arcsec: float) -> StarFluxes:
    with open_frame(c.item.path) as frame:
        return star_fluxes(frame, c.item, c.cards, radius_arcsec)


def _unused(c: _Candidate, reason: Reason, n_stars: int = 0) -> PlanFrame:
    return PlanFrame(
        input=c.item, shape=c.shape, wcs_cards=c.cards, start=c.start, n_common_stars=n_stars, reason=reason
    )


def _plan_frame(
    c: _Candidate,
    log_scale: float,
    n_stars: int,
    grid: dict[str, Any],
    shape: tuple[int, int],
    options: StackOptions,
) -> PlanFrame:
    reason: Reason | None = None
    if not np.isfinite(c.item.sky_sigma_adu) or c.item.sky_sigma_adu <= 0:
        reason = "bad-noise"
    elif not _overlaps(c, grid, shape):
        reason = "no-overlap"
    elif not np.isfinite(log_scale):
        reason = "too-few-stars" if n_stars < options.min_common_stars else "no-zero-point"
    if reason is not None:
        return _unused(c, reason, n_stars)
    out_scale = pixel_scale_arcsec(wcs_from_cards(_bare(grid)), shape)
    area, scale = (out_scale / c.scale_arcsec) ** 2, float(np.exp(log_scale))
    sigma_area = scale * c.item.sky_sigma_adu * np.sqrt(area)
    return PlanFrame(
        input=c.item,
        shape=c.shape,
        wcs_cards=c.cards,
        start=c.start,
        scale=scale,
        area=float(area),
        sigma=float(sigma_area * noise_factor(options.kernel, area)),
        weight=float(1 / sigma_area**2),
        relative_weight=c.relative_weight,
        n_common_stars=n_stars,
    )


def _bare(grid: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in grid.items() if not k.startswith("NAXIS")}


def _overlaps(c: _Candidate, grid: dict[str, Any], shape: tuple[int, int]) -> bool:
    return len(connected([footprint(_bare(grid), shape), c.corners])) == 1


def _with_sky(
    frames: list[PlanFrame], stars: list[StarFluxes], grid: dict[str, Any], shape: tuple[int, int]
) -> list[PlanFrame]:
    """Fit the sky terms of the frames that have a weight, on a coarse lattice over the grid."""
    used = [i for i, frame in enumerate(frames) if frame.weight > 0]
    if len(used) < 2:
        return frames
    ny, nx = shape
    gx, gy = np.meshgrid(np.linspace(0, nx - 1, 48), np.linspace(0, ny - 1, 48))
    x, y = gx.ravel(), gy.ravel()
    grid_wcs = wcs_from_cards(_bare(grid))
    ra, dec = grid_wcs.all_pix2world(x, y, 0)
    beside = [grid_wcs.all_pix2world(x + dx, y + dy, 0) for dx, dy in ((1, 0), (0, 1))]
    lattice = unit_vectors(ra, dec)
    samples = np.full((len(used), len(x)), np.nan)
    for row, i in enumerate(used):
        frame, mesh = frames[i], stars[i]
        centre = footprint(frame.wcs_cards, frame.shape)
        middle = centre.sum(axis=0) / np.linalg.norm(centre.sum(axis=0))
        near = np.flatnonzero(lattice @ middle >= (centre @ middle).min() - 1e-9)
        wcs = wcs_from_cards(frame.wcs_cards)
        with np.errstate(all="ignore"):
            (fx, fy), right, up = (
                wcs.all_world2pix(a[near], d[near], 0, tolerance=1e-6, maxiter=60, quiet=True)
                for a, d in ((ra, dec), *beside)
            )
        # The resampler multiplies by the local pixel area; over a bright sky its 1 % in the corners is a bowl.
        area = np.abs((right[0] - fx) * (up[1] - fy) - (up[0] - fx) * (right[1] - fy))
        inside = (fx >= 0) & (fy >= 0) & (fx < frame.shape[1] - 1) & (fy < frame.shape[0] - 1)
        near, fx, fy, area = near[inside], fx[inside], fy[inside], area[inside]
        step_x, step_y = mesh.mesh_px
        column = np.minimum((fx // step_x).astype(int), mesh.sky.shape[1] - 1)
        line = np.minimum((fy // step_y).astype(int), mesh.sky.shape[0] - 1)
        samples[row, near] = mesh.sky[line, column].astype(float) * frame.scale * area
    terms = sky_terms(samples, x / max(nx - 1, 1) * 2 - 1, y / max(ny - 1, 1) * 2 - 1)
    result = list(frames)
    for row, i in enumerate(used):
        result[i] = frames[i].model_copy(update={"sky": tuple(float(t) for t in terms[row])})
    return result
