"""indexes of what is to be done and of what came last: the cost of a look follows the work, not the history.

Indexes and a column that may be empty: an image of before runs on with them. While they are built, writers wait
(docs/scale.md says how long ten million frames take).
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As `starloom.archive.models` said when this step was written.
UNSETTLED = (
    "disposition = 'active' AND ingest <> 'failed' AND calibrate <> 'failed' AND solve <> 'failed' "
    "AND measure <> 'failed' AND CASE WHEN kind <> 'light' THEN ingest WHEN plane = 'CFA' THEN calibrate "
    "ELSE measure END = 'pending'"
)
NEW: tuple[tuple[str, str, tuple[str, ...], str | None], ...] = (
    ("ix_frame_waiting", "frame", ("next_attempt_at",), "disposition = 'active' AND next_attempt_at IS NOT NULL"),
    ("ix_frame_unsettled", "frame", ("obs_req",), UNSETTLED),
    ("ix_frame_stray", "frame", ("obs_req",), "mission_id IS NULL AND obs_req IS NOT NULL"),
    ("ix_frame_ready", "frame", ("ready_at",), "ready_at IS NOT NULL"),
    ("ix_frame_set_aside", "frame", ("disposition_at",), "disposition_at IS NOT NULL"),
    ("ix_frame_arrived", "frame", ("received_at", "id"), None),
    (
        "ix_frame_set_aside_arrived",
        "frame",
        ("disposition", "received_at", "id"),
        "disposition <> 'active'",
    ),
    ("ix_frame_of_node", "frame", ("node_id", "received_at", "id"), None),
    ("ix_frame_lights", "frame", ("instrument_id", "start_utc"), "kind = 'light' AND disposition = 'active'"),
    ("ix_frame_news", "frame", ("instrument_id", "kind", "received_at"), None),
    ("ix_master_key", "master", ("key",), None),
    ("ix_photometry_created", "photometry", ("created_at",), None),
    ("ix_revision_input_frame", "revision_input", ("frame_id",), None),
    ("ix_revision_untold", "revision", ("id",), "status = 'published' AND told_at IS NULL"),
    ("ix_revision_claimed", "revision", ("claimed_at",), None),
    ("ix_revision_published", "revision", ("published_at",), "status = 'published'"),
    ("ix_mission_created", "mission", ("created_at",), None),
    ("ix_mission_changed", "mission", ("status", "status_changed_at"), None),
    ("ix_status_event_surplus", "status_event", ("created_at",), "surplus_runs > 0"),
    ("ix_raw_check_damaged", "raw_check", ("checked_at",), "state <> 'ok' OR copy_state <> 'ok'"),
    ("ix_raw_check_not_copied", "raw_check", ("key",), "copy_state IS NULL"),
)
#: Each is the beginning of a new one, or served a query that is asked no more.
OLD = ("ix_frame_due", "ix_frame_node_id", "ix_frame_received", "ix_frame_pixel_digest", "ix_mission_status")


def upgrade() -> None:
    for name, table, columns, where in NEW:
        op.create_index(
            name,
            table,
            [sa.text(column) for column in columns],
            sqlite_where=None if where is None else sa.text(where),
            postgresql_where=None if where is None else sa.text(where),
        )
    op.add_column("raw_check", sa.Column("version", sa.String(length=128), nullable=True))
    op.drop_index("ix_raw_check_due", "raw_check")
    op.create_index("ix_raw_check_due", "raw_check", ["checked_at", "key"])
    for name in OLD:
        op.drop_index(name)
