"""From frames and options to plans: group, grid, flux scale, sky, weights, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from starloom.coadd.apertures import APERTURE_FWHM
from starloom.coadd.celestial import sky_vectors
from starloom.coadd.common_sky import with_sky
from starloom.coadd.grid import choose_scale, read_target, tangent_grid
from starloom.coadd.group import connected, footprint, reaches
from starloom.coadd.inputs import InputFrame, frame_wcs_cards, open_frame, pixel_scale_arcsec, wcs_from_cards
from starloom.coadd.mapping import choose_node_px
from starloom.coadd.match import StarFluxes, flux_scales, match_stars, shared_counts
from starloom.coadd.measure import PEDESTAL
from starloom.coadd.parallel import in_threads
from starloom.coadd.plan import (
    OUTPUT_ZERO_POINT_MAG,
    PinnedGrid,
    PlanFrame,
    Reason,
    StackOptions,
    StackPlan,
    make_tiles,
)
from starloom.coadd.references import choose_references
from starloom.coadd.refused import nothing_to_stack, refused
from starloom.coadd.resample import choose_kernel, noise_factor
from starloom.coadd.sample import Sample, take_sample
from starloom.coadd.triage import triage
from starloom.errors import BadInput

MATCH_FWHM = 1.0
"""How far one star may lie in two frames, over the group's median FWHM."""

_REFERENCE_HEIGHT = 256
"""Rows of each of a reference's bands: half of a frame of 26 Mpix, so that half of all stars are common."""
_DENSER = (128, 512, 1 << 30)
"""Rows of each band when a frame shares too few stars with the others."""
_FEW_COMMON = 12
_COMPARED_FWHM = 1.25 * APERTURE_FWHM
"""Radius on the sky within which frames are compared, over the group's worst FWHM.

At 1.5 FWHM 3 % of a Moffat profile lie outside, and growth measured in a crowded sky is wrong by a tenth of them.
"""


@dataclass(frozen=True, eq=False)
class _Candidate:
    item: InputFrame
    sample: Sample
    wcs: WCS
    cards: dict[str, Any]
    start: str | None
    scale_arcsec: float
    corners: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        return self.sample.shape


def _candidate(item: InputFrame) -> _Candidate:
    cards, sample = item.wcs_cards, item.sample
    start = item.provenance.get("start")
    if sample is None or cards is None or start is None:
        with open_frame(item.path) as frame:
            cards = cards or frame_wcs_cards(item.path, frame.header)
            start = start or frame.header.get("DATE-BEG") or frame.header.get("DATE-OBS")
            sample = sample or take_sample(
                frame, saturation_adu=item.saturation_adu, gain_e_per_adu=item.gain_e_per_adu
            )
    wcs = item.wcs or wcs_from_cards(cards)
    scale = pixel_scale_arcsec(wcs, sample.shape)
    corners = footprint(wcs, sample.shape)
    return _Candidate(item.bare(), sample, wcs, cards, str(start) if start else None, scale, corners)


def _candidate_or_error(item: InputFrame) -> _Candidate | BadInput:
    """Return a frame's candidate, or what is wrong with the frame: one of a hundred must not stop the others."""
    try:
        return _candidate(item)
    except BadInput as error:
        return error


def _looked_closer(c: _Candidate, height: int) -> _Candidate:
    """Return a candidate whose sample is of taller bands."""
    with open_frame(c.item.path) as frame:
        sample = take_sample(
            frame, saturation_adu=c.item.saturation_adu, gain_e_per_adu=c.item.gain_e_per_adu, height=height
        )
    return replace(c, sample=sample)


