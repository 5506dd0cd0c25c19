"""Rows of a part: the last one, so that what is looked for in a part is looked for among its own rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of parts that are there it stays unknown."""
    op.add_column("raif_part", sa.Column("last_row", sa.BigInteger))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("raif_part", "last_row")
