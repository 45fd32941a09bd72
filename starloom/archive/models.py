"""The tables of the archive. Units stand in the names; times are aware UTC; states are checked words."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import BigInteger, CheckConstraint, Index, String, UniqueConstraint
from sqlalchemy import text as sql
from sqlmodel import Field, SQLModel

from starloom.archive.columns import json, one_of, partial, text, time, utc_now

MISSION_STATES = ("OPEN", "COMPLETE", "STACKING", "STACKED", "FAILED", "CANCELLED")
FRAME_KINDS = ("light", "bias", "dark", "flat", "unknown")
STEPS = ("ingest", "calibrate", "solve", "measure")
STEP_STATES = ("pending", "ok", "failed")
MASTER_KINDS = ("bias", "dark", "flat", "defects")
DISPOSITIONS = ("active", "duplicate", "quarantined", "withdrawn")
REVISION_STATES = ("claimed", "bound", "published", "unchanged", "failed", "expired")
TRACKS = ("sidereal", "moving")
#: A frame with a step to do. This and what follows is SQL text, because a database takes a partial index only for
#: a query that says the same.
UNSETTLED = (
    "disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' "
    "AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate "
    "ELSE measure END = 'pending'"
)
#: A frame that somebody is to look at again: under way, parked, or to be done again.
WAITING = "disposition = 'active' AND next_attempt_at IS NOT NULL"
#: A light frame that `bind` or the search for defects may take.
ACTIVE_LIGHT = "kind = 'light' AND disposition = 'active'"
#: A frame that a master may be made of.
CALIBRATION = "kind IN ('bias', 'dark', 'flat') AND disposition = 'active' AND ingest = 'ok'"
SET_ASIDE = "disposition <> 'active'"
#: A frame that came before its mission, or without one.
STRAY = "mission_id IS NULL AND obs_req IS NOT NULL"
UNTOLD = "status = 'published' AND told_at IS NULL"
DAMAGED = "state <> 'ok' OR copy_state <> 'ok'"
NOT_COPIED = "copy_state IS NULL"
#: What a check of stored bytes may find.
CHECK_STATES = ("ok", "mismatch", "missing")
EVENT_STATES = ("open", "claimed", "superseded")


class Mission(SQLModel, table=True):
    """One observation request: everything tagged with its id becomes its stack."""

    __tablename__ = "mission"
    __table_args__ = (
        one_of("mission", "status", MISSION_STATES),
        CheckConstraint("ra_deg >= 0 AND ra_deg < 360", name="ck_mission_ra"),
        CheckConstraint("dec_deg >= -90 AND dec_deg <= 90", name="ck_mission_dec"),
        Index("ix_mission_created", "created_at"),
        # How many are in a state, and the longest there.
        Index("ix_mission_changed", "status", "status_changed_at"),
    )

    id: str = text(64, primary_key=True)
    title: str = text(255, default="")
    status: str = text(16, default="OPEN")
    ra_deg: float | None = None
    dec_deg: float | None = None
    ephemeris: dict[str, Any] | None = json()
    parameters: dict[str, Any] = json(dict)
    pinned: dict[str, Any] | None = json()
    """Grid, reference zero point and bands, fixed at revision 1."""
    status_changed_at: datetime = time(default=utc_now)
    created_at: datetime = time(default=utc_now)
    failure_code: str | None = text(64, default=None)
    failure_hint: str | None = text(500, default=None)
    embargo_until: datetime | None = time()
    licence: str | None = text(64, default=None)
    credit: str | None = text(255, default=None)


class Node(SQLModel, table=True):
    """A telescope. Its frames are attributed by name; registering it adds site, filters and a credential."""

    __tablename__ = "node"

    id: str = text(64, primary_key=True)
    name: str = text(255, default="")
    owner: str | None = text(255, default=None)
    contact: str | None = text(255, default=None)
    site_lat_deg: float | None = None
    site_lon_deg: float | None = None
    site_elev_m: float | None = None
    exact_site: bool = False
    """Whether the owner agrees that the site is published exactly; by default it is rounded."""
    filters: dict[str, str] = json(dict)
    """The node's own filter names mapped to standard bands, e.g. ``{"Filter 2": "R"}``."""
    access_key: str | None = text(128, default=None)
    registered_at: datetime = time(default=utc_now)
    licence: str | None = text(64, default=None)
    credit: str | None = text(255, default=None)


