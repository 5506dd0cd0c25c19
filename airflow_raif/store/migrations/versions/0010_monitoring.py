"""Monitoring: outcomes counted by part and batch, a part's first progress, and what the lists are found by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_batch = sa.table(
    "raif_batch",
    *(sa.column(name, sa.BigInteger) for name in ("id", "completed_count", "failed_count")),
)
_part = sa.table(
    "raif_part",
    *(sa.column(name, sa.BigInteger) for name in ("batch_key", "number", "completed_count")),
)
_entry = sa.table(
    "raif_entry",
    *(sa.column(name, sa.BigInteger) for name in ("batch_key", "part_number")),
    sa.column("status", sa.String),
)


def upgrade() -> None:
    """Add the columns, count what is there, and add the indexes."""
    for table, names in (("raif_batch", ("completed_count", "failed_count")), ("raif_part", ("completed_count",))):
        for name in names:
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("raif_part", sa.Column("progressed_at", sa.DateTime(timezone=True)))
    _count()
    op.create_index("ix_raif_batch_dag_id", "raif_batch", ["dag_id", "id"])
    is_failed = sa.text("status = 'failed'")
    op.create_index(
        "ix_raif_entry_failed",
        "raif_entry",
        ["batch_key", "reason", "idx"],
        sqlite_where=is_failed,
        postgresql_where=is_failed,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_raif_entry_failed", "raif_entry")
    op.drop_index("ix_raif_batch_dag_id", "raif_batch")
    op.drop_column("raif_part", "progressed_at")
    op.drop_column("raif_part", "completed_count")
    op.drop_column("raif_batch", "failed_count")
    op.drop_column("raif_batch", "completed_count")


def _count() -> None:
    connection, of_batch = op.get_bind(), dict[int, dict[str, int]]()
    columns = (_entry.c.batch_key, _entry.c.part_number, _entry.c.status)
    counted = sa.select(*columns, sa.func.count()).where(_entry.c.status != "pending").group_by(*columns)
    for batch_key, number, status, count in connection.execute(counted).all():
        counts = of_batch.setdefault(batch_key, {"completed": 0, "failed": 0})
        counts[status] += count
        if status == "completed":
            where = (_part.c.batch_key == batch_key, _part.c.number == number)
            connection.execute(sa.update(_part).where(*where).values(completed_count=count))
    for batch_key, counts in of_batch.items():
        values = {"completed_count": counts["completed"], "failed_count": counts["failed"]}
        connection.execute(sa.update(_batch).where(_batch.c.id == batch_key).values(values))
