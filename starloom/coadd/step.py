"""Where the co-add meets archive and lake: bind, plan, tiles, publish. `holding` claims the mission before."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starloom.archive import claims, frames, missions, revisions
from starloom.archive.models import Frame, Mission, Photometry
from starloom.archive.staleness import NO_FRAMES
from starloom.calibration.step import header_value
from starloom.coadd.grid import extent
from starloom.coadd.inputs import InputFrame
from starloom.coadd.moving import Ephemeris, following
from starloom.coadd.plan import COADD_VERSION, PinnedGrid, StackOptions
from starloom.coadd.planning import make_plan
from starloom.coadd.preview import write_preview
from starloom.coadd.product import FrameReport
from starloom.coadd.stages import prepared
from starloom.coadd.telling import input_rows, product_row
from starloom.coadd.units import PLAN_NAME, assemble_units, read_plan, run_unit, with_layout, write_units
from starloom.errors import StarloomError
from starloom.holding import ClaimRef, PlanRef, StackRef, TileBatch, check_held, workdir
from starloom.lake import keys
from starloom.photometry.bands import is_unmapped
from starloom.receipts import write_receipt
from starloom.telemetry import traces

if TYPE_CHECKING:
    from starloom.hub import Hub

log = logging.getLogger(__name__)

#: Tasks a plan is cut into at most, whatever its size: the orchestrator should see dozens, not thousands.
BATCHES = 48
#: Tiles a task at least, but where a small plan is to be shared by a host's cores.
TILES_PER_BATCH, LEAST_BATCHES = 8, 4


def tiles_per_unit(n_tiles: int) -> int:
    """Return how many tiles a task makes."""
    return max(-(-n_tiles // BATCHES), min(TILES_PER_BATCH, -(-n_tiles // LEAST_BATCHES)))


def bind_and_plan(hub: Hub, claim: ClaimRef) -> list[PlanRef]:
    """Bind the revision's inputs, fetch their solved pixels and plan one product per band and pointing.

    Grids are those of revision 1. The same inputs and parameters as the newest revision's are no work: the claim
    is ended and no plan returned.

    Raises
    ------
    StarloomError
        ``no-usable-frames`` when the mission has no READY frame.
    """
    with hub.archive.session() as session:
        mission = missions.get_mission(session, claim.mission_id)
    options = StackOptions(
        **mission.parameters, threads=hub.settings.stack_threads, memory_bytes=hub.settings.stack_memory_bytes
    )
    chosen = options.model_dump(mode="json", exclude={"threads", "memory_bytes", "tile_size"})
    with traces.span("bind", parent=claim.traceparent, mission=claim.mission_id):
        bound = claims.bind(hub.archive, claim.claim(), chosen, COADD_VERSION)
        traces.link(item.frame.traceparent for item in bound)
    if not bound:
        raise StarloomError(
            f"mission {claim.mission_id} has no usable frame",
            code=NO_FRAMES,
            hint=f"`starloom frames list --mission {claim.mission_id}` says why each was refused; requeue them or "
            "send better ones.",
        )
    if claims.settle_unchanged(hub.archive, claim.claim()):
        return []
    with traces.span("plan", parent=claim.traceparent, mission=claim.mission_id, frames=len(bound)):
        return _planned(hub, claim, mission, bound, options)


def _planned(
    hub: Hub, claim: ClaimRef, mission: Mission, bound: Sequence[claims.BoundInput], options: StackOptions
) -> list[PlanRef]:
    folder = workdir(hub, claim)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    inputs = [_fetch(hub, item, folder / "frames") for item in bound]
    target = None
    if mission.ra_deg is not None and mission.dec_deg is not None:
        target = (mission.ra_deg, mission.dec_deg)
    pinned = [PinnedGrid(**entry) for entry in (mission.pinned or {}).get("grids", [])]
    plans = [prepared(plan) for plan in make_plan(inputs, options, target_radec=target, pinned=pinned)]
    if mission.ephemeris is not None:
        ephemeris = Ephemeris.model_validate(mission.ephemeris)
        plans += [following(plan, ephemeris) for plan in plans]
    references = []
    for i, plan in enumerate(plans):
        cut = with_layout(plan)
        units = write_units(cut, folder / f"plan{i}", tiles_per_unit(len(cut.tiles)))
        references.append(
            PlanRef(
                folder=folder / f"plan{i}",
                band=plan.band,
                pointing=plan.pointing,
                units=units,
                traceparent=claim.traceparent,
            )
        )
    return references


def zero_point_of(frame: Frame, photometry: Photometry) -> tuple[float | None, float | None]:
    """Return the zero point and error that tie a frame's stack to magnitudes; none for an unmapped filter.

    A filter that nobody has mapped may pass any light: calling its flux a magnitude of the catalogue's band would
    be a claim, so such frames are stacked on their relative scale.
    """
    if is_unmapped(frame.band):
        return None, None
    return photometry.zero_point_mag, photometry.zero_point_err


def _fetch(hub: Hub, item: claims.BoundInput, folder: Path) -> InputFrame:
    frame, solution, photometry = item.frame, item.solution, item.photometry
    # The copy that belongs to the bound solution; frames solved before solutions kept theirs have just one.
    key, version = solution.solved_key, solution.solved_version
    if key is None:
        key, version = frame.solved_key, frame.solved_version
    assert key is not None
    path = folder / f"{frame.id}.fits.fz"
    if not path.exists():
        hub.lake.download(key, path, version=version)
    zero_point_mag, zero_point_err = zero_point_of(frame, photometry)
    return InputFrame(
        id=frame.id,
        path=path,
        band=frame.band or f"{frame.node_id}:{frame.filter}",
        node=frame.node_id,
        exposure_s=frame.exposure_s or 0.0,
        sky_sigma_adu=photometry.sky_sigma_adu,
        fwhm_arcsec=photometry.fwhm_arcsec,
        saturation_adu=photometry.saturation_adu,
        gain_e_per_adu=header_value(frame, "gain_e_per_adu"),
        zero_point_mag=zero_point_mag,
        zero_point_err=zero_point_err,
        wcs_cards=solution.wcs,
        provenance={
            "start": frame.start_utc.isoformat() if frame.start_utc else "",
            "raw_key": frame.raw_key,
            "raw_version": frame.raw_version,
        },
    )


def stack_tiles(batch: TileBatch) -> None:
    """Carry out a work unit; tiles already there are kept.

    Raises
    ------
    LeaseLost
        The claim has been lost meanwhile: nobody waits for its tiles.
    """
    check_held(batch.unit.parent.parent)
    with traces.span("tiles", parent=batch.traceparent, batch=batch.name):
        run_unit(batch.unit)


def publish(hub: Hub, claim: ClaimRef, plans: list[PlanRef]) -> StackRef:
    """Assemble and upload the products under the claim's epoch; one transaction makes them the revision."""
    with traces.span("publish", parent=claim.traceparent, mission=claim.mission_id, revision=claim.n):
        return _published(hub, claim, plans)


