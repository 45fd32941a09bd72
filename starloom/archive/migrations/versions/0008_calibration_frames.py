"""an index of calibration frames alone, in place of one of all frames; what is set aside is counted by its index.

An image of before runs on: its looks for news take `ix_frame_lights` and `ix_frame_history`, which cost more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# As `starloom.archive.models` said when this step was written.
CALIBRATION = "kind IN ('bias', 'dark', 'flat') AND disposition = 'active' AND ingest = 'ok'"
SET_ASIDE_AT = "disposition_at IS NOT NULL"
NEW = (
    ("ix_frame_calibrations", ("instrument_id", "received_at"), CALIBRATION),
    ("ix_frame_set_aside", ("disposition_at", "disposition", "disposition_code"), SET_ASIDE_AT),
)


def upgrade() -> None:
    for name in ("ix_frame_news", "ix_frame_set_aside"):
        op.drop_index(name, "frame")
    for name, columns, where in NEW:
        op.create_index(name, "frame", list(columns), sqlite_where=sa.text(where), postgresql_where=sa.text(where))
