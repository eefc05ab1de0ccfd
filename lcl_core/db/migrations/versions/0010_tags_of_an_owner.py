"""The owner beside each tag, and an index for an owner's pages of a tag: all runs of the owner were sorted for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

INDEX = "ix_run_tag_tag_owner_run_id"


def upgrade() -> None:
    with op.batch_alter_table("run_tag") as batch:
        batch.add_column(sa.Column("owner", sa.String(100), nullable=True))
    op.execute("UPDATE run_tag SET owner = (SELECT run.owner FROM run WHERE run.id = run_tag.run_id)")
    with op.batch_alter_table("run_tag") as batch:
        batch.alter_column("owner", existing_type=sa.String(100), nullable=False)
    op.create_index(INDEX, "run_tag", ["tag", "owner", "run_id"])


def downgrade() -> None:
    op.drop_index(INDEX, "run_tag")
    with op.batch_alter_table("run_tag") as batch:
        batch.drop_column("owner")