class Instrument(SQLModel, table=True):
    """Node, camera, optics, binning and readout together, valid from a date."""

    __tablename__ = "instrument"
    __table_args__ = (UniqueConstraint("node_id", "camera", "binning", "readout", "valid_from"),)

    id: int | None = Field(default=None, primary_key=True)
    node_id: str = text(64, foreign_key="node.id", index=True)
    camera: str = text(128, default="")
    telescope: str = text(128, default="")
    focal_length_mm: float | None = None
    pixel_size_um: float | None = None
    binning: int = 1
    readout: str = text(64, default="")
    scale_arcsec: float | None = None
    valid_from: datetime = time(default=utc_now)


class Frame(SQLModel, table=True):
    """One exposure, from the moment its object is first seen in the inbox."""

    __tablename__ = "frame"
    __table_args__ = (
        one_of("frame", "kind", FRAME_KINDS),
        one_of("frame", "disposition", DISPOSITIONS),
        *(one_of("frame", step, STEP_STATES) for step in STEPS),
        # Identity: the same pixels from the same node and start are one frame of a mission.
        partial(
            "uq_frame_identity",
            "disposition = 'active' AND pixel_digest IS NOT NULL",
            "node_id",
            "start_utc",
            "pixel_digest",
            "obs_req",
            unique=True,
        ),
        # Work to do: the cost of looking for it is that of the work, not that of the history.
        partial("ix_frame_waiting", WAITING, "next_attempt_at"),
        partial("ix_frame_unsettled", UNSETTLED, "obs_req"),
        partial("ix_frame_stray", STRAY, "obs_req"),
        # What has changed lately: what may make a stack stale.
        partial("ix_frame_ready", "ready_at IS NOT NULL", "ready_at"),
        partial(
            "ix_frame_set_aside",
            "disposition_at IS NOT NULL",
            "disposition_at",
            "disposition",
            "disposition_code",
        ),
        # Lists, newest first.
        Index("ix_frame_arrived", "received_at", "id"),
        partial("ix_frame_set_aside_arrived", SET_ASIDE, "disposition", "received_at", "id"),
        Index("ix_frame_of_node", "node_id", "received_at", "id"),
        # What an instrument has sent: its newest lights, and the calibration frames that came last.
        partial("ix_frame_lights", ACTIVE_LIGHT, "instrument_id", "start_utc"),
        partial("ix_frame_calibrations", CALIBRATION, "instrument_id", "received_at"),
        # The earlier frames of an instrument in a band, newest first: photometry's history.
        Index("ix_frame_history", "instrument_id", "band", "start_utc"),
    )

    id: str = Field(default_factory=lambda: uuid4().hex, primary_key=True, sa_type=String(32))
    name: str = text(255, index=True)
    node_id: str = text(64)
    obs_req: str | None = text(64, default=None, index=True)
    """The mission's id as the name says it, whether or not such a mission exists yet."""
    mission_id: str | None = text(64, default=None, foreign_key="mission.id", index=True)
    instrument_id: int | None = Field(default=None, foreign_key="instrument.id")
    kind: str = text(8, default="light")
    plane: str | None = text(4, default=None)
    start_utc: datetime | None = time(index=True)
    exposure_s: float | None = None
    filter: str | None = text(64, default=None)
    band: str | None = text(128, default=None)
    width: int | None = None
    height: int | None = None

    inbox_key: str | None = text(512, default=None, unique=True)
    inbox_etag: str | None = text(128, default=None)
    raw_key: str | None = text(512, default=None)
    raw_version: str | None = text(128, default=None)
    raw_sha256: str | None = text(64, default=None)
    raw_bytes: int | None = Field(default=None, sa_type=BigInteger)
    pixel_digest: str | None = text(64, default=None)
    calibrated_key: str | None = text(512, default=None)
    """The calibrated pixels with mask and variance; None: nothing was done, the raw ones are taken."""
    calibrated_version: str | None = text(128, default=None)
    solved_key: str | None = text(512, default=None)
    solved_version: str | None = text(128, default=None)
    sources_key: str | None = text(512, default=None)
    quicklook_key: str | None = text(512, default=None)

    ingest: str = text(8, default="pending")
    ingest_code: str | None = text(64, default=None)
    calibrate: str = text(8, default="pending")
    calibrate_code: str | None = text(64, default=None)
    solve: str = text(8, default="pending")
    solve_code: str | None = text(64, default=None)
    measure: str = text(8, default="pending")
    measure_code: str | None = text(64, default=None)
    disposition: str = text(12, default="active")
    disposition_code: str | None = text(64, default=None)
    disposition_hint: str | None = text(500, default=None)
    disposition_at: datetime | None = time()
    """When it was last set aside or taken back."""
    duplicate_of: str | None = text(32, default=None, foreign_key="frame.id")

    flags: list[str] = json(list)
    header: dict[str, Any] | None = json()
    attempts: int = 0
    """Tries of its present step that came to nothing."""
    in_hand: str | None = text(12, default=None)
    """The step that a run has begun and not ended: still there when the run is lost, it was cut off in it."""
    next_attempt_at: datetime | None = time()
    last_error: dict[str, Any] | None = json()
    version: int = 0
    """Raised by every change: the value that compare-and-set compares."""
    received_at: datetime = time(default=utc_now)
    traceparent: str | None = text(55, default=None)
    """W3C trace context of the frame's first span, where traces are on: its later steps join that trace."""
    ready_at: datetime | None = time()
    embargo_until: datetime | None = time()
    licence: str | None = text(64, default=None)
    credit: str | None = text(255, default=None)