def _published(hub: Hub, claim: ClaimRef, plans: list[PlanRef]) -> StackRef:
    products, per_frame = [], []
    reports: list[FrameReport] = []
    told: list[dict[str, Any]] = []
    inputs: list[dict[str, Any]] = []
    with hub.archive.session() as session:
        bound = revisions.inputs_of(session, claim.revision_id)
    names = {frame_id: name for frame_id, name, _ in bound}
    limits = {frame_id: limit for frame_id, _, limit in bound if limit is not None}
    loaded = [read_plan(reference.folder / PLAN_NAME) for reference in plans]
    for reference, plan in zip(plans, loaded, strict=True):
        out = reference.folder / "product.fits"
        info = assemble_units(reference.folder, out)
        preview = out.with_suffix(".png")
        write_preview(out, preview)
        place = (claim.mission_id, claim.n, claim.epoch, plan.band, plan.pointing, info.track)
        stored = hub.lake.put_file(out, keys.stack(*place))
        hub.lake.put_file(preview, keys.preview(*place))
        with out.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        products.append(
            claims.NewProduct(
                band=plan.band,
                pointing=plan.pointing,
                track=info.track,
                sci_key=stored.key,
                sci_version=stored.version,
                sha256=digest,
                bytes=stored.size,
                preview_key=keys.preview(*place),
                summary=info.model_dump(mode="json", exclude={"path"}) | {"extent": extent(plan.grid, plan.shape)},
            )
        )
        name = _product_name(plan.band, plan.pointing, info.track)
        told.append(product_row(name, info, limits))
        inputs += input_rows(name, info.frames, names, limits)
        if plan.track is None:  # where the frames follow a target, they are the same frames again
            reports += info.frames
        per_frame += [
            claims.FrameOutcome(
                frame_id=report.id,
                weight=report.weight,
                scale=report.scale,
                reason=report.reason,
                rejected_fraction=report.rejected_fraction,
            )
            for report in info.frames
        ]
    pinned = {
        "grids": [{"band": p.band, "pointing": p.pointing, "grid": p.grid} for p in loaded if p.track is None]
    }
    claims.publish(hub.archive, claim.claim(), products, per_frame, {"products": len(products)}, pinned)
    try:
        _tell_the_nodes(hub, claim, reports)
    except StarloomError as error:  # the revision is published; tried again, it would find its claim spent
        log.warning("r%d: not every receipt was written: %s", claim.n, error)
    return StackRef(
        name=f"{claim.mission_id} r{claim.n}",
        mission_id=claim.mission_id,
        n=claim.n,
        products=[
            {
                "name": _product_name(p.band, p.pointing, p.track),
                "sci": p.sci_key,
                "preview": p.preview_key,
                "preview_url": hub.lake.presign_get(p.preview_key or "", 7 * 86400),
            }
            for p in products
        ],
        told=told,
        inputs=inputs,
    )


def _product_name(band: str, pointing: int, track: str) -> str:
    return f"{band} p{pointing}" + (" moving" if track == "moving" else "")


def _tell_the_nodes(hub: Hub, claim: ClaimRef, reports: Sequence[FrameReport]) -> None:
    """Write the receipts of the frames in a stack.

    A later revision's word is never written over: after each receipt it is asked whether this is still the newest,
    so that a holder that slept meanwhile corrects its last one and is silent.
    """
    total = sum(report.weight for report in reports) or 1.0
    for report in reports:
        with hub.archive.session() as session:
            frame: Frame = frames.get(session, report.id)
        write_receipt(
            hub,
            frame,
            stack={
                "mission": claim.mission_id,
                "revision": claim.n,
                "weight_share": report.weight / total,
                "reason": report.reason,
                "scale": report.scale,
                "rejected_fraction": report.rejected_fraction,
                "streaks": report.n_streaks,
                "registration_rms_px": report.registration_rms_px,
            },
        )
        with hub.archive.session() as session:
            newest = revisions.newest_revision(session, claim.mission_id)
        if newest != claim.n:
            write_receipt(hub, frame)
            return
    with hub.archive.transaction() as session:
        revisions.note_told(session, claim.revision_id)
