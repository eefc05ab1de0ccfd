"""Bytes of the record of each change of a collection, whose sum is bounded, and the index that adds them up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

INDEX = "ix_collection_change_collection_id_record_bytes"


def upgrade() -> None:
    with op.batch_alter_table("collection_change") as batch:
        # the default also fills in rows that an older version of the service inserts
        batch.add_column(sa.Column("record_bytes", sa.Integer(), nullable=False, server_default="0"))
    size = "octet_length(record::text)" if op.get_bind().dialect.name == "postgresql" else "length(record)"
    op.execute(f"UPDATE collection_change SET record_bytes = {size} WHERE vector IS NOT NULL")  # noqa: S608
    op.create_index(INDEX, "collection_change", ["collection_id", "record_bytes"])


def downgrade() -> None:
    op.drop_index(INDEX, "collection_change")
    with op.batch_alter_table("collection_change") as batch:
        batch.drop_column("record_bytes")
