"""products of targets that move stand beside the sidereal ones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Nothing refers to products, so SQLite's copy of the table costs no reference. The first step gave the constraint
# no name: PostgreSQL made this one up, and SQLite finds it by the convention.
CONVENTION = {"uq": "%(table_name)s_%(column_0_N_name)s_key"}


def upgrade() -> None:
    op.execute("ALTER TABLE product ADD COLUMN track VARCHAR(16) NOT NULL DEFAULT 'sidereal'")
    with op.batch_alter_table("product", naming_convention=CONVENTION) as batch:
        batch.drop_constraint("product_revision_id_band_pointing_key", type_="unique")
        batch.create_unique_constraint(
            "product_revision_id_band_pointing_track_key", ["revision_id", "band", "pointing", "track"]
        )
        batch.create_check_constraint("ck_product_track", sa.text("track IN ('sidereal', 'moving')"))
