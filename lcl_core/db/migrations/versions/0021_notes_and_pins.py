"""Notes of a run, and encoders that every form offers first. Rows of before have no notes and are not pinned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.add_column(sa.Column("notes", sa.Text(), nullable=True))
    with op.batch_alter_table("encoder") as batch:
        # the default also fills in rows that an older version of the service inserts
        batch.add_column(sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("encoder") as batch:
        batch.drop_column("pinned")
    with op.batch_alter_table("run") as batch:
        batch.drop_column("notes")
