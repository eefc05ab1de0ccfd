"""Revision of the specs of each run and worker: a worker of an older version leaves the runs of a newer one queued."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

TABLES = ("run", "worker")


def upgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table) as batch:
            # the default also fills in rows that an older version of the service inserts
            batch.add_column(sa.Column("spec_revision", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("spec_revision")
