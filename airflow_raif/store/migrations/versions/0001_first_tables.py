"""First tables: raif_batch, raif_part, raif_entry."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "raif_batch",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("batch_id", sa.String(length=32), nullable=False),
        sa.Column("provider", sa.String(length=50), nullable=False),
        sa.Column("conn_id", sa.String(length=250), nullable=False),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("endpoint", sa.String(length=250), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=True),
        sa.Column("run_id", sa.String(length=250), nullable=True),
        sa.Column("task_id", sa.String(length=250), nullable=True),
        sa.Column("map_index", sa.Integer(), nullable=True),
        sa.Column("claim_released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("spool_uri", sa.Text(), nullable=False),
        sa.Column("request_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_schema", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), nullable=True),
        sa.Column("batch_cost", sa.BigInteger(), nullable=True),
        sa.Column("standard_cost", sa.BigInteger(), nullable=True),
        sa.Column("cost_is_estimated", sa.Boolean(), server_default="0", nullable=False),
        sa.Column("result_uri", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spooled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("results_fetched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_raif_batch")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_raif_batch_batch_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_raif_batch_created_at"), "raif_batch", ["created_at"], unique=False)
    op.create_index(op.f("ix_raif_batch_status"), "raif_batch", ["status"], unique=False)
    op.create_index(
        "uq_raif_batch_claim",
        "raif_batch",
        ["dag_id", "run_id", "task_id", "map_index"],
        unique=True,
        sqlite_where=sa.text("claim_released_at IS NULL AND dag_id IS NOT NULL"),
        postgresql_where=sa.text("claim_released_at IS NULL AND dag_id IS NOT NULL"),
    )
    op.create_table(
        "raif_entry",
        sa.Column("batch_key", KEY, nullable=False),
        sa.Column("idx", sa.BigInteger(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("part_number", sa.Integer(), nullable=False),
        sa.Column("request_offset", sa.BigInteger(), nullable=False),
        sa.Column("request_length", sa.Integer(), nullable=False),
        sa.Column("result_part", sa.Integer(), nullable=True),
        sa.Column("result_offset", sa.BigInteger(), nullable=True),
        sa.Column("result_length", sa.Integer(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), nullable=True),
        sa.Column("batch_cost", sa.BigInteger(), nullable=True),
        sa.Column("standard_cost", sa.BigInteger(), nullable=True),
        sa.Column("cost_is_estimated", sa.Boolean(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_key"], ["raif_batch.id"], name=op.f("fk_raif_entry_batch_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch_key", "idx", name=op.f("pk_raif_entry")),
        sqlite_with_rowid=False,
    )
    op.create_index("uq_raif_entry_batch_key_custom_id", "raif_entry", ["batch_key", "custom_id"], unique=True)
    op.create_table(
        "raif_part",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("batch_key", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("raw_status", sa.String(length=100), nullable=True),
        sa.Column("provider_batch_id", sa.String(length=250), nullable=True),
        sa.Column("model", sa.String(length=250), nullable=False),
        sa.Column("request_count", sa.BigInteger(), nullable=False),
        sa.Column("request_bytes", sa.BigInteger(), nullable=False),
        sa.Column("intent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("input_ref", sa.String(length=500), nullable=True),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("refs", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("results_fetched_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_key"], ["raif_batch.id"], name=op.f("fk_raif_part_batch_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_raif_part")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_raif_part_provider_batch_id"), "raif_part", ["provider_batch_id"], unique=True)
    op.create_index(op.f("ix_raif_part_status"), "raif_part", ["status"], unique=False)
    op.create_index("uq_raif_part_batch_key_number", "raif_part", ["batch_key", "number"], unique=True)


def downgrade() -> None:
    """Delete the tables."""
    op.drop_table("raif_entry")
    op.drop_table("raif_part")
    op.drop_table("raif_batch")
