"""Streaming: which attempt spools a batch, and what of the input a part ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("raif_batch", sa.Column("spool_attempt", sa.Integer, nullable=False, server_default="0"))
    op.add_column("raif_part", sa.Column("digest", sa.String(32)))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("raif_part", "digest")
    op.drop_column("raif_batch", "spool_attempt")
