"""Who is charged for a changed item, and for how many bytes. Of rows of before it is not known: nobody is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("collection_change") as batch:
        batch.add_column(sa.Column("owner", sa.String(100), nullable=True))
        # the default also fills in rows that an older version of the service inserts
        batch.add_column(sa.Column("charged_bytes", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("collection_change") as batch:
        batch.drop_column("charged_bytes")
        batch.drop_column("owner")
