"""Queues: what providers let wait at once, and what is held back for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "raif_queue",
        sa.Column("conn_id", sa.String(250), nullable=False),
        sa.Column("model", sa.String(250), nullable=False),
        sa.Column("max_tokens", sa.BigInteger),
        sa.Column("learnt_at", sa.DateTime(timezone=True)),
        sa.Column("refusals", sa.Integer, nullable=False, server_default="0"),
        sa.Column("held_until", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("conn_id", "model", name="pk_raif_queue"),
    )
    op.add_column("raif_batch", sa.Column("queued_at", sa.DateTime(timezone=True)))
    op.add_column("raif_part", sa.Column("piece_bytes", sa.BigInteger))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("raif_part", "piece_bytes")
    op.drop_column("raif_batch", "queued_at")
    op.drop_table("raif_queue")
