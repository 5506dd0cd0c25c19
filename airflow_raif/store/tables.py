"""The tables, raif_batch, raif_part, raif_entry and what they share. No payload is in them, only where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    and_,
    bindparam,
)

#: The revision of Alembic lies in a table of its own, so that the store may share a database.
VERSION_TABLE = "alembic_version_raif"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC, also on SQLite, which knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Write it in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Read it aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only in a column that is exactly INTEGER; and it gives the number of a deleted row to
# the next one unless told not to (https://www.sqlite.org/autoinc.html), in which an attempt that lost its batch would
# write.
_Key = BigInteger().with_variant(Integer, "sqlite")


def _usage_columns() -> list[Column[Any]]:
    names = (
        "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
        "cache_write_1h_tokens",
    )  # fmt: skip
    return [Column(name, BigInteger) for name in names]


def _cost_columns() -> list[Column[Any]]:
    """Money in picodollars, so that sums are exact."""
    return [
        Column("batch_cost", BigInteger),
        Column("standard_cost", BigInteger),
        Column("cost_is_estimated", Boolean, nullable=False, server_default="0"),
    ]


batch = Table(
    "raif_batch",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("batch_id", String(32), nullable=False, unique=True),
    Column("provider", String(50), nullable=False),
    Column("conn_id", String(250), nullable=False),
    Column("model", String(250), nullable=False),
    Column("endpoint", String(250), nullable=False),
    Column("status", String(20), nullable=False, index=True),
    Column("dag_id", String(250)),
    Column("run_id", String(250)),
    Column("task_id", String(250)),
    Column("map_index", Integer),
    Column("claim_released_at", UtcDateTime),
    Column("fingerprint", String(64)),
    Column("spool_attempt", Integer, nullable=False, server_default="0"),
    Column("spool_uri", Text, nullable=False),
    Column("request_count", BigInteger, nullable=False, server_default="0"),
    Column("completed_count", BigInteger, nullable=False, server_default="0"),
    Column("failed_count", BigInteger, nullable=False, server_default="0"),
    Column("output_schema", JSON(none_as_null=True)),
    Column("metadata", JSON, nullable=False),
    Column("round_policy", JSON(none_as_null=True)),
    Column("answer_scope", LargeBinary(16)),
    Column("budget", JSON(none_as_null=True)),
    Column("estimated_cost", BigInteger),
    Column("reserved_at", UtcDateTime),
    *_usage_columns(),
    *_cost_columns(),
    Column("result_uri", Text),
    Column("error", Text),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("spooled_at", UtcDateTime),
    Column("queued_at", UtcDateTime),
    Column("submitted_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("results_fetched_at", UtcDateTime),
    Column("applied_at", UtcDateTime),
    Column("files_deleted_at", UtcDateTime),
    Column("spool_deleted_at", UtcDateTime),
    sqlite_autoincrement=True,
)

_is_claimed = and_(batch.c.claim_released_at.is_(None), batch.c.dag_id.is_not(None))
#: One task instance holds one batch at a time.
Index(
    "uq_raif_batch_claim", batch.c.dag_id, batch.c.run_id, batch.c.task_id, batch.c.map_index,
    unique=True, sqlite_where=_is_claimed, postgresql_where=_is_claimed,
)  # fmt: skip
Index("ix_raif_batch_dag_id", batch.c.dag_id, batch.c.id)

part = Table(
    "raif_part",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("batch_key", _Key, ForeignKey("raif_batch.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("round", Integer, nullable=False, server_default="0"),
    Column("status", String(20), nullable=False, index=True),
    Column("raw_status", String(100)),
    Column("provider_batch_id", String(250), unique=True, index=True),
    Column("model", String(250), nullable=False),
    Column("request_count", BigInteger, nullable=False),
    Column("request_bytes", BigInteger, nullable=False),
    Column("digest", String(32)),
    Column("rows_read", BigInteger),
    Column("piece_bytes", BigInteger),
    Column("intent_at", UtcDateTime),
    Column("input_ref", String(500)),
    Column("counts", JSON(none_as_null=True)),
    Column("completed_count", BigInteger, nullable=False, server_default="0"),
    Column("refs", JSON, nullable=False),
    Column("error", Text),
    Column("error_code", String(100)),
    Column("is_synchronous", Boolean, nullable=False, server_default="0"),
    Column("synchronous_calls", Integer, nullable=False, server_default="0"),
    *_usage_columns(),
    *_cost_columns(),
    Column("submitted_at", UtcDateTime),
    Column("progressed_at", UtcDateTime),
    Column("polled_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("results_fetched_at", UtcDateTime),
    Column("first_row", BigInteger),
    Column("last_row", BigInteger),
    Column("result_uri", Text),
    Column("applied_at", UtcDateTime),
    Index("uq_raif_part_batch_key_number", "batch_key", "number", unique=True),
    sqlite_autoincrement=True,
)

Index("ix_raif_batch_conn_id_reserved_at", batch.c.conn_id, batch.c.reserved_at)

#: What is known of a provider's queue for a connection and a model, or for all models (``""``) of a connection.
queue = Table(
    "raif_queue",
    metadata,
    Column("conn_id", String(250), primary_key=True),
    Column("model", String(250), primary_key=True),
    Column("max_tokens", BigInteger),
    Column("learnt_at", UtcDateTime),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("held_until", UtcDateTime),
)

#: Locked by whoever reserves money of a connection's day.
budget = Table(
    "raif_budget",
    metadata,
    Column("conn_id", String(250), primary_key=True),
    Column("day", String(10), primary_key=True),
)

entry = Table(
    "raif_entry",
    metadata,
    Column("batch_key", _Key, ForeignKey("raif_batch.id", ondelete="CASCADE"), primary_key=True),
    Column("idx", BigInteger, primary_key=True),
    Column("custom_id", Text, nullable=False),
    Column("status", String(10), nullable=False),
    Column("reason", String(20)),
    Column("error", Text),
    Column("part_number", Integer, nullable=False),
    Column("request_offset", BigInteger, nullable=False),
    Column("request_length", Integer, nullable=False),
    Column("result_part", Integer),
    Column("result_offset", BigInteger),
    Column("result_length", Integer),
    Column("is_repeatable", Boolean, nullable=False, server_default="0"),
    Column("content_hash", LargeBinary(16)),
    Column("same_as", BigInteger),
    *_usage_columns(),
    *_cost_columns(),
    Index("uq_raif_entry_batch_key_custom_id", "batch_key", "custom_id", unique=True),
    sqlite_with_rowid=False,
)
_is_failed = entry.c.status == "failed"
Index(
    "ix_raif_entry_failed", entry.c.batch_key, entry.c.reason, entry.c.idx,
    sqlite_where=_is_failed, postgresql_where=_is_failed,
)  # fmt: skip

_is_duplicate = entry.c.same_as.is_not(None)
Index(
    "ix_raif_entry_batch_key_same_as", entry.c.batch_key, entry.c.same_as,
    sqlite_where=_is_duplicate, postgresql_where=_is_duplicate,
)  # fmt: skip

#: Answers that later batches may take: the entry that has the newest one of a request.
answer = Table(
    "raif_answer",
    metadata,
    Column("scope", LargeBinary(16), primary_key=True),
    Column("content_hash", LargeBinary(16), primary_key=True),
    Column("batch_key", _Key, ForeignKey("raif_batch.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("idx", BigInteger, nullable=False),
    Column("answered_at", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)


def among(column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return ``IN`` with its values written into the statement.

    PostgreSQL keeps the plan of a statement that comes often. One with hundreds of parameters compares each row with
    each of them: a second where values take milliseconds.
    """
    return column.in_(bindparam(None, values, expanding=True, literal_execute=True))
