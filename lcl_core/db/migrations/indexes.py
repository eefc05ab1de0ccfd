"""Indexes of large tables, made without stopping those who write to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str], where: str | None = None, operators: dict[str, str] | None = None
) -> None:
    """Create an index; on PostgreSQL with CONCURRENTLY, outside of the migration's transaction.

    For tables such as ``run`` and ``metric``, which may have millions of rows: workers write to them while the index is
    made. It must be the first step of its migration, since what comes before would be committed even if it is
    interrupted; an index on a column of that migration needs a migration of its own. What an interrupted attempt has
    left is dropped.

    Args:
        where: condition of a partial index.
        operators: {column: operator class} on PostgreSQL.
    """
    condition = None if where is None else sa.text(where)
    options: dict[str, Any] = {"postgresql_where": condition, "sqlite_where": condition}
    options["postgresql_ops"] = operators or {}
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), **options)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
