"""Collections that change after they were made: a count of changes each, and what they were."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def _collection(primary_key: bool) -> sa.Column[str]:
    to = sa.ForeignKey("collection.id", ondelete="CASCADE")
    return sa.Column("collection_id", sa.String(40), to, primary_key=primary_key, nullable=False)


def upgrade() -> None:
    with op.batch_alter_table("collection") as batch:
        batch.add_column(sa.Column("changes", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "collection_change",
        _collection(primary_key=True),
        sa.Column("item", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("record", JSON, nullable=True),
        *(sa.Column(name, sa.LargeBinary(), nullable=True) for name in ("picture", "vector", "text_vectors")),
    )
    op.create_index(
        "ix_collection_change_collection_id_number", "collection_change", ["collection_id", "number"], unique=True
    )
    op.create_table(
        "addition",
        sa.Column("id", sa.String(40), primary_key=True),
        _collection(primary_key=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("idempotency_key", sa.String(200), nullable=False),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("items", JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_addition_owner_idempotency_key"),
    )
    op.create_index("ix_addition_collection_id", "addition", ["collection_id"])


def downgrade() -> None:
    op.drop_table("addition")
    op.drop_table("collection_change")
    with op.batch_alter_table("collection") as batch:
        batch.drop_column("changes")
