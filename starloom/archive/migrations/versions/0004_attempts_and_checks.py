"""the history of attempts, steps in hand, receipts of stacks, checks of stored bytes, surplus runs."""

import sqlalchemy as sa
from alembic import op

from starloom.archive.columns import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("frame_id", sa.String(length=32), nullable=False),
        sa.Column("at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("step", sa.String(length=12), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("message", sa.String(length=500), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("alert", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["frame_id"], ["frame.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_attempt_frame_id", "attempt", ["frame_id"], unique=False)
    op.create_index("ix_attempt_code", "attempt", ["code", "at"], unique=False)
    op.create_index("ix_attempt_alert", "attempt", ["alert"], unique=False)
    op.create_table(
        "raw_check",
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("checked_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("copy_state", sa.String(length=12), nullable=True),
        sa.Column("detail", sa.String(length=500), nullable=True),
        sa.Column("alert", sa.Boolean(), nullable=False),
        sa.CheckConstraint("state IN ('ok', 'mismatch', 'missing')", name="ck_raw_check_state"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_raw_check_due", "raw_check", ["checked_at"], unique=False)
    op.create_index("ix_raw_check_alert", "raw_check", ["alert"], unique=False)
    # Plain ADD COLUMN, see 0002. The trigger, and an older image, insert events without naming the counter.
    op.add_column(
        "status_event", sa.Column("surplus_runs", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    op.add_column("status_event", sa.Column("reason", sa.String(length=255), nullable=True))
    op.add_column("frame", sa.Column("in_hand", sa.String(length=12), nullable=True))
    op.add_column("frame", sa.Column("disposition_at", UtcDateTime(timezone=True), nullable=True))
    op.add_column("revision", sa.Column("told_at", UtcDateTime(timezone=True), nullable=True))
    # Receipts of the stacks of before this step have been written, or will not be missed any more.
    op.execute("UPDATE revision SET told_at = published_at WHERE status = 'published'")
