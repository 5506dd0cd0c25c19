"""Sharing: rows that take answers of others, and answers that later batches may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the table and the columns."""
    op.add_column("raif_batch", sa.Column("answer_scope", sa.LargeBinary(16)))
    op.add_column("raif_part", sa.Column("rows_read", sa.BigInteger))
    op.add_column("raif_entry", sa.Column("content_hash", sa.LargeBinary(16)))
    op.add_column("raif_entry", sa.Column("same_as", sa.BigInteger))
    is_duplicate = sa.text("same_as IS NOT NULL")
    op.create_index(
        "ix_raif_entry_batch_key_same_as", "raif_entry", ["batch_key", "same_as"],
        sqlite_where=is_duplicate, postgresql_where=is_duplicate,
    )  # fmt: skip
    op.create_table(
        "raif_answer",
        sa.Column("scope", sa.LargeBinary(16), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(16), nullable=False),
        sa.Column("batch_key", _KEY, nullable=False),
        sa.Column("idx", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "content_hash", name="pk_raif_answer"),
        sa.ForeignKeyConstraint(["batch_key"], ["raif_batch.id"], name="fk_raif_answer_batch_key", ondelete="CASCADE"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_raif_answer_batch_key", "raif_answer", ["batch_key"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("raif_answer")
    op.drop_index("ix_raif_entry_batch_key_same_as", "raif_entry")
    for table, column in (
        ("raif_entry", "same_as"), ("raif_entry", "content_hash"), ("raif_part", "rows_read"),
        ("raif_batch", "answer_scope"),
    ):  # fmt: skip
        op.drop_column(table, column)