class Attempt(SQLModel, table=True):
    """One try of a frame's step that came to nothing, and when the next is due; the newest of a frame are kept."""

    __tablename__ = "attempt"
    __table_args__ = (Index("ix_attempt_code", "code", "at"),)

    id: int | None = Field(default=None, primary_key=True)
    frame_id: str = text(32, foreign_key="frame.id", index=True)
    at: datetime = time(default=utc_now)
    step: str = text(12)
    code: str = text(64)
    message: str = text(500, default="")
    number: int = 0
    """Of the frame's budget; 0 for one that its task tries again by itself."""
    next_attempt_at: datetime | None = time()
    alert: bool = Field(default=False, index=True)
    """Whether somebody is still to be told that the budget is spent; the relay does so."""


class RawCheck(SQLModel, table=True):
    """When the bytes of a raw object were last compared with the hash in its key, and whether a second copy is."""

    __tablename__ = "raw_check"
    __table_args__ = (
        one_of("raw_check", "state", CHECK_STATES),
        Index("ix_raw_check_due", "checked_at", "key"),
        partial("ix_raw_check_damaged", DAMAGED, "checked_at"),
        partial("ix_raw_check_not_copied", NOT_COPIED, "key"),
    )

    key: str = text(512, primary_key=True)
    version: str | None = text(128, default=None)
    """Which of the object's versions is meant; None: the newest."""
    checked_at: datetime = time(default=utc_now)
    state: str = text(12)
    copy_state: str | None = text(12, default=None)
    """The same of the second copy; None where none is configured."""
    detail: str | None = text(500, default=None)
    alert: bool = Field(default=False, index=True)
    """Whether somebody is still to be told that bytes are lost; the relay does so."""


class FrameCell(SQLModel, table=True):
    """HEALPix cells (nested) that a frame's footprint touches: the positional index."""

    __tablename__ = "frame_cell"

    frame_id: str = text(32, primary_key=True, foreign_key="frame.id")
    cell: int = Field(primary_key=True, index=True)


