"""Index of runs by name, which may stand for the id of a run."""

from __future__ import annotations

from alembic import op

from lcl_core.db.migrations.indexes import create_index_concurrently

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index_concurrently("ix_run_name_owner_id", "run", ["name", "owner", "id"])


def downgrade() -> None:
    op.drop_index("ix_run_name_owner_id", "run")
