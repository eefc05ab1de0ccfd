"""Indexes for claims: the first queued run of each owner and need, and queued runs whose processes may still run."""

from __future__ import annotations

from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

ORDER = ["state", "resource", "gpus", "nodes", "owner", "priority", "queued_at", "id"]


def upgrade() -> None:
    create_index_concurrently("ix_run_heads", "run", ORDER, where="state = 'queued'")
    create_index_concurrently("ix_run_handles", "run", ["state", "id"], where="handle IS NOT NULL")


def downgrade() -> None:
    op.drop_index("ix_run_handles", "run")
    op.drop_index("ix_run_heads", "run")
