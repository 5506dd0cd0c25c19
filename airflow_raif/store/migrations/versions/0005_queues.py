"""Queues: what providers let wait at once, and what is held back for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIMES = ("queued_at", "cancel_asked_at")


def upgrade() -> None:
    """Add the table and the columns; the tokens of parts that are there are estimated as those of new ones."""
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
    for name in _TIMES:
        op.add_column("raif_batch", sa.Column(name, sa.DateTime(timezone=True)))
    op.add_column("raif_part", sa.Column("estimated_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("raif_part", sa.Column("piece_tokens", sa.BigInteger))
    op.execute("UPDATE raif_part SET estimated_tokens = request_bytes / 4")


def downgrade() -> None:
    """Drop them."""
    for name in ("piece_tokens", "estimated_tokens"):
        op.drop_column("raif_part", name)
    for name in _TIMES:
        op.drop_column("raif_batch", name)
    op.drop_table("raif_queue")
