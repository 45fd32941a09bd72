"""masters and calibrations, learnt instruments, the history of solutions, conditions in SI units."""

from typing import Any

import sqlalchemy as sa
from alembic import op

import starloom.archive.columns

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Plain ADD COLUMN, which both databases take as it stands: SQLite's batch mode would copy tables that others refer
# to. Defaults stay, so that an older image can still insert.
ADDED = {
    "frame": (
        "calibrated_key VARCHAR(512)",
        "calibrated_version VARCHAR(128)",
        "quicklook_key VARCHAR(512)",
    ),
    "node": ("exact_site BOOLEAN NOT NULL DEFAULT FALSE",),
    "solution": (
        "catalog_version VARCHAR(64) NOT NULL DEFAULT ''",
        "epoch FLOAT",
        "hint VARCHAR(128) NOT NULL DEFAULT ''",
        "held_out_arcsec FLOAT",
        "corner_error_px FLOAT",
        "offset_ra_deg FLOAT",
        "offset_dec_deg FLOAT",
        "distortion JSON",
        "model_id INTEGER REFERENCES instrument_model (id)",
        "residuals JSON",
        "calibration_id INTEGER REFERENCES calibration (id)",
        "solved_key VARCHAR(512)",
        "solved_version VARCHAR(128)",
    ),
    "photometry": (
        "catalog VARCHAR(64)",
        "catalog_version VARCHAR(64)",
        "colour_term FLOAT",
        "colour_ref FLOAT",
        "aperture_px FLOAT",
        "growth FLOAT",
        "gain_e_per_adu FLOAT",
        "psf_stars INTEGER NOT NULL DEFAULT 0",
        "fwhm_corner_px FLOAT",
        "sky_brightness_mag_arcsec2 FLOAT",
        "transparency FLOAT",
        "em_min_m FLOAT",
        "em_max_m FLOAT",
        "sources_key VARCHAR(512)",
    ),
    "conditions": (
        "sky_minus_ambient_k FLOAT",
        "airmass_source VARCHAR(16)",
        "target_alt_deg FLOAT",
        "sun_alt_deg FLOAT",
        "moon_alt_deg FLOAT",
        "moon_sep_deg FLOAT",
        "moon_lit_fraction FLOAT",
    ),
    "revision_input": (
        "calibration_id INTEGER REFERENCES calibration (id)",
        "compared_photometry_id INTEGER",
    ),
}

# Weather becomes SI. An image from before this step files none until it is replaced: its frames are swept again.
RENAMED = {
    "ambient_temp_c": ("ambient_temp_k", "ambient_temp_k + 273.15"),
    "dewpoint_c": ("dewpoint_k", "dewpoint_k + 273.15"),
    "pressure_hpa": ("pressure_pa", "pressure_pa * 100"),
    "wind_speed_ms": ("wind_speed_m_s", None),
    "wind_gust_ms": ("wind_gust_m_s", None),
}


def upgrade() -> None:
    op.create_table(
        "instrument_model",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instrument_id", sa.Integer(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("n_frames", sa.Integer(), nullable=False),
        sa.Column("model", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instrument_id"],
            ["instrument.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("instrument_model", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instrument_model_instrument_id"), ["instrument_id"], unique=False)

    op.create_table(
        "master",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instrument_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("gain", sa.Float(), nullable=True),
        sa.Column("offset_adu", sa.Float(), nullable=True),
        sa.Column("temperature_c", sa.Float(), nullable=True),
        sa.Column("exposure_s", sa.Float(), nullable=True),
        sa.Column("filter", sa.String(length=64), nullable=True),
        sa.Column("binning", sa.Integer(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("valid_from", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("valid_to", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("n_frames", sa.Integer(), nullable=False),
        sa.Column("frame_ids", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("lake_version", sa.String(length=128), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("stats", sa.JSON(), nullable=False),
        sa.CheckConstraint("kind IN ('bias', 'dark', 'flat', 'defects')", name="ck_master_kind"),
        sa.ForeignKeyConstraint(
            ["instrument_id"],
            ["instrument.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("master", schema=None) as batch_op:
        batch_op.create_index("ix_master_current", ["instrument_id", "kind", "current"], unique=False)

    op.create_table(
        "calibration",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("created_at", starloom.archive.columns.UtcDateTime(timezone=True), nullable=False),
        sa.Column("code_version", sa.String(length=32), nullable=False),
        sa.Column("bias_id", sa.Integer(), nullable=True),
        sa.Column("dark_id", sa.Integer(), nullable=True),
        sa.Column("flat_id", sa.Integer(), nullable=True),
        sa.Column("defects_id", sa.Integer(), nullable=True),
        sa.Column("dark_scale", sa.Float(), nullable=True),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("masked_fraction", sa.Float(), nullable=True),
        sa.Column("key", sa.String(length=512), nullable=True),
        sa.Column("lake_version", sa.String(length=128), nullable=True),
        sa.Column("saturation_adu", sa.Float(), nullable=True),
        sa.Column("gain_e_per_adu", sa.Float(), nullable=True),
        sa.Column("read_noise_adu", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["bias_id"],
            ["master.id"],
        ),
        sa.ForeignKeyConstraint(
            ["dark_id"],
            ["master.id"],
        ),
        sa.ForeignKeyConstraint(
            ["defects_id"],
            ["master.id"],
        ),
        sa.ForeignKeyConstraint(
            ["flat_id"],
            ["master.id"],
        ),
        sa.ForeignKeyConstraint(
            ["frame_id"],
            ["frame.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("calibration", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_calibration_frame_id"), ["frame_id"], unique=False)

    for table, columns in ADDED.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    for old, (new, value) in RENAMED.items():
        op.execute(f"ALTER TABLE conditions RENAME COLUMN {old} TO {new}")
        if value is not None:
            op.execute(f"UPDATE conditions SET {new} = {value}")  # noqa: S608 - both from the table above
    op.create_index("ix_frame_history", "frame", ["instrument_id", "band", "start_utc"], unique=False)
    _round_sites()


def _round_sites() -> None:
    """Round the sites in the headers on file: no owner has been asked before this step."""
    frame = sa.table("frame", sa.column("id", sa.String), sa.column("header", sa.JSON))
    connection, last = op.get_bind(), ""
    while True:
        found = connection.execute(
            sa.select(frame.c.id, frame.c.header).where(frame.c.id > last).order_by(frame.c.id).limit(500)
        ).all()
        for frame_id, header in found:
            if header:
                connection.execute(
                    sa.update(frame).where(frame.c.id == frame_id).values(header=_without_exact_site(header))
                )
        if not found:
            return
        last = found[-1][0]


def _without_exact_site(header: dict[str, Any]) -> dict[str, Any]:
    # As `starloom.frames.site` did when this step was written.
    steps = {"site_lat_deg": 0.1, "site_lon_deg": 0.1, "site_elev_m": 100.0}
    rounded = {name: dict(entry) for name, entry in header.items()}
    for name, step in steps.items():
        value = rounded.get(name, {}).get("value")
        if value is not None:
            rounded[name]["value"] = round(round(value / step) * step, 6)
    return rounded
