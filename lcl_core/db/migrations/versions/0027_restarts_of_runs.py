"""How often a run was begun anew. A run whose retry has not started yet counts as begun anew once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        # the default also fills in rows that an older version of the service inserts
        batch.add_column(sa.Column("restarts", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE run SET restarts = 1 WHERE from_scratch")


def downgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.drop_column("restarts")