class Master(SQLModel, table=True):
    """A master calibration frame or a learnt defect map of an instrument; earlier ones stay as history."""

    __tablename__ = "master"
    __table_args__ = (
        one_of("master", "kind", MASTER_KINDS),
        Index("ix_master_current", "instrument_id", "kind", "current"),
        Index("ix_master_key", "key"),
    )

    id: int | None = Field(default=None, primary_key=True)
    instrument_id: int = Field(foreign_key="instrument.id")
    kind: str = text(8)
    current: bool = True
    created_at: datetime = time(default=utc_now)
    code_version: str = text(32)
    gain: float | None = None
    offset_adu: float | None = None
    temperature_c: float | None = None
    exposure_s: float | None = None
    filter: str | None = text(64, default=None)
    binning: int = 1
    width: int
    height: int
    valid_from: datetime = time(default=utc_now)
    valid_to: datetime = time(default=utc_now)
    """Start times of the first and the last frame it was made of."""
    n_frames: int
    frame_ids: list[str] = json(list)
    key: str = text(512)
    lake_version: str | None = text(128, default=None)
    sha256: str = text(64)
    stats: dict[str, Any] = json(dict)


class Calibration(SQLModel, table=True):
    """What was done to a frame's pixels, and with which masters; earlier ones stay as history."""

    __tablename__ = "calibration"

    id: int | None = Field(default=None, primary_key=True)
    frame_id: str = text(32, foreign_key="frame.id", index=True)
    current: bool = True
    created_at: datetime = time(default=utc_now)
    code_version: str = text(32)
    bias_id: int | None = Field(default=None, foreign_key="master.id")
    dark_id: int | None = Field(default=None, foreign_key="master.id")
    flat_id: int | None = Field(default=None, foreign_key="master.id")
    defects_id: int | None = Field(default=None, foreign_key="master.id")
    dark_scale: float | None = None
    flags: list[str] = json(list)
    masked_fraction: float | None = None
    key: str | None = text(512, default=None)
    """The calibrated file; None where nothing was done."""
    lake_version: str | None = text(128, default=None)
    saturation_adu: float | None = None
    gain_e_per_adu: float | None = None
    read_noise_adu: float | None = None


class LearntInstrument(SQLModel, table=True):
    """What an instrument's own frames have taught: distortion, true plate scale, the mount's offset."""

    __tablename__ = "instrument_model"

    id: int | None = Field(default=None, primary_key=True)
    instrument_id: int = Field(foreign_key="instrument.id", index=True)
    current: bool = True
    created_at: datetime = time(default=utc_now)
    code_version: str = text(32)
    n_frames: int
    model: dict[str, Any] = json(dict)


class Solution(SQLModel, table=True):
    """A judged WCS of a frame; earlier ones stay as history."""

    __tablename__ = "solution"

    id: int | None = Field(default=None, primary_key=True)
    frame_id: str = text(32, foreign_key="frame.id", index=True)
    current: bool = True
    solver: str = text(64)
    catalog: str = text(64)
    code_version: str = text(32)
    created_at: datetime = time(default=utc_now)
    ra_deg: float
    dec_deg: float
    scale_arcsec: float
    rotation_deg: float
    parity: int
    rms_arcsec: float
    rms_px: float
    matches: int
    order: int
    wcs: dict[str, Any] = json(dict)
    footprint: list[list[float]] = json(list)
    """Corners ``[[ra, dec], …]``, deg ICRS."""
    catalog_version: str = text(64, default="")
    epoch: float | None = None
    """Julian year the catalogue was moved to."""
    hint: str = text(128, default="")
    held_out_arcsec: float | None = None
    corner_error_px: float | None = None
    offset_ra_deg: float | None = None
    """True centre minus the header's pointing, along right ascension (times cos Dec) and declination."""
    offset_dec_deg: float | None = None
    distortion: dict[str, Any] | None = json()
    """The frame's word on its instrument's distortion, see `starloom.astrometry.instrument`."""
    model_id: int | None = Field(default=None, foreign_key="instrument_model.id")
    residuals: list[dict[str, Any]] | None = json()
    calibration_id: int | None = Field(default=None, foreign_key="calibration.id")
    solved_key: str | None = text(512, default=None)
    solved_version: str | None = text(128, default=None)


