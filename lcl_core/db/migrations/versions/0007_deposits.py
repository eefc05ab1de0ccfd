"""Folders that are kept in a store of artifacts, and homes that are not the only one of a database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deposit",
        sa.Column("path", sa.String(200), primary_key=True),
        sa.Column("place", sa.String(220), nullable=True),
        sa.Column("files", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=True),
        sa.Column("pending", sa.Integer(), nullable=True),
        sa.Column("holder", sa.String(40), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("error", sa.String(500), nullable=True),
    )
    op.create_index("ix_deposit_holder_next_at", "deposit", ["holder", "next_at"])
    # what was noted is found again, and waits for its grace once more
    op.drop_table("garbage")
    op.create_table(
        "garbage",
        sa.Column("home", sa.String(40), primary_key=True),
        sa.Column("path", sa.String(300), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("garbage")
    op.create_table(
        "garbage",
        sa.Column("path", sa.String(300), primary_key=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.drop_table("deposit")
