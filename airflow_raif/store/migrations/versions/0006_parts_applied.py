"""Parts applied one by one: which rows each was made of, and where their results are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("raif_part", sa.Column("first_row", sa.BigInteger))
    op.add_column("raif_part", sa.Column("result_uri", sa.Text))
    op.add_column("raif_part", sa.Column("applied_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drop them."""
    for name in ("first_row", "result_uri", "applied_at"):
        op.drop_column("raif_part", name)
