"""the archive's first tables."""

import sqlalchemy as sa
from alembic import op

import starloom.archive.columns

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "announcement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("obs_req", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("announced_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("arrived_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("node_id", "name", "sha256"),
    )
    with op.batch_alter_table("announcement", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_announcement_obs_req"), ["obs_req"], unique=False)

    op.create_table(
        "mission",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("ra_deg", sa.Float(), nullable=True),
        sa.Column("dec_deg", sa.Float(), nullable=True),
        sa.Column("ephemeris", sa.JSON(), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("pinned", sa.JSON(), nullable=True),
        sa.Column("status_changed_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("failure_code", sa.String(length=64), nullable=True),
        sa.Column("failure_hint", sa.String(length=500), nullable=True),
        sa.Column("embargo_until", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("licence", sa.String(length=64), nullable=True),
        sa.Column("credit", sa.String(length=255), nullable=True),
        sa.CheckConstraint(
            "status IN ('OPEN', 'COMPLETE', 'STACKING', 'STACKED', 'FAILED', 'CANCELLED')",
            name="ck_mission_status",
        ),
        sa.CheckConstraint("dec_deg >= -90 AND dec_deg <= 90", name="ck_mission_dec"),
        sa.CheckConstraint("ra_deg >= 0 AND ra_deg < 360", name="ck_mission_ra"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("mission", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_mission_status"), ["status"], unique=False)

    op.create_table(
        "node",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("contact", sa.String(length=255), nullable=True),
        sa.Column("site_lat_deg", sa.Float(), nullable=True),
        sa.Column("site_lon_deg", sa.Float(), nullable=True),
        sa.Column("site_elev_m", sa.Float(), nullable=True),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.Column("access_key", sa.String(length=128), nullable=True),
        sa.Column("registered_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("licence", sa.String(length=64), nullable=True),
        sa.Column("credit", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "instrument",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("camera", sa.String(length=128), nullable=False),
        sa.Column("telescope", sa.String(length=128), nullable=False),
        sa.Column("focal_length_mm", sa.Float(), nullable=True),
        sa.Column("pixel_size_um", sa.Float(), nullable=True),
        sa.Column("binning", sa.Integer(), nullable=False),
        sa.Column("readout", sa.String(length=64), nullable=False),
        sa.Column("scale_arcsec", sa.Float(), nullable=True),
        sa.Column("valid_from", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"],
            ["node.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("node_id", "camera", "binning", "readout", "valid_from"),
    )
    with op.batch_alter_table("instrument", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instrument_node_id"), ["node_id"], unique=False)

    op.create_table(
        "status_event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mission_id", sa.String(length=64), nullable=False),
        sa.Column("old_status", sa.String(length=16), nullable=True),
        sa.Column("new_status", sa.String(length=16), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("publish_attempts", sa.Integer(), nullable=False),
        sa.Column("published_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("next_publish_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("note", sa.String(length=255), nullable=True),
        sa.CheckConstraint("state IN ('open', 'claimed', 'superseded')", name="ck_status_event_state"),
        sa.ForeignKeyConstraint(
            ["mission_id"],
            ["mission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("status_event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_status_event_mission_id"), ["mission_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_status_event_state"), ["state"], unique=False)

    op.create_table(
        "frame",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("obs_req", sa.String(length=64), nullable=True),
        sa.Column("mission_id", sa.String(length=64), nullable=True),
        sa.Column("instrument_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("plane", sa.String(length=4), nullable=True),
        sa.Column("start_utc", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("exposure_s", sa.Float(), nullable=True),
        sa.Column("filter", sa.String(length=64), nullable=True),
        sa.Column("band", sa.String(length=128), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("inbox_key", sa.String(length=512), nullable=True),
        sa.Column("inbox_etag", sa.String(length=128), nullable=True),
        sa.Column("raw_key", sa.String(length=512), nullable=True),
        sa.Column("raw_version", sa.String(length=128), nullable=True),
        sa.Column("raw_sha256", sa.String(length=64), nullable=True),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=True),
        sa.Column("pixel_digest", sa.String(length=64), nullable=True),
        sa.Column("solved_key", sa.String(length=512), nullable=True),
        sa.Column("solved_version", sa.String(length=128), nullable=True),
        sa.Column("sources_key", sa.String(length=512), nullable=True),
        sa.Column("ingest", sa.String(length=8), nullable=False),
        sa.Column("ingest_code", sa.String(length=64), nullable=True),
        sa.Column("calibrate", sa.String(length=8), nullable=False),
        sa.Column("calibrate_code", sa.String(length=64), nullable=True),
        sa.Column("solve", sa.String(length=8), nullable=False),
        sa.Column("solve_code", sa.String(length=64), nullable=True),
        sa.Column("measure", sa.String(length=8), nullable=False),
        sa.Column("measure_code", sa.String(length=64), nullable=True),
        sa.Column("disposition", sa.String(length=12), nullable=False),
        sa.Column("disposition_code", sa.String(length=64), nullable=True),
        sa.Column("disposition_hint", sa.String(length=500), nullable=True),
        sa.Column("duplicate_of", sa.String(length=32), nullable=True),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("header", sa.JSON(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.JSON(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("received_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("ready_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("embargo_until", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("licence", sa.String(length=64), nullable=True),
        sa.Column("credit", sa.String(length=255), nullable=True),
        sa.CheckConstraint("calibrate IN ('pending', 'ok', 'failed')", name="ck_frame_calibrate"),
        sa.CheckConstraint(
            "disposition IN ('active', 'duplicate', 'quarantined', 'withdrawn')", name="ck_frame_disposition"
        ),
        sa.CheckConstraint("ingest IN ('pending', 'ok', 'failed')", name="ck_frame_ingest"),
        sa.CheckConstraint("kind IN ('light', 'bias', 'dark', 'flat', 'unknown')", name="ck_frame_kind"),
        sa.CheckConstraint("measure IN ('pending', 'ok', 'failed')", name="ck_frame_measure"),
        sa.CheckConstraint("solve IN ('pending', 'ok', 'failed')", name="ck_frame_solve"),
        sa.ForeignKeyConstraint(
            ["duplicate_of"],
            ["frame.id"],
        ),
        sa.ForeignKeyConstraint(
            ["instrument_id"],
            ["instrument.id"],
        ),
        sa.ForeignKeyConstraint(
            ["mission_id"],
            ["mission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("inbox_key"),
    )
    with op.batch_alter_table("frame", schema=None) as batch_op:
        batch_op.create_index("ix_frame_due", ["disposition", "next_attempt_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_mission_id"), ["mission_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_node_id"), ["node_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_obs_req"), ["obs_req"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_pixel_digest"), ["pixel_digest"], unique=False)
        batch_op.create_index(batch_op.f("ix_frame_start_utc"), ["start_utc"], unique=False)
        batch_op.create_index(
            "uq_frame_identity",
            ["node_id", "start_utc", "pixel_digest", "obs_req"],
            unique=True,
            sqlite_where=sa.text("disposition = 'active' AND pixel_digest IS NOT NULL"),
            postgresql_where=sa.text("disposition = 'active' AND pixel_digest IS NOT NULL"),
        )

    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mission_id", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=True),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=128), nullable=False),
        sa.Column("lease_until", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("input_hash", sa.String(length=64), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=True),
        sa.Column("coadd_version", sa.Integer(), nullable=True),
        sa.Column("claimed_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("bound_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("published_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.CheckConstraint(
            "status IN ('claimed', 'bound', 'published', 'unchanged', 'failed', 'expired')",
            name="ck_revision_status",
        ),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["status_event.id"],
        ),
        sa.ForeignKeyConstraint(
            ["mission_id"],
            ["mission.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("mission_id", "epoch", name="uq_revision_epoch"),
    )
    with op.batch_alter_table("revision", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_revision_mission_id"), ["mission_id"], unique=False)
        batch_op.create_index(
            "uq_revision_held",
            ["mission_id"],
            unique=True,
            sqlite_where=sa.text("status IN ('claimed', 'bound')"),
            postgresql_where=sa.text("status IN ('claimed', 'bound')"),
        )
        batch_op.create_index(
            "uq_revision_published",
            ["mission_id", "n"],
            unique=True,
            sqlite_where=sa.text("status = 'published'"),
            postgresql_where=sa.text("status = 'published'"),
        )

    op.create_table(
        "conditions",
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("ambient_temp_c", sa.Float(), nullable=True),
        sa.Column("dewpoint_c", sa.Float(), nullable=True),
        sa.Column("humidity_pct", sa.Float(), nullable=True),
        sa.Column("pressure_hpa", sa.Float(), nullable=True),
        sa.Column("wind_speed_ms", sa.Float(), nullable=True),
        sa.Column("wind_gust_ms", sa.Float(), nullable=True),
        sa.Column("wind_dir_deg", sa.Float(), nullable=True),
        sa.Column("cloud_cover_pct", sa.Float(), nullable=True),
        sa.Column("sky_brightness_mag_arcsec2", sa.Float(), nullable=True),
        sa.Column("airmass", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.PrimaryKeyConstraint("frame_id"),
    )
    op.create_table(
        "frame_cell",
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.PrimaryKeyConstraint("frame_id", "cell"),
    )
    with op.batch_alter_table("frame_cell", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_frame_cell_cell"), ["cell"], unique=False)

    op.create_table(
        "product",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("band", sa.String(length=128), nullable=False),
        sa.Column("pointing", sa.Integer(), nullable=False),
        sa.Column("sci_key", sa.String(length=512), nullable=False),
        sa.Column("sci_version", sa.String(length=128), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("preview_key", sa.String(length=512), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["revision_id"],
            ["revision.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("revision_id", "band", "pointing"),
    )
    with op.batch_alter_table("product", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_product_revision_id"), ["revision_id"], unique=False)

    op.create_table(
        "solution",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("solver", sa.String(length=64), nullable=False),
        sa.Column("catalog", sa.String(length=64), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("ra_deg", sa.Float(), nullable=False),
        sa.Column("dec_deg", sa.Float(), nullable=False),
        sa.Column("scale_arcsec", sa.Float(), nullable=False),
        sa.Column("rotation_deg", sa.Float(), nullable=False),
        sa.Column("parity", sa.Integer(), nullable=False),
        sa.Column("rms_arcsec", sa.Float(), nullable=False),
        sa.Column("rms_px", sa.Float(), nullable=False),
        sa.Column("matches", sa.Integer(), nullable=False),
        sa.Column("order", sa.Integer(), nullable=False),
        sa.Column("wcs", sa.JSON(), nullable=False),
        sa.Column("footprint", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("solution", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_solution_frame_id"), ["frame_id"], unique=False)

    op.create_table(
        "photometry",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("solution_id", sa.Integer(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("band", sa.String(length=128), nullable=True),
        sa.Column("zero_point_mag", sa.Float(), nullable=True),
        sa.Column("zero_point_err", sa.Float(), nullable=True),
        sa.Column("scatter_mag", sa.Float(), nullable=True),
        sa.Column("calibrators", sa.Integer(), nullable=False),
        sa.Column("catalog_band", sa.String(length=64), nullable=True),
        sa.Column("fwhm_px", sa.Float(), nullable=False),
        sa.Column("fwhm_arcsec", sa.Float(), nullable=False),
        sa.Column("ellipticity", sa.Float(), nullable=True),
        sa.Column("sky_adu", sa.Float(), nullable=False),
        sa.Column("sky_sigma_adu", sa.Float(), nullable=False),
        sa.Column("limiting_mag", sa.Float(), nullable=True),
        sa.Column("saturation_adu", sa.Float(), nullable=True),
        sa.Column("n_sources", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.ForeignKeyConstraint(
            ["solution_id"],
            ["solution.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("photometry", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_photometry_frame_id"), ["frame_id"], unique=False)

    op.create_table(
        "revision_input",
        sa.Column("revision_id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("solution_id", sa.Integer(), nullable=False),
        sa.Column("photometry_id", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=True),
        sa.Column("scale", sa.Float(), nullable=True),
        sa.Column("rejected_fraction", sa.Float(), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.ForeignKeyConstraint(
            ["photometry_id"],
            ["photometry.id"],
        ),
        sa.ForeignKeyConstraint(
            ["revision_id"],
            ["revision.id"],
        ),
        sa.ForeignKeyConstraint(
            ["solution_id"],
            ["solution.id"],
        ),
        sa.PrimaryKeyConstraint("revision_id", "frame_id"),
    )


def downgrade() -> None:
    op.drop_table("revision_input")
    with op.batch_alter_table("photometry", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_photometry_frame_id"))

    op.drop_table("photometry")
    with op.batch_alter_table("solution", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_solution_frame_id"))

    op.drop_table("solution")
    with op.batch_alter_table("product", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_product_revision_id"))

    op.drop_table("product")
    with op.batch_alter_table("frame_cell", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_frame_cell_cell"))

    op.drop_table("frame_cell")
    op.drop_table("conditions")
    with op.batch_alter_table("revision", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_revision_published",
            sqlite_where=sa.text("status = 'published'"),
            postgresql_where=sa.text("status = 'published'"),
        )
        batch_op.drop_index(
            "uq_revision_held",
            sqlite_where=sa.text("status IN ('claimed', 'bound')"),
            postgresql_where=sa.text("status IN ('claimed', 'bound')"),
        )
        batch_op.drop_index(batch_op.f("ix_revision_mission_id"))

    op.drop_table("revision")
    with op.batch_alter_table("frame", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_frame_identity",
            sqlite_where=sa.text("disposition = 'active' AND pixel_digest IS NOT NULL"),
            postgresql_where=sa.text("disposition = 'active' AND pixel_digest IS NOT NULL"),
        )
        batch_op.drop_index(batch_op.f("ix_frame_start_utc"))
        batch_op.drop_index(batch_op.f("ix_frame_pixel_digest"))
        batch_op.drop_index(batch_op.f("ix_frame_obs_req"))
        batch_op.drop_index(batch_op.f("ix_frame_node_id"))
        batch_op.drop_index(batch_op.f("ix_frame_name"))
        batch_op.drop_index(batch_op.f("ix_frame_mission_id"))
        batch_op.drop_index("ix_frame_due")

    op.drop_table("frame")
    with op.batch_alter_table("status_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_status_event_state"))
        batch_op.drop_index(batch_op.f("ix_status_event_mission_id"))

    op.drop_table("status_event")
    with op.batch_alter_table("instrument", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_instrument_node_id"))

    op.drop_table("instrument")
    op.drop_table("node")
    with op.batch_alter_table("mission", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_mission_status"))

    op.drop_table("mission")
    with op.batch_alter_table("announcement", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_announcement_obs_req"))

    op.drop_table("announcement")
