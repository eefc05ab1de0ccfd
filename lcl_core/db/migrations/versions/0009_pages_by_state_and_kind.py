"""An index for pages of one state and kind, which otherwise look at every run of that state."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_run_state_kind_id", "run", ["state", "kind", "id"])


def downgrade() -> None:
    op.drop_index("ix_run_state_kind_id", "run")
