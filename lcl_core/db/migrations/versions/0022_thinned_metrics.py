"""Whether the metric lines of an ended run have been thinned. Those of before have not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:
        # the default also fills in rows that an older version of the service inserts
        batch.add_column(sa.Column("metrics_thinned", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("run") as batch:
        batch.drop_column("metrics_thinned")
