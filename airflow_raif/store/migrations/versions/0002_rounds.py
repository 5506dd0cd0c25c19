"""Rounds: the policy of a batch, usage and cost of a part, and which entries are worth repeating."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_USAGE = (
    "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "cache_write_1h_tokens",
)  # fmt: skip
_NO = "0"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("raif_batch", sa.Column("round_policy", sa.JSON(none_as_null=True)))
    for name in (*_USAGE, "batch_cost", "standard_cost"):
        op.add_column("raif_part", sa.Column(name, sa.BigInteger))
    for name in ("cost_is_estimated", "is_synchronous"):
        op.add_column("raif_part", sa.Column(name, sa.Boolean, nullable=False, server_default=_NO))
    op.add_column("raif_part", sa.Column("synchronous_calls", sa.Integer, nullable=False, server_default=_NO))
    op.add_column("raif_part", sa.Column("error_code", sa.String(100)))
    op.add_column("raif_part", sa.Column("polled_at", sa.DateTime(timezone=True)))
    op.add_column("raif_entry", sa.Column("is_repeatable", sa.Boolean, nullable=False, server_default=_NO))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("raif_entry", "is_repeatable")
    flags = ("cost_is_estimated", "is_synchronous", "synchronous_calls", "error_code", "polled_at")
    for name in (*_USAGE, "batch_cost", "standard_cost", *flags):
        op.drop_column("raif_part", name)
    op.drop_column("raif_batch", "round_policy")
