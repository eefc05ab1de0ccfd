"""Every run has one worker; runs of several nodes are placed by an engine."""

from __future__ import annotations

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_table("seat")
    op.drop_index("ix_run_gangs", "run")
    for table, columns in {"run": ("spec_revision", "reserved_at"), "worker": ("spec_revision", "home")}.items():
        with op.batch_alter_table(table) as batch:
            for column in columns:
                batch.drop_column(column)


def downgrade() -> None:
    raise NotImplementedError
