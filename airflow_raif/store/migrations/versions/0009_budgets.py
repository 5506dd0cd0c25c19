"""Budgets: what batches may cost, and what is reserved for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns."""
    op.add_column("raif_batch", sa.Column("budget", sa.JSON))
    op.add_column("raif_batch", sa.Column("estimated_cost", sa.BigInteger))
    op.add_column("raif_batch", sa.Column("reserved_at", sa.DateTime(timezone=True)))
    op.create_index("ix_raif_batch_conn_id_reserved_at", "raif_batch", ["conn_id", "reserved_at"])
    op.create_table(
        "raif_budget",
        sa.Column("conn_id", sa.String(250), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.PrimaryKeyConstraint("conn_id", "day", name="pk_raif_budget"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("raif_budget")
    op.drop_index("ix_raif_batch_conn_id_reserved_at", "raif_batch")
    for name in ("reserved_at", "estimated_cost", "budget"):
        op.drop_column("raif_batch", name)
