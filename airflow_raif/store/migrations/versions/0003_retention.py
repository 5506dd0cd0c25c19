"""Retention: when a batch's files at the provider, and its spool, were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = ("files_deleted_at", "spool_deleted_at")


def upgrade() -> None:
    """Add the columns."""
    for name in _COLUMNS:
        op.add_column("raif_batch", sa.Column(name, sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drop them."""
    for name in _COLUMNS:
        op.drop_column("raif_batch", name)