class Photometry(SQLModel, table=True):
    """Seeing, sky and zero point of a frame under one solution."""

    __tablename__ = "photometry"
    __table_args__ = (Index("ix_photometry_created", "created_at"),)

    id: int | None = Field(default=None, primary_key=True)
    frame_id: str = text(32, foreign_key="frame.id", index=True)
    solution_id: int = Field(foreign_key="solution.id")
    current: bool = True
    created_at: datetime = time(default=utc_now)
    band: str | None = text(128, default=None)
    zero_point_mag: float | None = None
    zero_point_err: float | None = None
    scatter_mag: float | None = None
    calibrators: int = 0
    catalog_band: str | None = text(64, default=None)
    fwhm_px: float
    fwhm_arcsec: float
    ellipticity: float | None = None
    sky_adu: float
    sky_sigma_adu: float
    limiting_mag: float | None = None
    saturation_adu: float | None = None
    n_sources: int = 0
    catalog: str | None = text(64, default=None)
    catalog_version: str | None = text(64, default=None)
    colour_term: float | None = None
    colour_ref: float | None = None
    aperture_px: float | None = None
    growth: float | None = None
    """Total flux over the flux in the aperture."""
    gain_e_per_adu: float | None = None
    psf_stars: int = 0
    fwhm_corner_px: float | None = None
    sky_brightness_mag_arcsec2: float | None = None
    transparency: float | None = None
    em_min_m: float | None = None
    em_max_m: float | None = None
    sources_key: str | None = text(512, default=None)


class Conditions(SQLModel, table=True):
    """Weather and sky at the telescope during an exposure, SI units; None: nobody said."""

    __tablename__ = "conditions"

    frame_id: str = text(32, primary_key=True, foreign_key="frame.id")
    ambient_temp_k: float | None = None
    dewpoint_k: float | None = None
    humidity_pct: float | None = None
    pressure_pa: float | None = None
    wind_speed_m_s: float | None = None
    wind_gust_m_s: float | None = None
    wind_dir_deg: float | None = None
    cloud_cover_pct: float | None = None
    sky_minus_ambient_k: float | None = None
    """Temperature of the sky less that of the air, as infrared cloud sensors measure it."""
    sky_brightness_mag_arcsec2: float | None = None
    """By the site's own meter; the frame's own is in its photometry."""
    airmass: float | None = None
    airmass_source: str | None = text(16, default=None)
    """``computed`` from the solution, the site and the clock, or the ``header``'s word."""
    target_alt_deg: float | None = None
    sun_alt_deg: float | None = None
    moon_alt_deg: float | None = None
    moon_sep_deg: float | None = None
    moon_lit_fraction: float | None = None


