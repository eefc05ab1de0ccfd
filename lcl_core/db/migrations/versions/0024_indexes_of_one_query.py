"""The indexes of runs of several nodes, and of runs with processes, have a column more that only their query bounds.

Without statistics SQLite takes any of the indexes that begin with the columns a query compares, and which one it is
depends on the order in which they were made: some databases read the whole queue for every claim.
"""

from __future__ import annotations

from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

CONDITIONS = {"ix_run_gangs": "nodes > 1", "ix_run_handles": "handle IS NOT NULL"}
BEFORE = {"ix_run_gangs": ["state"], "ix_run_handles": ["state", "id"]}
AFTER = {"ix_run_gangs": ["state", "nodes"], "ix_run_handles": ["state", "nodes", "id"]}


def upgrade() -> None:
    _replace(AFTER)


def downgrade() -> None:
    _replace(BEFORE)


def _replace(indexes: dict[str, list[str]]) -> None:
    for name, columns in indexes.items():
        if op.get_bind().dialect.name == "sqlite":
            op.drop_index(name, "run")
        create_index_concurrently(name, "run", columns, where=CONDITIONS[name])