def make_plan(
    inputs: Sequence[InputFrame],
    options: StackOptions | None = None,
    *,
    target_radec: tuple[float, float] | None = None,
    pinned: Sequence[PinnedGrid] = (),
    unread: Sequence[tuple[InputFrame, BadInput]] = (),
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
    unread
        Frames that were refused before, with what was said of them: reported, like any that is refused here.

    Raises
    ------
    BadInput
        ``no-input``, ``nothing-to-stack`` (every frame has a reason for weight 0), ``grid-too-large``; where all
        frames are refused for one reason, that (``bad-noise``, ``no-wcs``, ``unreadable``, ...).
    """
    options = options or StackOptions()
    if not inputs and not unread:
        raise BadInput("no frames to stack", code="no-input", hint="Give at least one solved frame.")
    looked_at = list(in_threads(_candidate_or_error, inputs, options.threads))
    candidates = [c for c in looked_at if isinstance(c, _Candidate)]
    refusals = [*unread, *((i, e) for i, e in zip(inputs, looked_at, strict=True) if isinstance(e, BadInput))]
    plans: list[StackPlan] = []
    left_out = [refused(item, error) for item, error in refusals]
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
        raise nothing_to_stack(left_out, [error for _, error in refusals])
    return _with_left_out(plans, left_out)


def _with_left_out(plans: list[StackPlan], frames: Sequence[PlanFrame]) -> list[StackPlan]:
    """Report the frames that made no product in one that was made: of their band if there is one."""
    for frame in frames:
        home = next((i for i, plan in enumerate(plans) if plan.band == frame.input.band), 0)
        plans[home] = plans[home].model_copy(update={"frames": (*plans[home].frames, frame)})
    return plans


def _numbered(
    groups: list[list[_Candidate]], pinned: list[PinnedGrid]
) -> list[tuple[list[_Candidate], dict[str, Any] | None]]:
    """Give each group its place: those that touch a pinned grid the grid's number, the others what follows.

    Groups that were apart and touch the same pinned grid become one.
    """
    slots: list[tuple[list[_Candidate], dict[str, Any] | None]] = []
    rest = list(groups)
    for pin in sorted(pinned, key=lambda p: p.pointing):
        outline = footprint(wcs_from_cards(_bare(pin.grid)), (int(pin.grid["NAXIS2"]), int(pin.grid["NAXIS1"])))
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
        grid = tangent_grid([(c.wcs, c.shape) for c in group], scale, max_pixels=options.max_pixels)
    shape = (int(grid["NAXIS2"]), int(grid["NAXIS1"]))
    group, numbers = _with_common_stars(group, options)
    group = _with_saturation(group)
    # The worst seeing decides, but not one blurred frame for a hundred others.
    radius = _COMPARED_FWHM * float(np.percentile([c.item.fwhm_arcsec for c in group], 90))
    scales = flux_scales(
        [_fluxes(c, radius) for c in group],
        numbers,
        [(c.item.zero_point_mag, c.item.zero_point_err) for c in group],
        min_stars=options.min_common_stars,
        output_zero_point=OUTPUT_ZERO_POINT_MAG,
    )
    grid_wcs = wcs_from_cards(_bare(grid))
    place = _Place(footprint(grid_wcs, shape), pixel_scale_arcsec(grid_wcs, shape))
    frames = [
        _plan_frame(c, float(log_scale), int(n_stars), place, options)
        for c, log_scale, n_stars in zip(group, scales.log_scale, scales.n_stars, strict=True)
    ]
    if options.register_frames and len(group) > 1:
        frames = _registered(frames, group, numbers)
    frames = triage(frames)
    frames = [_with_nodes(frame, grid, shape) if frame.weight > 0 else frame for frame in frames]
    frames, level = with_sky(
        frames, [c.sample.sky for c in group], [c.wcs for c in group], grid_wcs, shape, match=options.match_sky
    )
    return StackPlan(
        band=band,
        pointing=number,
        grid=grid,
        frames=tuple(frames),
        options=options,
        tiles=make_tiles(shape, options.tile_size),
        sky_level=level,
        zero_point_mag=scales.zero_point_mag,
        zero_point_err=scales.zero_point_err,
    )


def _vectors(c: _Candidate) -> NDArray[np.float64]:
    stars = c.sample.stars
    return sky_vectors(c.wcs, stars.x, stars.y) if len(stars) else np.zeros((0, 3))


def _fluxes(c: _Candidate, radius_arcsec: float) -> StarFluxes:
    """Return fluxes within one radius on the sky, so that neighbours enter all frames alike."""
    s = c.sample
    light = s.stars.within(radius_arcsec / c.scale_arcsec / s.fwhm_px)
    pedestal = PEDESTAL * s.sigma_adu * np.pi * (light.radius * APERTURE_FWHM * s.fwhm_px) ** 2
    return StarFluxes(
        _vectors(c),
        light.flux,
        light.error,
        light.alone,
        s.growth,
        s.growth_error,
        c.item.node,
        light.share,
        float(pedestal),
    )


def _with_common_stars(
    group: list[_Candidate], options: StackOptions
) -> tuple[list[_Candidate], list[NDArray[np.intp]]]:
    """Look closer at the references, match all stars, and look closer at frames that share too few."""
    group = list(group)
    alone = [int(c.sample.stars.alone.sum()) for c in group]
    radius = MATCH_FWHM * float(np.median([c.item.fwhm_arcsec for c in group]))
    again = choose_references([c.corners for c in group], alone, [c.sample.share for c in group])
    height = _REFERENCE_HEIGHT
    for denser in (*_DENSER, None):
        closer = in_threads(lambda i, h=height: _looked_closer(group[i], h), again, options.threads)  # type: ignore[misc]
        for index, candidate in zip(again, closer, strict=True):
            group[index] = candidate
        numbers = match_stars([_vectors(c) for c in group], radius)
        common = shared_counts(numbers)
        few = max(_FEW_COMMON, options.min_common_stars)
        again = [i for i, c in enumerate(group) if len(group) > 1 and common[i] < few and not c.sample.whole]
        if not again or denser is None:
            break
        height = denser
    return group, numbers


def _with_saturation(group: list[_Candidate]) -> list[_Candidate]:
    """Give frames whose sample met no clipped star the level at which others of their telescope clip.

    Only where these agree to 5 %: a level scales with gain and flat field.
    """
    levels: dict[str, list[float]] = {}
    for c in group:
        level = c.item.saturation_adu or c.sample.saturation_adu
        if level is not None:
            levels.setdefault(c.item.node, []).append(level)
    result = []
    for c in group:
        known = levels.get(c.item.node, [])
        if c.item.saturation_adu is None and known and max(known) < 1.05 * min(known):
            c = replace(c, item=c.item.model_copy(update={"saturation_adu": min(known)}))
        result.append(c)
    return result


def _registered(
    frames: list[PlanFrame], group: Sequence[_Candidate], numbers: Sequence[NDArray[np.intp]]
) -> list[PlanFrame]:
    """Refine all WCS together on the common stars."""
    from starloom.coadd.registration import Seen, register

    stars = [c.sample.stars for c in group]
    found = register(
        [Seen(s.x, s.y, s.error_px, ids) for s, ids in zip(stars, numbers, strict=True)],
        [c.wcs for c in group],
        [c.shape for c in group],
    )
    return [
        frame.model_copy(update={"registration": r.terms, "registration_rms_px": r.rms_px})
        for frame, r in zip(frames, found, strict=True)
    ]


def _with_nodes(frame: PlanFrame, grid: dict[str, Any], shape: tuple[int, int]) -> PlanFrame:
    try:
        spacing, error = choose_node_px(
            _bare(grid), shape, frame.wcs_cards, frame.shape, frame.registration, name=str(frame.input.path)
        )
    except BadInput as refusal:
        return refused(frame.input, refusal)
    return frame.model_copy(update={"node_px": spacing, "node_error_px": error})


@dataclass(frozen=True, eq=False)
class _Place:
    """Footprint of the output grid and its scale (arcsec/px)."""

    corners: NDArray[np.float64]
    scale_arcsec: float


def _unused(c: _Candidate, reason: Reason, n_stars: int = 0) -> PlanFrame:
    return PlanFrame(
        input=c.item, shape=c.shape, wcs_cards=c.cards, start=c.start, n_common_stars=n_stars, reason=reason
    )


def _plan_frame(c: _Candidate, log_scale: float, n_stars: int, place: _Place, options: StackOptions) -> PlanFrame:
    reason: Reason | None = None
    if not np.isfinite(c.item.sky_sigma_adu) or c.item.sky_sigma_adu <= 0:
        reason = "bad-noise"
    elif len(connected([place.corners, c.corners])) > 1:
        reason = "no-overlap"
    elif not np.isfinite(log_scale):
        reason = "too-few-stars" if n_stars < options.min_common_stars else "no-zero-point"
    if reason is not None:
        return _unused(c, reason, n_stars)
    area, scale = (place.scale_arcsec / c.scale_arcsec) ** 2, float(np.exp(log_scale))
    sigma_area = scale * c.item.sky_sigma_adu * np.sqrt(area)
    fwhm_px = c.item.fwhm_arcsec / place.scale_arcsec
    kernel = choose_kernel(options.kernel, area, c.item.fwhm_arcsec / c.scale_arcsec)
    weight = 1 / sigma_area**2
    if options.weighs_seeing:
        weight /= fwhm_px**2
    return PlanFrame(
        input=c.item,
        shape=c.shape,
        wcs_cards=c.cards,
        start=c.start,
        scale=scale,
        area=float(area),
        sigma=float(sigma_area * noise_factor(kernel, area, options.pixfrac)),
        weight=float(weight),
        relative_weight=c.sample.relative_weight,
        kernel=kernel,
        fwhm_px=float(fwhm_px),
        n_common_stars=n_stars,
    )


def _bare(grid: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in grid.items() if not k.startswith("NAXIS")}