class StatusEvent(SQLModel, table=True):
    """Written by the database itself whenever a mission's status really changes."""

    __tablename__ = "status_event"
    __table_args__ = (
        one_of("status_event", "state", EVENT_STATES),
        partial("ix_status_event_surplus", "surplus_runs > 0", "created_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    mission_id: str = text(64, foreign_key="mission.id", index=True)
    old_status: str | None = text(16, default=None)
    new_status: str = text(16)
    created_at: datetime = time(default=utc_now, index=True)
    state: str = text(12, default="open", index=True)
    publish_attempts: int = 0
    published_at: datetime | None = time()
    next_publish_at: datetime | None = time()
    note: str | None = text(255, default=None)
    reason: str | None = text(255, default=None)
    """Why an operator asked for it."""
    surplus_runs: int = Field(default=0, sa_column_kwargs={"server_default": sql("0")})
    """Runs that were started for it and found the mission taken, or the event dealt with."""


class Revision(SQLModel, table=True):
    """One attempt to stack a mission: the claim, its lease, its epoch, its outcome."""

    __tablename__ = "revision"
    __table_args__ = (
        one_of("revision", "status", REVISION_STATES),
        UniqueConstraint("mission_id", "epoch", name="uq_revision_epoch"),
        partial("uq_revision_published", "status = 'published'", "mission_id", "n", unique=True),
        partial("uq_revision_held", "status IN ('claimed', 'bound')", "mission_id", unique=True),
        partial("ix_revision_untold", UNTOLD, "id"),
        Index("ix_revision_claimed", "claimed_at"),
        partial("ix_revision_published", "status = 'published'", "published_at"),
    )

    id: int | None = Field(default=None, primary_key=True)
    mission_id: str = text(64, foreign_key="mission.id", index=True)
    n: int
    epoch: int
    status: str = text(12, default="claimed")
    event_id: int | None = Field(default=None, foreign_key="status_event.id")
    token: str = text(64)
    holder: str = text(128, default="")
    lease_until: datetime = time(default=utc_now)
    input_hash: str | None = text(64, default=None)
    parameters: dict[str, Any] | None = json()
    coadd_version: int | None = None
    claimed_at: datetime = time(default=utc_now)
    bound_at: datetime | None = time()
    published_at: datetime | None = time()
    told_at: datetime | None = time()
    """When the nodes of its frames had their receipts."""
    error: dict[str, Any] | None = json()
    summary: dict[str, Any] | None = json()


class RevisionInput(SQLModel, table=True):
    """The exact inputs of a revision, written once by bind; weights and reasons follow at publication."""

    __tablename__ = "revision_input"
    # Every receipt asks how its frame entered the newest stack.
    __table_args__ = (Index("ix_revision_input_frame", "frame_id"),)

    revision_id: int = Field(primary_key=True, foreign_key="revision.id")
    frame_id: str = text(32, primary_key=True, foreign_key="frame.id")
    solution_id: int = Field(foreign_key="solution.id")
    photometry_id: int = Field(foreign_key="photometry.id")
    calibration_id: int | None = Field(default=None, foreign_key="calibration.id")
    compared_photometry_id: int | None = None
    """The frame's newer photometry that was found to change nothing that matters."""
    weight: float | None = None
    scale: float | None = None
    rejected_fraction: float | None = None
    reason: str | None = text(64, default=None)


class Product(SQLModel, table=True):
    """One co-add of one band and pointing group, on the stars or on a target that moves."""

    __tablename__ = "product"
    __table_args__ = (
        UniqueConstraint("revision_id", "band", "pointing", "track"),
        one_of("product", "track", TRACKS),
    )

    id: int | None = Field(default=None, primary_key=True)
    revision_id: int = Field(foreign_key="revision.id", index=True)
    band: str = text(128)
    pointing: int
    track: str = text(16, default="sidereal")
    sci_key: str = text(512)
    sci_version: str | None = text(128, default=None)
    sha256: str = text(64)
    bytes: int = Field(sa_type=BigInteger)
    preview_key: str | None = text(512, default=None)
    summary: dict[str, Any] | None = json()


class Announcement(SQLModel, table=True):
    """A frame that a node has said is on its way; it holds its mission back until it arrives or expires."""

    __tablename__ = "announcement"
    __table_args__ = (UniqueConstraint("node_id", "name", "sha256"),)

    id: int | None = Field(default=None, primary_key=True)
    node_id: str = text(64)
    name: str = text(255)
    obs_req: str | None = text(64, default=None, index=True)
    size: int = Field(sa_type=BigInteger)
    sha256: str = text(64)
    announced_at: datetime = time(default=utc_now)
    expires_at: datetime = time(default=utc_now)
    arrived_at: datetime | None = time()
    traceparent: str | None = text(55, default=None)
    """Trace context of the node's own span, as it said."""


class Condition(SQLModel, table=True):
    """Something that somebody is to be told of when it begins and when it ends: a silent node, a full disk."""

    __tablename__ = "condition"

    kind: str = text(32, primary_key=True)
    subject: str = text(128, primary_key=True)
    """What it is about: a node's id, a queue, a disk."""
    began_at: datetime = time(default=utc_now)
    value: float
    message: str = text(500)
    told_at: datetime | None = time()
    """When its beginning was told."""
    ended_at: datetime | None = time()
    """When it ended; the row goes when that was told."""
