"""trace contexts of frames and announcements; indexes for what the last day brought."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("frame", "announcement"):
        op.add_column(table, sa.Column("traceparent", sa.String(length=55), nullable=True))
    op.create_index("ix_frame_received_at", "frame", ["received_at"], unique=False)
    op.create_index("ix_status_event_created_at", "status_event", ["created_at"], unique=False)
    op.create_index("ix_revision_claimed_at", "revision", ["claimed_at"], unique=False)
