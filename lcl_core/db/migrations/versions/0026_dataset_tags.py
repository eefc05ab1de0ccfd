"""Tags of the documents and captioned images of datasets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_tag",
        sa.Column("dataset", sa.String(100), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("item", sa.String(300), nullable=False),
        sa.Column("tag", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["dataset.name"], name="fk_dataset_tag_dataset", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("dataset", "content_hash", "item", "tag", name="pk_dataset_tag"),
    )


def downgrade() -> None:
    op.drop_table("dataset_tag")
