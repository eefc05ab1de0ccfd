"""Index of runs by the time since which they could be claimed, which the maintainer reads each round."""

from __future__ import annotations

from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index_concurrently("ix_run_ready", "run", ["ready_at"])


def downgrade() -> None:
    op.drop_index("ix_run_ready", "run")
