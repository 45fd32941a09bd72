"""trace contexts of frames and announcements; events by their age, which pruning asks for."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("frame", "announcement"):
        op.add_column(table, sa.Column("traceparent", sa.String(length=55), nullable=True))
    op.create_index("ix_status_event_created_at", "status_event", ["created_at"], unique=False)
